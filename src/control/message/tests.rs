use netlink_packet_core::Emitable;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkInfo, LinkMessage,
};
use proptest::prelude::*;

use super::*;
use crate::control::fuzz_netlink;

fn decode_all(datagram: &[u8]) -> Vec<Message> {
    let mut out = Vec::new();
    decode(datagram, |m| out.push(m));
    out
}

fn updates(datagram: &[u8]) -> Vec<Update> {
    decode_all(datagram).into_iter().map(|m| m.update).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn route_message(attributes: Vec<RouteAttribute>) -> Vec<u8> {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.kind = RouteType::Unicast;
    message.header.destination_prefix_length = 24;
    message.attributes = attributes;
    emit(0, 7, RouteNetlinkMessage::NewRoute(message))
}

#[test]
fn a_vlan_link() {
    let mut message = LinkMessage::default();
    message.header.index = 9;
    message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
    message.attributes = vec![
        LinkAttribute::IfName("eth0.7".to_owned()),
        LinkAttribute::Mtu(1496),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, 9]),
        LinkAttribute::Link(4),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(7)])),
        ]),
    ];
    let expected = Link {
        index: 9,
        name: "eth0.7".to_owned(),
        mac: Some(Mac([2, 0, 0, 0, 0, 9])),
        mtu: 1496,
        up: true,
        carrier: true,
        loopback: false,
        kind: "vlan".to_owned(),
        vlan: Some(Vlan { parent: 4, id: 7 }),
    };
    let bytes = emit(0, 0, RouteNetlinkMessage::NewLink(message.clone()));
    assert_eq!(updates(&bytes), [Update::Link(expected)]);
    message.header.interface_family = AddressFamily::Bridge;
    let bytes = emit(0, 0, RouteNetlinkMessage::DelLink(message));
    assert_eq!(
        updates(&bytes),
        [Update::Ignored],
        "leaves its bridge, not the host"
    );
}

#[test]
fn requests_decode_to_what_they_ask_for() {
    let peer = ip("fd00::2");
    let [Update::Neighbour(key, _)] = &updates(&resolve_request(5, peer, 7))[..] else {
        panic!()
    };
    assert_eq!(*key, (5, peer));
    let request = resolve_request(5, peer, 7);
    // struct ndmsg after the header: state at 8, flags at 10.
    assert_eq!((request[16 + 8], request[16 + 10]), (0, libc::NTF_USE));
    let request = confirm_request(5, peer, 7);
    assert_eq!(
        (request[16 + 8], request[16 + 10]),
        (libc::NUD_REACHABLE as u8, 0)
    );
    for kind in DumpKind::ALL {
        let request = dump_request(kind, 42);
        let buffer = NetlinkBuffer::new_checked(&request[..]).unwrap();
        assert_eq!(buffer.sequence_number(), 42);
        assert_eq!(buffer.flags(), NLM_F_REQUEST | NLM_F_DUMP);
    }
}

#[test]
fn an_unknown_or_broken_attribute_does_not_lose_the_message() {
    let mut bytes = route_message(vec![
        RouteAttribute::Oif(3),
        RouteAttribute::Destination(ip("192.0.2.0").into()),
    ]);
    // An attribute of a later kernel, one too short to be what it says, and trailing bytes.
    bytes.extend([8, 0, 0xff, 0x3f, 1, 2, 3, 4]);
    bytes.extend([5, 0, libc::RTA_PREFSRC as u8, 0, 9, 0, 0, 0]);
    bytes.extend([200, 0, 1, 0]);
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    let [Update::Route(key, entry, false)] = &updates(&bytes)[..] else {
        panic!()
    };
    assert_eq!((key.prefix, key.prefix_len.0), (ip("192.0.2.0"), 24));
    assert_eq!((entry.hops[0].ifindex, entry.preferred_src), (3, None));
}

#[test]
fn several_messages_in_one_datagram() {
    let one = route_message(vec![RouteAttribute::Oif(3)]);
    let mut bytes = [one.clone(), one.clone()].concat();
    assert_eq!(decode_all(&bytes).len(), 2);
    bytes.truncate(bytes.len() - 1);
    let got = updates(&bytes);
    assert!(
        matches!(got[..], [Update::Route(..), Update::Malformed]),
        "{got:?}"
    );
    assert_eq!(updates(&[]), []);
    assert_eq!(
        updates(&[0; 16]),
        [Update::Malformed],
        "a length of zero ends it"
    );
}

#[test]
fn ends_of_dumps() {
    let message = |kind: i32, payload: &[u8]| {
        let mut bytes = ((16 + payload.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend((kind as u16).to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        bytes
    };
    assert_eq!(updates(&message(libc::NLMSG_DONE, &[])), [Update::Done(0)]);
    let errno = (-libc::EINTR).to_ne_bytes();
    assert_eq!(
        updates(&message(libc::NLMSG_DONE, &errno)),
        [Update::Done(libc::EINTR)]
    );
    assert_eq!(
        updates(&message(libc::NLMSG_ERROR, &errno)),
        [Update::Done(libc::EINTR)]
    );
    assert_eq!(
        updates(&message(libc::NLMSG_ERROR, &[])),
        [Update::Malformed]
    );
    let odd = i32::MIN.to_ne_bytes();
    assert_eq!(
        updates(&message(libc::NLMSG_ERROR, &odd)),
        [Update::Done(i32::MIN)]
    );
}

#[test]
fn route_replies() {
    use netlink_packet_route::route::RouteMetric;
    let bytes = route_message(vec![RouteAttribute::Metrics(vec![
        RouteMetric::Advmss(1300),
        RouteMetric::Mtu(1400),
    ])]);
    assert_eq!(route_reply_mtu(&bytes, 7), Some(1400));
    assert_eq!(route_reply_mtu(&bytes, 8), None);
    assert_eq!(route_reply_mtu(&route_message(vec![]), 7), None);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        fuzz_netlink(&bytes);
    }

    /// Valid headers around arbitrary attributes get further than plain noise.
    #[test]
    fn arbitrary_attributes_never_panic(
        kind in 16u16..36,
        attributes in proptest::collection::vec(
            (0u16..32, proptest::collection::vec(any::<u8>(), 0..40)), 0..8),
        header in proptest::collection::vec(any::<u8>(), 0..20),
        family in prop_oneof![Just(2u8), Just(10u8), any::<u8>()],
    ) {
        let mut payload = header;
        if let Some(first) = payload.first_mut() {
            *first = family;
        }
        for (kind, value) in attributes {
            payload.extend((value.len() as u16 + 4).to_ne_bytes());
            payload.extend(kind.to_ne_bytes());
            payload.extend(&value);
            payload.resize(payload.len().next_multiple_of(4), 0);
        }
        let mut bytes = (16 + payload.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        prop_assert_eq!(fuzz_netlink(&bytes), 2);
    }

    #[test]
    fn truncating_a_good_message_never_panics(cut in 0usize..200) {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.attributes.push(NeighbourAttribute::Destination(ip("10.0.0.1").into()));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![1; 6]));
        prop_assert!(message.buffer_len() > 0);
        let bytes = emit(0, 0, RouteNetlinkMessage::NewNeighbour(message));
        fuzz_netlink(&bytes[..cut.min(bytes.len())]);
    }
}
