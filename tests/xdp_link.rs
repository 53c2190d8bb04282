//! The AF_XDP device and its steering program on a real veth link between two namespaces.
#![cfg(feature = "xdp")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are outside test functions"
)]

mod common;
mod link;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, mpsc};
use std::time::Duration;

use arrayvec::ArrayVec;
use link::frames::{Ends, HEADER_BYTES, judged_frames, pattern};
use link::netns::{INTERFACES, IPV4, MACS, NetnsPair, address, wait_until};
use luna::device::xdp::interface::Interface;
use luna::device::xdp::{XdpConfig, XdpDevice, rx_object_bytes_for};
use luna::device::{Device, OpenError, Pieces, RxFrame, TxFrame};
use luna::traffic::QueueLease;
use luna::traffic::xdp::{AttachMode, PortOwner, Steering, SteeringCounters};
use luna::zbuf::{Area, Pool, PoolConfig};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

const PORT: u16 = 6379;

/// A side's device with its steering, its pool, and frames on their way.
struct End {
    steering: Steering,
    device: XdpDevice,
    pool: Pool,
    out: VecDeque<TxFrame>,
    received: Vec<RxFrame>,
    ends: Ends,
}

fn new_pool(mtu_bytes: u32) -> Pool {
    let area = Area::new(16 << 20).unwrap();
    let config = PoolConfig {
        zones: 8,
        initial_zones: [1, 0, 0, 0],
        rx_object_bytes: rx_object_bytes_for(mtu_bytes),
        ..PoolConfig::default()
    };
    Pool::new(&area, config).unwrap()
}

/// Must be called in the side's namespace.
fn open(side: usize, queues: &[u32], config: &XdpConfig) -> End {
    let name = INTERFACES[side];
    let mut steering = Steering::attach(name).unwrap();
    let mut pool = new_pool(steering.interface().mtu_bytes);
    let device = XdpDevice::open(name, queues, &mut pool, config).unwrap();
    for (queue, socket) in device.sockets() {
        steering.register(queue, socket).unwrap();
    }
    steering.set_local_addresses(&[address(side)]).unwrap();
    steering.set_port(PORT, PortOwner::Luna).unwrap();
    let peer = 1 - side;
    let ends = Ends {
        macs: (MACS[side], MACS[peer]),
        addresses: (IPV4[side], IPV4[peer]),
        ports: (PORT, PORT),
    };
    End {
        steering,
        device,
        pool,
        out: VecDeque::new(),
        received: Vec::new(),
        ends,
    }
}

impl End {
    /// Queues a frame whose payload is cut into pieces of `piece_bytes`; the first has headroom
    /// if `headroom`.
    fn queue(&mut self, payload: &[u8], piece_bytes: usize, headroom: bool) {
        let mut pieces = Pieces::new();
        for part in payload.chunks(piece_bytes.max(1)) {
            let room = if headroom { 128 } else { 0 };
            let mut slice = self.pool.alloc_with_headroom(part.len(), room).unwrap();
            assert_eq!(slice.append(part), part.len());
            pieces.push(slice);
        }
        let mut header = ArrayVec::new();
        header
            .try_extend_from_slice(&self.ends.header(payload.len()))
            .unwrap();
        self.out.push_back(TxFrame {
            header,
            payload: pieces,
            checksum_offload: false,
            segment_bytes: 0,
            alone: false,
        });
    }

    /// One turn: receives, sends, rings.
    fn turn(&mut self) {
        self.device.rx_burst(&mut self.pool, &mut self.received, 64);
        self.device.tx_burst(&mut self.pool, &mut self.out);
        self.device.flush(&mut self.pool);
    }

    fn bytes_of(frame: &RxFrame) -> Vec<u8> {
        frame
            .pieces
            .iter()
            .flat_map(|piece| piece.as_bytes().to_vec())
            .collect()
    }

    /// Sends each received frame's payload back, by reference.
    fn echo(&mut self) {
        for frame in self.received.drain(..) {
            let total: usize = frame.pieces.iter().map(|piece| piece.len()).sum();
            let mut pieces = frame.pieces;
            pieces[0].advance(HEADER_BYTES);
            let mut header = ArrayVec::new();
            header
                .try_extend_from_slice(&self.ends.header(total - HEADER_BYTES))
                .unwrap();
            let payload = pieces
                .into_iter()
                .filter(|piece| !piece.is_empty())
                .collect();
            self.out.push_back(TxFrame {
                header,
                payload,
                checksum_offload: false,
                segment_bytes: 0,
                alone: false,
            });
        }
    }

    /// Closes the device and asserts that no object of the pool is lost.
    fn close(mut self) {
        self.received.clear();
        self.out.clear();
        self.device.close(&mut self.pool);
        assert_eq!(self.pool.objects_in_use(), 0, "objects came back");
        assert!(self.device.wait_fds().is_empty());
        self.turn();
    }
}

/// Bounces frames between two devices: `payloads` bytes of payload in pieces of `piece_bytes`.
fn ping_pong(mtu_bytes: u32, payloads: &[usize], piece_bytes: usize, config: XdpConfig) -> u64 {
    let Some(pair) = &NetnsPair::new(mtu_bytes) else {
        return 0;
    };
    let (ready, stop) = (&Barrier::new(2), &AtomicBool::new(false));
    std::thread::scope(|scope| {
        pair.spawn_in(scope, 1, move || {
            let mut end = open(1, &[0], &config);
            ready.wait();
            while !stop.load(Ordering::Relaxed) {
                end.turn();
                end.echo();
            }
            end.close();
        });
        let sender = pair.spawn_in(scope, 0, move || {
            let mut end = open(0, &[0], &config);
            ready.wait();
            let mut seed = 0;
            for payload_bytes in payloads {
                for burst in [1, 3, 40] {
                    for headroom in [true, false] {
                        let sent: Vec<_> = (seed..seed + burst)
                            .map(|s| pattern(s, *payload_bytes))
                            .collect();
                        seed += burst;
                        for payload in &sent {
                            end.queue(payload, piece_bytes, headroom);
                        }
                        wait_until("all frames come back", || {
                            end.turn();
                            end.received.len() >= sent.len()
                        });
                        for (frame, payload) in end.received.drain(..).zip(&sent) {
                            assert_eq!(&End::bytes_of(&frame)[HEADER_BYTES..], payload);
                        }
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
            let stats = end.device.stats();
            assert_eq!(
                (stats.tx_frames, stats.rx_frames),
                (u64::from(seed), u64::from(seed))
            );
            assert_eq!(stats.tx_bytes, stats.rx_bytes);
            assert_eq!(stats.rx_dropped, 0);
            assert!(stats.doorbells > 0);
            end.close();
            stats.bytes_copied
        });
        let result = sender.join();
        stop.store(true, Ordering::Relaxed);
        result.unwrap()
    })
}

#[test]
fn frames_of_one_chunk_go_both_ways_without_a_copy() {
    let config = XdpConfig {
        force_gather: true,
        ..XdpConfig::default()
    };
    assert_eq!(ping_pong(1500, &[10, 1446, 1460], 2048, config), 0);
}

#[test]
fn frames_go_both_ways_by_default() {
    ping_pong(1500, &[10, 1460], 2048, XdpConfig::default());
    ping_pong(1500, &[1460], 380, XdpConfig::default());
}

#[test]
fn payloads_in_several_pieces_go_by_reference() {
    let config = XdpConfig {
        force_gather: true,
        ..XdpConfig::default()
    };
    assert_eq!(ping_pong(1500, &[1460], 400, config), 0);
}

#[test]
fn long_frames_are_received_in_several_pieces() {
    let config = XdpConfig {
        force_gather: true,
        ..XdpConfig::default()
    };
    let copied = ping_pong(9000, &[1460, 4000, 8960], 16 << 10, config);
    assert_eq!(copied, 0);
    let copied = ping_pong(9000, &[8960], 2300, XdpConfig::default());
    assert_eq!(copied, 0);
}

#[test]
fn without_frames_of_several_pieces_payloads_are_copied_together() {
    let config = XdpConfig {
        force_whole_frames: true,
        ..XdpConfig::default()
    };
    let copied = ping_pong(1500, &[1460], 400, config);
    assert!(
        copied == 0 && !rustix::process::geteuid().is_root() || copied >= 1460,
        "{copied}"
    );
}

#[test]
fn small_rings_lose_nothing_that_fits_the_other_end() {
    let config = XdpConfig {
        tx_entries: 64,
        ..XdpConfig::default()
    };
    ping_pong(1500, &[100], 2048, config);
}

#[test]
fn ports_that_are_not_ours_reach_the_kernel() {
    let Some(pair) = &NetnsPair::new(1500) else {
        return;
    };
    let stop = &AtomicBool::new(false);
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        let server = pair.spawn_in(scope, 0, move || {
            let mut end = open(0, &[0], &XdpConfig::default());
            // One queue: generic, so that the kernel's own traffic keeps its offloads.
            assert_eq!(end.steering.mode(), AttachMode::Generic);
            let listener = TcpListener::bind((IPV4[0], 80)).unwrap();
            tell.send(()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 5];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&request).unwrap();
            wait_until("the SYN to our port arrives", || {
                end.turn();
                !end.received.is_empty()
            });
            let syn = End::bytes_of(&end.received[0]);
            assert_eq!(syn[36..38], PORT.to_be_bytes());
            let counters = end.steering.counters().unwrap();
            assert!(
                counters.redirected >= 1 && counters.passed >= 3,
                "{counters:?}"
            );
            while !stop.load(Ordering::Relaxed) {
                end.turn();
            }
        });
        pair.run_in(1, move || {
            told.recv().unwrap();
            let mut stream = TcpStream::connect((IPV4[0], 80)).unwrap();
            stream.write_all(b"hello").unwrap();
            let mut reply = [0; 5];
            stream.read_exact(&mut reply).unwrap();
            assert_eq!(&reply, b"hello");
            // Nobody answers for the port that is ours; without us the kernel would refuse.
            let ours = SocketAddr::new(address(0), PORT);
            let error = TcpStream::connect_timeout(&ours, Duration::from_millis(300)).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        });
        stop.store(true, Ordering::Relaxed);
        server.join().unwrap();
        pair.run_in(1, || {
            let error = TcpStream::connect((IPV4[0], PORT)).unwrap_err();
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::ConnectionRefused,
                "{error}"
            );
        });
    });
}

#[test]
fn a_kernel_connection_outlives_our_taking_its_port() {
    let Some(pair) = &NetnsPair::new(1500) else {
        return;
    };
    let listener = pair.run_in(0, || TcpListener::bind((IPV4[0], PORT)).unwrap());
    let mut client = pair.run_in(1, || TcpStream::connect((IPV4[0], PORT)).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    let (tell, told) = mpsc::channel();
    let stop = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let luna = pair.spawn_in(scope, 0, move || {
            let mut end = open(0, &[0], &XdpConfig::default());
            end.steering
                .set_port(PORT, PortOwner::LunaUnlessKernelConnection)
                .unwrap();
            let owner = end.steering.port_owner(PORT).unwrap();
            assert_eq!(owner, PortOwner::LunaUnlessKernelConnection);
            tell.send(()).unwrap();
            while !stop.load(Ordering::Relaxed) {
                end.turn();
            }
            end.received.len()
        });
        told.recv().unwrap();
        for _ in 0..10 {
            let mut buffer = [0; 4];
            client.write_all(b"ping").unwrap();
            server.read_exact(&mut buffer).unwrap();
            server.write_all(&buffer).unwrap();
            client.read_exact(&mut buffer).unwrap();
            assert_eq!(&buffer, b"ping");
        }
        // A new connection is ours, although the kernel listens on the port, too.
        let attempt = pair.run_in(1, || {
            let ours = SocketAddr::new(address(0), PORT);
            TcpStream::connect_timeout(&ours, Duration::from_millis(300))
        });
        assert_eq!(attempt.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
        stop.store(true, Ordering::Relaxed);
        assert!(luna.join().unwrap() >= 1, "its SYN came to us");
    });
}

#[test]
fn the_program_redirects_exactly_what_is_ours() {
    let Some(pair) = &NetnsPair::new(1500) else {
        return;
    };
    // Nothing but our frames on the link: no router solicitations, no ARP.
    for side in 0..2 {
        pair.command(side, "sysctl -qw net.ipv6.conf.all.router_solicitations=0");
        pair.command(
            side,
            "sysctl -qw net.ipv6.conf.all.mldv2_unsolicited_report_interval=0",
        );
    }
    let (ask, asked) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel::<(SteeringCounters, usize)>();
    std::thread::scope(|scope| {
        pair.spawn_in(scope, 0, move || {
            let mut end = open(0, &[0], &XdpConfig::default());
            let v6: IpAddr = "fd00:9::1".parse().unwrap();
            end.steering.set_local_addresses(&[v6, address(1)]).unwrap();
            end.steering.set_local_addresses(&[address(0), v6]).unwrap();
            while asked.recv().is_ok() {
                end.turn();
                let _ = tell.send((end.steering.counters().unwrap(), end.received.len()));
            }
        });
        pair.run_in(1, move || {
            let mut end = open(1, &[0], &XdpConfig::default());
            let now = || {
                ask.send(()).unwrap();
                told.recv().unwrap()
            };
            for (name, frame, ours) in judged_frames(PORT) {
                let (before, received) = now();
                let payload = end.pool.copy_in(&frame[14..]).unwrap();
                let mut header = ArrayVec::new();
                header.try_extend_from_slice(&frame[..14]).unwrap();
                let payload = Pieces::from_iter([payload]);
                end.out.push_back(TxFrame {
                    header,
                    payload,
                    checksum_offload: false,
                    segment_bytes: 0,
                    alone: false,
                });
                end.turn();
                let mut after = before;
                let mut received_after = received;
                wait_until(name, || {
                    (after, received_after) = now();
                    if ours {
                        after.redirected > before.redirected && received_after > received
                    } else {
                        after.passed > before.passed
                    }
                });
                assert_eq!(
                    after.redirected - before.redirected,
                    u64::from(ours),
                    "{name}"
                );
                assert_eq!(received_after - received, usize::from(ours), "{name}");
            }
            drop(ask);
        });
    });
}

#[test]
fn sleepers_are_woken_by_frames() {
    let Some(pair) = &NetnsPair::new(1500) else {
        return;
    };
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        let sleeper = pair.spawn_in(scope, 0, move || {
            let mut end = open(0, &[0], &XdpConfig::default());
            assert!(end.device.arm(), "nothing has arrived");
            tell.send(()).unwrap();
            // SAFETY: the device is open and not closed while borrowed.
            let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(end.device.wait_fds()[0]) };
            let mut polled = [rustix::event::PollFd::new(
                &fd,
                rustix::event::PollFlags::IN,
            )];
            let timeout = rustix::time::Timespec {
                tv_sec: 10,
                tv_nsec: 0,
            };
            assert_eq!(rustix::event::poll(&mut polled, Some(&timeout)), Ok(1));
            assert!(!end.device.arm(), "a frame waits");
            end.turn();
            assert_eq!(end.received.len(), 1);
            assert!(end.device.arm());
        });
        pair.run_in(1, move || {
            let mut end = open(1, &[0], &XdpConfig::default());
            told.recv().unwrap();
            end.queue(b"wake up", 100, true);
            end.turn();
            sleeper.join().unwrap();
        });
    });
}

#[test]
fn a_device_over_several_queues_hears_them_all() {
    const QUEUES: u32 = 4;
    let Some(pair) = &NetnsPair::with_queues(1500, QUEUES) else {
        return;
    };
    pair.run_in(0, || {
        assert_eq!(
            Interface::query(INTERFACES[0]).unwrap().receive_queues(),
            QUEUES
        );
        let mut end = open(0, &[0, 1, 2, 3], &XdpConfig::default());
        // A kernel peer spreads its connections over the queues by their hash.
        for _ in 0..64 {
            pair.run_in(1, || {
                let ours = SocketAddr::new(address(0), PORT);
                let _ = TcpStream::connect_timeout(&ours, Duration::from_millis(1));
            });
        }
        wait_until("SYNs on several queues", || {
            end.turn();
            let busy = end
                .device
                .queues()
                .iter()
                .filter(|queue| queue.stats().rx_frames > 0);
            busy.count() >= 2
        });
        end.close();
    });
}

#[test]
fn the_program_vanishes_with_its_owner() {
    let Some(pair) = &NetnsPair::new(1500) else {
        return;
    };
    pair.run_in(0, || {
        let attached = || Interface::query(INTERFACES[0]).unwrap().xdp_program;
        let steering = Steering::attach(INTERFACES[0]).unwrap();
        assert!(attached().is_some());
        drop(steering);
        // A process that another test has just forked holds the descriptors until it runs its own
        // program.
        wait_until("the program goes with its owner", || attached().is_none());

        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "helper_that_holds_a_device",
                "--ignored",
                "--nocapture",
            ])
            .env("LUNA_TEST_HOLD", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("holding")));
        assert!(attached().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until("the program goes with a killed process", || {
            attached().is_none()
        });
        // And the queue is free again.
        open(0, &[0], &XdpConfig::default()).close();
    });
}

#[test]
#[ignore = "a helper process of another test"]
fn helper_that_holds_a_device() {
    if std::env::var_os("LUNA_TEST_HOLD").is_none() {
        return;
    }
    let _end = open(0, &[0], &XdpConfig::default());
    println!("holding");
    // Until killed, or the parent is.
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn a_foreign_program_is_named_and_left_alone() {
    let Some(pair) = &NetnsPair::new(1500) else {
        return;
    };
    // Attached by netlink, as `ip` does, in generic mode.
    let object = concat!(env!("OUT_DIR"), "/port_redirect.bpf.o");
    pair.command(
        1,
        &format!("ip link set dev luna1 xdpgeneric obj {object} sec xdp.frags"),
    );
    pair.run_in(1, || {
        // The same code, but not attached by a link of ours, so there is nothing to share.
        let id = Interface::query(INTERFACES[1]).unwrap().xdp_program;
        let error = Steering::attach(INTERFACES[1]).unwrap_err();
        assert!(
            matches!(&error, OpenError::ForeignProgram { program_id, .. }
                if Some(*program_id) == id),
            "{error}"
        );
        assert!(error.to_string().contains("xdp off"), "{error}");
        assert_eq!(Interface::query(INTERFACES[1]).unwrap().xdp_program, id);
    });
    pair.command(1, "ip link set dev luna1 xdpgeneric off");
    pair.run_in(1, || drop(Steering::attach(INTERFACES[1]).unwrap()));
}

/// What a process steers is its own queues' alone; what it leaves behind is wiped out by the next
/// owner; the program stays until the last has gone.
#[test]
fn processes_share_the_program() {
    let Some(pair) = &NetnsPair::with_queues(1500, 2) else {
        return;
    };
    pair.run_in(0, || {
        let attached = || Interface::query(INTERFACES[0]).unwrap().xdp_program;
        let mut first = open(0, &[0], &XdpConfig::default());
        let program = attached();
        let mut second = Steering::attach(INTERFACES[0]).unwrap();
        assert_eq!(attached(), program);
        let mut pool = new_pool(1500);
        let mut device =
            XdpDevice::open(INTERFACES[0], &[1], &mut pool, &XdpConfig::default()).unwrap();
        for (queue, socket) in device.sockets() {
            second.register(queue, socket).unwrap();
        }
        second.set_port(PORT + 1, PortOwner::Luna).unwrap();
        let owners =
            |steering: &Steering| [PORT, PORT + 1].map(|port| steering.port_owner(port).unwrap());
        assert_eq!(
            owners(&first.steering),
            [PortOwner::Luna, PortOwner::Kernel]
        );
        assert_eq!(owners(&second), [PortOwner::Kernel, PortOwner::Luna]);

        second.set_port(PORT, PortOwner::Luna).unwrap();
        second.pause_others(PORT).unwrap();
        assert_eq!(
            first.steering.port_owner(PORT).unwrap(),
            PortOwner::LunaNoNewConnection
        );
        assert_eq!(owners(&second), [PortOwner::Luna, PortOwner::Luna]);

        // Nobody has leased the first one's queue, so nobody is waited for.
        assert!(!second.awaits_relief(PORT).unwrap());
        let lease = QueueLease::acquire(INTERFACES[0], 2, 1).unwrap();
        assert!(second.awaits_relief(PORT).unwrap());
        let relieved = PortOwner::LunaRelieved;
        first.steering.set_port(PORT, relieved).unwrap();
        assert!(!second.awaits_relief(PORT).unwrap());
        second.pause_others(PORT).unwrap();
        assert_eq!(first.steering.port_owner(PORT).unwrap(), relieved);
        drop(lease);

        first.close();
        assert_eq!(attached(), program);
        let third = open(0, &[0], &XdpConfig::default());
        assert_eq!(
            owners(&third.steering),
            [PortOwner::Luna, PortOwner::Kernel]
        );
        third.close();
        device.close(&mut pool);
        drop(second);
        assert_eq!(attached(), None);
    });
}

#[test]
fn a_taken_queue_is_named() {
    let Some(pair) = &NetnsPair::new(1500) else {
        return;
    };
    pair.run_in(0, || {
        let end = open(0, &[0], &XdpConfig::default());
        let mut pool = new_pool(1500);
        let open = |pool: &mut Pool, queue| {
            XdpDevice::open(INTERFACES[0], &[queue], pool, &XdpConfig::default())
        };
        let error = open(&mut pool, 0).unwrap_err();
        assert!(
            matches!(error, OpenError::QueueTaken { queue: 0, .. }),
            "{error}"
        );
        let error = open(&mut pool, 7).unwrap_err();
        assert!(matches!(error, OpenError::Io { .. }), "{error}");
        assert_eq!(pool.objects_in_use(), 0);
        end.close();
        open(&mut pool, 0).unwrap().close(&mut pool);
    });
}

/// Takes capabilities from the calling thread.
fn without(dropped: CapabilitySet) {
    let mut sets = capabilities(None).unwrap();
    sets.effective -= dropped;
    set_capabilities(None, sets).unwrap();
}

#[test]
fn missing_privileges_are_named() {
    let Some(pair) = &NetnsPair::new(1500) else {
        return;
    };
    let open = || {
        let mut pool = new_pool(1500);
        XdpDevice::open(INTERFACES[0], &[0], &mut pool, &XdpConfig::default()).map(drop)
    };
    pair.run_in(0, || {
        without(CapabilitySet::NET_RAW);
        let error = open().unwrap_err();
        assert!(matches!(error, OpenError::NotPermitted { .. }), "{error}");
    });
    pair.run_in(0, || {
        without(CapabilitySet::SYS_ADMIN | CapabilitySet::BPF | CapabilitySet::NET_ADMIN);
        let error = Steering::attach(INTERFACES[0]).unwrap_err();
        assert!(matches!(error, OpenError::NotPermitted { .. }), "{error}");
    });
    pair.run_in(0, || {
        without(CapabilitySet::IPC_LOCK);
        let resource = rustix::process::Resource::Memlock;
        let before = rustix::process::getrlimit(resource);
        let low = rustix::process::Rlimit {
            current: Some(1 << 20),
            maximum: before.maximum,
        };
        rustix::process::setrlimit(resource, low).unwrap();
        let error = open().unwrap_err();
        rustix::process::setrlimit(resource, before).unwrap();
        assert!(
            matches!(error, OpenError::LockedMemory { mib: 16, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("ulimit -l"), "{error}");
    });
}
