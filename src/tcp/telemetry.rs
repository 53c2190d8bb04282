//! What the hops of the path say about their load, and how it gets back to the sender (LUNA §9).
//!
//! Both ends write an experimental option (RFC 6994) into every segment: a load of zero, which a
//! hop that is busier raises to its own as PINT (SIGCOMM '20) does, and the echo of the largest
//! load that came from the peer since the last segment. A hop that knows nothing of it forwards it
//! untouched. Who wants telemetry asks for it in its SYN; who is asked agrees. What a peer echoes
//! decides only how fast we send to it.
#![forbid(unsafe_code)]

use crate::wire::Telemetry;

/// The state of a connection's telemetry.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TelemetryState {
    /// Every segment carries the option.
    pub(crate) agreed: bool,
    /// Our last SYN asked for it.
    requested: bool,
    /// The largest load since a segment last left.
    load: u16,
}

impl TelemetryState {
    /// The option of our SYN or SYN-ACK, if it has one. `again`: it has been sent before.
    pub(crate) fn syn_option(
        &mut self,
        answering: bool,
        wanted: bool,
        again: bool,
    ) -> Option<Telemetry> {
        if answering {
            return self.agreed.then(Telemetry::default);
        }
        // As with ECN (RFC 3168 §6.1.1.1): a SYN that was lost may have been dropped for it.
        self.requested = wanted && !again;
        self.requested.then(Telemetry::default)
    }

    /// The peer's SYN, or SYN-ACK if `answer`, has arrived with the option or without it.
    pub(crate) fn negotiate(&mut self, offered: bool, answer: bool) {
        self.agreed = offered && (self.requested || !answer);
    }

    /// A segment has arrived.
    #[inline]
    pub(crate) fn on_segment(&mut self, telemetry: Option<Telemetry>) {
        if let Some(telemetry) = telemetry.filter(|_| self.agreed) {
            self.load = self.load.max(telemetry.load);
        }
    }

    /// The option of the next segment.
    #[inline]
    pub(crate) fn option(&mut self) -> Option<Telemetry> {
        self.agreed.then(|| Telemetry {
            load: 0,
            echo: core::mem::take(&mut self.load),
        })
    }
}
