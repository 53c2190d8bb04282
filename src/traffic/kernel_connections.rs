//! Whether the kernel has connections of its own on a port that is about to become ours.
//!
//! Nobody's existing connection may be broken by our start: on such a port the steering program
//! asks the kernel about each packet first. Where there is none, that look-up is saved.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::RangeInclusive;

/// `TCP_LISTEN` in the hexadecimal state column.
const LISTEN: &str = "0A";

/// Whether a kernel socket that is no listener has this local port, in any state, TIME-WAIT too.
///
/// # Errors
/// `/proc/net/tcp` cannot be read.
pub fn kernel_has_connections(port: u16) -> io::Result<bool> {
    any_line(|line| is_connection(line, port))
}

/// Whether there is such a socket in the kernel's tables.
fn any_line(is_one: impl Fn(&str) -> bool) -> io::Result<bool> {
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let file = match File::open(table) {
            Ok(file) => file,
            // A kernel without IPv6.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        for line in BufReader::new(file).lines().skip(1) {
            if is_one(&line?) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether a kernel socket, be it a listener, has a local port in one of these ranges.
///
/// # Errors
/// `/proc/net/tcp` cannot be read.
pub fn kernel_uses(ranges: &[RangeInclusive<u16>]) -> io::Result<bool> {
    any_line(|line| {
        local_port(line).is_some_and(|port| ranges.iter().any(|range| range.contains(&port)))
    })
}

/// `  sl  local_address rem_address   st …`, addresses as `HEX:PORT`.
fn is_connection(line: &str, port: u16) -> bool {
    let state = line.split_ascii_whitespace().nth(3);
    local_port(line) == Some(port) && state.is_some_and(|state| state != LISTEN)
}

fn local_port(line: &str) -> Option<u16> {
    let (_, port) = line.split_ascii_whitespace().nth(1)?.rsplit_once(':')?;
    u16::from_str_radix(port, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_do_not_count_and_connections_do() {
        let line = |state| format!("   0: 0100007F:18EB 00000000:0000 {state} 00000000:00000000");
        assert!(!is_connection(&line("0A"), 6379));
        assert!(is_connection(&line("01"), 6379));
        assert!(is_connection(&line("06"), 6379));
        assert!(!is_connection(&line("01"), 6380));
        assert!(!is_connection("nonsense", 6379));
    }

    #[test]
    fn sees_a_real_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!kernel_has_connections(port).unwrap());
        assert!(kernel_uses(&[1..=1, port..=port]).unwrap(), "the listener");
        let _client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _server = listener.accept().unwrap();
        assert!(kernel_has_connections(port).unwrap());
    }
}
