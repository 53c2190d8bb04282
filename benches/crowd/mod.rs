//! Many idle connections on one shard: bytes each, and what a packet, and an exchange, on one of
//! them costs.
//!
//! The peers are no stacks: a device that answers SYN-ACKs, acknowledges data, and makes data
//! segments as asked.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::rc::Rc;

use arrayvec::ArrayVec;
use luna::control::{ControlHandle, Neighbour, NeighbourState, Tables};
use luna::device::{Capabilities, Device, DeviceStats, FramePart, RxFrame, TxFrame};
use luna::stack::{ConnId, RecvMode, Shard, ShardParts};
use luna::tcp::Config;
use luna::time::{Duration, Instant};
use luna::wire::ip::PROTOCOL_TCP;
use luna::wire::{
    Ecn, EtherType, EthernetHeader, IpHeader, Mac, SeqNum, TcpFlags, TcpHeader, TcpOptions,
    Timestamps,
};
use luna::zbuf::{Area, Pool, PoolConfig};

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1)), 80);
const IFINDEX: u32 = 2;
/// Connections of one peer address.
const PORTS: usize = 32_768;
const FIRST_PORT: u16 = 20_000;
const DATA: [u8; 64] = [0x5a; 64];
const BATCH: usize = 32;

/// What the peers know of a connection.
#[derive(Clone, Copy, Default)]
struct Peer {
    seq: u32,
    ack: u32,
}

#[derive(Default)]
struct Crowd {
    peers: Vec<Peer>,
    /// Segments to be received: whose, flags, and whether they carry data.
    queue: VecDeque<(usize, TcpFlags, bool)>,
    tx_frames: u64,
}

struct CrowdDevice(Rc<RefCell<Crowd>>);

fn remote(index: usize) -> SocketAddr {
    let host = (index / PORTS) as u8 + 1;
    let port = FIRST_PORT + (index % PORTS) as u16;
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 20, 0, host)), port)
}

fn index_of(to: IpAddr, port: u16) -> usize {
    let IpAddr::V4(ip) = to else { unreachable!() };
    (usize::from(ip.octets()[3]) - 1) * PORTS + usize::from(port - FIRST_PORT)
}

impl Crowd {
    fn frame(&mut self, pool: &mut Pool, index: usize, flags: TcpFlags, data: bool) -> RxFrame {
        let from = remote(index);
        let peer = &mut self.peers[index];
        let mut header = TcpHeader {
            src_port: from.port(),
            dst_port: SERVER.port(),
            seq: SeqNum::new(peer.seq),
            ack: SeqNum::new(peer.ack),
            flags,
            window: 60_000,
            urgent: 0,
            options: TcpOptions {
                timestamps: Some(Timestamps { value: 1, echo: 0 }),
                ..TcpOptions::default()
            },
        };
        if flags.contains(TcpFlags::SYN) {
            header.options.mss = Some(1460);
            header.options.sack_permitted = true;
            header.options.window_scale = Some(7);
            peer.seq += 1;
        }
        let payload: &[u8] = if data { &DATA } else { &[] };
        peer.seq = peer.seq.wrapping_add(payload.len() as u32);
        let mut bytes: ArrayVec<u8, 256> = ArrayVec::new();
        EthernetHeader {
            dst: Mac([2, 0, 0, 0, 0, 1]),
            src: Mac([2, 0, 0, 0, 0, 2]),
            vlan: None,
            ether_type: EtherType::Ipv4,
        }
        .emit(&mut bytes);
        IpHeader {
            src: from.ip(),
            dst: SERVER.ip(),
            dscp: 0,
            ecn: Ecn::NotEct,
            hop_limit: 64,
            protocol: PROTOCOL_TCP,
            payload_len: header.emitted_len() + payload.len(),
        }
        .emit(&mut bytes);
        header.emit(0, &mut bytes);
        bytes.try_extend_from_slice(payload).expect("room");
        RxFrame {
            pieces: [pool.copy_in(&bytes).expect("memory")]
                .into_iter()
                .collect(),
            checksum_ok: true,
            part: FramePart::Whole,
        }
    }
}

impl Device for CrowdDevice {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            frame_bytes_max: 1514,
            tx_checksum: true,
            tso_bytes_max: 0,
            leaves_at_flush: false,
        }
    }

    fn rx_burst(&mut self, pool: &mut Pool, frames: &mut Vec<RxFrame>, room: usize) -> usize {
        let mut crowd = self.0.borrow_mut();
        let mut received = 0;
        while received < room
            && let Some((index, flags, data)) = crowd.queue.pop_front()
        {
            frames.push(crowd.frame(pool, index, flags, data));
            received += 1;
        }
        received
    }

    fn tx_burst(&mut self, _: &mut Pool, frames: &mut VecDeque<TxFrame>) -> usize {
        let mut crowd = self.0.borrow_mut();
        let count = frames.len();
        for frame in frames.drain(..) {
            crowd.tx_frames += 1;
            let (ip, ip_len) = IpHeader::parse_v4(&frame.header[14..], usize::MAX).expect("ours");
            let (tcp, _) = TcpHeader::parse(&frame.header[14 + ip_len..]).expect("ours");
            if tcp.flags.contains(TcpFlags::SYN) {
                let index = index_of(ip.dst, tcp.dst_port);
                crowd.peers[index].ack = tcp.seq.get().wrapping_add(1);
                crowd.queue.push_back((index, TcpFlags::ACK, false));
            }
            let payload: usize = frame.payload.iter().map(|piece| piece.len()).sum();
            if payload > 0 {
                let index = index_of(ip.dst, tcp.dst_port);
                crowd.peers[index].ack = tcp.seq.get().wrapping_add(payload as u32);
                crowd.queue.push_back((index, TcpFlags::ACK, false));
            }
        }
        count
    }

    fn flush(&mut self, _: &mut Pool) {}

    fn arm(&mut self) -> bool {
        true
    }

    fn wait_fds(&self) -> &[RawFd] {
        &[]
    }

    fn stats(&self) -> DeviceStats {
        DeviceStats::default()
    }
}

fn server(crowd: &Rc<RefCell<Crowd>>) -> Shard {
    let gateway = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2));
    let known = Neighbour::Known(Mac([2, 0, 0, 0, 0, 2]), NeighbourState::Reachable);
    let any = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let tables = Tables::builder()
        .ethernet(IFINDEX, "crowd0", Mac([2, 0, 0, 0, 0, 1]), 1500)
        .address(IFINDEX, SERVER.ip(), 24)
        .neighbour(IFINDEX, gateway, known)
        .route(any, IFINDEX, Some(gateway), 0)
        .build();
    let area = Area::new(8 << 21).expect("memory");
    let config = PoolConfig {
        zones: 8,
        ..PoolConfig::default()
    };
    Shard::new(ShardParts {
        device: Box::new(CrowdDevice(Rc::clone(crowd))),
        pool: Pool::new(&area, config).expect("pool"),
        control: ControlHandle::from_static(tables),
        ifindex: IFINDEX,
        secret: [7; 32],
        discovery: None,
        partial_checksums: false,
        now: Instant::ZERO,
    })
}

/// Opens `count` connections, leaves them alone for two minutes, and sends on some.
pub(crate) fn idle(allocated: &dyn Fn() -> usize, count: usize) {
    let few = run(1_000.min(count), allocated);
    println!("idle.few_connections={}", 1_000.min(count));
    println!("idle.cycles_per_packet_few={:.0}", few.cycles_per_packet);
    println!(
        "idle.cycles_per_exchange_few={:.0}",
        few.cycles_per_exchange
    );
    let many = run(count, allocated);
    println!("idle.connections={count}");
    println!("idle.bytes_per_connection={:.0}", many.bytes_per_connection);
    println!(
        "idle.bytes_total={:.0}",
        many.bytes_per_connection * count as f64
    );
    println!("idle.cycles_per_packet={:.0}", many.cycles_per_packet);
    let ratio = many.cycles_per_packet / few.cycles_per_packet;
    println!("idle.cycles_ratio={ratio:.2}");
    println!("idle.cycles_per_exchange={:.0}", many.cycles_per_exchange);
    let ratio = many.cycles_per_exchange / few.cycles_per_exchange;
    println!("idle.exchange_cycles_ratio={ratio:.2}");
}

struct Outcome {
    bytes_per_connection: f64,
    cycles_per_packet: f64,
    cycles_per_exchange: f64,
}

fn run(count: usize, allocated: &dyn Fn() -> usize) -> Outcome {
    let crowd = Rc::new(RefCell::new(Crowd {
        peers: (0..count as u32)
            .map(|n| Peer {
                seq: n * 977,
                ack: 0,
            })
            .collect(),
        ..Crowd::default()
    }));
    let mut shard = server(&crowd);
    let before = allocated();
    let (mut now, mut wakeups) = (Instant::ZERO, Vec::new());
    // A segment and its acknowledgment each time, of new connections and of old ones.
    let config = Config {
        delayed_ack: Duration::ZERO,
        ..Config::default()
    };
    let listener = shard
        .listen(SERVER, false, 1024, &config, 1)
        .expect("listen");
    let mut conns: Vec<ConnId> = Vec::with_capacity(count);
    let own = conns.capacity() * size_of::<ConnId>();
    let mut opened = 0;
    while conns.len() < count {
        let until = (opened + BATCH).min(count);
        for index in opened..until {
            crowd
                .borrow_mut()
                .queue
                .push_back((index, TcpFlags::SYN, false));
        }
        opened = until;
        now += Duration::from_micros(50);
        for _ in 0..3 {
            shard.turn(now);
        }
        shard.take_wakeups(&mut wakeups);
        wakeups.clear();
        while let Some(accepted) = shard.accept(listener, conns.len() as u64) {
            conns.push(accepted.conn);
        }
    }
    for _ in 0..1_200 {
        now += Duration::from_millis(100);
        shard.turn(now);
    }
    let bytes = allocated() - before - own;
    let cycles_per_packet = packets(&mut shard, &crowd, &conns, &mut now, false);
    let cycles_per_exchange = packets(&mut shard, &crowd, &conns, &mut now, true);
    Outcome {
        bytes_per_connection: bytes as f64 / count as f64,
        cycles_per_packet,
        cycles_per_exchange,
    }
}

/// Bursts of segments on connections chosen at random, read by the application, which answers if
/// `answered`: then the answers' acknowledgments come with the next burst.
fn packets(
    shard: &mut Shard,
    crowd: &Rc<RefCell<Crowd>>,
    conns: &[ConnId],
    now: &mut Instant,
    answered: bool,
) -> f64 {
    const BURSTS: usize = 4_000;
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut buffer = [0u8; 256];
    let mut wakeups = Vec::new();
    let (mut spent, mut received) = (0, 0);
    for burst in 0..BURSTS {
        for _ in 0..BATCH {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let index = (random >> 20) as usize % conns.len();
            let data = TcpFlags::ACK | TcpFlags::PSH;
            let mut crowd = crowd.borrow_mut();
            // What the peer and the application keep is not the stack's to fetch.
            std::hint::black_box((crowd.peers[index], conns[index]));
            crowd.queue.push_back((index, data, true));
        }
        *now += Duration::from_micros(50);
        let start = super::cycles();
        shard.turn(*now);
        shard.take_wakeups(&mut wakeups);
        for wakeup in wakeups.drain(..) {
            let conn = conns[wakeup.token as usize];
            let room = &mut [IoSliceMut::new(&mut buffer)];
            let read = shard
                .recv(*now, conn, room, RecvMode::default())
                .unwrap_or(0);
            received += read;
            if answered && read > 0 {
                let sent = shard.send(*now, conn, &[IoSlice::new(&DATA)], false);
                assert_eq!(sent, Ok(DATA.len()));
            }
        }
        shard.flush(*now);
        // The first ones warm up.
        if burst >= BURSTS / 4 {
            spent += super::cycles().wrapping_sub(start);
        }
    }
    assert!(received > 0);
    spent as f64 / (BURSTS - BURSTS / 4) as f64 / BATCH as f64
}
