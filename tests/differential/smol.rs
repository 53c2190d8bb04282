//! An end that is smoltcp, with its application.

use std::collections::VecDeque;
use std::sync::Arc;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use crate::link::{End, PORT, Run, Shared, dress, pattern};

/// IP packets in memory.
#[derive(Default)]
struct Wire {
    arrived: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

struct Arrived(Vec<u8>);
struct Room<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Room<'_>)> {
        let packet = self.arrived.pop_front()?;
        Some((Arrived(packet), Room(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        Some(Room(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        capabilities
    }
}

/// smoltcp with one socket.
pub(crate) struct Smol {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    side: usize,
    written: u64,
    limit: u64,
    shared: Arc<Shared>,
}

fn time(now: u64) -> Instant {
    Instant::from_micros((now / 1_000) as i64)
}

impl Smol {
    pub(crate) fn new(run: &Run, side: usize, shared: Arc<Shared>, now: u64) -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = run.seed;
        let mut interface = Interface::new(config, &mut wire, time(now));
        let address = |side: usize| IpAddress::v4(10, 9, 0, side as u8 + 1);
        interface.update_ip_addrs(|all| {
            all.push(IpCidr::new(address(side), 16)).expect("room");
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; run.buffer as usize]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        let mut sockets = SocketSet::new(Vec::new());
        if side == 0 {
            let to = (address(1), PORT);
            (socket.connect(interface.context(), to, 61440)).expect("connect");
        } else {
            socket.listen(PORT).expect("listen");
        }
        Self {
            wire,
            interface,
            handle: sockets.add(socket),
            sockets,
            side,
            written: 0,
            limit: run.bytes,
            shared,
        }
    }

    fn app(&mut self) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.handle);
        while self.side == 0 && self.written < self.limit && socket.can_send() {
            let (from, left) = (self.written, self.limit - self.written);
            let sent = socket.send(|room| {
                let n = room.len().min(left as usize);
                for (i, byte) in room[..n].iter_mut().enumerate() {
                    *byte = pattern(from + i as u64);
                }
                (n, n)
            });
            self.written += sent.expect("it can") as u64;
        }
        while self.side == 1 && socket.can_recv() {
            let shared = &self.shared;
            let took = socket.recv(|bytes| {
                shared.take(bytes);
                (bytes.len(), ())
            });
            took.expect("it can");
        }
    }
}

impl End for Smol {
    fn collect(&mut self, now: u64, out: &mut VecDeque<Vec<u8>>) {
        for _ in 0..2 {
            let now = time(now);
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
            self.app();
        }
        out.extend(self.wire.sent.drain(..).map(|p| dress(self.side, &p)));
    }

    fn deliver(&mut self, _: u64, frame: &[u8]) {
        self.wire.arrived.push_back(frame[14..].to_vec());
    }
}
