//! smoltcp over luna's devices: knb's workload, the same bytes, checked by the same code, polled
//! without sleep. One thread a side.

use std::collections::VecDeque;
use std::time::Instant;

use arrayvec::ArrayVec;
use luna::device::{HEADER_BYTES_MAX, Pieces, RxFrame, TxFrame};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Time;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

use super::link::Link;
use super::message::{Asking, Hello, Pattern, Script, Serving};
use super::{Meter, Options, is_stopped, ready};

/// Each way, for each connection: no message of the suite waits for room for long.
const SOCKET_BYTES: usize = 512 << 10;
const BURST: usize = 64;
const FRAME_BYTES_MAX: usize = 16 << 10;

struct Phy {
    link: Link,
    /// Received and not looked at yet, the next one last.
    waiting: VecDeque<RxFrame>,
    frame_bytes_max: usize,
    offload: bool,
    scratch: Box<[u8; FRAME_BYTES_MAX]>,
}

impl Phy {
    fn new(link: Link) -> Self {
        let capabilities = link.device.capabilities();
        Self {
            link,
            waiting: VecDeque::with_capacity(BURST),
            frame_bytes_max: capabilities.frame_bytes_max.min(FRAME_BYTES_MAX),
            offload: capabilities.tx_checksum,
            scratch: Box::new([0; FRAME_BYTES_MAX]),
        }
    }

    fn refill(&mut self) {
        if self.waiting.is_empty() {
            self.link.receive(BURST);
            self.waiting.extend(self.link.received.drain(..));
        }
    }
}

struct Rx(RxFrame);

impl phy::RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        match self.0.pieces.as_slice() {
            [one] => f(one.as_bytes()),
            many => f(&many
                .iter()
                .flat_map(|piece| piece.as_bytes())
                .copied()
                .collect::<Vec<_>>()),
        }
    }
}

struct Tx<'a> {
    link: &'a mut Link,
    scratch: &'a mut [u8],
    offload: bool,
}

impl phy::TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let frame = &mut self.scratch[..len];
        let result = f(frame);
        let (front, rest) = frame.split_at(len.min(54).min(HEADER_BYTES_MAX));
        let mut header = ArrayVec::new();
        header.try_extend_from_slice(front).unwrap();
        let mut payload = Pieces::new();
        if !rest.is_empty() {
            let mut slice = self.link.pool.alloc_with_headroom(rest.len(), 128).unwrap();
            slice.append(rest);
            payload.push(slice);
        }
        let is_tcp = front.get(12..14) == Some(&[0x08, 0x00]) && front.get(23) == Some(&6);
        let checksum_offload = self.offload && is_tcp;
        self.link.out.push_back(TxFrame {
            header,
            payload,
            checksum_offload,
            segment_bytes: 0,
            alone: false,
        });
        result
    }
}

impl phy::Device for Phy {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Time) -> Option<(Rx, Tx<'_>)> {
        self.refill();
        let frame = self.waiting.pop_front()?;
        let (link, scratch, offload) = (&mut self.link, &mut self.scratch[..], self.offload);
        Some((
            Rx(frame),
            Tx {
                link,
                scratch,
                offload,
            },
        ))
    }

    fn transmit(&mut self, _: Time) -> Option<Tx<'_>> {
        // Nothing more while the link has no room.
        if self.link.out.len() >= 2 * BURST {
            return None;
        }
        let (link, scratch, offload) = (&mut self.link, &mut self.scratch[..], self.offload);
        Some(Tx {
            link,
            scratch,
            offload,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.frame_bytes_max;
        capabilities.max_burst_size = Some(BURST);
        if self.offload {
            // What luna does on this link too: memory does not err.
            capabilities.checksum.tcp = Checksum::None;
        }
        capabilities
    }
}

struct Stack {
    phy: Phy,
    interface: Interface,
    sockets: SocketSet<'static>,
    handles: Vec<SocketHandle>,
    started: Instant,
}

impl Stack {
    fn new(options: &Options, port: u16) -> Self {
        let mut phy = Phy::new(Link::open(&options.dev, port));
        let mac = HardwareAddress::Ethernet(EthernetAddress(phy.link.mac));
        let mut config = Config::new(mac);
        config.random_seed = u64::from(std::process::id());
        let mut interface = Interface::new(config, &mut phy, Time::ZERO);
        let ip = IpAddress::from(phy.link.ip);
        interface.update_ip_addrs(|all| all.push(IpCidr::new(ip, 24)).unwrap());
        let mut sockets = SocketSet::new(Vec::new());
        let handles = (0..options.connections)
            .map(|_| {
                let buffer = || tcp::SocketBuffer::new(vec![0; SOCKET_BYTES]);
                let mut socket = tcp::Socket::new(buffer(), buffer());
                socket.set_nagle_enabled(false);
                sockets.add(socket)
            })
            .collect();
        Self {
            phy,
            interface,
            sockets,
            handles,
            started: Instant::now(),
        }
    }

    fn poll(&mut self, now: Instant) {
        let time = Time::from_micros((now - self.started).as_micros() as i64);
        self.interface.poll(time, &mut self.phy, &mut self.sockets);
        self.phy.link.send();
    }
}

pub(crate) fn serve(options: &Options) {
    let port = options.address.port();
    let mut stack = Stack::new(options, port);
    let pattern = Pattern::new();
    let mut states: Vec<Serving> = stack.handles.iter().map(|_| Serving::default()).collect();
    for &handle in &stack.handles {
        stack
            .sockets
            .get_mut::<tcp::Socket<'_>>(handle)
            .listen(port)
            .unwrap();
    }
    ready();
    while !is_stopped() {
        stack.poll(Instant::now());
        for (&handle, state) in stack.handles.iter().zip(&mut states) {
            let socket = stack.sockets.get_mut::<tcp::Socket<'_>>(handle);
            if !socket.is_open() {
                *state = Serving::default();
                socket.listen(port).unwrap();
            }
            while socket.can_recv() {
                let taken = socket
                    .recv(|bytes| {
                        let taken = state.received(&pattern, bytes, true).map(drop);
                        (bytes.len(), taken)
                    })
                    .unwrap();
                taken.unwrap_or_else(|wrong| panic!("{wrong}"));
            }
            while socket.can_send() {
                let pending = state.pending(&pattern);
                if pending.is_empty() {
                    break;
                }
                let count = socket.send_slice(pending).unwrap();
                state.sent(count);
            }
            if !socket.may_recv() && socket.may_send() && state.owed() == 0 && socket.is_active() {
                socket.close();
            }
        }
    }
}

pub(crate) fn ask(options: &Options) -> Meter {
    let Some(std::net::SocketAddr::V4(server)) = options.server else {
        panic!("the server's IPv4 address is missing")
    };
    let mut stack = Stack::new(options, server.port());
    let (script, mut scratch) = (Script::knb(options.size), Vec::new());
    let mut states = Vec::new();
    for (id, &handle) in (0..).zip(&stack.handles) {
        let socket = stack.sockets.get_mut::<tcp::Socket<'_>>(handle);
        let local = 50_000 + id as u16;
        socket
            .connect(stack.interface.context(), server, local)
            .unwrap();
        states.push(Asking::new(Hello {
            size: options.size,
            id,
            short: false,
        }));
    }
    let begin = Instant::now();
    let all_up = |stack: &Stack| {
        let mut sockets = stack.handles.iter();
        sockets.all(|&handle| stack.sockets.get::<tcp::Socket<'_>>(handle).may_send())
    };
    while !all_up(&stack) {
        stack.poll(Instant::now());
        assert!(begin.elapsed().as_secs() < 20, "no connection");
    }
    let mut meter = Meter::start(options);
    let zero = Instant::now();
    for state in &mut states {
        (0..options.iodepth).for_each(|_| state.ask(&script, 0));
    }
    loop {
        let now = Instant::now();
        if meter.is_over(now) {
            return meter;
        }
        for (&handle, state) in stack.handles.iter().zip(&mut states) {
            let socket = stack.sockets.get_mut::<tcp::Socket<'_>>(handle);
            assert!(socket.may_recv(), "the server closed a connection");
            while socket.can_recv() {
                let taken = socket.recv(|bytes| {
                    let mut starts = ArrayVec::<u64, 4096>::new();
                    let taken = state.received(&script, bytes, true, |start| starts.push(start));
                    (bytes.len(), taken.map(|()| starts))
                });
                let starts = taken.unwrap().unwrap_or_else(|wrong| panic!("{wrong}"));
                if !starts.is_empty() {
                    let present = Instant::now();
                    for start in starts {
                        meter.record(zero + std::time::Duration::from_nanos(start), present);
                        state.ask(&script, (present - zero).as_nanos() as u64);
                    }
                }
            }
            while socket.can_send() {
                let pending = state.pending(&script, &mut scratch);
                if pending.is_empty() {
                    break;
                }
                let count = socket.send_slice(pending).unwrap();
                state.sent(count);
            }
        }
        stack.poll(now);
    }
}
