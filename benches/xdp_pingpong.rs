//! Raw frames between two AF_XDP devices over veth: the round trip and the rate that a stack above
//! them is judged against. Needs root and two cores: `cargo bench --bench xdp_pingpong`.
#![cfg_attr(
    not(feature = "xdp"),
    allow(unused, reason = "nothing to measure without the device")
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a measurement, not library code"
)]

#[cfg(feature = "xdp")]
#[path = "../tests/common/mod.rs"]
mod common;
#[cfg(feature = "xdp")]
#[path = "../tests/link/mod.rs"]
mod link;

#[cfg(feature = "xdp")]
mod bench {
    use std::collections::VecDeque;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use arrayvec::ArrayVec;
    use luna::device::xdp::{XdpConfig, XdpDevice};
    use luna::device::{Device, Pieces, RxFrame, TxFrame};
    use luna::traffic::xdp::{PortOwner, Steering};
    use luna::zbuf::{Area, Pool, PoolConfig};

    use super::link::frames::{Ends, HEADER_BYTES};
    use super::link::netns::{INTERFACES, IPV4, MACS, NetnsPair, address};

    const PORT: u16 = 6379;

    /// How the payload lies in memory.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Layout {
        /// Room for the header in front: one descriptor.
        Headroom,
        /// In an object without room: header and payload are two descriptors.
        Separate,
        /// The same, as the device does it by default: it copies them together.
        Copied,
    }

    struct End {
        _steering: Steering,
        device: XdpDevice,
        pool: Pool,
        ends: Ends,
        received: Vec<RxFrame>,
        out: VecDeque<TxFrame>,
        layout: Layout,
    }

    impl End {
        fn open(side: usize, layout: Layout) -> Self {
            let name = INTERFACES[side];
            let mut steering = Steering::attach(name).unwrap();
            let area = Area::new(64 << 20).unwrap();
            let rx_object_bytes = steering.interface().rx_object_bytes();
            let config = PoolConfig {
                rx_object_bytes,
                ..PoolConfig::default()
            };
            let mut pool = Pool::new(&area, config).unwrap();
            let config = XdpConfig {
                force_gather: layout != Layout::Copied,
                ..XdpConfig::default()
            };
            let device = XdpDevice::open(name, &[0], &mut pool, &config).unwrap();
            for (queue, socket) in device.sockets() {
                steering.register(queue, socket).unwrap();
            }
            steering.set_local_addresses(&[address(side)]).unwrap();
            steering.set_port(PORT, PortOwner::Luna).unwrap();
            let ends = Ends {
                macs: (MACS[side], MACS[1 - side]),
                addresses: (IPV4[side], IPV4[1 - side]),
                ports: (PORT, PORT),
            };
            Self {
                _steering: steering,
                device,
                pool,
                ends,
                received: Vec::with_capacity(256),
                out: VecDeque::with_capacity(1024),
                layout,
            }
        }

        fn queue(&mut self, frames: usize, frame_bytes: usize) {
            let payload_bytes = frame_bytes - HEADER_BYTES;
            let headroom = if self.layout == Layout::Headroom {
                128
            } else {
                0
            };
            for _ in 0..frames {
                let mut slice = self
                    .pool
                    .alloc_with_headroom(payload_bytes, headroom)
                    .unwrap();
                slice.append(&[0x5a; 16 << 10][..payload_bytes]);
                let mut header = ArrayVec::new();
                header
                    .try_extend_from_slice(&self.ends.header(payload_bytes))
                    .unwrap();
                let payload = Pieces::from_iter([slice]);
                self.out.push_back(TxFrame {
                    header,
                    payload,
                    checksum_offload: false,
                    segment_bytes: 0,
                    alone: false,
                });
            }
        }

        fn receive(&mut self) -> usize {
            self.received.clear();
            self.device.rx_burst(&mut self.pool, &mut self.received, 64)
        }

        fn send(&mut self) {
            self.device.tx_burst(&mut self.pool, &mut self.out);
            self.device.flush(&mut self.pool);
        }
    }

    /// Round trips of `frames` frames at a time.
    fn round_trips(pair: &NetnsPair, frames: usize, frame_bytes: usize, layout: Layout) {
        const ROUNDS: usize = 20_000;
        let (ready, stop) = (&Barrier::new(2), &AtomicBool::new(false));
        let mut times = std::thread::scope(|scope| {
            pair.spawn_in(scope, 1, move || {
                let mut end = End::open(1, layout);
                ready.wait();
                let mut seen = 0;
                while !stop.load(Ordering::Relaxed) {
                    seen += end.receive();
                    if seen >= frames {
                        seen -= frames;
                        end.queue(frames, frame_bytes);
                    }
                    end.send();
                }
            });
            pair.run_in(0, || {
                let mut end = End::open(0, layout);
                ready.wait();
                let mut times = Vec::with_capacity(ROUNDS);
                for _ in 0..ROUNDS {
                    let start = Instant::now();
                    end.queue(frames, frame_bytes);
                    end.send();
                    let mut seen = 0;
                    while seen < frames {
                        seen += end.receive();
                        end.send();
                        if start.elapsed() > Duration::from_secs(1) {
                            stop.store(true, Ordering::Relaxed);
                            panic!("frames were lost: {:?}", end.device.stats());
                        }
                    }
                    times.push(start.elapsed().as_nanos() as u64);
                }
                stop.store(true, Ordering::Relaxed);
                times
            })
        });
        times.drain(..ROUNDS / 10);
        times.sort_unstable();
        let total: u64 = times.iter().sum();
        let at = |quantile: f64| times[(times.len() as f64 * quantile) as usize] as f64 / 1e3;
        println!(
            "{frames:>3} x {frame_bytes:>4} B {layout:<9?} round trip p50 {:>6.1} us  \
             p99 {:>6.1} us  {:>7.0} K frames/s each way",
            at(0.50),
            at(0.99),
            (times.len() * frames) as f64 * 1e6 / total as f64,
        );
    }

    /// One way, as fast as it goes.
    fn flood(pair: &NetnsPair, frame_bytes: usize, layout: Layout) {
        let (ready, stop) = (&Barrier::new(2), &AtomicBool::new(false));
        let (sent, received, seconds) = std::thread::scope(|scope| {
            let sink = pair.spawn_in(scope, 1, move || {
                let mut end = End::open(1, layout);
                ready.wait();
                let mut seen = 0;
                while !stop.load(Ordering::Relaxed) {
                    seen += end.receive();
                }
                seen
            });
            let (sent, seconds) = pair.run_in(0, || {
                let mut end = End::open(0, layout);
                ready.wait();
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(500) {
                    if end.out.len() < 64 {
                        end.queue(64, frame_bytes);
                    }
                    end.send();
                }
                (end.device.stats().tx_frames, start.elapsed().as_secs_f64())
            });
            stop.store(true, Ordering::Relaxed);
            (sent as f64, sink.join().unwrap() as f64, seconds)
        });
        println!(
            "one way, {frame_bytes:>4} B {layout:<9?} {:>7.0} K frames/s sent, {:>7.0} K received",
            sent / seconds / 1e3,
            received / seconds / 1e3,
        );
    }

    pub(crate) fn run() {
        let Some(pair) = NetnsPair::new(1500) else {
            return;
        };
        for layout in [Layout::Headroom, Layout::Separate, Layout::Copied] {
            for (frames, frame_bytes) in [(1, 64), (1, 1514), (3, 1514), (16, 1514)] {
                round_trips(&pair, frames, frame_bytes, layout);
            }
            for frame_bytes in [64, 1514] {
                flood(&pair, frame_bytes, layout);
            }
        }
        let Some(pair) = NetnsPair::new(9000) else {
            return;
        };
        for layout in [Layout::Headroom, Layout::Separate] {
            round_trips(&pair, 1, 9014, layout);
            round_trips(&pair, 3, 9014, layout);
        }
    }
}

fn main() {
    #[cfg(feature = "xdp")]
    bench::run();
}
