//! Lists of ports and destinations as people write them, and cuts of a range for shards.
//!
//! Pure: knows nothing of interfaces, programs or sockets.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use thiserror::Error;

/// Most ranges in one list: a longer one is a mistake, and look-ups stay short.
const RANGES_MAX: usize = 1024;

/// A value of the configuration that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{key}: `{value}` is not valid: {allowed}")]
pub struct ParseRangeError {
    /// The name of the setting, as in `LUNA_LISTEN`.
    pub key: &'static str,
    /// The part of it that is wrong.
    pub value: String,
    /// What is allowed there.
    pub allowed: &'static str,
}

impl ParseRangeError {
    fn new(key: &'static str, value: &str, allowed: &'static str) -> Self {
        Self {
            key,
            value: value.to_owned(),
            allowed,
        }
    }
}

const PORTS_ALLOWED: &str = "ports are numbers from 1 to 65535 or ranges like 61000-61999, \
                             separated by commas";
const RULES_ALLOWED: &str = "destinations are ADDR[/LEN][:PORTS], separated by commas, like \
                             10.9.0.2:6379, 10.9.1.0/24 or [fd00::2]:80";

/// A set of TCP ports (never port 0), kept as disjoint ascending ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet {
    ranges: Vec<RangeInclusive<u16>>,
}

impl PortSet {
    /// The set without a port.
    pub const fn empty() -> Self {
        Self { ranges: Vec::new() }
    }

    /// Every port but 0.
    pub fn all() -> Self {
        Self {
            ranges: vec![1..=u16::MAX],
        }
    }

    /// Parses a list like `6379,61000-61999`. Blanks around items are allowed, an empty list is
    /// the empty set, ranges may overlap. `key` names the setting in errors.
    ///
    /// # Errors
    ///
    /// [`ParseRangeError`] names the item that is wrong and says what is allowed.
    pub fn parse(key: &'static str, text: &str) -> Result<Self, ParseRangeError> {
        let mut set = Self::empty();
        if text.trim().is_empty() {
            return Ok(set);
        }
        for item in text.split(',') {
            let range = parse_range(item)
                .ok_or_else(|| ParseRangeError::new(key, item.trim(), PORTS_ALLOWED))?;
            set.insert(range);
            if set.ranges.len() > RANGES_MAX {
                return Err(ParseRangeError::new(
                    key,
                    item.trim(),
                    "at most 1024 ranges",
                ));
            }
        }
        Ok(set)
    }

    /// Adds a range; port 0 is left out.
    pub fn insert(&mut self, range: RangeInclusive<u16>) {
        let (mut first, mut last) = (*range.start().max(&1), *range.end());
        if first > last {
            return;
        }
        // Merge with everything that overlaps or adjoins.
        self.ranges.retain(|known| {
            let apart = u32::from(*known.end()) + 1 < u32::from(first)
                || u32::from(last) + 1 < u32::from(*known.start());
            if !apart {
                first = first.min(*known.start());
                last = last.max(*known.end());
            }
            apart
        });
        let at = self.ranges.partition_point(|known| *known.start() < first);
        self.ranges.insert(at, first..=last);
    }

    /// Whether `port` is in the set.
    pub fn contains(&self, port: u16) -> bool {
        let at = self.ranges.partition_point(|range| *range.end() < port);
        self.ranges
            .get(at)
            .is_some_and(|range| range.contains(&port))
    }

    /// Whether no port is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many ports are in the set.
    pub fn len(&self) -> usize {
        self.ranges.iter().map(ExactSizeIterator::len).sum()
    }

    /// The disjoint ranges in ascending order.
    pub fn ranges(&self) -> &[RangeInclusive<u16>] {
        &self.ranges
    }

    /// All ports in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ranges.iter().cloned().flatten()
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.ranges.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if range.start() == range.end() {
                write!(f, "{comma}{}", range.start())?;
            } else {
                write!(f, "{comma}{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}

/// Parses a single range like `61440-65535`, the form of `LUNA_CLIENT_PORTS`.
///
/// # Errors
///
/// [`ParseRangeError`] if it is anything else.
pub fn parse_port_range(
    key: &'static str,
    text: &str,
) -> Result<RangeInclusive<u16>, ParseRangeError> {
    const ALLOWED: &str = "one range of ports like 61440-65535, within 1 to 65535";
    parse_range(text).ok_or_else(|| ParseRangeError::new(key, text.trim(), ALLOWED))
}

fn parse_range(item: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = match item.split_once('-') {
        Some((first, last)) => (parse_port(first)?, parse_port(last)?),
        None => (parse_port(item)?, parse_port(item)?),
    };
    (first <= last).then_some(first..=last)
}

fn parse_port(text: &str) -> Option<u16> {
    let text = text.trim();
    // `parse` would accept a leading plus sign.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

/// One destination of `LUNA_CONNECT`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ConnectRule {
    network: IpAddr,
    prefix_len: u8,
    ports: PortSet,
}

/// The destinations whose outgoing connections are accelerated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectRules {
    rules: Vec<ConnectRule>,
}

impl ConnectRules {
    /// Parses `ADDR[/LEN][:PORTS]`, comma-separated: `10.9.0.2:6379,10.9.1.0/24,[::1]:80`. An
    /// IPv6 address with ports stands in brackets. An item that is ports only belongs to the
    /// destination before it: `10.9.0.2:80,8000-8009`. Bits beyond the prefix are ignored.
    ///
    /// # Errors
    ///
    /// [`ParseRangeError`] names the item that is wrong and says what is allowed.
    pub fn parse(key: &'static str, text: &str) -> Result<Self, ParseRangeError> {
        let mut rules: Vec<ConnectRule> = Vec::new();
        if text.trim().is_empty() {
            return Ok(Self { rules });
        }
        // Whether the rule before this item names ports, so that more may follow.
        let mut open = false;
        for item in text.split(',') {
            let item = item.trim();
            let wrong = || ParseRangeError::new(key, item, RULES_ALLOWED);
            match (parse_range(item), rules.last_mut()) {
                (Some(range), Some(rule)) if open => rule.ports.insert(range),
                _ => {
                    let (address, ports) = split_ports(item).ok_or_else(wrong)?;
                    let (network, prefix_len) = parse_network(address).ok_or_else(wrong)?;
                    open = ports.is_some();
                    let ports = match ports {
                        Some(ports) => {
                            let mut set = PortSet::empty();
                            set.insert(parse_range(ports).ok_or_else(wrong)?);
                            set
                        }
                        None => PortSet::all(),
                    };
                    rules.push(ConnectRule {
                        network,
                        prefix_len,
                        ports,
                    });
                }
            }
            if rules.len() > RANGES_MAX {
                return Err(ParseRangeError::new(key, item, "at most 1024 destinations"));
            }
        }
        Ok(Self { rules })
    }

    /// Whether connections to `destination` are to be accelerated. An IPv4-mapped IPv6 address
    /// is the IPv4 address that it maps.
    pub fn matches(&self, destination: SocketAddr) -> bool {
        let address = destination.ip().to_canonical();
        self.rules.iter().any(|rule| {
            rule.ports.contains(destination.port())
                && in_network(address, rule.network, rule.prefix_len)
        })
    }

    /// Whether there is no destination.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

impl FromStr for ConnectRules {
    type Err = ParseRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse("LUNA_CONNECT", text)
    }
}

/// Cuts `ADDR[/LEN][:PORTS]` into the address with its length and the ports.
fn split_ports(item: &str) -> Option<(String, Option<&str>)> {
    if let Some(rest) = item.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        if !address.contains(':') {
            return None;
        }
        let (length, ports) = match rest.split_once(':') {
            Some((length, ports)) => (length, Some(ports)),
            None => (rest, None),
        };
        if !length.is_empty() && !length.starts_with('/') {
            return None;
        }
        return Some((format!("{address}{length}"), ports));
    }
    match item.split_once(':') {
        // More than one colon: an IPv6 address without ports.
        Some((_, rest)) if rest.contains(':') => Some((item.to_owned(), None)),
        Some((address, ports)) => Some((address.to_owned(), Some(ports))),
        None => Some((item.to_owned(), None)),
    }
}

fn parse_network(text: String) -> Option<(IpAddr, u8)> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text.as_str(), None),
    };
    let address: IpAddr = address.trim().parse().ok()?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        Some(length) if length.bytes().all(|byte| byte.is_ascii_digit()) => length.parse().ok()?,
        Some(_) => return None,
        None => bits,
    };
    match address {
        _ if length > bits => None,
        // ::ffff:a.b.c.d/96+n is a.b.c.d/n, as in `ConnectRules::matches`.
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) if length >= 96 => Some((v4.into(), length - 96)),
            _ => Some((address, length)),
        },
        IpAddr::V4(_) => Some((address, length)),
    }
}

fn in_network(address: IpAddr, network: IpAddr, prefix_len: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(prefix_len))
                .unwrap_or(0);
            (bits4(a) ^ bits4(n)) & mask == 0
        }
        (IpAddr::V6(a), IpAddr::V6(n)) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(prefix_len))
                .unwrap_or(0);
            (bits6(a) ^ bits6(n)) & mask == 0
        }
        _ => false,
    }
}

fn bits4(address: Ipv4Addr) -> u32 {
    u32::from(address)
}

fn bits6(address: Ipv6Addr) -> u128 {
    u128::from(address)
}

/// A power of two of ports, starting at a multiple of its length: one prefix match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortBlock {
    first: u16,
    bits: u8,
}

impl PortBlock {
    /// The block of 2^`bits` ports that `port` lies in.
    pub const fn around(port: u16, bits: u8) -> Self {
        let bits = if bits > 16 { 16 } else { bits };
        Self {
            first: (port as u32 & !((1_u32 << bits) - 1)) as u16,
            bits,
        }
    }

    /// The lowest port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub const fn last(self) -> u16 {
        (self.first as u32 + (self.len() - 1)) as u16
    }

    /// How many ports, a power of two.
    pub const fn len(self) -> u32 {
        1 << self.bits
    }

    /// Never.
    pub const fn is_empty(self) -> bool {
        false
    }

    /// The mask under which exactly this block's ports equal [`PortBlock::first`].
    pub const fn mask(self) -> u16 {
        !((self.len() - 1) as u16)
    }

    /// Whether `port` lies in it.
    pub const fn contains(self, port: u16) -> bool {
        port & self.mask() == self.first
    }

    /// Its ports.
    pub const fn range(self) -> RangeInclusive<u16> {
        self.first..=self.last()
    }
}

/// Cuts `range` into one block of the same length for each of `shards`: the longest blocks that
/// fit. `None` if not even one port each does.
pub fn client_blocks(range: &RangeInclusive<u16>, shards: usize) -> Option<Vec<PortBlock>> {
    if shards == 0 {
        return None;
    }
    (0..=16).rev().find_map(|bits| {
        let blocks = aligned_blocks(range, bits);
        (blocks.len() >= shards).then(|| blocks.into_iter().take(shards).collect())
    })
}

/// All blocks of 2^`bits` ports that lie in `range` entirely, ascending.
pub fn aligned_blocks(range: &RangeInclusive<u16>, bits: u8) -> Vec<PortBlock> {
    let length = 1_u32 << bits.min(16);
    let (start, end) = (u32::from(*range.start()), u32::from(*range.end()) + 1);
    (start.next_multiple_of(length)..end)
        .step_by(length as usize)
        .filter(|first| first + length <= end)
        .map(|first| PortBlock::around(first as u16, bits))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ports(text: &str) -> PortSet {
        PortSet::parse("LUNA_LISTEN", text).unwrap()
    }

    fn rules(text: &str) -> ConnectRules {
        text.parse().unwrap()
    }

    #[test]
    fn port_lists() {
        let set = ports(" 6379, 61000-61999 ,80");
        assert_eq!(set.to_string(), "80,6379,61000-61999");
        assert_eq!(set.len(), 1002);
        for port in [80, 6379, 61000, 61500, 61999] {
            assert!(set.contains(port), "{port}");
        }
        for port in [0, 79, 81, 6378, 60999, 62000, 65535] {
            assert!(!set.contains(port), "{port}");
        }
        assert!(ports("").is_empty() && ports("  ").is_empty());
        assert_eq!(ports("5-9,1-4,10,3-6").to_string(), "1-10");
        assert_eq!(ports("65535,1-65534").to_string(), "1-65535");
    }

    #[test]
    fn wrong_port_lists_name_the_item() {
        for (text, value) in [
            ("0", "0"),
            ("80,", ""),
            ("80,http", "http"),
            ("65536", "65536"),
            ("9-5", "9-5"),
            ("1-2-3", "1-2-3"),
            ("-5", "-5"),
            ("+5", "+5"),
            ("80;81", "80;81"),
        ] {
            let error = PortSet::parse("LUNA_LISTEN", text).unwrap_err();
            assert_eq!(
                (error.key, error.value.as_str()),
                ("LUNA_LISTEN", value),
                "{text}"
            );
            assert!(error.to_string().contains("61000-61999"), "{error}");
        }
        assert_eq!(
            parse_port_range("LUNA_CLIENT_PORTS", "61440-65535").unwrap(),
            61440..=65535
        );
        assert!(parse_port_range("LUNA_CLIENT_PORTS", "1,2").is_err());
    }

    #[test]
    fn connect_rules() {
        let rules = rules(
            "10.9.0.2:6379, 10.9.1.0/24,[::1]:80,fd00::/64,[fd01::]/16:7-9,10.1.1.1:5,100-200,9",
        );
        let matches = |text: &str| rules.matches(text.parse().unwrap());
        for yes in [
            "10.9.0.2:6379",
            "[::ffff:10.9.0.2]:6379",
            "10.9.1.255:1",
            "[::1]:80",
            "[fd00::5]:99",
            "[fd01:ffff::1]:8",
            "10.1.1.1:5",
            "10.1.1.1:150",
            "10.1.1.1:9",
        ] {
            assert!(matches(yes), "{yes}");
        }
        for no in [
            "10.9.0.2:6380",
            "10.9.0.3:6379",
            "10.9.2.0:1",
            "[::1]:81",
            "[fd00:0:0:1::]:99",
            "[fd01::1]:10",
            "10.1.1.1:6",
            "0.0.0.0:80",
        ] {
            assert!(!matches(no), "{no}");
        }
        assert!(ConnectRules::default().is_empty());
        assert!(
            "0.0.0.0/0"
                .parse::<ConnectRules>()
                .unwrap()
                .matches("1.2.3.4:5".parse().unwrap())
        );
        let mapped: ConnectRules = "[::ffff:10.0.0.0]/104:80".parse().unwrap();
        assert!(mapped.matches("10.200.3.4:80".parse().unwrap()));
    }

    #[test]
    fn wrong_connect_rules_name_the_item() {
        for text in [
            "80",
            "host:80",
            "10.0.0.1:",
            "10.0.0.1:0",
            "10.0.0.1/33",
            "10.0.0.1/",
            "10.0.0.1/+8",
            "[::1",
            "[::1]80",
            "[10.0.0.1]:80",
            "::1/129",
            "10.0.0.1,80",
            "10.0.0.1:80:90",
            ",",
        ] {
            let error = text.parse::<ConnectRules>().unwrap_err();
            assert_eq!(error.key, "LUNA_CONNECT", "{text}");
        }
        let error = "10.0.0.1,10.0.0.2:x".parse::<ConnectRules>().unwrap_err();
        assert_eq!(error.value, "10.0.0.2:x");
    }

    #[test]
    fn blocks_for_shards() {
        let all = 61440..=65535;
        for (shards, length) in [
            (1, 4096),
            (2, 2048),
            (3, 1024),
            (6, 512),
            (12, 256),
            (16, 256),
        ] {
            let blocks = client_blocks(&all, shards).unwrap();
            assert_eq!(blocks.len(), shards);
            assert!(
                blocks.iter().all(|block| block.len() == length),
                "{shards}: {blocks:?}"
            );
        }
        assert_eq!(
            client_blocks(&(61000..=62500), 1).unwrap(),
            [PortBlock::around(61440, 10)]
        );
        assert!(client_blocks(&all, 0).is_none());
        assert!(client_blocks(&(5..=6), 3).is_none());
        assert_eq!(
            client_blocks(&(0..=65535), 1).unwrap()[0].range(),
            0..=65535
        );
    }

    proptest! {
        #[test]
        fn a_port_set_is_the_union_of_its_items(
            items in proptest::collection::vec((1_u16.., 0_u16..2000), 0..20),
        ) {
            let mut model = vec![false; 65536];
            let mut text = Vec::new();
            for (first, extra) in items {
                let last = first.saturating_add(extra);
                model[usize::from(first)..=usize::from(last)].fill(true);
                text.push(format!("{first}-{last}"));
            }
            let set = ports(&text.join(","));
            for port in 0..=u16::MAX {
                prop_assert_eq!(set.contains(port), model[usize::from(port)]);
            }
            prop_assert_eq!(set.len(), model.iter().filter(|is| **is).count());
            prop_assert_eq!(set.iter().count(), set.len());
            prop_assert_eq!(ports(&set.to_string()), set);
        }

        #[test]
        fn parsing_never_panics(text in "[0-9a-f:.,/\\[\\] +-]{0,40}") {
            let _ = PortSet::parse("k", &text);
            let _ = ConnectRules::parse("k", &text);
        }

        #[test]
        fn blocks_are_disjoint_and_inside(
            first in 1_u16..,
            length in 0_u16..8192,
            shards in 1_usize..40,
        ) {
            let range = first..=first.saturating_add(length);
            if let Some(blocks) = client_blocks(&range, shards) {
                for (i, block) in blocks.iter().enumerate() {
                    prop_assert!(range.contains(&block.first()) && range.contains(&block.last()));
                    let mut others = blocks[i + 1..].iter();
                    prop_assert!(others.all(|other| !other.contains(block.first())));
                }
            }
        }
    }
}
