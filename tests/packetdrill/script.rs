//! A script: from the text of a file to cases, and from a case's lines to timed events.

use std::path::PathBuf;

use luna::time::Duration;

use crate::text::Written;

/// When something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// `+0.1`: so long after what stands before.
    After(Duration),
    /// `0.1`: so long after the script began.
    At(Duration),
    /// `+0.1~+0.3`: between these two.
    Between(Duration, Duration),
    /// `*`: at any time.
    Any,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// `< ...`: the peer sends.
    In(Written),
    /// `> ...`: the host must send.
    Out(Written),
    /// `call(args) = result`
    Call {
        name: String,
        args: Vec<String>,
        result: String,
    },
    /// `assert(fd) name == value, ...`
    Assert {
        fd: i32,
        checks: Vec<Check>,
    },
    /// `config key=value ...`
    Config(Vec<(String, String)>),
    /// `quiet`: the host has sent nothing since the line before.
    Quiet,
    /// `hold`: the host's loop stalls; `release`: it goes on.
    Hold,
    Release,
}

/// `name OP value`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) op: String,
    pub(crate) value: String,
}

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) when: When,
    pub(crate) what: What,
}

/// One case: a name, and its lines with those that all cases of the file begin with.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) file: PathBuf,
    pub(crate) name: String,
    pub(crate) lines: Vec<(usize, String)>,
}

/// Cuts a file into cases. `=== name` begins one; what stands before the first belongs to all.
pub(crate) fn cases(file: PathBuf, text: &str) -> Vec<Case> {
    let mut common = Vec::new();
    let mut cases: Vec<Case> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split("//").next().unwrap_or_default().trim();
        if let Some(name) = line.strip_prefix("===") {
            cases.push(Case {
                file: file.clone(),
                name: name.trim().to_string(),
                lines: common.clone(),
            });
        } else if !line.is_empty() {
            let line = (index + 1, line.to_string());
            match cases.last_mut() {
                Some(case) => case.lines.push(line),
                None => common.push(line),
            }
        }
    }
    if cases.is_empty() {
        cases.push(Case {
            name: String::new(),
            lines: common,
            file,
        });
    }
    cases
}

/// `0.1`, `.1`, `100ms`, `20us`, `3s`
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = match text {
        t if t.ends_with("ms") => (&t[..t.len() - 2], 1e6),
        t if t.ends_with("us") => (&t[..t.len() - 2], 1e3),
        t if t.ends_with('s') => (&t[..t.len() - 1], 1e9),
        t => (t, 1e9),
    };
    let value: f64 = number.parse().ok()?;
    (value >= 0.0).then(|| Duration::from_nanos((value * unit).round() as u64))
}

fn when(text: &str) -> Option<When> {
    if text == "*" {
        return Some(When::Any);
    }
    if let Some((from, to)) = text.split_once('~') {
        let plus = |t: &str| duration(t.strip_prefix('+')?);
        return Some(When::Between(plus(from)?, plus(to)?));
    }
    match text.strip_prefix('+') {
        Some(span) => duration(span).map(When::After),
        None => duration(text).map(When::At),
    }
}

impl Event {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let (when, rest) = match when(first) {
            Some(when) => (when, rest.trim()),
            None => (When::After(Duration::ZERO), text),
        };
        let what = parse_what(rest)?;
        Ok(Self { when, what })
    }
}

fn parse_what(text: &str) -> Result<What, String> {
    if let Some(segment) = text.strip_prefix('<') {
        return Written::parse(segment).map(What::In);
    }
    if let Some(segment) = text.strip_prefix('>') {
        return Written::parse(segment).map(What::Out);
    }
    match text {
        "quiet" => return Ok(What::Quiet),
        "hold" => return Ok(What::Hold),
        "release" => return Ok(What::Release),
        _ => {}
    }
    if let Some(pairs) = text.strip_prefix("config ") {
        let pair = |p: &str| {
            let (key, value) = p.split_once('=')?;
            Some((key.to_string(), value.to_string()))
        };
        let pairs: Option<Vec<_>> = pairs.split_whitespace().map(pair).collect();
        return pairs.map(What::Config).ok_or("config KEY=VALUE ...".into());
    }
    if let Some(rest) = text.strip_prefix("assert(") {
        let (fd, checks) = rest
            .split_once(')')
            .ok_or("assert(FD) NAME == VALUE, ...")?;
        let fd = fd
            .trim()
            .parse()
            .map_err(|_| "assert(FD): FD is a number")?;
        let checks: Result<Vec<_>, _> = checks.split(',').map(parse_check).collect();
        return checks.map(|checks| What::Assert { fd, checks });
    }
    parse_call(text).ok_or(format!("`{text}` is nothing that a script can say"))
}

fn parse_check(text: &str) -> Result<Check, String> {
    let words: Vec<_> = text.split_whitespace().collect();
    let [
        name,
        op @ ("==" | "!=" | "<" | "<=" | ">" | ">="),
        value @ ..,
    ] = &words[..]
    else {
        return Err(format!("`{text}` is not NAME OP VALUE"));
    };
    Ok(Check {
        name: (*name).to_string(),
        op: (*op).to_string(),
        value: value.join(" "),
    })
}

fn parse_call(text: &str) -> Option<What> {
    let (name, rest) = text.split_once('(')?;
    let (args, result) = rest.rsplit_once('=')?;
    let args = args.trim().strip_suffix(')')?;
    let mut list = Vec::new();
    let mut depth = 0;
    let mut word = String::new();
    for c in args.chars() {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                list.push(std::mem::take(&mut word).trim().to_string());
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    list.push(word.trim().to_string());
    Some(What::Call {
        name: name.trim().to_string(),
        args: list,
        // What packetdrill writes in brackets is a comment: `-1 EAGAIN (Resource ...)`.
        result: result
            .split('(')
            .next()
            .unwrap_or_default()
            .trim()
            .to_string(),
    })
}
