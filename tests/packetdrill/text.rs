//! Segments as text, in packetdrill's notation.

use crate::host::frame::{ACK, CWR, ECE, FIN, PSH, RST, SYN, Segment, URG, options};

/// One option as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opt {
    Mss(u16),
    Wscale(u8),
    SackOk,
    Sack(Vec<(u32, u32)>),
    /// TSval and TSecr; `*` is anything.
    Ts(Option<u32>, Option<u32>),
    Nop,
    Eol,
    /// Bytes as they are.
    Raw(Vec<u8>),
}

/// What a line says about options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opts {
    /// `<...>`: anything.
    Any,
    /// Not mentioned: none, or timestamps alone.
    Unsaid,
    List(Vec<Opt>),
}

/// A segment as written; numbers relative to the initial sequence numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// The peer's port, if it is not the usual one.
    pub(crate) port: Option<u16>,
    /// `[badsum]`, `[frag]` and the like.
    pub(crate) tags: Vec<String>,
    pub(crate) ecn: Option<u8>,
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) len: u32,
    pub(crate) ack: Option<u32>,
    pub(crate) win: Option<u16>,
    pub(crate) urg: Option<u16>,
    pub(crate) options: Opts,
}

const FLAG_NAMES: [(char, u8); 8] = [
    ('F', FIN),
    ('S', SYN),
    ('R', RST),
    ('P', PSH),
    ('.', ACK),
    ('U', URG),
    ('E', ECE),
    ('W', CWR),
];

pub(crate) fn parse_flags(text: &str) -> Result<u8, String> {
    if text == "-" {
        return Ok(0);
    }
    let mut flags = 0;
    for c in text.chars() {
        let known = FLAG_NAMES.iter().find(|(name, _)| *name == c);
        let (_, bit) = known.ok_or(format!("`{c}` is no flag (FSRP.UEW or -)"))?;
        flags |= bit;
    }
    Ok(flags)
}

pub(crate) fn flags_text(flags: u8) -> String {
    let order = ['S', 'F', 'R', 'P', '.', 'U', 'E', 'W'];
    let named = order.iter().filter(|c| {
        let bit = FLAG_NAMES.iter().find(|(name, _)| name == *c);
        bit.is_some_and(|(_, bit)| flags & bit != 0)
    });
    let text: String = named.collect();
    if text.is_empty() { "-".into() } else { text }
}

fn number<T: std::str::FromStr>(text: Option<&str>, what: &str) -> Result<T, String> {
    let text = text.ok_or(format!("{what} is missing"))?;
    text.parse()
        .map_err(|_| format!("{what}: `{text}` is no number in range"))
}

fn wild(text: Option<&str>, what: &str) -> Result<Option<u32>, String> {
    match text {
        Some("*") => Ok(None),
        text => number(text, what).map(Some),
    }
}

/// `1:1001(1000)`
fn parse_range(text: &str) -> Result<(u32, u32), String> {
    let bad = || format!("`{text}` is no sequence range like 1:1001(1000)");
    let (start, rest) = text.split_once(':').ok_or_else(bad)?;
    let (end, len) = rest.split_once('(').ok_or_else(bad)?;
    let len = len.strip_suffix(')').ok_or_else(bad)?;
    let (start, end, len): (u32, u32, u32) = (
        start.parse().map_err(|_| bad())?,
        end.parse().map_err(|_| bad())?,
        len.parse().map_err(|_| bad())?,
    );
    if start.wrapping_add(len) != end {
        return Err(format!("`{text}`: {start} and {len} do not make {end}"));
    }
    Ok((start, len))
}

impl Written {
    /// What stands behind `<` or `>`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut rest = text.trim();
        let mut written = Self {
            port: None,
            tags: Vec::new(),
            ecn: None,
            flags: 0,
            seq: 0,
            len: 0,
            ack: None,
            win: None,
            urg: None,
            options: Opts::Unsaid,
        };
        while let Some(tagged) = rest.strip_prefix('[') {
            let (tag, behind) = tagged.split_once(']').ok_or("`[` without `]`")?;
            rest = behind.trim_start();
            match tag.split_whitespace().collect::<Vec<_>>()[..] {
                ["noecn"] => written.ecn = Some(0),
                ["ect1"] => written.ecn = Some(1),
                ["ect0"] => written.ecn = Some(2),
                ["ce"] => written.ecn = Some(3),
                ["port", port] => written.port = Some(number(Some(port), "port")?),
                _ => written.tags.push(tag.to_string()),
            }
        }
        if let Some((before, list)) = rest.split_once('<') {
            let list = list.trim_end().strip_suffix('>').ok_or("`<` without `>`")?;
            written.options = match list.trim() {
                "..." => Opts::Any,
                list => Opts::List(parse_options(list)?),
            };
            rest = before;
        }
        let mut words = rest.split_whitespace();
        written.flags = parse_flags(words.next().ok_or("no flags")?)?;
        (written.seq, written.len) = parse_range(words.next().ok_or("no sequence range")?)?;
        while let Some(word) = words.next() {
            match word {
                "ack" => written.ack = Some(number(words.next(), "ack")?),
                "win" => written.win = Some(number(words.next(), "win")?),
                "urg" => written.urg = Some(number(words.next(), "urg")?),
                _ => return Err(format!("`{word}` means nothing here")),
            }
        }
        Ok(written)
    }

    /// The option bytes to send; `sack` and `echo` make numbers of ours absolute.
    pub(crate) fn option_bytes(
        &self,
        sack: impl Fn(u32) -> u32,
        echo: impl Fn(u32) -> u32,
    ) -> Vec<u8> {
        let Opts::List(list) = &self.options else {
            return Vec::new();
        };
        let mut out = Vec::new();
        for option in list {
            match option {
                Opt::Mss(mss) => {
                    out.extend([2, 4]);
                    out.extend(mss.to_be_bytes());
                }
                Opt::Wscale(shift) => out.extend([3, 3, *shift]),
                Opt::SackOk => out.extend([4, 2]),
                Opt::Sack(blocks) => {
                    out.extend([5, 2 + 8 * blocks.len() as u8]);
                    for (left, right) in blocks {
                        out.extend(sack(*left).to_be_bytes());
                        out.extend(sack(*right).to_be_bytes());
                    }
                }
                Opt::Ts(value, ecr) => {
                    out.extend([8, 10]);
                    out.extend(value.unwrap_or(0).to_be_bytes());
                    out.extend(ecr.map_or(0, &echo).to_be_bytes());
                }
                Opt::Nop => out.push(1),
                Opt::Eol => out.push(0),
                Opt::Raw(bytes) => out.extend(bytes),
            }
        }
        out
    }
}

fn parse_options(list: &str) -> Result<Vec<Opt>, String> {
    let mut options = Vec::new();
    for item in list.split(',') {
        let mut words = item.split_whitespace();
        let option = match words.next().unwrap_or_default() {
            "mss" => Opt::Mss(number(words.next(), "mss")?),
            "wscale" => Opt::Wscale(number(words.next(), "wscale")?),
            "sackOK" => Opt::SackOk,
            "nop" => Opt::Nop,
            "eol" => Opt::Eol,
            "TS" => {
                let (Some("val"), value) = (words.next(), words.next()) else {
                    return Err("TS val N ecr N".into());
                };
                let (Some("ecr"), echo) = (words.next(), words.next()) else {
                    return Err("TS val N ecr N".into());
                };
                Opt::Ts(wild(value, "TS val")?, wild(echo, "ecr")?)
            }
            "sack" => {
                let mut blocks = Vec::new();
                for block in words.by_ref() {
                    let (left, right) = block.split_once(':').ok_or("sack LEFT:RIGHT ...")?;
                    blocks.push((number(Some(left), "sack")?, number(Some(right), "sack")?));
                }
                Opt::Sack(blocks)
            }
            "raw" => {
                let bytes = words.by_ref().map(|hex| u8::from_str_radix(hex, 16));
                Opt::Raw(
                    bytes
                        .collect::<Result<_, _>>()
                        .map_err(|e| format!("raw: {e}"))?,
                )
            }
            other => return Err(format!("`{other}` is no option")),
        };
        if let Some(word) = words.next() {
            return Err(format!("`{word}` does not belong to the option before it"));
        }
        options.push(option);
    }
    Ok(options)
}

/// What the host's options say, in the same terms; `sack` and `clock` make numbers relative.
pub(crate) fn read_options(
    segment: &Segment,
    sack: impl Fn(u32) -> u32,
    clock: impl Fn(u32) -> u32,
) -> Vec<Opt> {
    let word = crate::host::frame::word;
    let mut list = Vec::new();
    for (kind, body) in options(&segment.options) {
        list.push(match (kind, body.len()) {
            (2, 2) => Opt::Mss(u16::from_be_bytes([body[0], body[1]])),
            (3, 1) => Opt::Wscale(body[0]),
            (4, 0) => Opt::SackOk,
            (5, n) if n > 0 && n % 8 == 0 => {
                let pair = |b: &[u8]| (sack(word(b, 0)), sack(word(b, 4)));
                Opt::Sack(body.chunks_exact(8).map(pair).collect())
            }
            (8, 8) => Opt::Ts(Some(clock(word(body, 0))), Some(word(body, 4))),
            _ => Opt::Raw([&[kind, body.len() as u8 + 2], body].concat()),
        });
    }
    list
}

/// As a script would write it.
pub(crate) fn options_text(list: &[Opt]) -> String {
    let one = |option: &Opt| match option {
        Opt::Mss(n) => format!("mss {n}"),
        Opt::Wscale(n) => format!("wscale {n}"),
        Opt::SackOk => "sackOK".into(),
        Opt::Sack(blocks) => {
            let blocks: Vec<_> = blocks.iter().map(|(l, r)| format!("{l}:{r}")).collect();
            format!("sack {}", blocks.join(" "))
        }
        Opt::Ts(value, echo) => {
            let show = |n: &Option<u32>| n.map_or("*".into(), |n| n.to_string());
            format!("TS val {} ecr {}", show(value), show(echo))
        }
        Opt::Nop => "nop".into(),
        Opt::Eol => "eol".into(),
        Opt::Raw(bytes) => {
            let hex: Vec<_> = bytes.iter().map(|b| format!("{b:02x}")).collect();
            format!("raw {}", hex.join(" "))
        }
    };
    let texts: Vec<_> = list.iter().map(one).collect();
    format!("<{}>", texts.join(","))
}

/// Whether options as sent are those that were expected, padding aside.
pub(crate) fn options_match(expected: &Opts, got: &[Opt]) -> bool {
    let list = match expected {
        Opts::Any => return true,
        Opts::Unsaid => return got.iter().all(|o| matches!(o, Opt::Ts(..))),
        Opts::List(list) => list,
    };
    let real = |o: &&Opt| !matches!(o, Opt::Nop | Opt::Eol);
    let expected: Vec<_> = list.iter().filter(real).collect();
    let same = |(e, g): (&&Opt, &Opt)| match (e, g) {
        (Opt::Ts(ev, ee), Opt::Ts(gv, ge)) => {
            (ev.is_none() || ev == gv) && (ee.is_none() || ee == ge)
        }
        _ => *e == g,
    };
    expected.len() == got.len() && expected.iter().zip(got).all(same)
}
