//! Floods: SYNs, zero-window peers, slow readers.

use std::net::IpAddr;

use luna::stack::Close;
use luna::tcp::Config;
use luna::time::Duration;

use crate::host::frame::{ACK, PSH, SYN, Segment};
use crate::host::{Host, Setup, address};
use crate::peer::{
    PORT, Peer, Rng, connected, give_counted, listen, read_all, syn_options, timestamps, write,
};

/// A hundred thousand SYNs from everywhere: what was established goes on undisturbed between
/// them, nothing grows, and a real client gets in through a cookie, with its options.
#[test]
fn a_syn_flood_harms_nobody() {
    let options = || syn_options(1000, true, Some(1), Some(7));
    let (mut host, listener, mut friend, conn) = connected(&Config::default(), options());
    friend.stamp = Some(2);
    let mut rng = Rng(1);
    let flood = |host: &mut Host, rng: &mut Rng, count: u32| {
        let mut most = (0, 0);
        let mut asked_calls = 0;
        for _ in 0..count {
            let source = IpAddr::from([10, 9, 1 + rng.below(250) as u8, 1 + rng.below(250) as u8]);
            let mut syn = Segment::new(
                (source, 1024 + rng.below(60_000) as u16),
                (address(false, 0), PORT),
                SYN,
            );
            syn.seq = rng.next() as u32;
            syn.options = options();
            asked_calls += give_counted(host, &syn.frame()).calls;
            host.sent.clear();
            most.0 = most.0.max(host.shard.population().0);
            most.1 = most.1.max(host.shard.objects_in_use());
        }
        (most, asked_calls)
    };
    // Until the queue of half-open connections is full and the tables have their size.
    flood(&mut host, &mut rng, 5_000);
    let objects = host.shard.objects_in_use();
    for round in 0..19 {
        let ((connections, in_use), calls) = flood(&mut host, &mut rng, 5_000);
        // One established, as many half open as the listener allows (its backlog, 64).
        assert!(connections <= 1 + 65, "{connections} connections");
        assert!(in_use <= objects + 64 + 1, "{in_use} objects");
        assert!(calls <= 500, "{calls} allocations for 5,000 SYNs");
        friend.stamp = friend.stamp.map(|s| s + 1);
        friend.send(&mut host, b"alive");
        assert_eq!(read_all(&mut host, conn), b"alive", "round {round}");
    }
    assert!(host.shard.counters().cookies_out > 90_000);
    // The client that means it.
    let mut client = Peer::new(5555);
    client.stamp = Some(9);
    let mut syn = client.segment(SYN, &[]);
    syn.ack = 0;
    syn.options = syn_options(1400, true, Some(9), Some(7));
    host.give(&syn.frame());
    let answer = client.answers(&mut host).pop().expect("a cookie");
    assert!(answer.has(SYN | ACK));
    let (value, _) = answer.timestamps().expect("timestamps carry the options");
    client.seq = client.seq.wrapping_add(1);
    client.ack = answer.seq.wrapping_add(1);
    let mut ack = client.segment(ACK | PSH, b"hello");
    ack.options = timestamps(10, value);
    host.give(&ack.frame());
    let accepted = host
        .shard
        .accept(listener, 20)
        .expect("the cookie is accepted");
    assert_eq!(accepted.remote.port(), 5555);
    assert_eq!(read_all(&mut host, accepted.conn), b"hello");
    let info = host.shard.info(accepted.conn).unwrap().tcp;
    assert!(
        info.sack && info.timestamps && info.snd_wscale == Some(7),
        "{info:?}"
    );
}

/// A cookie that nobody was given opens nothing, and costs one reset.
#[test]
fn guessed_cookies_open_nothing() {
    let mut host = Host::new(Setup::default());
    let listener = listen(&mut host, 16, &Config::default());
    for port in 1000..1100 {
        host.give(&Peer::new(port).segment(SYN, &[]).frame());
    }
    assert!(host.shard.counters().cookies_out > 0);
    host.sent.clear();
    let mut rng = Rng(2);
    let before = host.shard.population();
    for _ in 0..50_000 {
        let mut ack = Peer::new(2000 + rng.below(1000) as u16).segment(ACK, &[]);
        ack.seq = rng.next() as u32;
        ack.ack = rng.next() as u32;
        give_counted(&mut host, &ack.frame());
        assert!(host.sent.len() <= 1);
        host.sent.clear();
    }
    assert_eq!(host.shard.population(), before);
    assert!(host.shard.accept(listener, 5).is_none());
}

/// Half-open connections end by themselves.
#[test]
fn half_open_connections_do_not_last() {
    let mut host = Host::new(Setup::default());
    listen(&mut host, 16, &Config::default());
    for port in 1000..1016 {
        host.give(&Peer::new(port).segment(SYN, &[]).frame());
    }
    assert_eq!(host.shard.population().0, 16);
    host.run_for(Duration::from_secs(130));
    assert_eq!(host.shard.population().0, 0);
    // A SYN-ACK and its five repetitions: no amplifier.
    assert!(host.sent.len() <= 16 * 6, "{} SYN-ACKs", host.sent.len());
}

/// CVE-2008-4609, sockstress: two thousand peers that ask for data and never open their window.
/// With a user timeout, or once the application has let go, they are gone by the deadline, and so
/// is what they pinned.
#[test]
fn zero_window_peers_are_evicted() {
    for close in [false, true] {
        let mut config = Config::default();
        if !close {
            config.user_timeout = Some(Duration::from_secs(30));
        }
        let mut host = Host::new(Setup {
            zones: 12,
            ..Setup::default()
        });
        let listener = listen(&mut host, 2000, &config);
        let objects = host.shard.objects_in_use();
        let mut conns = Vec::new();
        for port in 10_000..12_000 {
            let mut peer = Peer::new(port);
            peer.connect(&mut host, syn_options(1000, true, None, None));
            peer.window = 0;
            peer.send(&mut host, b"GET");
            let conn = host.shard.accept(listener, 5).unwrap().conn;
            read_all(&mut host, conn);
            write(&mut host, conn, &[1; 1000]);
            if close {
                let now = host.now;
                host.shard.close(now, conn, Close::Graceful);
            }
            host.settle();
            host.sent.clear();
            conns.push((peer, conn));
        }
        assert_eq!(host.shard.population().0, 2000);
        assert!(host.shard.objects_in_use() >= objects + 2000);
        // They answer every probe.
        let mut probes = 0;
        for _ in 0..200 {
            host.run_for(Duration::from_secs(1));
            let frames: Vec<_> = host.sent.drain(..).collect();
            probes += frames.len();
            for (_, frame) in frames {
                let probe = Segment::parse(&frame).unwrap();
                let index = usize::from(probe.dst.1) - 10_000;
                let answer = conns[index].0.segment(ACK, &[]);
                if !probe.has(crate::host::frame::RST) {
                    host.put(&answer.frame());
                    host.turn();
                }
            }
        }
        for (_, conn) in &conns {
            if !close {
                let now = host.now;
                host.shard.close(now, *conn, Close::Abort);
            }
        }
        host.run_for(Duration::from_secs(1));
        assert_eq!(host.shard.population().0, 0, "closed: {close}");
        assert_eq!(host.shard.objects_in_use(), objects, "closed: {close}");
        assert!(probes < 2000 * 40, "{probes} probes in 200 s");
    }
}

/// A sender that floods a reader who does not read pins no more than the buffer it was promised.
#[test]
fn a_reader_that_sleeps_pins_its_buffer_and_no_more() {
    let config = Config {
        rcv_buf_max_bytes: 64 * 1024,
        ..Config::default()
    };
    for size in [1usize, 100, 1000] {
        let (mut host, _, mut peer, conn) = connected(&config, syn_options(1000, true, None, None));
        let objects = host.shard.objects_in_use();
        for _ in 0..100_000 / size.min(50) {
            peer.send(&mut host, &vec![7; size]);
            host.sent.clear();
        }
        let readable = host.shard.readable_bytes(conn);
        assert!(
            readable <= 64 * 1024 + 1460,
            "{readable} bytes of {size} each"
        );
        let pinned = host.shard.objects_in_use() - objects;
        // Small segments are copied together: 64 KiB in 2 KiB objects, and some room.
        assert!(
            pinned <= 160,
            "{pinned} objects for {readable} bytes in pieces of {size}"
        );
    }
}
