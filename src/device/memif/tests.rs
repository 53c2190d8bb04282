use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::wire::checksum::Checksum;
use crate::zbuf::{Area, PoolConfig};

/// A name in the abstract namespace that no other test has.
fn socket() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("@luna-test-{}-{number}", std::process::id())
}

fn pool() -> Pool {
    let area = Area::new(16 << 21).unwrap();
    let config = PoolConfig {
        zones: 16,
        ..PoolConfig::default()
    };
    Pool::new(&area, config).unwrap()
}

fn pair(mtu: u16) -> (Memif, Memif) {
    let name = socket();
    let mut server = Memif::open(&MemifConfig::new(&name, MemifRole::Server, mtu)).unwrap();
    let mut client = Memif::open(&MemifConfig::new(&name, MemifRole::Client, mtu)).unwrap();
    join(&mut server, &mut client);
    (server, client)
}

fn join(one: &mut Memif, other: &mut Memif) {
    for _ in 0..1_000_000 {
        let (a, b) = (one.is_up(), other.is_up());
        if a && b {
            return;
        }
        std::thread::yield_now();
    }
    panic!("the ends have not found each other");
}

fn frame(pool: &mut Pool, header: &[u8], payload: &[&[u8]]) -> TxFrame {
    let mut frame = TxFrame {
        header: header.iter().copied().collect(),
        payload: Pieces::new(),
        checksum_offload: false,
        segment_bytes: 0,
        alone: false,
    };
    for piece in payload {
        frame.payload.push(pool.copy_in(piece).unwrap());
    }
    frame
}

fn send(from: &mut Memif, pool: &mut Pool, frames: Vec<TxFrame>) -> VecDeque<TxFrame> {
    let mut queue = VecDeque::from(frames);
    from.tx_burst(pool, &mut queue);
    from.flush(pool);
    queue
}

fn received(at: &mut Memif, pool: &mut Pool) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    at.rx_burst(pool, &mut frames, 4096);
    frames
        .iter()
        .map(|frame| {
            frame
                .pieces
                .iter()
                .flat_map(|p| p.as_bytes().to_vec())
                .collect()
        })
        .collect()
}

#[test]
fn frames_arrive_whole_in_both_directions() {
    let mut pool = pool();
    for mtu in [1500, 9000, 65_521] {
        let (mut server, mut client) = pair(mtu);
        let body = vec![7; usize::from(mtu)];
        let (a, b) = body.split_at(body.len() / 3);
        // More often than there are numbers of descriptors.
        let rounds = if mtu == 1500 { 40_000 } else { 3 };
        for _ in 0..rounds {
            let frames = vec![
                frame(&mut pool, &[1; 60], &[]),
                frame(&mut pool, &[2; 14], &[a, b]),
            ];
            assert!(send(&mut client, &mut pool, frames.clone()).is_empty());
            let got = received(&mut server, &mut pool);
            assert_eq!(got, [vec![1; 60], [&[2; 14], &body[..]].concat()]);
            assert!(send(&mut server, &mut pool, frames).is_empty());
            let got = received(&mut client, &mut pool);
            assert_eq!(got, [vec![1; 60], [&[2; 14], &body[..]].concat()]);
        }
    }
    assert_eq!(pool.objects_in_use(), 0);
}

#[test]
fn a_full_ring_keeps_the_rest_and_goes_on() {
    let mut pool = pool();
    let (mut server, mut client) = pair(1500);
    for (from, to) in [(true, false), (false, true)] {
        let (from, to) = match (from, to) {
            (true, _) => (&mut client, &mut server),
            _ => (&mut server, &mut client),
        };
        let frames: Vec<_> = (0..1500_u32)
            .map(|i| frame(&mut pool, &[&[0; 14], &i.to_ne_bytes()[..]].concat(), &[]))
            .collect();
        let mut rest = send(from, &mut pool, frames);
        assert_eq!(rest.len(), 1500 - 1024);
        let mut numbers = Vec::new();
        while numbers.len() < 1500 {
            let got = received(to, &mut pool);
            assert!(!got.is_empty());
            numbers.extend(
                got.iter()
                    .map(|f| u32::from_ne_bytes(f[14..].try_into().unwrap())),
            );
            from.tx_burst(&mut pool, &mut rest);
        }
        assert_eq!(numbers, (0..1500).collect::<Vec<_>>());
    }
    assert_eq!(pool.objects_in_use(), 0);
}

#[test]
fn a_sleeper_is_woken_and_a_poller_is_not_disturbed() {
    let mut pool = pool();
    let (mut server, mut client) = pair(1500);
    let one = frame(&mut pool, &[1; 60], &[]);
    let readable =
        |end: &Memif| crate::sys::poll_now(end.wait_fds()[0], libc::POLLIN).unwrap() != 0;
    send(&mut client, &mut pool, vec![one.clone()]);
    assert_eq!(client.stats().doorbells, 0, "nobody slept");
    assert!(!server.arm(), "a frame is there already");
    assert_eq!(received(&mut server, &mut pool).len(), 1);
    for _ in 0..3 {
        assert!(server.arm());
        assert!(!readable(&server));
        let before = client.stats().doorbells;
        send(&mut client, &mut pool, vec![one.clone()]);
        assert_eq!(client.stats().doorbells, before + 1);
        assert!(readable(&server));
        assert_eq!(received(&mut server, &mut pool).len(), 1);
        send(&mut client, &mut pool, vec![one.clone()]);
        assert_eq!(client.stats().doorbells, before + 1, "it is awake");
        assert!(!readable(&server));
        assert_eq!(received(&mut server, &mut pool).len(), 1);
    }
}

#[test]
fn either_end_may_go_and_come_back() {
    let mut pool = pool();
    let (mut server, mut client) = pair(1500);
    let name = client.config.socket.clone();
    for round in 0..20 {
        if round % 2 == 0 {
            drop(client);
            client = Memif::open(&MemifConfig::new(&name, MemifRole::Client, 1500)).unwrap();
        } else {
            drop(server);
            server = Memif::open(&MemifConfig::new(&name, MemifRole::Server, 1500)).unwrap();
        }
        for _ in 0..200 {
            let one = frame(&mut pool, &[1; 60], &[]);
            send(&mut client, &mut pool, vec![one.clone()]);
            send(&mut server, &mut pool, vec![one]);
            received(&mut client, &mut pool);
            received(&mut server, &mut pool);
        }
        join(&mut server, &mut client);
        received(&mut server, &mut pool);
        let one = frame(&mut pool, &[9; 60], &[]);
        send(&mut client, &mut pool, vec![one]);
        assert_eq!(received(&mut server, &mut pool), [[9; 60]]);
    }
}

#[test]
fn a_second_server_is_refused_and_a_second_client_too() {
    let (mut server, mut client) = pair(1500);
    let name = client.config.socket.clone();
    let error = Memif::open(&MemifConfig::new(&name, MemifRole::Server, 1500)).unwrap_err();
    assert!(error.to_string().contains("in use"), "{error}");
    let mut other = Memif::open(&MemifConfig::new(&name, MemifRole::Client, 1500)).unwrap();
    for _ in 0..100 {
        assert!(!other.is_up());
        assert!(server.is_up() && client.is_up());
    }
}

#[test]
fn a_server_takes_the_place_of_one_that_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.sock");
    // A socket that nobody listens on any more.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let config = MemifConfig::new(path.to_str().unwrap(), MemifRole::Server, 1500);
    let server = Memif::open(&config).unwrap();
    assert!(Memif::open(&config).is_err(), "there is one now");
    drop(server);
    assert!(!path.exists());
}

#[test]
fn a_peer_that_breaks_the_rings_is_dropped() {
    let mut pool = pool();
    for nonsense in 0..4 {
        let (mut server, mut client) = pair(1500);
        let link = client.link.as_mut().unwrap();
        let mut part = link.tx.descriptor(&link.regions, 0).unwrap();
        match nonsense {
            0 => part.offset = u32::MAX,
            1 => part.region = 7,
            2 => part.len = u32::MAX,
            _ => {}
        }
        part.len = part
            .len
            .min(1000)
            .max(if nonsense == 2 { u32::MAX } else { 0 });
        link.tx.describe(&link.regions, 0, part, nonsense == 3);
        link.tx.advance_to(if nonsense == 3 { 5000 } else { 1 });
        link.tx.publish(&link.regions);
        assert_eq!(received(&mut server, &mut pool), [[0_u8; 0]; 0]);
        if nonsense == 2 {
            assert_eq!(server.stats().rx_dropped, 1, "merely too long");
        } else {
            assert!(server.link.is_none());
        }
        join(&mut server, &mut client);
    }
    assert_eq!(pool.objects_in_use(), 0);
}

#[test]
fn long_segments_are_cut_for_strangers_and_for_them_only() {
    let mut pool = pool();
    let (mut server, mut client) = pair(1500);
    let mut header = vec![0_u8; 14];
    let ip = crate::wire::IpHeader {
        src: [10, 0, 0, 1].into(),
        dst: [10, 0, 0, 2].into(),
        dscp: 0,
        ecn: crate::wire::Ecn::NotEct,
        hop_limit: 64,
        protocol: 6,
        payload_len: 20 + 2500,
    };
    let mut bytes = ArrayVec::<u8, 64>::new();
    ip.emit(&mut bytes);
    header[12] = 8;
    header.extend(bytes);
    // Ports, sequence number 0xffff_ff00, an offset of five words, FIN, PSH, ACK and CWR.
    header.extend([
        0, 1, 0, 2, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0x50, 0x99, 1, 0, 0, 0, 0, 0,
    ]);
    let body: Vec<u8> = (0..2500_u32).map(|i| i as u8).collect();
    let mut long = frame(&mut pool, &header, &[&body[..900], &body[900..]]);
    long.checksum_offload = true;
    long.segment_bytes = 1000;
    send(&mut client, &mut pool, vec![long.clone()]);
    let whole = received(&mut server, &mut pool);
    assert_eq!(whole.len(), 1, "one of ours takes it whole");
    assert_eq!(whole[0].len(), 54 + 2500);

    client.link.as_mut().unwrap().is_luna = false;
    server.link.as_mut().unwrap().is_luna = false;
    send(&mut client, &mut pool, vec![long]);
    let parts = received(&mut server, &mut pool);
    let mut got = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let (ip, len) = crate::wire::IpHeader::parse_v4(&part[14..], part.len() - 14).unwrap();
        assert_eq!(ip.payload_len, part.len() - 34);
        let mut sum = Checksum::pseudo_header(ip.src, ip.dst, 6, ip.payload_len as u32);
        sum.add(&part[14 + len..]);
        assert_eq!(sum.finish(), 0);
        let sequence = u32::from_be_bytes(part[38..42].try_into().unwrap());
        assert_eq!(sequence, 0xffff_ff00_u32.wrapping_add(1000 * number as u32));
        let flags = [0x90, 0x10, 0x19][number];
        assert_eq!(part[47], flags, "segment {number}");
        got.extend_from_slice(&part[54..]);
    }
    assert_eq!((parts.len(), got), (3, body));
}

#[test]
fn checksums_are_completed_for_strangers() {
    let mut header = [0_u8; 14 + 20 + 20];
    header[14] = 0x45;
    let mut pool = pool();
    let mut frame = frame(&mut pool, &header, &[b"odd"]);
    frame.checksum_offload = true;
    complete_checksum(&mut frame);
    let mut sum = Checksum::new();
    sum.add(&frame.header[34..]);
    sum.add(b"odd");
    assert_eq!(sum.finish(), 0);
    assert!(!frame.checksum_offload);
}
