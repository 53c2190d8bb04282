//! Words for yes and no, and times with units.
#![forbid(unsafe_code)]

use crate::time::Duration;

/// What [`parse_bool`] takes.
pub(super) const BOOL_ALLOWED: &str = "1, yes, on, true or 0, no, off, false";
/// What [`parse_duration`] takes.
pub(super) const DURATION_ALLOWED: &str =
    "a whole number of microseconds, or one with a unit: 500ns, 50us, 1ms, 2s";

/// Yes or no, in any case.
pub fn parse_bool(text: &str) -> Option<bool> {
    let is = |words: [&str; 4]| {
        words
            .iter()
            .any(|word| word.eq_ignore_ascii_case(text.trim()))
    };
    match (
        is(["1", "yes", "on", "true"]),
        is(["0", "no", "off", "false"]),
    ) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

/// A time: `50us`; without a unit in microseconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text.get(..digits)?.parse().ok()?;
    let unit_ns: u64 = match text.get(digits..)?.trim_start() {
        "ns" => 1,
        "" | "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return None,
    };
    number.checked_mul(unit_ns).map(Duration::from_nanos)
}
