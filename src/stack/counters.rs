//! What a shard counts. Plain integers, written by whoever holds the shard's lock.
#![forbid(unsafe_code)]

/// Why a received or prepared packet went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Drop {
    /// Shorter than its headers say.
    Truncated,
    /// A header field has a forbidden value.
    Malformed,
    /// A checksum does not match.
    Checksum,
    /// Not something this stack processes: fragments, tags, extension headers, other protocols.
    Unsupported,
    /// An address that cannot be an end of a TCP connection, or is not ours.
    Address,
    /// A SYN found the listener's queue full.
    ListenOverflow,
    /// A connection table is full.
    TableFull,
    /// There is no route.
    NoRoute,
    /// Packet memory is short, and the application has left much unread: only the payload.
    Memory,
}

/// How many kinds of [`Drop`] there are.
pub const DROP_KINDS: usize = 9;

impl Drop {
    /// All kinds, in order.
    pub const ALL: [Self; DROP_KINDS] = [
        Self::Truncated,
        Self::Malformed,
        Self::Checksum,
        Self::Unsupported,
        Self::Address,
        Self::ListenOverflow,
        Self::TableFull,
        Self::NoRoute,
        Self::Memory,
    ];

    /// A stable name for tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::Checksum => "checksum",
            Self::Unsupported => "unsupported",
            Self::Address => "address",
            Self::ListenOverflow => "listen_overflow",
            Self::TableFull => "table_full",
            Self::NoRoute => "no_route",
            Self::Memory => "memory",
        }
    }
}

/// A shard's counters, monotone since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Turns taken.
    pub turns: u64,
    /// Turns that had nothing to do.
    pub turns_idle: u64,
    /// TCP segments received, with or without a connection.
    pub segments_in: u64,
    /// TCP segments sent.
    pub segments_out: u64,
    /// Of those, segments with sequence space that had been sent before.
    pub retransmits: u64,
    /// Segments received that belong to no connection and no listener.
    pub segments_unknown: u64,
    /// Resets sent for segments that belong to nothing.
    pub resets_out: u64,
    /// Routers' messages that were believed: a path takes smaller packets than the link.
    pub too_big: u64,
    /// SYN cookies sent.
    pub cookies_out: u64,
    /// Connections opened by us.
    pub active_opens: u64,
    /// Connections opened by peers and established.
    pub passive_opens: u64,
    /// Payload bytes that the application has received.
    pub bytes_in: u64,
    /// Payload bytes that the application has given us to send.
    pub bytes_out: u64,
    /// Of [`Counters::bytes_in`], those copied on their way to the application.
    pub bytes_copied_in: u64,
    /// Of [`Counters::bytes_out`], those copied on their way from the application.
    pub bytes_copied_out: u64,
    /// Packets that went no further, by reason.
    pub drops: [u64; DROP_KINDS],
}

impl Counters {
    /// Adds another shard's.
    pub fn add(&mut self, other: &Self) {
        let Self {
            turns,
            turns_idle,
            segments_in,
            segments_out,
            retransmits,
            segments_unknown,
            resets_out,
            too_big,
            cookies_out,
            active_opens,
            passive_opens,
            bytes_in,
            bytes_out,
            bytes_copied_in,
            bytes_copied_out,
            drops,
        } = other;
        self.turns += turns;
        self.turns_idle += turns_idle;
        self.segments_in += segments_in;
        self.segments_out += segments_out;
        self.retransmits += retransmits;
        self.segments_unknown += segments_unknown;
        self.resets_out += resets_out;
        self.too_big += too_big;
        self.cookies_out += cookies_out;
        self.active_opens += active_opens;
        self.passive_opens += passive_opens;
        self.bytes_in += bytes_in;
        self.bytes_out += bytes_out;
        self.bytes_copied_in += bytes_copied_in;
        self.bytes_copied_out += bytes_copied_out;
        for (sum, more) in self.drops.iter_mut().zip(drops) {
            *sum += more;
        }
    }

    /// One more packet dropped.
    pub(super) fn count_drop(&mut self, reason: Drop) {
        if let Some(n) = self.drops.get_mut(reason as usize) {
            *n += 1;
        }
    }
}
