//! memcached: one thread accepts, four serve.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::bed::{Bed, PYTHON, noise};
use super::common::proc::{PATIENCE, Proc};

/// What each client does, in Python, so that it runs on either stack: values of many sizes.
const CLIENT: &str = r"
import socket, sys
s = socket.create_connection((sys.argv[1], 11211), 20)
f = s.makefile('rwb')
for n in range(150):
    value = (b'%s-%d.' % (sys.argv[2].encode(), n)) * (1 + n * 7 % 900)
    f.write(b'set %s%d 0 0 %d\r\n%s\r\n' % (sys.argv[2].encode(), n, len(value), value))
    f.flush()
    assert f.readline() == b'STORED\r\n'
    f.write(b'get %s%d\r\n' % (sys.argv[2].encode(), n))
    f.flush()
    assert f.readline().split()[0] == b'VALUE'
    assert f.read(len(value) + 2) == value + b'\r\n'
    assert f.readline() == b'END\r\n'
print('done')
";

/// memcached on luna, as an unprivileged user: what needs privileges is opened before it becomes
/// one.
fn start(bed: &Bed) -> Proc {
    let words = [
        "memcached",
        "-u",
        "nobody",
        "-t",
        "4",
        "-l",
        "0.0.0.0",
        "-p",
        "11211",
    ];
    let memcached = bed.server(bed.serving("11211"), &words);
    bed.wait_for_sockets(1, &["memcached/", "LISTEN", ":11211 ", " luna "]);
    memcached
}

#[test]
fn four_threads() {
    let Some(bed) = Bed::new(&["memcached", "python3"], 1) else {
        return;
    };
    let mut memcached = start(&bed);
    let client = bed.write("client.py", CLIENT);
    let address = bed.pair.a_end.v4.to_string();
    bed.quiet("sets and gets", || {
        std::thread::scope(|scope| {
            for number in 0..8_usize {
                let target = bed.at(11211);
                let bed = &bed;
                scope.spawn(move || bed.pair.b.enter(|| sets_and_gets(target, number)));
            }
        });
        for report in bed.both(&[PYTHON, &client, &address, "p"]) {
            assert_eq!(report.trim(), "done");
        }
    });
    assert!(memcached.ended().is_none(), "{}", memcached.report());
    memcached.terminate();
}

/// The kernel forgets the client's hardware address, as it does when it has too many of them. Who
/// has no privileges may not ask for it by netlink, and without it no answer leaves.
#[test]
fn an_unprivileged_program_finds_a_forgotten_neighbour() {
    let Some(bed) = Bed::new(&["memcached"], 1) else {
        return;
    };
    let mut memcached = start(&bed);
    let device = &bed.pair.a_end.interface;
    for number in 0..5 {
        bed.pair.a.ip(&["neigh", "flush", "dev", device]);
        assert_eq!(bed.pair.a.ip(&["neigh", "show", "dev", device]).trim(), "");
        let target = bed.at(11211);
        bed.pair.b.enter(|| sets_and_gets(target, number));
    }
    assert!(memcached.ended().is_none(), "{}", memcached.report());
    memcached.terminate();
}

/// Values up to 100 KB over one connection, each read back.
fn sets_and_gets(target: SocketAddr, number: usize) {
    let socket = TcpStream::connect_timeout(&target, PATIENCE).expect("connect");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut reader = BufReader::new(socket.try_clone().expect("clone a socket"));
    let mut writer = socket;
    let noise = noise(100_000);
    let mut line = String::new();
    for round in 0..100 {
        let value = &noise[..1 + (number * 31 + round * 997) % noise.len()];
        let mut request = format!("set t{number}-{round} 0 0 {}\r\n", value.len()).into_bytes();
        request.extend_from_slice(value);
        request.extend_from_slice(format!("\r\nget t{number}-{round}\r\n").as_bytes());
        writer.write_all(&request).expect("ask");
        let mut expect = |wanted: &str| {
            line.clear();
            reader.read_line(&mut line).expect("an answer");
            assert!(line.starts_with(wanted), "{line}");
        };
        expect("STORED");
        expect("VALUE");
        let mut got = vec![0; value.len() + 2];
        reader.read_exact(&mut got).expect("a value");
        assert!(got.starts_with(value), "connection {number}, round {round}");
        line.clear();
        reader.read_line(&mut line).expect("the end");
        assert_eq!(line, "END\r\n");
    }
}
