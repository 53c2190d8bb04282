//! The control plane of a link that the kernel does not know: who has which hardware address.
//!
//! Answers ARP requests (RFC 826) and neighbour solicitations (RFC 4861) for our addresses, asks
//! for those of neighbours, and keeps what it hears in the tables that shards read. Sans-IO: it is
//! given frames and the time, and gives frames and a deadline. Everything in it is bounded, and
//! nobody gets in who is not on the link's network.
#![forbid(unsafe_code)]

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::handle::ControlHandle;
use super::tables::{Neighbour, NeighbourState, covers};
use crate::limits::DISCOVERED_NEIGHBOURS_MAX;
use crate::time::{Duration, Instant};
use crate::wire::arp::{ArpOperation, ArpPacket};
use crate::wire::ndp::{self, NDP_HOP_LIMIT, NdpMessage, PROTOCOL_ICMPV6};
use crate::wire::{Ecn, EtherType, EthernetHeader, IpHeader, Mac};

/// Ethernet, IPv6, a message with its option.
const FRAME_BYTES_MAX: usize = 14 + 40 + 32;
/// Frames that wait to be taken; more are as good as lost on the way.
const OUTBOX_MAX: usize = 64;
/// Between two questions. The first few come sooner than RFC 4861's `RetransTimer` of a second:
/// the other end of such a link is often a process that starts at the same time as ours.
const ASK_EVERY: [Duration; 6] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(380),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(1),
];
/// Probes of a neighbour that was known (`MAX_UNICAST_SOLICIT`), a second apart.
const PROBES_MAX: usize = 3;
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// `REACHABLE_TIME` (RFC 4861 §10).
const REACHABLE_FOR: Duration = Duration::from_secs(30);
/// How long a failure is remembered if nobody asks again.
const FAILED_FOR: Duration = Duration::from_secs(30);

const BROADCAST: Mac = Mac([0xff; 6]);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A frame to send, complete.
pub type DiscoveryFrame = ArrayVec<u8, FRAME_BYTES_MAX>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Asked for this often, never known.
    Asking(usize),
    /// Known; since its time ran out it was probed this often.
    Known(Mac, usize),
    Failed,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    state: State,
    due: Instant,
}

/// Our addresses on a link, and the neighbours there.
#[derive(Debug)]
pub struct Discovery {
    control: Arc<ControlHandle>,
    ifindex: u32,
    mac: Mac,
    /// Each with the length of its network's prefix.
    own: Vec<(IpAddr, u8)>,
    entries: HashMap<IpAddr, Entry>,
    outbox: VecDeque<DiscoveryFrame>,
    deadline: Instant,
    conflict_told: bool,
}

impl Discovery {
    /// For the addresses and the hardware address that `control`'s tables have for `ifindex`.
    /// Announces them.
    pub fn new(control: Arc<ControlHandle>, ifindex: u32) -> Self {
        let tables = control.tables();
        let own = tables
            .addresses()
            .iter()
            .filter(|address| address.ifindex == ifindex)
            .map(|address| (address.ip, address.prefix_len))
            .collect();
        let mac = tables.link(ifindex).and_then(|link| link.mac);
        let mut discovery = Self {
            control,
            ifindex,
            mac: mac.unwrap_or_default(),
            own,
            entries: HashMap::new(),
            outbox: VecDeque::new(),
            deadline: Instant::FAR_FUTURE,
            conflict_told: false,
        };
        discovery.announce();
        discovery
    }

    /// Whether a frame, of which these are the first bytes, is for [`Discovery::on_frame`]: ARP
    /// or ICMPv6.
    #[inline]
    pub fn wants(frame: &[u8]) -> bool {
        const NEXT_HEADER_AT: usize = 14 + 6;
        match frame.get(12..14) {
            Some([0x08, 0x06]) => true,
            Some([0x86, 0xdd]) => frame.get(NEXT_HEADER_AT) == Some(&PROTOCOL_ICMPV6),
            _ => false,
        }
    }

    /// Takes in a received frame. What is not understood is ignored.
    pub fn on_frame(&mut self, now: Instant, frame: &[u8]) {
        let Ok((ethernet, len)) = EthernetHeader::parse(frame) else {
            return;
        };
        let rest = frame.get(len..).unwrap_or_default();
        match ethernet.ether_type {
            EtherType::Arp => {
                if let Ok(packet) = ArpPacket::parse(rest) {
                    self.on_arp(now, &packet);
                }
            }
            EtherType::Ipv6 => self.on_ipv6(now, ethernet.src, rest),
            EtherType::Ipv4 | EtherType::Other(_) => {}
        }
    }

    /// A neighbour is needed: begins to ask, unless that is going on or it is known.
    pub fn resolve(&mut self, now: Instant, ip: IpAddr) {
        if matches!(
            self.entries.get(&ip).map(|entry| entry.state),
            Some(State::Asking(_) | State::Known(..))
        ) {
            return;
        }
        if self.make_room(&ip) {
            let entry = Entry {
                state: State::Asking(0),
                due: now,
            };
            self.entries.insert(ip, entry);
            self.run(now);
        }
    }

    /// Does what is due: asks again, gives up, forgets.
    pub fn run(&mut self, now: Instant) {
        let due: Vec<IpAddr> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.due <= now)
            .map(|(ip, _)| *ip)
            .collect();
        for ip in due {
            self.run_entry(now, ip);
        }
        self.find_deadline();
    }

    /// When [`Discovery::run`] has something to do.
    pub fn deadline(&self) -> Instant {
        if self.outbox.is_empty() {
            self.deadline
        } else {
            // To be called at once: there are frames to take.
            Instant::ZERO
        }
    }

    /// The next frame to send.
    pub fn take_frame(&mut self) -> Option<DiscoveryFrame> {
        self.outbox.pop_front()
    }

    fn find_deadline(&mut self) {
        let dues = self.entries.values().map(|entry| entry.due);
        self.deadline = dues.min().unwrap_or(Instant::FAR_FUTURE);
    }

    fn run_entry(&mut self, now: Instant, ip: IpAddr) {
        let Some(entry) = self.entries.get_mut(&ip) else {
            return;
        };
        match entry.state {
            State::Asking(asked) => match ASK_EVERY.get(asked) {
                Some(pause) => {
                    entry.state = State::Asking(asked + 1);
                    entry.due = now + *pause;
                    self.ask(ip, None);
                }
                None => self.fail(now, ip),
            },
            State::Known(mac, probed) if probed < PROBES_MAX => {
                entry.state = State::Known(mac, probed + 1);
                entry.due = now + PROBE_EVERY;
                self.ask(ip, Some(mac));
            }
            State::Known(..) => self.fail(now, ip),
            State::Failed => {
                self.entries.remove(&ip);
                self.publish(ip, None);
            }
        }
    }

    fn fail(&mut self, now: Instant, ip: IpAddr) {
        let entry = Entry {
            state: State::Failed,
            due: now + FAILED_FOR,
        };
        self.entries.insert(ip, entry);
        self.publish(ip, Some(Neighbour::Failed));
    }

    fn publish(&self, ip: IpAddr, neighbour: Option<Neighbour>) {
        self.control.set_neighbour(self.ifindex, ip, neighbour);
    }

    /// Makes room for another entry; false if all that there are are being asked for.
    fn make_room(&mut self, ip: &IpAddr) -> bool {
        if self.entries.len() < DISCOVERED_NEIGHBOURS_MAX || self.entries.contains_key(ip) {
            return true;
        }
        let oldest = self
            .entries
            .iter()
            .filter(|(_, entry)| !matches!(entry.state, State::Asking(_)))
            .min_by_key(|(_, entry)| entry.due)
            .map(|(ip, _)| *ip);
        let Some(oldest) = oldest else {
            return false;
        };
        self.entries.remove(&oldest);
        self.publish(oldest, None);
        true
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        self.own.iter().any(|(own, _)| *own == ip)
    }

    fn is_on_link(&self, ip: IpAddr) -> bool {
        self.own.iter().any(|(own, len)| covers(*own, *len, ip))
    }

    /// A neighbour has told its address. `unasked`: it may be added although nobody asked.
    fn learn(&mut self, now: Instant, ip: IpAddr, mac: Mac, unasked: bool) {
        let is_unicast = mac.0[0] & 1 == 0 && mac != Mac::default();
        if self.is_own(ip) {
            if mac != self.mac && !core::mem::replace(&mut self.conflict_told, true) {
                log::warn!("{ip}: somebody else on the link ({mac:?}) has our address");
            }
            return;
        }
        if !is_unicast || ip.is_multicast() || ip.is_unspecified() || !self.is_on_link(ip) {
            return;
        }
        let known = self.entries.get(&ip).map(|entry| entry.state);
        if known.is_none() && !(unasked && self.make_room(&ip)) {
            return;
        }
        let entry = Entry {
            state: State::Known(mac, 0),
            due: now + REACHABLE_FOR,
        };
        self.entries.insert(ip, entry);
        self.find_deadline();
        if !matches!(known, Some(State::Known(old, _)) if old == mac) {
            self.publish(ip, Some(Neighbour::Known(mac, NeighbourState::Reachable)));
        }
    }

    //= RFC 826
    //# "If the pair <protocol type, sender protocol address> is already in my translation table,
    //# update the sender hardware address field of the entry with the new information."
    fn on_arp(&mut self, now: Instant, packet: &ArpPacket) {
        let for_us = self.is_own(IpAddr::V4(packet.target));
        self.learn(now, IpAddr::V4(packet.sender), packet.sender_mac, for_us);
        if for_us && packet.operation == ArpOperation::Request && packet.sender != packet.target {
            self.send_arp(
                packet.sender_mac,
                &ArpPacket {
                    operation: ArpOperation::Reply,
                    sender_mac: self.mac,
                    sender: packet.target,
                    target_mac: packet.sender_mac,
                    target: packet.sender,
                },
            );
        }
    }

    fn on_ipv6(&mut self, now: Instant, from: Mac, packet: &[u8]) {
        let Ok((ip, len)) = IpHeader::parse_v6(packet, packet.len()) else {
            return;
        };
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (ip.src, ip.dst) else {
            return;
        };
        //= RFC 4861 §7.1.1
        //# "The IP Hop Limit field has a value of 255, i.e., the packet could not possibly have
        //# been forwarded by a router."
        if ip.protocol != PROTOCOL_ICMPV6 || ip.hop_limit != NDP_HOP_LIMIT {
            return;
        }
        let message = packet.get(len..len + ip.payload_len).unwrap_or_default();
        match NdpMessage::parse(message, src, dst) {
            Ok(NdpMessage::Solicitation { target, source_mac }) => {
                if !self.is_own(IpAddr::V6(target)) {
                    return;
                }
                if let Some(mac) = source_mac {
                    self.learn(now, IpAddr::V6(src), mac, true);
                }
                self.advertise(target, src, source_mac.unwrap_or(from));
            }
            Ok(NdpMessage::Advertisement {
                target, target_mac, ..
            }) => {
                // A unicast answer may leave the option out.
                self.learn(now, IpAddr::V6(target), target_mac.unwrap_or(from), false);
            }
            Err(_) => {}
        }
    }

    //= RFC 4861 §7.2.4
    //# "If the source of the solicitation is the unspecified address, the node MUST set the
    //# Solicited flag to zero and multicast the advertisement to the all-nodes address."
    fn advertise(&mut self, target: Ipv6Addr, asker: Ipv6Addr, asker_mac: Mac) {
        let to_all = asker.is_unspecified();
        let (dst, mac) = if to_all {
            (ALL_NODES, ndp::multicast_mac(ALL_NODES))
        } else {
            (asker, asker_mac)
        };
        let message = NdpMessage::Advertisement {
            target,
            target_mac: Some(self.mac),
            solicited: !to_all,
            overrides: true,
        };
        self.send_ndp(mac, (target, dst), &message);
    }

    //= RFC 5227 §3
    //# "An ARP Announcement is identical to an ARP Probe, except that now the sender and target IP
    //# addresses are both set to the host's newly selected IPv4 address."
    fn announce(&mut self) {
        for (ip, _) in self.own.clone() {
            match ip {
                IpAddr::V4(ip) => self.ask_v4(ip, ip, None),
                IpAddr::V6(ip) => self.advertise(ip, Ipv6Addr::UNSPECIFIED, Mac::default()),
            }
        }
    }

    fn ask(&mut self, ip: IpAddr, known: Option<Mac>) {
        // The address on the same network, or any of the same family.
        let family = |own: &&(IpAddr, u8)| own.0.is_ipv4() == ip.is_ipv4();
        let own = self.own.iter().find(|(own, len)| covers(*own, *len, ip));
        let own = own
            .or_else(|| self.own.iter().find(family))
            .map(|own| own.0);
        match (own, ip) {
            (Some(IpAddr::V4(own)), IpAddr::V4(ip)) => self.ask_v4(own, ip, known),
            (Some(IpAddr::V6(own)), IpAddr::V6(ip)) => {
                let group = ndp::solicited_node(ip);
                let (dst, mac) = match known {
                    Some(mac) => (ip, mac),
                    None => (group, ndp::multicast_mac(group)),
                };
                let message = NdpMessage::Solicitation {
                    target: ip,
                    source_mac: Some(self.mac),
                };
                self.send_ndp(mac, (own, dst), &message);
            }
            _ => {}
        }
    }

    fn ask_v4(&mut self, own: Ipv4Addr, ip: Ipv4Addr, known: Option<Mac>) {
        self.send_arp(
            known.unwrap_or(BROADCAST),
            &ArpPacket {
                operation: ArpOperation::Request,
                sender_mac: self.mac,
                sender: own,
                target_mac: Mac::default(),
                target: ip,
            },
        );
    }

    fn send_arp(&mut self, dst: Mac, packet: &ArpPacket) {
        let mut frame = self.ethernet(dst, EtherType::Arp);
        packet.emit(&mut frame);
        self.send(frame);
    }

    fn send_ndp(&mut self, mac: Mac, (src, dst): (Ipv6Addr, Ipv6Addr), message: &NdpMessage) {
        let mut frame = self.ethernet(mac, EtherType::Ipv6);
        IpHeader {
            src: IpAddr::V6(src),
            dst: IpAddr::V6(dst),
            dscp: 0,
            ecn: Ecn::NotEct,
            hop_limit: NDP_HOP_LIMIT,
            protocol: PROTOCOL_ICMPV6,
            payload_len: message.emitted_len(),
        }
        .emit(&mut frame);
        message.emit(src, dst, &mut frame);
        self.send(frame);
    }

    fn ethernet(&self, dst: Mac, ether_type: EtherType) -> DiscoveryFrame {
        let mut frame = DiscoveryFrame::new();
        EthernetHeader {
            dst,
            src: self.mac,
            vlan: None,
            ether_type,
        }
        .emit(&mut frame);
        frame
    }

    fn send(&mut self, frame: DiscoveryFrame) {
        if self.outbox.len() < OUTBOX_MAX {
            self.outbox.push_back(frame);
        }
    }
}

#[cfg(test)]
mod tests;
