//! Malformed packets: AMNESIA:33, Ripple20, INFRA:HALT, URGENT/11, fragments, impossible addresses
//! and combinations of flags, and what our own packets give away.

use std::net::IpAddr;

use luna::stack::Drop;
use luna::tcp::Config;

use crate::counting::Asked;
use crate::host::frame::{ACK, FIN, PSH, RST, SYN, Segment, URG};
use crate::host::{Host, Setup, address};
use crate::peer::{
    PORT, Peer, Rng, connected, give_counted, listen, read_all, sack_option, syn_options, write,
};

fn drops(host: &Host) -> u64 {
    host.shard.counters().drops.iter().sum()
}

fn count(host: &Host, kind: Drop) -> u64 {
    let at = Drop::ALL.iter().position(|k| *k == kind).unwrap();
    host.shard.counters().drops[at]
}

/// Everything that an attacker's packet must leave as it is.
fn state(host: &Host, conn: luna::stack::ConnId) -> String {
    let info = host.shard.info(conn).unwrap().tcp;
    format!(
        "{:?} {:?} {}",
        info,
        host.shard.population(),
        host.shard.objects_in_use()
    )
}

#[test]
fn frames_cut_anywhere_change_nothing_and_are_counted() {
    let (mut host, _, mut peer, conn) = connected(
        &Config::default(),
        syn_options(1000, true, Some(1), Some(7)),
    );
    peer.stamp = Some(5);
    for v in [ACK, ACK | PSH, SYN, RST, FIN | ACK] {
        let mut segment = peer.segment(v, b"hello");
        segment.options.extend([1, 1]);
        segment.options.extend(sack_option(&[(1, 2), (3, 4)]));
        let whole = segment.frame();
        let before = state(&host, conn);
        for len in 1..whole.len() {
            let dropped = drops(&host);
            let asked = give_counted(&mut host, &whole[..len]);
            assert_eq!(drops(&host), dropped + 1, "cut to {len}");
            assert!(host.sent.is_empty(), "answered a frame cut to {len}");
            assert_eq!(asked, Asked::default(), "cut to {len}");
        }
        assert_eq!(state(&host, conn), before);
    }
}

/// Options cut at every byte, with the header's length field and checksum right.
#[test]
fn options_cut_anywhere_are_dropped_or_understood_up_to_the_cut() {
    let mut all = syn_options(1460, true, Some(7), Some(3));
    all.extend([0xfd, 6, 1, 2, 3, 4, 1, 1, 1]);
    let boundaries = [0, 4, 6, 16, 19, 25, 26, 27, 28];
    for cut in 0..=all.len() {
        let mut host = Host::new(Setup::default());
        let listener = listen(&mut host, 8, &Config::default());
        let mut syn = Peer::new(40_000).segment(SYN, &[]);
        // Padding in front: whatever is cut off is at the very end of the header.
        syn.options = vec![1; (4 - cut % 4) % 4];
        syn.options.extend(&all[..cut]);
        host.give(&syn.frame());
        let whole = boundaries.contains(&cut);
        assert_eq!(host.sent.len(), usize::from(whole), "cut at {cut}");
        assert_eq!(drops(&host), u64::from(!whole), "cut at {cut}");
        assert_eq!(host.shard.population().0, usize::from(whole));
        assert!(host.shard.accept(listener, 2).is_none());
    }
}

#[test]
fn every_length_byte_of_every_option_is_survived() {
    let (mut host, _, peer, conn) =
        connected(&Config::default(), syn_options(1000, true, None, None));
    for kind in 0..=255u8 {
        for len in 0..=255u8 {
            let mut segment = peer.segment(ACK, &[]);
            segment.options = [&[kind, len][..], &[0xa5; 38]].concat();
            let asked = give_counted(&mut host, &segment.frame());
            assert_eq!(asked.calls, 0, "option {kind} of length {len}");
        }
        host.sent.clear();
    }
    assert_eq!(
        host.shard.info(conn).unwrap().tcp.state.name(),
        "ESTABLISHED"
    );
}

#[test]
fn random_bytes_in_every_header_field_are_survived() {
    let (mut host, _, peer, conn) =
        connected(&Config::default(), syn_options(1000, true, Some(1), None));
    let whole = peer.segment(ACK | PSH, &[7; 40]).frame();
    let mut rng = Rng(1);
    for _ in 0..20_000 {
        let mut frame = whole.clone();
        for _ in 0..=rng.below(3) {
            let at = 12 + rng.below(42) as usize;
            frame[at] = rng.next() as u8;
        }
        give_counted(&mut host, &frame);
        host.sent.clear();
    }
    // Without the right checksum nothing of it counts; now and then nothing was changed.
    let got = read_all(&mut host, conn);
    assert!(got.is_empty() || got == [7; 40], "{got:?}");
    assert!(host.shard.population().0 == 1);
}

/// CVE-2019-12255 and its kin: the urgent pointer is arithmetic on what a stranger sends.
#[test]
fn urgent_pointers_move_no_byte() {
    let text: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
    for (case, pointer) in [0u16, 1, 100, 101, 65535, 50, 99].into_iter().enumerate() {
        for reversed in [false, true] {
            let (mut host, _, peer, conn) = connected(
                &Config::default(),
                syn_options(1000, case % 2 == 0, None, None),
            );
            let mut pieces: Vec<Segment> = (0..10)
                .map(|i| {
                    let part = &text[i * 100..(i + 1) * 100];
                    let mut segment = peer.segment(ACK | PSH | URG, part);
                    segment.seq = segment.seq.wrapping_add(i as u32 * 100);
                    segment.urgent = pointer;
                    segment
                })
                .collect();
            if reversed {
                pieces.reverse();
            }
            for piece in &pieces {
                host.give(&piece.frame());
            }
            assert_eq!(
                read_all(&mut host, conn),
                text,
                "pointer {pointer}, reversed: {reversed}"
            );
        }
    }
}

/// CVE-2018-5391: fragments are the kernel's; one that reaches us is counted and leaves nothing.
#[test]
fn fragments_leave_nothing_behind() {
    let (mut host, _, peer, conn) =
        connected(&Config::default(), syn_options(1000, true, None, None));
    let before = state(&host, conn);
    for (round, offset) in [0x2000u16, 0x2001, 0x0001, 0x1fff, 0x3fff]
        .into_iter()
        .cycle()
        .take(5000)
        .enumerate()
    {
        let mut frame = peer.segment(ACK | PSH, &[1; 64]).frame();
        frame[14 + 6..14 + 8].copy_from_slice(&offset.to_be_bytes());
        frame[14 + 4..14 + 6].copy_from_slice(&(round as u16).to_be_bytes());
        frame[14 + 10..14 + 12].fill(0);
        let sum = ip_sum(&frame[14..34]);
        frame[14 + 10..14 + 12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(give_counted(&mut host, &frame), Asked::default());
    }
    assert_eq!(count(&host, Drop::Unsupported), 5000);
    assert_eq!(state(&host, conn), before);
}

fn ip_sum(header: &[u8]) -> u16 {
    let sum: u32 = header
        .chunks(2)
        .map(|b| u32::from(b[0]) << 8 | u32::from(b[1]))
        .sum();
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// LAND (src = dst), unspecified, broadcast, multicast, loopback: not ends of a connection.
#[test]
fn impossible_addresses_are_dropped_before_any_table() {
    let mut host = Host::new(Setup::default());
    listen(&mut host, 8, &Config::default());
    let ours = address(false, 0);
    let v4 = |s: &str| s.parse::<IpAddr>().unwrap();
    let sources = [
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "239.1.2.3",
        "127.0.0.1",
        "127.9.9.9",
    ];
    for source in sources.map(v4).into_iter().chain([ours]) {
        for flags in [SYN, ACK, SYN | ACK, RST, FIN, SYN | FIN | PSH | URG] {
            let segment = Segment::new((source, PORT), (ours, PORT), flags);
            let before = count(&host, Drop::Address);
            assert_eq!(give_counted(&mut host, &segment.frame()), Asked::default());
            assert_eq!(
                count(&host, Drop::Address),
                before + 1,
                "{source} {flags:x}"
            );
        }
    }
    for target in ["10.9.255.255", "255.255.255.255", "224.0.0.1", "10.9.0.77"].map(v4) {
        let segment = Segment::new((address(false, 1), 4000), (target, PORT), SYN);
        give_counted(&mut host, &segment.frame());
        assert!(host.sent.is_empty(), "answered a SYN to {target}");
    }
    assert_eq!(host.shard.population(), (0, 0));
    assert!(host.sent.is_empty());
}

/// Xmas, null and the like at a listener and at a closed port: at most one segment in answer, no
/// state, no memory. (Connections: tests/packetdrill/cases/matrix.)
#[test]
fn scans_get_at_most_one_answer_and_no_memory() {
    let mut host = Host::new(Setup::default());
    listen(&mut host, 8, &Config::default());
    for port in [PORT, 81] {
        for flags in 0..=255u8 {
            let mut segment = Peer::new(5000).segment(flags, &[]);
            segment.dst.1 = port;
            give_counted(&mut host, &segment.frame());
            assert!(host.sent.len() <= 1);
            let opened = flags & 0x17 == SYN && port == PORT;
            assert_eq!(host.shard.population().0, usize::from(opened), "{flags:x}");
            if opened {
                let mut reset = Peer::new(5000).segment(RST, &[]);
                reset.seq = reset.seq.wrapping_add(1);
                host.give(&reset.frame());
            }
            host.sent.clear();
        }
    }
}

/// CVE-2020-36516: the identification field is a counter that others can read. The codec checks
/// each frame for DF and an identification of zero; here is one of each kind.
#[test]
fn no_packet_of_ours_carries_a_counter() {
    let (mut host, _, mut peer, conn) =
        connected(&Config::default(), syn_options(1000, true, Some(1), None));
    peer.stamp = Some(2);
    write(&mut host, conn, &[1; 5000]);
    host.settle();
    peer.send(&mut host, b"x");
    host.give(&Peer::new(999).segment(ACK, &[]).frame());
    host.give(&Peer::new(998).segment(SYN, &[]).frame());
    let frames: Vec<_> = host.sent.drain(..).collect();
    assert!(frames.len() >= 6);
    for (_, frame) in &frames {
        assert_eq!(frame[14 + 4..14 + 8], [0, 0, 0x40, 0]);
        Segment::parse(frame).unwrap();
    }
}

/// What lies behind a short packet in the object that it was received into stays there, and what
/// an object held before never leaves with what it holds now.
#[test]
fn no_stale_byte_is_read_or_sent() {
    let (mut host, _, mut peer, conn) =
        connected(&Config::default(), syn_options(1000, false, None, None));
    for _ in 0..3000 {
        // Fill objects with a secret and give them back.
        peer.send(&mut host, &[0x5e; 1000]);
        assert_eq!(read_all(&mut host, conn), [0x5e; 1000]);
        let mut frame = peer.segment(ACK | PSH, b"ab").frame();
        frame.extend([0x5e; 20]);
        host.give(&frame);
        peer.seq = peer.seq.wrapping_add(2);
        assert_eq!(read_all(&mut host, conn), b"ab");
        host.sent.clear();
        assert_eq!(write(&mut host, conn, b"cd"), 2);
        host.settle();
        let sent: Vec<u8> = peer
            .answers(&mut host)
            .into_iter()
            .flat_map(|s| s.payload)
            .collect();
        assert_eq!(sent, b"cd");
        peer.ack = peer.ack.wrapping_add(2);
        host.give(&peer.segment(ACK, &[]).frame());
    }
}

/// NAME:WRECK: a stack without DNS has no such parser.
#[test]
fn there_is_no_name_resolution_in_the_stack() {
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for name in ["getaddrinfo", "resolv.conf", "ToSocketAddrs", "gethostby"] {
                assert!(!text.contains(name), "{}: {name}", path.display());
            }
        }
    }
}

/// A frame whose IP header says less, or more, than there is.
#[test]
fn lengths_that_contradict_each_other_are_dropped() {
    let (mut host, _, peer, conn) =
        connected(&Config::default(), syn_options(1000, true, None, None));
    let whole = peer.segment(ACK | PSH, &[9; 100]).frame();
    let before = state(&host, conn);
    for total in (0..60u16).chain([141, 200, 65535]) {
        let mut frame = whole.clone();
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        frame[24..26].fill(0);
        let sum = ip_sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        give_counted(&mut host, &frame);
    }
    for ihl in 0..16u8 {
        let mut frame = whole.clone();
        frame[14] = 0x40 | ihl;
        if ihl != 5 {
            give_counted(&mut host, &frame);
        }
    }
    assert!(host.sent.is_empty());
    assert_eq!(state(&host, conn), before);
}
