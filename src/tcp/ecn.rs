//! Explicit congestion notification (RFC 3168): who has agreed to it, what is to be echoed and
//! what has been reacted to. DCTCP's receiver (RFC 8257 §3.2) echoes each mark once.
//!
//! Bookkeeping only: how far the window falls is the congestion control's business.
#![forbid(unsafe_code)]

use crate::wire::{SeqNum, TcpFlags};

/// Whether connections use ECN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EcnUse {
    /// Never.
    Off,
    /// If the peer asks for it: Linux's default (`tcp_ecn` = 2).
    #[default]
    Accept,
    /// Ask the peer for it.
    Request,
}

/// The state of a connection's ECN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EcnState {
    /// Both ends can do it.
    pub(crate) agreed: bool,
    /// Our last SYN asked for it.
    pub(crate) requested: bool,
    /// ECE is set in what we send: the peer's packets were marked.
    pub(crate) echo: bool,
    /// CWR goes with the next new data: the window has been reduced.
    pub(crate) cwr: bool,
    /// Marks on what lies before have been reacted to.
    reduced_until: SeqNum,
}

/// The two bits that negotiate.
const BITS: TcpFlags = TcpFlags::ECE.union(TcpFlags::CWR);

impl EcnState {
    pub(crate) const fn new(iss: SeqNum) -> Self {
        Self {
            agreed: false,
            requested: false,
            echo: false,
            cwr: false,
            reduced_until: iss,
        }
    }

    /// The bits of our SYN or SYN-ACK. `again`: it has been sent before.
    pub(crate) fn syn_bits(&mut self, answering: bool, wanted: bool, again: bool) -> TcpFlags {
        if answering {
            //= RFC 3168 §6.1.1
            //# "we call a SYN-ACK packet with only the ECE flag set but the CWR flag not set an
            //#  "ECN-setup SYN-ACK packet""
            return match self.agreed {
                true => TcpFlags::ECE,
                false => TcpFlags::empty(),
            };
        }
        // RFC 3168 §6.1.1.1: a SYN that was lost may have been dropped for its bits.
        self.requested = wanted && !again;
        match self.requested {
            true => BITS,
            false => TcpFlags::empty(),
        }
    }

    /// The peer's SYN or SYN-ACK has arrived.
    pub(crate) fn negotiate(&mut self, flags: TcpFlags, allowed: bool) {
        self.agreed = if flags.contains(TcpFlags::ACK) {
            self.requested && flags.intersection(BITS) == TcpFlags::ECE
        } else {
            allowed && flags.contains(BITS)
        };
    }

    /// A segment with data has arrived; `ce`: it was marked, `cwr`: it said that the peer has
    /// slowed down. Says whether the peer should know at once.
    pub(crate) fn on_data(&mut self, ce: bool, cwr: bool, each_mark: bool) -> bool {
        let before = self.echo;
        if each_mark {
            //= RFC 8257 §3.2
            //# "If the CE codepoint is set and DCTCP.CE is false, set DCTCP.CE to true and send
            //#  an immediate ACK"
            self.echo = ce;
        } else {
            //= RFC 3168 §6.1.3
            //# "that TCP receiver continues to set the ECN-Echo flag in all the ACK packets it
            //#  sends ... until it receives a CWR packet"
            self.echo = ce || self.echo && !cwr;
        }
        self.echo != before
    }

    /// An acknowledgment up to `una` carries ECE; `nxt` is SND.NXT. Says whether the window is to
    /// be reduced.
    pub(crate) fn on_echo(&mut self, una: SeqNum, nxt: SeqNum, repairing: bool) -> bool {
        //= RFC 3168 §6.1.2
        //# "TCP should not react to congestion indications more than once every window of data"
        // As on Linux, what acknowledges the last byte of that window belongs to it.
        if una.before_eq(self.reduced_until) {
            return false;
        }
        self.reduced_until = nxt;
        self.cwr = true;
        !repairing
    }

    /// SND.UNA has moved to `una`.
    #[inline]
    pub(crate) fn on_progress(&mut self, una: SeqNum) {
        // Follow at a distance, or it would one day seem to lie ahead.
        self.reduced_until = self.reduced_until.latest(una - 1);
    }

    /// The window was reduced because of a loss; `nxt` is SND.NXT.
    pub(crate) fn on_loss(&mut self, nxt: SeqNum) {
        //= RFC 3168 §6.1.2
        //# "When an ECN-Capable TCP sender reduces its congestion window for any reason (because
        //#  of a retransmit timeout, a Fast Retransmit, or in response to an ECN Notification),
        //#  the TCP sender sets the CWR flag"
        self.cwr = self.agreed;
        self.reduced_until = nxt;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_has_its_own_bits() {
        let mut a = EcnState::new(SeqNum::new(0));
        let mut b = EcnState::new(SeqNum::new(0));
        let syn = TcpFlags::SYN | a.syn_bits(false, true, false);
        assert!(syn.contains(BITS));
        b.negotiate(syn, true);
        let answer = TcpFlags::SYN | TcpFlags::ACK | b.syn_bits(true, false, false);
        assert_eq!(answer & BITS, TcpFlags::ECE);
        a.negotiate(answer, true);
        assert!(a.agreed && b.agreed);
        // A peer that echoes reserved bits has not agreed.
        a.negotiate(answer | TcpFlags::CWR, true);
        assert!(!a.agreed);
        b.negotiate(syn, false);
        assert!(!b.agreed);
        assert_eq!(
            a.syn_bits(false, true, true),
            TcpFlags::empty(),
            "sent again"
        );
    }

    #[test]
    fn a_mark_is_echoed_until_it_is_answered() {
        let mut e = EcnState::new(SeqNum::new(0));
        assert!(e.on_data(true, false, false) && e.echo);
        assert!(!e.on_data(false, false, false) && e.echo);
        assert!(e.on_data(false, true, false) && !e.echo);
        e.on_data(true, true, false);
        assert!(e.echo, "marked once more");
        // DCTCP: each packet speaks for itself.
        assert!(e.on_data(false, false, true) && !e.echo);
    }

    #[test]
    fn one_reaction_per_window() {
        let (una, nxt) = (SeqNum::new(u32::MAX), SeqNum::new(9));
        let mut e = EcnState::new(una - 1);
        assert!(e.on_echo(una, nxt, false));
        assert!(!e.on_echo(una + 5, nxt + 5, false));
        assert!(!e.on_echo(nxt, nxt + 5, false), "the end of that window");
        assert!(e.on_echo(nxt + 1, nxt + 5, false));
        assert!(
            !e.on_echo(nxt + 6, nxt + 9, true),
            "a loss has done it already"
        );
        // However much passes without a mark, the next one counts.
        let far = nxt + (1 << 31);
        e.on_progress(nxt + (1 << 30));
        e.on_progress(far);
        assert!(e.on_echo(far, far + 9, false));
    }
}
