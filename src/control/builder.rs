//! Tables without a kernel: for links that have no kernel twin, and for tests.
#![forbid(unsafe_code)]

use core::cmp::Reverse;
use core::net::IpAddr;
use std::sync::Arc;

use super::tables::{
    Address, Link, Neighbour, NeighbourEntry, NextHop, RouteEntry, RouteKey, RouteKind, TableId,
    Tables, device_of, mask,
};
use crate::wire::Mac;

impl Tables {
    /// Fills a picture by hand.
    pub fn builder() -> TablesBuilder {
        TablesBuilder {
            tables: Self::default(),
        }
    }
}

/// Fills a [`Tables`] by hand.
#[derive(Debug)]
pub struct TablesBuilder {
    pub(super) tables: Tables,
}

impl TablesBuilder {
    /// Adds or replaces a link.
    #[must_use]
    pub fn link(mut self, link: Link) -> Self {
        Arc::make_mut(&mut self.tables.links).insert(link.index, link);
        self
    }

    /// Adds an Ethernet link that is up, with the given name, address and MTU in bytes.
    #[must_use]
    pub fn ethernet(self, index: u32, name: &str, mac: Mac, mtu: u32) -> Self {
        self.link(Link {
            index,
            name: name.to_owned(),
            mac: Some(mac),
            mtu,
            up: true,
            carrier: true,
            loopback: false,
            kind: String::new(),
            vlan: None,
        })
    }

    /// Adds an address with its local and its connected route, as the kernel does.
    #[must_use]
    pub fn address(mut self, ifindex: u32, ip: IpAddr, prefix_len: u8) -> Self {
        Arc::make_mut(&mut self.tables.addresses).push(Address::new(ifindex, ip, prefix_len));
        let host = if ip.is_ipv4() { 32 } else { 128 };
        self.insert(
            TableId::Local,
            (ip, host),
            0,
            RouteKind::Local,
            Some(ip),
            hop(ifindex, None),
        );
        self.insert(
            TableId::Main,
            (ip, prefix_len),
            0,
            RouteKind::Unicast,
            Some(ip).filter(IpAddr::is_ipv4),
            hop(ifindex, None),
        );
        self
    }

    /// Adds a route of the main table through one next hop.
    #[must_use]
    pub fn route(
        mut self,
        prefix: (IpAddr, u8),
        ifindex: u32,
        gateway: Option<IpAddr>,
        metric: u32,
    ) -> Self {
        let hops = hop(ifindex, gateway);
        self.insert(
            TableId::Main,
            prefix,
            metric,
            RouteKind::Unicast,
            None,
            hops,
        );
        self
    }

    /// Adds a route of the main table that leads nowhere.
    #[must_use]
    pub fn special_route(mut self, prefix: (IpAddr, u8), kind: RouteKind, metric: u32) -> Self {
        self.insert(TableId::Main, prefix, metric, kind, None, Vec::new());
        self
    }

    /// Adds a route of the main table through several next hops.
    #[must_use]
    pub fn multipath(mut self, prefix: (IpAddr, u8), hops: Vec<NextHop>, metric: u32) -> Self {
        self.insert(
            TableId::Main,
            prefix,
            metric,
            RouteKind::Unicast,
            None,
            hops,
        );
        self
    }

    /// Adds what is known of a neighbour.
    #[must_use]
    pub fn neighbour(mut self, ifindex: u32, ip: IpAddr, neighbour: Neighbour) -> Self {
        Arc::make_mut(&mut self.tables.neighbours).insert((ifindex, ip), NeighbourEntry(neighbour));
        self
    }

    /// Gives every route of that prefix in the main table an MTU in bytes.
    #[must_use]
    pub fn route_mtu(mut self, prefix: (IpAddr, u8), mtu: u32) -> Self {
        let masked = mask(prefix.0, prefix.1);
        for (key, entry) in &mut Arc::make_mut(&mut self.tables.routes).entries {
            if (key.prefix, key.prefix_len.0, key.table) == (masked, prefix.1, TableId::Main) {
                entry.mtu = Some(mtu);
            }
        }
        self
    }

    /// The finished picture.
    pub fn build(self) -> Tables {
        self.tables
    }

    fn insert(
        &mut self,
        table: TableId,
        (prefix, prefix_len): (IpAddr, u8),
        priority: u32,
        kind: RouteKind,
        preferred_src: Option<IpAddr>,
        hops: Vec<NextHop>,
    ) {
        let key = RouteKey {
            table,
            v6: prefix.is_ipv6(),
            prefix_len: Reverse(prefix_len),
            prefix: mask(prefix, prefix_len),
            tos: 0,
            priority,
            device: device_of(prefix.is_ipv6(), &hops),
        };
        let entry = RouteEntry {
            kind,
            preferred_src,
            mtu: None,
            advmss: None,
            hops,
        };
        Arc::make_mut(&mut self.tables.routes).insert(key, entry);
    }
}

fn hop(ifindex: u32, gateway: Option<IpAddr>) -> Vec<NextHop> {
    vec![NextHop {
        ifindex,
        gateway,
        weight: 1,
        dead: false,
    }]
}
