//! Checks of the ports: who else may use those that are to be luna's.

use std::collections::BTreeSet;
use std::fs;

use luna::config::Config;
use luna::traffic::reserve::KernelPorts;

use super::Finding;

/// `TCP_LISTEN` (net/tcp_states.h) in `/proc/net/tcp`.
const LISTEN: u8 = 0x0a;
/// `TCP_TIME_WAIT`: the port is free for others.
const TIME_WAIT: u8 = 0x06;

pub(super) fn check(config: &Config) -> Vec<Finding> {
    let sockets = kernel_sockets();
    vec![
        client_ports(config),
        in_use(config, &sockets),
        listeners(config, &sockets),
    ]
}

/// Local port and state of every TCP socket of the kernel.
fn kernel_sockets() -> Vec<(u16, u8)> {
    let mut sockets = Vec::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(path).unwrap_or_default();
        sockets.extend(text.lines().skip(1).filter_map(socket));
    }
    sockets
}

fn socket(line: &str) -> Option<(u16, u8)> {
    let mut fields = line.split_whitespace().skip(1);
    let port = fields.next()?.rsplit_once(':')?.1;
    let state = fields.nth(1)?;
    Some((
        u16::from_str_radix(port, 16).ok()?,
        u8::from_str_radix(state, 16).ok()?,
    ))
}

fn client_ports(config: &Config) -> Finding {
    let ports = &config.client_ports;
    let text = format!("client ports {}-{}", ports.start(), ports.end());
    if !KernelPorts::read().overlaps(ports) {
        return Finding::ok(format!("{text}: the kernel does not hand them out"));
    }
    Finding::warn(
        format!("{text}: the kernel hands them out, too; luna reserves them if it may"),
        format!(
            "sysctl net.ipv4.ip_local_port_range=\"32768 {}\", or add the range to \
             net.ipv4.ip_local_reserved_ports",
            ports.start().saturating_sub(1)
        ),
    )
}

fn in_use(config: &Config, sockets: &[(u16, u8)]) -> Finding {
    let used: BTreeSet<u16> = sockets
        .iter()
        .filter(|(port, state)| *state != TIME_WAIT && config.client_ports.contains(port))
        .map(|(port, _)| *port)
        .collect();
    if used.is_empty() {
        return Finding::ok("client ports: no kernel socket uses one");
    }
    Finding::warn(
        format!(
            "client ports: kernel sockets use {} of them, like {}",
            used.len(),
            list(&used)
        ),
        "nothing: luna skips these until they are free",
    )
}

fn listeners(config: &Config, sockets: &[(u16, u8)]) -> Finding {
    if config.listen.is_empty() {
        return Finding::ok("listen ports: none are set (LUNA_LISTEN)");
    }
    let taken: BTreeSet<u16> = sockets
        .iter()
        .filter(|(port, state)| *state == LISTEN && config.listen.contains(*port))
        .map(|(port, _)| *port)
        .collect();
    if taken.is_empty() {
        return Finding::ok(format!("listen ports: {} are free", config.listen));
    }
    // A listener of luna's has its half in the kernel as well.
    let ours = super::processes::listening_ports();
    let foreign: BTreeSet<u16> = taken.difference(&ours).copied().collect();
    if foreign.is_empty() {
        return Finding::ok(format!(
            "listen ports: luna's programs listen on {}",
            list(&taken)
        ));
    }
    Finding::warn(
        format!(
            "listen ports: programs without luna listen on {}",
            list(&foreign)
        ),
        "stop them, or start them with `luna run`",
    )
}

fn list(ports: &BTreeSet<u16>) -> String {
    let shown: Vec<String> = ports.iter().take(5).map(u16::to_string).collect();
    let more = if ports.len() > shown.len() {
        ", …"
    } else {
        ""
    };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_net_tcp_are_understood() {
        let line = "   0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000";
        assert_eq!(socket(line), Some((6379, LISTEN)));
        assert_eq!(socket("  sl  local_address rem_address   st"), None);
        assert_eq!(socket(""), None);
    }
}
