//! Parsing and emitting are inverse, agree with an independent implementation, and never panic.
use super::*;
use proptest::prelude::*;

fn block(left: u32, right: u32) -> SackBlock {
    SackBlock {
        left: SeqNum::new(left),
        right: SeqNum::new(right),
    }
}

prop_compose! {
    fn any_options()(
        mss in proptest::option::of(any::<u16>()),
        window_scale in proptest::option::of(any::<u8>()),
        sack_permitted: bool,
        ts in proptest::option::of(any::<(u32, u32)>()),
        load in proptest::option::of(any::<(u16, u16)>()),
        blocks in proptest::collection::vec(any::<(u32, u32)>(), 0..=3),
    ) -> TcpOptions {
        TcpOptions {
            mss,
            window_scale,
            // A SYN carries no SACK blocks and nothing else carries SACK-permitted.
            sack_permitted: sack_permitted && blocks.is_empty(),
            timestamps: ts.map(|(value, echo)| Timestamps { value, echo }),
            telemetry: load.map(|(load, echo)| Telemetry { load, echo }),
            sack: blocks.into_iter()
                .take(if mss.is_some() || window_scale.is_some() { 2 } else { 3 })
                .map(|(l, r)| block(l, r)).collect(),
        }
    }
}

prop_compose! {
    fn any_header()(
        src_port: u16, dst_port: u16, seq: u32, ack: u32, flags: u8, window: u16, urgent: u16,
        options in any_options(),
    ) -> TcpHeader {
        TcpHeader {
            src_port, dst_port, seq: SeqNum::new(seq), ack: SeqNum::new(ack),
            flags: TcpFlags::from_bits_retain(flags), window, urgent, options,
        }
    }
}

proptest! {
    #[test]
    fn parse_inverts_emit(header in any_header()) {
        let mut out = ArrayVec::<u8, 60>::new();
        header.emit(0, &mut out);
        prop_assert_eq!(out.len(), header.emitted_len());
        prop_assert_eq!(out.len() % 4, 0);
        let (parsed, len) = TcpHeader::parse(&out).unwrap();
        prop_assert_eq!(len, out.len());
        let mut expected = header;
        expected.options.sack.truncate(parsed.options.sack.len());
        prop_assert_eq!(parsed, expected);
    }

    #[test]
    fn agrees_with_etherparse(header in any_header()) {
        let mut out = ArrayVec::<u8, 60>::new();
        header.emit(0x1234, &mut out);
        let (theirs, _) = etherparse::TcpHeader::from_slice(&out).unwrap();
        prop_assert_eq!(theirs.source_port, header.src_port);
        prop_assert_eq!(theirs.sequence_number, header.seq.get());
        prop_assert_eq!(theirs.window_size, header.window);
        prop_assert_eq!(theirs.checksum, 0x1234);
        prop_assert_eq!(theirs.syn, header.flags.contains(TcpFlags::SYN));
        for option in theirs.options_iterator() {
            // Theirs stops at a kind that it does not know.
            let Ok(option) = option else {
                prop_assert!(header.options.telemetry.is_some());
                break;
            };
            match option {
                etherparse::TcpOptionElement::MaximumSegmentSize(m) =>
                    prop_assert_eq!(Some(m), header.options.mss),
                etherparse::TcpOptionElement::WindowScale(s) =>
                    prop_assert_eq!(Some(s), header.options.window_scale),
                etherparse::TcpOptionElement::Timestamp(value, echo) =>
                    prop_assert_eq!(Some(Timestamps { value, echo }), header.options.timestamps),
                _ => {}
            }
        }
    }

    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = TcpHeader::parse(&bytes);
        let _ = TcpOptions::parse(&bytes);
    }
}

#[test]
fn every_truncation_of_options_is_an_error_or_a_prefix() {
    let full = [
        2u8, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7,
    ];
    for cut in 0..full.len() {
        let parsed = TcpOptions::parse(&full[..cut]);
        let whole_options = matches!(cut, 0 | 4 | 6 | 16 | 17);
        assert_eq!(parsed.is_ok(), whole_options, "cut at {cut}");
    }
}

#[test]
fn zero_length_option_is_malformed() {
    assert_eq!(TcpOptions::parse(&[2, 0, 0, 0]), Err(ParseError::Malformed));
    assert_eq!(TcpOptions::parse(&[254, 1]), Err(ParseError::Malformed));
}

#[test]
fn unknown_options_are_skipped() {
    let o = TcpOptions::parse(&[254, 4, 9, 9, 3, 3, 7, 0]).unwrap();
    assert_eq!(o.window_scale, Some(7));
}
