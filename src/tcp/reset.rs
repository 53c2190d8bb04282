//! The answer to a segment for which there is no connection.
#![forbid(unsafe_code)]

use crate::wire::{SeqNum, TcpFlags, TcpHeader};

/// The reset that answers a segment to a closed port (RFC 9293 §3.10.7.1), or to one that has a
/// bad acknowledgment in LISTEN; `None` if nothing must be answered.
pub fn reset_for(header: &TcpHeader, payload_len: u32) -> Option<TcpHeader> {
    //= RFC 9293 §3.10.7.1
    //# "An incoming segment containing a RST is discarded."
    if header.flags.contains(TcpFlags::RST) {
        return None;
    }
    let mut reply = TcpHeader {
        src_port: header.dst_port,
        dst_port: header.src_port,
        ..TcpHeader::default()
    };
    if header.flags.contains(TcpFlags::ACK) {
        //= RFC 9293 §3.10.7.1
        //# "If the ACK bit is on, <SEQ=SEG.ACK><CTL=RST>"
        reply.seq = header.ack;
        reply.flags = TcpFlags::RST;
    } else {
        //= RFC 9293 §3.10.7.1
        //# "If the ACK bit is off, sequence number zero is used,
        //#  <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>"
        reply.seq = SeqNum::new(0);
        reply.ack = header.seq
            + payload_len
            + u32::from(header.flags.contains(TcpFlags::SYN))
            + u32::from(header.flags.contains(TcpFlags::FIN));
        reply.flags = TcpFlags::RST | TcpFlags::ACK;
    }
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_flags() {
        for bits in 0..=u8::MAX {
            let header = TcpHeader {
                src_port: 1000,
                dst_port: 80,
                seq: SeqNum::new(u32::MAX - 1),
                ack: SeqNum::new(77),
                flags: TcpFlags::from_bits_retain(bits),
                window: 5,
                ..TcpHeader::default()
            };
            let has = |flag| header.flags.contains(flag);
            let reply = reset_for(&header, 10);
            if has(TcpFlags::RST) {
                assert_eq!(reply, None, "{:?}", header.flags);
                continue;
            }
            let reply = reply.unwrap();
            assert_eq!((reply.src_port, reply.dst_port), (80, 1000));
            assert_eq!((reply.window, &reply.options), (0, &Default::default()));
            if has(TcpFlags::ACK) {
                assert_eq!((reply.seq, reply.flags), (header.ack, TcpFlags::RST));
            } else {
                let len = 10 + u32::from(has(TcpFlags::SYN)) + u32::from(has(TcpFlags::FIN));
                assert_eq!(reply.seq, SeqNum::new(0));
                assert_eq!(reply.ack, SeqNum::new((u32::MAX - 1).wrapping_add(len)));
                assert_eq!(reply.flags, TcpFlags::RST | TcpFlags::ACK);
            }
            // A reset never causes another.
            assert_eq!(reset_for(&reply, 0), None);
        }
    }
}
