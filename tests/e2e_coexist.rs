//! While redis is accelerated, everything else on the same interface stays on the kernel and
//! keeps working, and about as fast: ping, nginx, UDP, a TCP bulk transfer. Loopback reaches the
//! accelerated redis too.

#![cfg(feature = "cli")]
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "a test measures by the wall clock, and its helpers fail it"
)]

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::luna::{Ends, Run, Stack};
use common::measure::{KernelTcp, median};
use common::netns::{Family, Netns, NetnsPair};
use common::proc::{PATIENCE, Proc, wait_until};
use common::redis::{self, Client};
use common::require::turn;

const HTTP_PORT: u16 = 80;
const UDP_PORT: u16 = 9000;
const BULK_PORT: &str = "5201";
const PAGE_BYTES: usize = 300_000;

/// Interleaved measurements of each kind, with and without acceleration.
const ROUNDS: usize = 3;

/// With / without may not fall below this: nine tenths are usual, but tests share their cores. (A
/// natively attached program would leave a third of "TCP in": `AttachMode::preferred_on`.)
const SPEED_KEPT: f64 = 0.5;

/// The kernel's services in the accelerated redis's namespace.
struct Neighbours<'a> {
    pair: &'a NetnsPair,
    _nginx: Proc,
    _bulk: Proc,
    _folder: tempfile::TempDir,
    udp: UdpSocket,
    page: Vec<u8>,
}

impl<'a> Neighbours<'a> {
    fn start(pair: &'a NetnsPair) -> Self {
        let page: Vec<u8> = (0..PAGE_BYTES).map(|at| (at * 31 % 251) as u8).collect();
        let folder = public_folder();
        std::fs::write(folder.path().join("page"), &page).expect("write the page");
        std::fs::write(folder.path().join("nginx.conf"), NGINX).expect("write the configuration");
        let mut nginx = Proc::start({
            let mut command = pair.a.command("nginx");
            command.args(["-p", &folder.path().to_string_lossy(), "-c", "nginx.conf"]);
            command
        });
        nginx.wait_for_port(&pair.a, pair.a_end.v4.into(), HTTP_PORT);
        let mut bulk = Proc::start({
            let mut command = pair.a.command("iperf3");
            command.args(["-s", "-p", BULK_PORT]);
            command
        });
        wait_until("iperf3 to listen", || {
            assert!(bulk.ended().is_none(), "{}", bulk.report());
            let listeners = pair.a.run("ss", &["-Hltn"]);
            listeners.contains(&format!(":{BULK_PORT} "))
        });
        let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), UDP_PORT);
        let udp = pair
            .a
            .enter(|| UdpSocket::bind(address))
            .expect("bind the UDP echo");
        Self {
            pair,
            _nginx: nginx,
            _bulk: bulk,
            _folder: folder,
            udp,
            page,
        }
    }

    /// Answers datagrams until told to stop.
    fn echo_until(&self, stop: &AtomicBool) {
        self.udp
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("set a timeout");
        let mut bytes = [0; 65_536];
        while !stop.load(Ordering::Relaxed) {
            let Ok((count, from)) = self.udp.recv_from(&mut bytes) else {
                continue;
            };
            self.udp
                .send_to(&bytes[..count], from)
                .expect("send an echo");
        }
    }

    fn address(&self) -> IpAddr {
        self.pair.a_end.v4.into()
    }

    /// Ten echo requests of both families; every one must be answered. The mean time in ms.
    fn ping(&self) -> f64 {
        let v6 = self.pair.a_end.address(Family::V6).to_string();
        self.pair.b.run("ping", &["-c3", "-i0.01", "-W5", &v6]);
        let v4 = self.address().to_string();
        let report = self.pair.b.run("ping", &["-c50", "-i0.01", "-W5", &v4]);
        assert!(report.contains(" 0% packet loss"), "{report}");
        let summary = report
            .lines()
            .find(|line| line.starts_with("rtt"))
            .expect("a summary");
        let numbers = summary.split('=').nth(1).expect("numbers").trim();
        numbers
            .split('/')
            .nth(1)
            .expect("a mean")
            .parse()
            .expect("a number")
    }

    /// Pages per second from nginx, each compared with the original.
    fn http(&self) -> f64 {
        let (pages, started) = (30, Instant::now());
        for _ in 0..pages {
            let target = SocketAddr::new(self.address(), HTTP_PORT);
            let mut socket = self
                .pair
                .b
                .enter(|| TcpStream::connect_timeout(&target, PATIENCE))
                .expect("connect to nginx");
            socket
                .set_read_timeout(Some(PATIENCE))
                .expect("set a timeout");
            socket
                .write_all(b"GET /page HTTP/1.0\r\n\r\n")
                .expect("ask nginx");
            let mut answer = Vec::new();
            socket.read_to_end(&mut answer).expect("nginx answers");
            assert!(
                answer.starts_with(b"HTTP/1.1 200"),
                "nginx answered something else"
            );
            assert!(answer.ends_with(&self.page), "nginx's page was damaged");
        }
        f64::from(pages) / started.elapsed().as_secs_f64()
    }

    /// UDP echoes per second, fragmented datagrams among them.
    fn udp(&self) -> f64 {
        let target = SocketAddr::new(self.address(), UDP_PORT);
        let socket = self
            .pair
            .b
            .enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
        let socket = socket.expect("bind a UDP client");
        socket.connect(target).expect("connect a UDP client");
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("set a timeout");
        let (count, started) = (1000, Instant::now());
        for number in 0..count {
            let bytes = if number % 100 == 0 { 5000 } else { 64 };
            let sent = vec![number as u8; bytes];
            socket.send(&sent).expect("send a datagram");
            let mut got = vec![0; 65_536];
            let received = socket.recv(&mut got).expect("every datagram is echoed");
            assert_eq!(got[..received], sent);
        }
        f64::from(count) / started.elapsed().as_secs_f64()
    }

    /// Mbit/s of a kernel TCP transfer; `to_server` is the direction through XDP.
    fn bulk(&self, to_server: bool) -> f64 {
        let address = self.address().to_string();
        let mut words = vec!["-c", &address, "-p", BULK_PORT, "-t", "1", "-J"];
        if !to_server {
            words.push("-R");
        }
        let report = self.pair.b.run("iperf3", &words);
        let report: serde_json::Value = serde_json::from_str(&report).expect("iperf3's JSON");
        let received = &report["end"]["sum_received"]["bits_per_second"];
        received.as_f64().expect("a rate") / 1e6
    }

    /// One of each: higher is better.
    fn measure(&self) -> [f64; 5] {
        let pings_per_second = 1000.0 / self.ping();
        [
            pings_per_second,
            self.http(),
            self.udp(),
            self.bulk(true),
            self.bulk(false),
        ]
    }
}

const KINDS: [&str; 5] = [
    "ping 1/s",
    "nginx pages/s",
    "UDP echoes/s",
    "TCP in Mbit/s",
    "TCP out Mbit/s",
];

const NGINX: &str = "daemon off; worker_processes 1; pid nginx.pid; error_log stderr error;
events {}
http {
  access_log off; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3;
  uwsgi_temp_path t4; scgi_temp_path t5;
  server { listen 0.0.0.0:80; root .; }
}
";

/// A folder that the worker of a root nginx, another user, may read.
fn public_folder() -> tempfile::TempDir {
    let permissions = std::fs::Permissions::from_mode(0o755);
    let made = tempfile::Builder::new()
        .prefix("luna-e2e-")
        .permissions(permissions)
        .tempdir();
    made.expect("create nginx's folder")
}

/// Measures the neighbours while redis, on the given stack, serves a client a request each
/// millisecond over the same link, and another over loopback.
fn beside_redis(neighbours: &Neighbours<'_>, ends: Ends) -> [f64; 5] {
    let pair = neighbours.pair;
    let (server, _) = ends.stacks(&pair.a_end, &pair.b_end, redis::PORT);
    let mut running = redis::start(&pair.a, &server, redis::PORT);
    let link = |netns: &Netns, address: IpAddr| {
        let mut connection =
            Client::connect(netns, address, redis::PORT).expect("connect to redis");
        connection.ping().expect("redis answers");
        connection
    };
    let mut clients = [
        link(&pair.b, pair.a_end.v4.into()),
        link(&pair.a, Ipv4Addr::LOCALHOST.into()),
    ];
    let stop = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let _stopper = StopOnDrop(&stop);
        let echo = scope.spawn(|| neighbours.echo_until(&stop));
        let pingers = clients.each_mut().map(|connection| {
            scope.spawn(|| {
                let stopped = || stop.load(Ordering::Relaxed);
                connection.ping_until(Duration::from_millis(1), stopped)
            })
        });
        let result = neighbours.measure();
        stop.store(true, Ordering::Relaxed);
        echo.join().expect("the UDP echo worked");
        for pinger in pingers {
            assert!(
                pinger.join().expect("redis answered") > 50,
                "redis hardly answered"
            );
        }
        result
    });
    assert!(running.terminate().success(), "{}", running.report());
    result
}

/// A panic in a scope must not leave its threads waiting for a stop that never comes.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn compare(ends: Ends) {
    if !ends.runnable() {
        return;
    }
    let Some(_turn) = turn(&["redis-server", "nginx", "iperf3", "ping"]) else {
        return;
    };
    let pair = NetnsPair::new(1500);
    let neighbours = Neighbours::start(&pair);
    let mut rounds: Vec<[[f64; 5]; 2]> = Vec::new();
    for _ in 0..ROUNDS {
        let without = beside_redis(&neighbours, Ends::NEITHER);
        let with = beside_redis(&neighbours, ends);
        rounds.push([without, with]);
    }
    drop(neighbours);
    for (kind, name) in KINDS.iter().enumerate() {
        let of = |side: usize| median(rounds.iter().map(|round| round[side][kind]).collect());
        let (without, with) = (of(0), of(1));
        println!(
            "{name}: {without:.0} without, {with:.0} with ({:.2})",
            with / without
        );
        assert!(
            with >= without * SPEED_KEPT,
            "{name}: {without:.0} without, {with:.0} with"
        );
    }
}

#[test]
fn neighbours_of_a_kernel_redis() {
    compare(Ends::NEITHER);
}

#[test]
fn neighbours_of_a_luna_redis() {
    compare(Ends::SERVER);
}

/// A connection of the kernel's from a port of our choice.
fn connect_from(netns: &Netns, port: u16, target: SocketAddr) -> std::io::Result<TcpStream> {
    netns.enter(|| {
        let family = rustix::net::AddressFamily::INET;
        let kind = rustix::net::SocketType::STREAM;
        let socket = rustix::net::socket(family, kind, None)?;
        rustix::net::bind(
            &socket,
            &SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
        )?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        // The timeout of `connect` as well.
        stream.set_write_timeout(Some(PATIENCE))?;
        rustix::net::connect(&stream, &target)?;
        Ok(stream)
    })
}

/// A line there and back.
fn exchange(client: &mut TcpStream, server: &mut TcpStream) {
    let mut line = [0; 5];
    client.write_all(b"there").expect("send");
    server.read_exact(&mut line).expect("the line arrives");
    server.write_all(b"again").expect("answer");
    client.read_exact(&mut line).expect("the answer arrives");
    assert_eq!(&line, b"again");
}

/// An accelerated client takes a thousand ports for its own. Connections that the kernel has from
/// one of them, before and after, and its listeners there, are left alone.
#[test]
fn kernel_connections_from_the_ports_of_an_accelerated_client() {
    let Some(_turn) = turn(&["ip", "python3"]) else {
        return;
    };
    let pair = NetnsPair::new(1500);
    let peer = |port| SocketAddr::new(pair.b_end.v4.into(), port);
    let listen = |netns: &Netns, port| {
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        netns.enter(|| TcpListener::bind(any)).expect("listen")
    };
    let (plain, accelerated) = (listen(&pair.b, 7100), listen(&pair.b, 7000));
    let inside = listen(&pair.a, 61_500);
    let mut early = connect_from(&pair.a, 61_440, peer(7100)).expect("connect before");
    let mut early_end = plain.accept().expect("accept").0;
    exchange(&mut early, &mut early_end);

    let stack = Stack::Luna(Run::connect(&pair.a_end.interface, peer(7000)));
    let mut command = stack.command(&pair.a, "python3");
    let script = "import socket, sys; s = socket.create_connection((sys.argv[1], 7000)); \
                  s.sendall(b'x'); s.recv(1)";
    command.args(["-c", script, &pair.b_end.v4.to_string()]);
    let mut client = Proc::start(command);
    let before = KernelTcp::of(&pair.a);
    let mut served = accelerated
        .accept()
        .expect("accept the accelerated client")
        .0;
    served.read_exact(&mut [0]).expect("its byte");
    assert!(
        KernelTcp::of(&pair.a).segments_since(&before) < 20,
        "{}",
        client.report()
    );

    early_end
        .set_read_timeout(Some(PATIENCE))
        .expect("set a timeout");
    exchange(&mut early, &mut early_end);
    let mut late = connect_from(&pair.a, 61_900, peer(7100)).expect("connect beside it");
    let mut late_end = plain.accept().expect("accept").0;
    late_end
        .set_read_timeout(Some(PATIENCE))
        .expect("set a timeout");
    exchange(&mut late, &mut late_end);
    let target = SocketAddr::new(pair.a_end.v4.into(), 61_500);
    let mut from_outside = pair
        .b
        .enter(|| TcpStream::connect_timeout(&target, PATIENCE))
        .expect("connect to a listener there");
    exchange(&mut from_outside, &mut inside.accept().expect("accept").0);

    served.write_all(b"x").expect("let the client end");
    assert!(client.wait(PATIENCE).success(), "{}", client.report());
}
