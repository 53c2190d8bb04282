//! Debian's redis as the program under test.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use super::luna::Stack;
use super::netns::Netns;
use super::proc::{PATIENCE, Proc};

/// Where the tests' redis serves.
pub const PORT: u16 = 6379;

/// The programs that tests with redis need.
pub const PROGRAMS: [&str; 3] = ["redis-server", "redis-benchmark", "redis-cli"];

/// The command that runs redis on every address of the namespace, nothing on disk.
pub fn server(netns: &Netns, stack: &Stack, port: u16) -> Command {
    let mut command = stack.command(netns, "redis-server");
    command.args(["--port", &port.to_string(), "--bind", "0.0.0.0", "::"]);
    command.args(["--protected-mode", "no", "--save", "", "--appendonly", "no"]);
    command.args(["--dir", env!("CARGO_TARGET_TMPDIR")]);
    command
}

/// Starts redis and waits until it says that it serves.
pub fn start(netns: &Netns, stack: &Stack, port: u16) -> Proc {
    let mut redis = Proc::start(server(netns, stack, port));
    super::proc::wait_until("redis to be ready", || {
        assert!(redis.ended().is_none(), "{}", redis.report());
        redis.stdout().contains("Ready to accept connections")
    });
    redis
}

/// A connection of the kernel's stack to redis.
#[derive(Debug)]
pub struct Client(TcpStream);

impl Client {
    /// Connects from inside a namespace.
    pub fn connect(netns: &Netns, address: IpAddr, port: u16) -> std::io::Result<Self> {
        let target = SocketAddr::new(address, port);
        let socket = netns.enter(|| TcpStream::connect_timeout(&target, PATIENCE))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        Ok(Self(socket))
    }

    /// One `PING`, one `PONG`.
    pub fn ping(&mut self) -> std::io::Result<()> {
        self.0.write_all(b"PING\r\n")?;
        let mut answer = [0; 7];
        self.0.read_exact(&mut answer)?;
        assert_eq!(&answer, b"+PONG\r\n");
        Ok(())
    }

    /// Keeps the connection busy, one `PING` each interval, until `stop` says so; how many.
    pub fn ping_until(&mut self, interval: Duration, stop: impl Fn() -> bool) -> u64 {
        let mut count = 0;
        while !stop() {
            self.ping().expect("redis answers");
            count += 1;
            std::thread::sleep(interval);
        }
        count
    }
}

/// Runs `redis-benchmark` against redis; returns the requests per second of each test.
pub fn benchmark(
    netns: &Netns,
    stack: &Stack,
    target: (IpAddr, u16),
    arguments: &[&str],
) -> Vec<f64> {
    let mut command = stack.command(netns, "redis-benchmark");
    command.args([
        "-h",
        &target.0.to_string(),
        "-p",
        &target.1.to_string(),
        "--csv",
    ]);
    command.args(arguments);
    let output = Proc::start(command).succeed(PATIENCE * 6);
    let rows = output
        .lines()
        .filter(|line| line.starts_with('"') && !line.contains("\"rps\""));
    let rates: Vec<f64> = rows
        .filter_map(|row| row.split(',').nth(1)?.trim_matches('"').parse().ok())
        .collect();
    assert!(
        !rates.is_empty(),
        "redis-benchmark printed no rates: {output}"
    );
    rates
}
