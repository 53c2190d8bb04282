//! So many frames there and back, and again: the link's round trip and rate, without TCP.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use luna::device::{Pieces, TxFrame};

use super::link::Link;
use super::{Meter, Options, is_stopped, ready};

/// Ethernet, IPv4 and TCP without options.
const HEADER_BYTES: usize = 14 + 20 + 20;
const BURST: usize = 64;
/// Where frames are not lost, an answer that takes longer will never come.
const LOST: Duration = Duration::from_secs(2);
const UP: Duration = Duration::from_secs(20);

#[derive(Clone, Copy)]
struct Ends {
    macs: [[u8; 6]; 2],
    addresses: [Ipv4Addr; 2],
    ports: [u16; 2],
}

impl Ends {
    fn header(&self, payload_bytes: usize) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[0..6].copy_from_slice(&self.macs[1]);
        header[6..12].copy_from_slice(&self.macs[0]);
        header[12..14].copy_from_slice(&[0x08, 0x00]);
        let ip = &mut header[14..34];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&((40 + payload_bytes) as u16).to_be_bytes());
        ip[8] = 64;
        ip[9] = 6;
        ip[12..16].copy_from_slice(&self.addresses[0].octets());
        ip[16..20].copy_from_slice(&self.addresses[1].octets());
        header[34..36].copy_from_slice(&self.ports[0].to_be_bytes());
        header[36..38].copy_from_slice(&self.ports[1].to_be_bytes());
        header[46] = 0x50;
        header[47] = 0x10;
        header
    }

    /// The way back of a received frame.
    fn answering(frame: &[u8]) -> Option<Self> {
        let mac = |at: usize| frame.get(at..at + 6)?.try_into().ok();
        let ip = |at: usize| {
            Some(Ipv4Addr::from(
                <[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?,
            ))
        };
        let port = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
        Some(Self {
            macs: [mac(0)?, mac(6)?],
            addresses: [ip(30)?, ip(26)?],
            ports: [port(36)?, port(34)?],
        })
    }
}

fn queue(link: &mut Link, ends: &Ends, options: &Options) {
    let payload_bytes = options.bytes.max(HEADER_BYTES + 1) - HEADER_BYTES;
    let header = ends.header(payload_bytes);
    for _ in 0..options.frames {
        let mut slice = link.pool.alloc_with_headroom(payload_bytes, 128).unwrap();
        slice.append(&[0x5a; 16 << 10][..payload_bytes]);
        let mut words = ArrayVec::new();
        words.try_extend_from_slice(&header).unwrap();
        let payload = Pieces::from_iter([slice]);
        link.out.push_back(TxFrame {
            header: words,
            payload,
            checksum_offload: false,
            segment_bytes: 0,
            alone: false,
        });
    }
}

pub(crate) fn serve(options: &Options) {
    let mut link = Link::open(&options.dev, options.address.port());
    ready();
    let mut seen = 0;
    while !is_stopped() {
        seen += link.receive(BURST);
        if seen >= options.frames {
            seen -= options.frames;
            let last = link.received.last().map(|frame| frame.pieces[0].as_bytes());
            if let Some(ends) = last.and_then(Ends::answering) {
                queue(&mut link, &ends, options);
            }
        }
        link.received.clear();
        link.send();
    }
}

pub(crate) fn ask(options: &Options) -> Meter {
    let server = options.server.expect("the server's address");
    let std::net::IpAddr::V4(ip) = server.ip() else {
        panic!("IPv4 only")
    };
    let port = server.port();
    let mut link = Link::open(&options.dev, port);
    let ends = Ends {
        macs: [link.mac, [0xff; 6]],
        addresses: [link.ip, ip],
        ports: [port, port],
    };
    first(&mut link, &ends, options);
    let mut meter = Meter::start(options);
    loop {
        let start = Instant::now();
        queue(&mut link, &ends, options);
        let mut seen = 0;
        let mut now = start;
        link.send();
        while seen < options.frames {
            seen += link.receive(BURST);
            link.received.clear();
            link.send();
            now = Instant::now();
            assert!(
                now - start < LOST,
                "frames were lost: {:?}",
                link.device.stats()
            );
        }
        meter.record(start, now);
        if meter.is_over(now) {
            return meter;
        }
    }
}

/// Until the link is up, frames vanish: asks until there is an answer, and then until no more
/// come.
fn first(link: &mut Link, ends: &Ends, options: &Options) {
    let start = Instant::now();
    let mut quiet = Instant::now();
    let mut seen = 0;
    while seen < options.frames {
        if seen == 0 && quiet.elapsed() > Duration::from_millis(50) {
            queue(link, ends, options);
            quiet = Instant::now();
        }
        seen += link.receive(BURST);
        link.received.clear();
        link.send();
        assert!(start.elapsed() < UP, "no answer: {:?}", link.device.stats());
    }
    let last = Instant::now();
    while last.elapsed() < Duration::from_millis(20) {
        link.receive(BURST);
        link.received.clear();
        link.send();
    }
}
