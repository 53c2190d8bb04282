//! Transcripts of the differential cases: one `== NAME` line a case, its lines behind it.

use std::collections::BTreeMap;

/// The lines of each case.
#[derive(Debug, Default)]
pub struct Transcript(BTreeMap<String, Vec<String>>);

impl Transcript {
    /// Reads what a run has printed, and adds it to what earlier runs have.
    pub fn add(&mut self, text: &str) {
        let mut current = None;
        for line in text.lines() {
            match line.strip_prefix("== ") {
                Some(name) => {
                    self.0.insert(name.to_owned(), Vec::new());
                    current = Some(name.to_owned());
                }
                None => {
                    if let Some(lines) = current.as_ref().and_then(|name| self.0.get_mut(name)) {
                        lines.push(line.to_owned());
                    }
                }
            }
        }
    }

    /// How many cases there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The cases of `self` that `other` has too but answers otherwise, and those that it lacks
    /// unless `may_lack` says that it may; but for those that `known` names. As text.
    pub fn differences(
        &self,
        other: &Self,
        known: &Known,
        may_lack: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let mut all = Vec::new();
        for (name, lines) in &self.0 {
            let shown = match other.0.get(name) {
                Some(theirs) if theirs == lines => continue,
                None if may_lack(name) => continue,
                None => "did not run".to_owned(),
                Some(theirs) => compared(lines, theirs),
            };
            if !known.covers(name) {
                all.push(format!("{name}\n{shown}"));
            }
        }
        all
    }

    /// Whether a pattern names a case.
    pub fn names(&self, pattern: &str) -> bool {
        self.0.keys().any(|name| matches(pattern, name))
    }
}

/// What differs, the common lines left out.
fn compared(kernel: &[String], luna: &[String]) -> String {
    let mut out = String::new();
    for at in 0..kernel.len().max(luna.len()) {
        let (theirs, ours) = (kernel.get(at), luna.get(at));
        if theirs != ours {
            for (end, line) in [("kernel", theirs), ("luna", ours)] {
                out += &format!("  {end:6} {}\n", line.map_or("-", |line| line.trim()));
            }
        }
    }
    out
}

/// The differences that are known: patterns, each with its reason.
#[derive(Debug)]
pub struct Known(Vec<(String, String)>);

impl Known {
    /// Reads lines of a pattern and a reason.
    pub fn read(text: &str) -> Self {
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(
            lines
                .map(|line| {
                    let (pattern, reason) = line.split_once(' ').unwrap_or((line, ""));
                    assert!(!reason.trim().is_empty(), "{pattern}: why?");
                    (pattern.to_owned(), reason.trim().to_owned())
                })
                .collect(),
        )
    }

    fn covers(&self, name: &str) -> bool {
        self.0.iter().any(|(pattern, _)| matches(pattern, name))
    }

    /// The patterns.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(pattern, _)| pattern.as_str())
    }
}

/// Whether `name` is what `pattern` says, in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            (0..=tail.len()).any(|at| tail.get(at..).is_some_and(|tail| matches(rest, tail)))
        }),
    }
}

#[test]
fn patterns_match() {
    assert!(matches("a/*:b", "a/x:b") && matches("*", "anything") && matches("a", "a"));
    assert!(!matches("a/*:b", "a/x:c") && !matches("a", "ab"));
}
