//! docs/CONFORMANCE.md against the sources and the tests: every requirement of RFC 9293's table is
//! there, every file that it names exists, and its list of citations is that of the sources.
//!
//! The list is compared without line numbers, so that it drifts only when a citation comes, goes
//! or moves to another file. `LUNA_BLESS=1` rewrites it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that can't go on fails"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENT: &str = "docs/CONFORMANCE.md";
const MARK: &str = "<!-- generated: LUNA_BLESS=1 cargo test --test conformance -->\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn document() -> String {
    fs::read_to_string(root().join(DOCUMENT)).unwrap()
}

fn sources(folder: PathBuf, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// RFC and clause to the places that cite them.
fn citations() -> BTreeMap<(u32, String), BTreeSet<(String, usize)>> {
    let mut files = Vec::new();
    sources(root().join("src"), &mut files);
    let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        for (index, line) in text.lines().enumerate() {
            let Some((_, cited)) = line.split_once("//= RFC ") else {
                continue;
            };
            let (number, clause) = cited.split_once(' ').unwrap_or((cited, ""));
            let number: u32 = number.parse().unwrap_or_else(|_| {
                panic!("{name}:{}: `{cited}` names no RFC", index + 1);
            });
            let key = (number, clause.trim().to_string());
            found
                .entry(key)
                .or_default()
                .insert((name.clone(), index + 1));
        }
    }
    found
}

fn generated() -> String {
    let mut out = String::from("\n| RFC | clause | cited at |\n|---|---|---|\n");
    for ((number, clause), places) in citations() {
        let places: Vec<_> = places.iter().map(|(f, n)| format!("{f}:{n}")).collect();
        out += &format!("| {number} | {clause} | {} |\n", places.join(", "));
    }
    out
}

/// Without the line numbers.
fn shape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(".rs:") {
        out += before;
        out += ".rs";
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    out + rest
}

/// One place per file is enough to compare.
fn lines_of(text: &str) -> BTreeSet<String> {
    let line = |line: &str| {
        let mut cells: Vec<&str> = line.split(", ").collect();
        cells.dedup();
        cells.join(", ")
    };
    shape(text).lines().map(line).collect()
}

#[test]
fn the_list_of_citations_is_that_of_the_sources() {
    let text = document();
    let (head, list) = text
        .split_once(MARK)
        .expect("the mark of the generated part");
    let fresh = generated();
    if std::env::var_os("LUNA_BLESS").is_some() {
        fs::write(root().join(DOCUMENT), format!("{head}{MARK}{fresh}")).unwrap();
        return;
    }
    let (old, new) = (lines_of(list), lines_of(&fresh));
    let gone: Vec<_> = old.difference(&new).collect();
    let come: Vec<_> = new.difference(&old).collect();
    assert!(
        gone.is_empty() && come.is_empty(),
        "{DOCUMENT} is not true to the sources; `LUNA_BLESS=1 cargo test --test conformance`\n\
         only there: {gone:#?}\nonly in the sources: {come:#?}"
    );
}

/// The rows of all tables in the part that people write: their cells.
fn rows(text: &str) -> Vec<Vec<String>> {
    let by_hand = text.split(MARK).next().unwrap_or_default();
    let table = by_hand
        .lines()
        .filter(|l| l.starts_with("| ") && !l.starts_with("|--"));
    table
        .map(|l| {
            l.trim_matches('|')
                .split('|')
                .map(|c| c.trim().to_string())
                .collect()
        })
        .collect()
}

#[test]
fn every_requirement_of_rfc_9293_is_answered_once() {
    let rows = rows(&document());
    let mut missing = Vec::new();
    let all = |kind: &'static str, n: u32| (1..=n).map(move |i| format!("{kind}-{i}"));
    for id in all("MUST", 69).chain(all("SHLD", 31)).chain(all("MAY", 18)) {
        let count = rows.iter().filter(|r| r[0] == id).count();
        if count != 1 {
            missing.push(format!("{id}: {count} rows"));
        }
        let answered = rows
            .iter()
            .any(|r| r[0] == id && r.get(2).is_some_and(|c| !c.is_empty()));
        if !answered && count == 1 {
            missing.push(format!("{id}: no answer"));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// A path, `pkt:` or `attacks:` in the last two cells of a row; "yes" needs both.
#[test]
fn what_is_named_exists_and_what_is_done_is_shown() {
    let mut wrong = Vec::new();
    for row in rows(&document()) {
        let id = &row[0];
        let [.., done, place, test] = &row[..] else {
            continue;
        };
        if ["where", "shown by", "cited at"].contains(&test.as_str()) || id.is_empty() {
            continue;
        }
        for name in [place, test] {
            let path = match name.split_once(':') {
                Some(("pkt", name)) => {
                    let script = format!("tests/packetdrill/cases/{name}");
                    match root().join(format!("{script}.pkt")).exists() {
                        true => format!("{script}.pkt"),
                        false => format!("{script}.tbl"),
                    }
                }
                Some(("attacks", name)) => format!("tests/attacks/{name}.rs"),
                _ => name.clone(),
            };
            if !path.is_empty() && !root().join(&path).exists() {
                wrong.push(format!("{id}: there is no {path}"));
            }
        }
        if done.starts_with("yes") && (place.is_empty() || test.is_empty()) {
            wrong.push(format!("{id}: done, but not where or by which test"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// docs/ATTACKS.md names every test of an attack, and nothing that is not there.
#[test]
fn every_attack_has_its_test_and_every_test_its_attack() {
    let named = fs::read_to_string(root().join("docs/ATTACKS.md")).unwrap();
    let named: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
    let mut tests = Vec::new();
    for file in fs::read_dir(root().join("tests/attacks")).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let after = text.split("#[test]\nfn ").skip(1);
        tests.extend(after.filter_map(|rest| Some(rest.split_once('(')?.0.to_owned())));
    }
    assert!(tests.len() > 30, "{tests:?}");
    let without_attack = tests.iter().filter(|t| !named.contains(&t.as_str()));
    assert_eq!(without_attack.collect::<Vec<_>>(), Vec::<&String>::new());
    let missing = named.iter().filter(|name| match name.contains('/') {
        true => !root().join(name).exists(),
        false => !name.contains(' ') && !tests.iter().any(|t| t == *name),
    });
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&&str>::new());
}
