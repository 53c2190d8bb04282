//! Socket calls of a script, options, and assertions.

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;

use luna::stack::{Close, ConnError, OpenError, Ready, RecvError, RecvMode, SendError};
use luna::tcp::{Config, CongestionControl, EcnUse, Keepalive};
use luna::time::Duration;

use crate::host::address;
use crate::run::{Kind, Run, Sock, pattern};
use crate::script::{Check, duration};

/// The address of the only peer.
const PEER_PORT: u16 = 40_000;

fn is_on(value: &str) -> bool {
    matches!(value, "on" | "yes" | "1" | "true")
}

/// One `config KEY=VALUE` for the protocol.
pub(crate) fn configure(config: &mut Config, key: &str, value: &str) -> Result<(), String> {
    let number = || value.parse::<u32>().map_err(|_| format!("{key}: a number"));
    let span = || duration(value).ok_or(format!("{key}: a duration"));
    match key {
        "mss" => config.mss_local = number()? as u16,
        "rcvbuf" => config.set_receive_buffer(number()?),
        "sndbuf" => config.set_send_buffer(number()?),
        "rto_initial" => config.rto_initial = span()?,
        "rto_min" => config.rto_min = span()?,
        "rto_max" => config.rto_max = span()?,
        "delayed_ack" => config.delayed_ack = span()?,
        "nodelay" => config.nodelay = is_on(value),
        "timestamps" => config.timestamps = is_on(value),
        "sack" => config.sack = is_on(value),
        "wscale" => config.window_scale = is_on(value),
        "syn_retries" => config.syn_retries = number()? as u8,
        "syn_ack_retries" => config.syn_ack_retries = number()? as u8,
        "retries" => config.retries = number()? as u8,
        "orphan_retries" => config.orphan_retries = number()? as u8,
        "time_wait" => config.time_wait = span()?,
        "fin_wait_2" => config.fin_wait_2 = span()?,
        "user_timeout" => config.user_timeout = Some(span()?),
        "max_ack_delay" => config.max_ack_delay = span()?,
        "congestion" => {
            let control = CongestionControl::from_name(value);
            config.congestion = control.ok_or(format!("congestion: no `{value}`"))?;
        }
        "ecn" => {
            config.ecn = match value {
                "off" => EcnUse::Off,
                "accept" => EcnUse::Accept,
                "request" => EcnUse::Request,
                _ => return Err("ecn: off, accept or request".into()),
            }
        }
        _ => return Err(format!("config: no `{key}`")),
    }
    Ok(())
}

fn failed(errno: &str) -> String {
    format!("-1 {errno}")
}

fn errno_of(error: ConnError) -> &'static str {
    match error {
        ConnError::Refused => "ECONNREFUSED",
        ConnError::Reset => "ECONNRESET",
        ConnError::BrokenPipe => "EPIPE",
        ConnError::TimedOut => "ETIMEDOUT",
        ConnError::HostUnreachable => "EHOSTUNREACH",
        ConnError::NetUnreachable => "ENETUNREACH",
        ConnError::Aborted => "ECONNABORTED",
    }
}

impl Run {
    fn sock(&mut self, args: &[String]) -> Result<(i32, Sock), String> {
        let fd: i32 = args[0]
            .parse()
            .map_err(|_| "the first argument is a number")?;
        let sock = self.socks.get(&fd).ok_or(format!("{fd} is not open"))?;
        Ok((fd, sock.clone()))
    }

    fn new_sock(&mut self, kind: Kind, config: Config) -> i32 {
        let fd = (3..).find(|fd| !self.socks.contains_key(fd)).unwrap_or(3);
        let sock = Sock {
            kind,
            config,
            port: self.backlog_port,
            close: Close::Graceful,
            read_at: 1,
            write_at: 1,
        };
        self.socks.insert(fd, sock);
        fd
    }

    /// Does what a line calls; the result as the script would write it.
    pub(crate) fn call(&mut self, name: &str, args: &[String]) -> Result<String, String> {
        if name == "socket" {
            let config = self.config.clone();
            return Ok(self.new_sock(Kind::Fresh, config).to_string());
        }
        let (fd, sock) = self.sock(args)?;
        match name {
            "bind" => Ok("0".into()),
            "listen" => self.listen(fd, &sock, args),
            "connect" => self.connect(fd, &sock),
            "accept" => self.accept(&sock),
            "write" | "send" => self.write(fd, &sock, args),
            "read" | "recv" => self.read(fd, &sock, args),
            "shutdown" => self.shutdown(&sock, args),
            "close" => self.close(fd, &sock),
            "setsockopt" => self.setsockopt(fd, sock, args),
            "getsockopt" => self.getsockopt(&sock, args),
            "poll" => Ok(self.poll(&sock)),
            _ => Err(format!("no call `{name}`")),
        }
    }

    fn local(&self, port: u16) -> SocketAddr {
        SocketAddr::new(address(self.v6, 0), port)
    }

    fn listen(&mut self, fd: i32, sock: &Sock, args: &[String]) -> Result<String, String> {
        let backlog = args.get(1).and_then(|n| n.parse().ok());
        let backlog = backlog.ok_or("listen(FD, BACKLOG)")?;
        let local = self.local(sock.port);
        let shard = &mut self.host().shard;
        match shard.listen(local, false, backlog, &sock.config, fd as u64) {
            Ok(id) => self.set_kind(fd, Kind::Listener(id)),
            Err(_) => return Ok(failed("EADDRINUSE")),
        }
        Ok("0".into())
    }

    fn set_kind(&mut self, fd: i32, kind: Kind) {
        if let Some(sock) = self.socks.get_mut(&fd) {
            sock.kind = kind;
        }
    }

    fn connect(&mut self, fd: i32, sock: &Sock) -> Result<String, String> {
        let local = self.local(sock.port);
        let remote = SocketAddr::new(address(self.v6, 1), PEER_PORT);
        let host = self.host();
        let now = host.now;
        match host
            .shard
            .connect(now, local, remote, &sock.config, fd as u64)
        {
            Ok(id) => self.set_kind(fd, Kind::Conn(id)),
            Err(OpenError::AddressInUse) => return Ok(failed("EADDRNOTAVAIL")),
            Err(e) => return Err(format!("connect: {e}")),
        }
        Ok(failed("EINPROGRESS"))
    }

    fn accept(&mut self, sock: &Sock) -> Result<String, String> {
        let Kind::Listener(id) = sock.kind else {
            return Ok(failed("EINVAL"));
        };
        let fd = self.new_sock(Kind::Fresh, sock.config.clone());
        let Some(accepted) = self.host().shard.accept(id, fd as u64) else {
            self.socks.remove(&fd);
            return Ok(failed("EAGAIN"));
        };
        self.set_kind(fd, Kind::Conn(accepted.conn));
        Ok(fd.to_string())
    }

    fn write(&mut self, fd: i32, sock: &Sock, args: &[String]) -> Result<String, String> {
        let len: u32 = args
            .get(2)
            .and_then(|n| n.parse().ok())
            .ok_or("write(FD, ..., BYTES)")?;
        let more = args.get(3).is_some_and(|flags| flags.contains("MSG_MORE"));
        let Kind::Conn(id) = sock.kind else {
            return Ok(failed("EPIPE"));
        };
        let bytes: Vec<u8> = (sock.write_at..sock.write_at + len).map(pattern).collect();
        let host = self.host();
        let now = host.now;
        match host.shard.send(now, id, &[IoSlice::new(&bytes)], more) {
            Ok(n) => {
                if let Some(sock) = self.socks.get_mut(&fd) {
                    sock.write_at += n as u32;
                }
                Ok(n.to_string())
            }
            Err(SendError::WouldBlock) => Ok(failed("EAGAIN")),
            Err(SendError::BrokenPipe) => Ok(failed("EPIPE")),
            Err(SendError::NotConnected) => Ok(failed("ENOTCONN")),
            Err(SendError::NoMemory) => Ok(failed("ENOBUFS")),
            Err(SendError::Failed(e)) => Ok(failed(errno_of(e))),
            Err(SendError::Stale) => Ok(failed("EBADF")),
        }
    }

    fn read(&mut self, fd: i32, sock: &Sock, args: &[String]) -> Result<String, String> {
        let len: usize = args
            .get(2)
            .and_then(|n| n.parse().ok())
            .ok_or("read(FD, ..., BYTES)")?;
        let Kind::Conn(id) = sock.kind else {
            return Ok(failed("ENOTCONN"));
        };
        let mut bytes = vec![0; len];
        let host = self.host();
        let now = host.now;
        let into = &mut [IoSliceMut::new(&mut bytes)];
        let n = match host.shard.recv(now, id, into, RecvMode::default()) {
            Ok(n) => n,
            Err(RecvError::WouldBlock) => return Ok(failed("EAGAIN")),
            Err(RecvError::NotConnected) => return Ok(failed("ENOTCONN")),
            Err(RecvError::Failed(e)) => return Ok(failed(errno_of(e))),
            Err(RecvError::Stale) => return Ok(failed("EBADF")),
        };
        for (i, byte) in bytes[..n].iter().enumerate() {
            if *byte != pattern(sock.read_at + i as u32) {
                return Err(format!("read a wrong byte at {}", sock.read_at + i as u32));
            }
        }
        if let Some(sock) = self.socks.get_mut(&fd) {
            sock.read_at += n as u32;
        }
        Ok(n.to_string())
    }

    fn shutdown(&mut self, sock: &Sock, args: &[String]) -> Result<String, String> {
        let Kind::Conn(id) = sock.kind else {
            return Ok(failed("ENOTCONN"));
        };
        let how = args.get(1).map(String::as_str).unwrap_or_default();
        let host = self.host();
        let now = host.now;
        if how != "SHUT_WR" {
            host.shard.shutdown_read(now, id);
        }
        if how != "SHUT_RD" {
            host.shard.shutdown_write(now, id);
        }
        Ok("0".into())
    }

    fn close(&mut self, fd: i32, sock: &Sock) -> Result<String, String> {
        let host = self.host();
        let now = host.now;
        match sock.kind {
            Kind::Conn(id) => host.shard.close(now, id, sock.close),
            Kind::Listener(id) => host.shard.close_listener(now, id),
            Kind::Fresh => {}
        }
        // Kept for assertions about what becomes of the connection, under the same number.
        if !matches!(sock.kind, Kind::Conn(_)) {
            self.socks.remove(&fd);
        }
        Ok("0".into())
    }

    fn setsockopt(&mut self, fd: i32, mut sock: Sock, args: &[String]) -> Result<String, String> {
        let name = args.get(2).map(String::as_str).unwrap_or_default();
        let value = args.get(3).map(String::as_str).unwrap_or_default();
        let value = value.trim_matches(['[', ']']);
        let number = value.parse::<u32>().unwrap_or(0);
        let config = &mut sock.config;
        let mut keepalive = config.keepalive.unwrap_or_default();
        let secs = Duration::from_secs(u64::from(number));
        match name {
            "TCP_NODELAY" => config.nodelay = number != 0,
            "TCP_CORK" => config.cork = number != 0,
            "TCP_MAXSEG" => config.mss_local = number as u16,
            "TCP_USER_TIMEOUT" => {
                let ms = Duration::from_millis(u64::from(number));
                config.user_timeout = (number > 0).then_some(ms);
            }
            "TCP_SYNCNT" => config.syn_retries = number as u8,
            "TCP_LINGER2" => config.fin_wait_2 = secs,
            "SO_RCVBUF" => config.set_receive_buffer(number),
            "SO_SNDBUF" => config.set_send_buffer(number),
            "SO_KEEPALIVE" => {
                config.keepalive = (number != 0).then_some(Keepalive::default());
            }
            "TCP_KEEPIDLE" => keepalive.idle = secs,
            "TCP_KEEPINTVL" => keepalive.interval = secs,
            "TCP_KEEPCNT" => keepalive.count = number as u8,
            "SO_LINGER" => {
                // packetdrill's {onoff=1, linger=0}
                let zero = value.replace(' ', "") == "{onoff=1,linger=0}";
                sock.close = if zero { Close::Abort } else { Close::Graceful };
            }
            _ => return Err(format!("setsockopt: no `{name}`")),
        }
        if name.starts_with("TCP_KEEP") {
            config.keepalive = Some(keepalive);
        }
        if let Kind::Conn(id) = sock.kind {
            let host = self.host();
            let now = host.now;
            host.shard.configure(now, id, &sock.config);
        }
        self.socks.insert(fd, sock);
        Ok("0".into())
    }

    /// `getsockopt(4, SOL_SOCKET, SO_ERROR, [ECONNRESET], [4]) = 0`
    fn getsockopt(&mut self, sock: &Sock, args: &[String]) -> Result<String, String> {
        let (Some("SO_ERROR"), Kind::Conn(id)) = (args.get(2).map(String::as_str), sock.kind)
        else {
            return Err("getsockopt: only SO_ERROR of a connection".into());
        };
        let error = self.host().shard.take_error(id).map_or("0", errno_of);
        let expected = args.get(3).map(String::as_str).unwrap_or_default();
        match expected.trim_matches(['[', ']']) == error {
            true => Ok("0".into()),
            false => Err(format!("SO_ERROR is {error}")),
        }
    }

    /// `poll(4) = IN|OUT`
    fn poll(&mut self, sock: &Sock) -> String {
        let ready = match sock.kind {
            Kind::Conn(id) => self.host().shard.ready(id),
            Kind::Listener(id) => self.host().shard.listener_ready(id),
            Kind::Fresh => Ready::HUP | Ready::OUT,
        };
        let names: Vec<_> = ready.iter_names().map(|(name, _)| name).collect();
        match names.is_empty() {
            true => "0".into(),
            false => names.join("|"),
        }
    }

    /// The state of a descriptor's connection, or what has become of it.
    pub(crate) fn state_of(&mut self, fd: i32) -> String {
        let kind = self.socks.get(&fd).map(|sock| sock.kind);
        let shard = &self.host().shard;
        let info = match kind {
            Some(Kind::Conn(id)) => shard.info(id),
            Some(Kind::Listener(id)) => {
                let waiting = shard.listener_queue(id).map_or(0, |(waiting, _)| waiting);
                return match (shard.population(), waiting) {
                    ((0, _), _) => "LISTEN",
                    (_, 0) => "SYN-RECEIVED",
                    _ => "accepted",
                }
                .into();
            }
            _ => None,
        };
        let gone = match shard.population() {
            (_, 0) => "CLOSED",
            _ => "TIME-WAIT",
        };
        info.map_or(gone, |info| info.tcp.state.name()).to_string()
    }

    /// Checks what is known of a connection: the fields of `tcp::Info` and its counters by name,
    /// and `state`, which also knows what has become of a connection that is gone.
    pub(crate) fn check(&mut self, fd: i32, checks: &[Check]) -> Result<(), String> {
        let sock = self.socks.get(&fd).ok_or(format!("{fd} is not open"))?;
        let kind = sock.kind;
        let state = self.state_of(fd);
        let shard = &self.host().shard;
        let info = match kind {
            Kind::Conn(id) => shard.info(id),
            _ => None,
        };
        let text = match &info {
            Some(info) => format!("{:?}", info.tcp),
            None => String::new(),
        } + &format!("{:?}", shard.counters());
        let population = shard.population();
        for check in checks {
            let got = match check.name.as_str() {
                "state" => state.clone(),
                "connections" => population.0.to_string(),
                "time_waits" => population.1.to_string(),
                name => field(&text, name).ok_or(format!("nothing is called `{name}`"))?,
            };
            if !holds(&got, &check.op, &check.value) {
                return Err(format!("{} is {got}", check.name));
            }
        }
        Ok(())
    }
}

/// `name: value` out of what `Debug` prints.
fn field(text: &str, name: &str) -> Option<String> {
    let marks = [format!(" {name}: "), format!("{{{name}: ")];
    let at = marks
        .iter()
        .find_map(|m| text.find(m.as_str()).map(|at| at + m.len()))?;
    let rest = &text[at..];
    let rest = rest.strip_prefix("Some(").unwrap_or(rest);
    let end = rest.find([',', ')', ' ', '}']).unwrap_or(rest.len());
    Some(rest[..end].trim_matches('"').to_string())
}

fn holds(got: &str, op: &str, value: &str) -> bool {
    let number = |t: &str| duration(t).map(Duration::as_nanos);
    match (op, number(got), number(value)) {
        ("==", Some(a), Some(b)) => a == b,
        ("!=", Some(a), Some(b)) => a != b,
        ("<", Some(a), Some(b)) => a < b,
        ("<=", Some(a), Some(b)) => a <= b,
        (">", Some(a), Some(b)) => a > b,
        (">=", Some(a), Some(b)) => a >= b,
        ("==", ..) => got == value,
        ("!=", ..) => got != value,
        _ => false,
    }
}
