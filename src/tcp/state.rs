//! The states of RFC 9293 §3.3.2 and every way from one to another.
//!
//! The table in [`State::next`] is the only place where a state changes; it knows nothing of
//! segments, timers or buffers, only of what they mean.
#![forbid(unsafe_code)]

/// A state of RFC 9293 §3.3.2. LISTEN has no entry: a listener is not a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// No connection.
    Closed,
    /// A SYN is out.
    SynSent,
    /// A SYN came in, and ours is out.
    SynReceived,
    /// Data flows both ways.
    Established,
    /// We sent FIN; it is not acknowledged.
    FinWait1,
    /// Our FIN is acknowledged; the peer may still send.
    FinWait2,
    /// The peer sent FIN; we may still send.
    CloseWait,
    /// Both sent FIN, and ours is not acknowledged.
    Closing,
    /// The peer sent FIN, then we; ours is not acknowledged.
    LastAck,
    /// Both FINs are acknowledged; old duplicates die out.
    TimeWait,
}

/// What can move a connection from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The application calls OPEN.
    ActiveOpen,
    /// A listener accepts a SYN.
    PassiveOpen,
    /// A SYN without an acknowledgment of ours arrives (simultaneous open).
    SynArrives,
    /// A SYN that acknowledges ours arrives.
    SynAckArrives,
    /// Our SYN is acknowledged.
    SynAcked,
    /// The application will send no more.
    Close,
    /// The peer's FIN, and everything before it, has been received.
    FinArrives,
    /// Our FIN is acknowledged.
    FinAcked,
    /// TIME-WAIT has lasted long enough.
    TimeWaitExpires,
    /// The connection is gone: reset, aborted, refused, or timed out.
    Delete,
}

impl State {
    /// Every state, for tables and tests.
    pub const ALL: [Self; 10] = [
        Self::Closed,
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::FinWait1,
        Self::FinWait2,
        Self::CloseWait,
        Self::Closing,
        Self::LastAck,
        Self::TimeWait,
    ];

    /// The state that `input` leads to, or `None` if it changes nothing here.
    ///
    /// This is figure 5 of RFC 9293 §3.3.2 without LISTEN. CLOSE in SYN-RECEIVED is absent
    /// because it is queued until ESTABLISHED, as §3.10.4 allows; CLOSE in SYN-SENT deletes.
    #[rustfmt::skip]
    pub const fn next(self, input: Input) -> Option<Self> {
        use Input as I;
        use State as S;
        Some(match (self, input) {
            (S::Closed,      I::ActiveOpen)      => S::SynSent,
            (S::Closed,      I::PassiveOpen)     => S::SynReceived,
            (S::SynSent,     I::SynArrives)      => S::SynReceived,
            (S::SynSent,     I::SynAckArrives)   => S::Established,
            (S::SynSent,     I::Close)           => S::Closed,
            (S::SynReceived, I::SynAcked)        => S::Established,
            (S::Established, I::Close)           => S::FinWait1,
            (S::Established, I::FinArrives)      => S::CloseWait,
            (S::CloseWait,   I::Close)           => S::LastAck,
            (S::FinWait1,    I::FinArrives)      => S::Closing,
            (S::FinWait1,    I::FinAcked)        => S::FinWait2,
            (S::FinWait2,    I::FinArrives)      => S::TimeWait,
            (S::Closing,     I::FinAcked)        => S::TimeWait,
            (S::LastAck,     I::FinAcked)        => S::Closed,
            (S::TimeWait,    I::TimeWaitExpires) => S::Closed,
            (S::Closed,      I::Delete)          => return None,
            (_,              I::Delete)          => S::Closed,
            _ => return None,
        })
    }

    /// Whether both sides' initial sequence numbers are agreed ("synchronized state").
    pub const fn is_synchronized(self) -> bool {
        !matches!(self, Self::Closed | Self::SynSent | Self::SynReceived)
    }

    /// Whether segments with data, or their retransmissions, may leave.
    pub const fn may_transmit_data(self) -> bool {
        matches!(
            self,
            Self::Established | Self::CloseWait | Self::FinWait1 | Self::Closing | Self::LastAck
        )
    }

    /// Whether the peer may still send data that we must take.
    pub const fn may_receive_data(self) -> bool {
        matches!(self, Self::Established | Self::FinWait1 | Self::FinWait2)
    }

    /// RFC 9293's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "CLOSED",
            Self::SynSent => "SYN-SENT",
            Self::SynReceived => "SYN-RECEIVED",
            Self::Established => "ESTABLISHED",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::CloseWait => "CLOSE-WAIT",
            Self::Closing => "CLOSING",
            Self::LastAck => "LAST-ACK",
            Self::TimeWait => "TIME-WAIT",
        }
    }
}

impl core::fmt::Display for State {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUTS: [Input; 10] = [
        Input::ActiveOpen,
        Input::PassiveOpen,
        Input::SynArrives,
        Input::SynAckArrives,
        Input::SynAcked,
        Input::Close,
        Input::FinArrives,
        Input::FinAcked,
        Input::TimeWaitExpires,
        Input::Delete,
    ];

    /// The whole graph, so that a change of the table shows as a change of this picture.
    #[test]
    fn the_graph() {
        let mut edges = Vec::new();
        for from in State::ALL {
            for input in INPUTS {
                if let Some(to) = from.next(input).filter(|_| input != Input::Delete) {
                    edges.push(format!("{from} -- {input:?} --> {to}"));
                }
            }
        }
        let want = [
            "CLOSED -- ActiveOpen --> SYN-SENT",
            "CLOSED -- PassiveOpen --> SYN-RECEIVED",
            "SYN-SENT -- SynArrives --> SYN-RECEIVED",
            "SYN-SENT -- SynAckArrives --> ESTABLISHED",
            "SYN-SENT -- Close --> CLOSED",
            "SYN-RECEIVED -- SynAcked --> ESTABLISHED",
            "ESTABLISHED -- Close --> FIN-WAIT-1",
            "ESTABLISHED -- FinArrives --> CLOSE-WAIT",
            "FIN-WAIT-1 -- FinArrives --> CLOSING",
            "FIN-WAIT-1 -- FinAcked --> FIN-WAIT-2",
            "FIN-WAIT-2 -- FinArrives --> TIME-WAIT",
            "CLOSE-WAIT -- Close --> LAST-ACK",
            "CLOSING -- FinAcked --> TIME-WAIT",
            "LAST-ACK -- FinAcked --> CLOSED",
            "TIME-WAIT -- TimeWaitExpires --> CLOSED",
        ];
        assert_eq!(edges, want);
    }

    #[test]
    fn every_state_can_be_deleted() {
        for state in State::ALL {
            let gone = state.next(Input::Delete);
            assert_eq!(gone, (state != State::Closed).then_some(State::Closed));
        }
    }
}
