//! The house rules that a compiler doesn't check: lengths, where `unsafe` may stand, which layer
//! may use which, that every module says what it is for, and that nothing is put off in a comment.
//!
//! Each test prints every violation, so one run is enough to mend them all. The checks read the
//! text as rustfmt lays it out; CI checks that layout too.

#![allow(
    clippy::expect_used,
    reason = "a helper that fails is the test failing"
)]

use std::fs;
use std::path::{Path, PathBuf};

const LINE_CHARS_MAX: usize = 100;
const FILE_LINES_MAX: usize = 750;
const FUNCTION_LINES_MAX: usize = 70;
/// Tests are read one at a time; a long transcript is better whole than cut up.
const TEST_FUNCTION_LINES_MAX: usize = 120;

/// The layers, bottom to top. A layer uses those below it; `tcp` is below `zbuf`, which implements
/// its `Payload`, so the protocol can't know how bytes are stored.
const LAYERS: [(&str, u8); 16] = [
    ("limits", 0),
    ("time", 0),
    ("sys", 1),
    ("stats", 1),
    ("logging", 2),
    ("wire", 2),
    ("tcp", 3),
    ("zbuf", 4),
    ("device", 5),
    ("traffic", 6),
    ("control", 6),
    ("config", 7),
    ("stack", 8),
    ("socket", 9),
    ("rpc", 10),
    ("capi", 11),
];

/// Where `unsafe` may stand besides tests, each for a reason given in docs/ARCHITECTURE.md.
const UNSAFE_ALLOWED: [&str; 10] = [
    "src/zbuf/",
    "src/device/dpdk/",
    "src/device/memif/",
    "src/device/xdp/",
    "src/sys",
    "src/capi/",
    "src/stats/shm",
    "src/time/system",
    "preload/src/",
    "benches/",
];

/// A Rust source file of the repository.
struct Source {
    /// Relative to the repository, with `/`.
    path: String,
    text: String,
}

impl Source {
    fn is_test(&self) -> bool {
        let named = self.path.ends_with("/tests.rs") || self.path.ends_with("/testutil.rs");
        named || self.path.starts_with("tests/") || self.path.contains("/tests/")
    }

    /// The lines before an inline test module, which stands last in its file.
    fn production_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let tests = lines.windows(2).position(|pair| {
            pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
        });
        let end = if self.is_test() {
            0
        } else {
            tests.unwrap_or(lines.len())
        };
        lines
            .into_iter()
            .take(end)
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in [
        "src",
        "preload",
        "capi-tests",
        "dpdk-sys",
        "tests",
        "benches",
    ] {
        collect(&root.join(folder), &mut found);
    }
    found.sort();
    assert!(
        found.len() > 10,
        "the sources were not found from {}",
        root.display()
    );
    let read = |path: PathBuf| {
        let relative = path.strip_prefix(root).expect("a path in the repository");
        let text = fs::read_to_string(&path).expect("read a source file");
        Source {
            path: relative.to_string_lossy().into_owned(),
            text,
        }
    };
    found.into_iter().map(read).collect()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The code of a line: no comment, and nothing of a string but its quotes. Good enough for
/// rustfmt's layout; a string over several lines is seen line by line.
fn code(line: &str) -> String {
    let mut code = String::new();
    let mut in_string = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if in_string => drop(characters.next()),
            '"' => in_string = !in_string,
            '/' if !in_string && characters.peek() == Some(&'/') => break,
            _ if in_string => {}
            _ => code.push(character),
        }
    }
    code
}

fn report(violations: &[String]) {
    assert!(
        violations.is_empty(),
        "{} violations:\n{}",
        violations.len(),
        violations.join("\n")
    );
}

#[test]
fn lines_are_short() {
    let mut violations = Vec::new();
    for source in sources() {
        for (index, line) in source.text.lines().enumerate() {
            let count = line.chars().count();
            if count > LINE_CHARS_MAX {
                let number = index + 1;
                violations.push(format!("{}:{number}: {count} characters", source.path));
            }
        }
    }
    report(&violations);
}

#[test]
fn files_are_short() {
    let mut violations = Vec::new();
    for source in sources() {
        let count = source.production_lines().count();
        if count > FILE_LINES_MAX {
            violations.push(format!("{}: {count} lines without tests", source.path));
        }
    }
    report(&violations);
}

#[test]
fn functions_are_short() {
    let mut violations = Vec::new();
    for source in sources() {
        let production = source.production_lines().count();
        let lines: Vec<&str> = source.text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            if !starts_function(line) {
                continue;
            }
            let indent = line.len() - line.trim_start().len();
            let close = format!("{}}}", " ".repeat(indent));
            let length = 1 + lines[start..]
                .iter()
                .take_while(|line| **line != close)
                .count();
            let one_line = lines[start].ends_with('}') || lines[start].ends_with(';');
            let max = match start < production {
                true => FUNCTION_LINES_MAX,
                false => TEST_FUNCTION_LINES_MAX,
            };
            if length > max && !one_line && !is_declaration(&lines[start..]) {
                violations.push(format!("{}:{}: {length} lines", source.path, start + 1));
            }
        }
    }
    report(&violations);
}

fn starts_function(line: &str) -> bool {
    let mut words = line.trim_start().split(' ').peekable();
    while let Some(word) = words.next() {
        let qualifier = [
            "pub", "const", "unsafe", "async", "extern", "\"C\"", "default",
        ];
        if word == "fn" {
            return words.peek().is_some();
        }
        if !qualifier.contains(&word) && !word.starts_with("pub(") {
            return false;
        }
    }
    false
}

/// A function of a trait or a macro pattern without a body: a `;` comes before the first `{`.
fn is_declaration(lines: &[&str]) -> bool {
    let ends = lines
        .iter()
        .find(|line| line.ends_with('{') || line.ends_with(';'));
    ends.is_none_or(|line| line.ends_with(';'))
}

#[test]
fn unsafe_stands_only_where_it_may() {
    let mut violations = Vec::new();
    for source in sources() {
        let mut allowed = UNSAFE_ALLOWED.iter();
        if source.is_test() || allowed.any(|place| source.path.starts_with(place)) {
            continue;
        }
        for (index, line) in source.text.lines().enumerate() {
            let code = code(line);
            let words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
            if words.into_iter().any(|word| word == "unsafe") {
                violations.push(format!("{}:{}: {}", source.path, index + 1, line.trim()));
            }
        }
    }
    report(&violations);
}

#[test]
fn layers_use_only_what_is_below() {
    let rank = |name: &str| {
        LAYERS
            .iter()
            .find(|(layer, _)| *layer == name)
            .map(|(_, rank)| *rank)
    };
    let mut violations = Vec::new();
    for source in sources() {
        let Some(rest) = source.path.strip_prefix("src/") else {
            continue;
        };
        let layer = rest
            .split('/')
            .next()
            .unwrap_or(rest)
            .trim_end_matches(".rs");
        if layer == "lib" || layer == "bin" {
            continue;
        }
        let Some(own) = rank(layer) else {
            violations.push(format!(
                "{}: the layer `{layer}` has no rank here",
                source.path
            ));
            continue;
        };
        for (number, line) in source.production_lines() {
            for used in code(line).split("crate::").skip(1) {
                let used = used
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next();
                let used = used.unwrap_or_default();
                let downwards = used == layer || rank(used).is_none_or(|rank| rank < own);
                if !downwards {
                    violations.push(format!("{}:{number}: {layer} uses {used}", source.path));
                }
            }
        }
    }
    report(&violations);
}

#[test]
fn every_module_says_what_it_is_for() {
    // What a module's own `tests.rs` is for, its name and place say.
    let silent = |source: &Source| {
        !source.text.trim_start().starts_with("//!") && !source.path.ends_with("/tests.rs")
    };
    let violations: Vec<String> = sources()
        .into_iter()
        .filter(silent)
        .map(|source| format!("{}: does not open with `//!`", source.path))
        .collect();
    report(&violations);
}

#[test]
fn nothing_is_put_off() {
    let marks = ["FIXME", "TODO", "XXX", "HACK"];
    let mut violations = Vec::new();
    for source in sources()
        .iter()
        .filter(|source| source.path != "tests/tidy.rs")
    {
        for (index, line) in source.text.lines().enumerate() {
            let words = line.split(|c: char| !c.is_alphanumeric());
            if words.into_iter().any(|word| marks.contains(&word)) {
                violations.push(format!("{}:{}: {}", source.path, index + 1, line.trim()));
            }
        }
    }
    report(&violations);
}

/// Every command that the documents offer exists.
#[test]
fn documents_name_only_what_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let makefile = fs::read_to_string(root.join("Makefile")).expect("read the Makefile");
    let targets: Vec<&str> = makefile
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name)
        .collect();
    let mut violations = Vec::new();
    for document in [
        "README.md",
        "CONTRIBUTING.md",
        "docs/TESTING.md",
        "docs/BENCHMARKS.md",
    ] {
        let Ok(text) = fs::read_to_string(root.join(document)) else {
            violations.push(format!("{document} is missing"));
            continue;
        };
        for word in text.split(['`', '(', ')', ' ', '\n']) {
            let in_repository = ["scripts/", "tests/", "docs/", "examples-c/", ".ci/"];
            let word = word
                .split('#')
                .next()
                .unwrap_or(word)
                .trim_end_matches(['.', ',', ':']);
            let is_path = in_repository.iter().any(|folder| word.starts_with(folder));
            if is_path && !word.contains('*') && !root.join(word).exists() {
                violations.push(format!("{document}: no {word}"));
            }
        }
        for offer in text
            .split('`')
            .filter_map(|code| code.strip_prefix("make "))
        {
            let target = offer.split(' ').next().unwrap_or(offer);
            if !targets.contains(&target) {
                violations.push(format!("{document}: no target for `make {target}`"));
            }
        }
    }
    report(&violations);
}
