//! The congestion controls there are, and their names.
#![forbid(unsafe_code)]

use super::{Algorithm, Cubic, Dctcp, Hpcc, NewReno};

/// A congestion control.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CongestionControl {
    /// RFC 5681 and RFC 6582. LUNA's own default (LUNA §9).
    #[default]
    NewReno,
    /// RFC 9438, with the slow start of RFC 9406.
    Cubic,
    /// RFC 8257. Needs a path that marks, and asks for ECN.
    Dctcp,
    /// HPCC (SIGCOMM '19; LUNA §9). Needs a path that reports how busy it is; without one it is
    /// NewReno.
    Hpcc,
}

impl CongestionControl {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::NewReno, Self::Cubic, Self::Dctcp, Self::Hpcc];

    /// The name that `TCP_CONGESTION` takes and gives: Linux's, where Linux has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NewReno => "reno",
            Self::Cubic => "cubic",
            Self::Dctcp => "dctcp",
            Self::Hpcc => "hpcc",
        }
    }

    /// Whether it says at what rate to send, besides how much.
    pub(crate) const fn is_paced(self) -> bool {
        matches!(self, Self::Hpcc)
    }

    /// The one that is called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }
}

/// The algorithm in use, with its state.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    NewReno(NewReno),
    Cubic(Cubic),
    Dctcp(Dctcp),
    Hpcc(Hpcc),
}

impl Kind {
    pub(super) const fn new(control: CongestionControl) -> Self {
        match control {
            CongestionControl::NewReno => Self::NewReno(NewReno::new()),
            CongestionControl::Cubic => Self::Cubic(Cubic::new()),
            CongestionControl::Dctcp => Self::Dctcp(Dctcp::new()),
            CongestionControl::Hpcc => Self::Hpcc(Hpcc::new()),
        }
    }

    pub(super) const fn control(&self) -> CongestionControl {
        match self {
            Self::NewReno(_) => CongestionControl::NewReno,
            Self::Cubic(_) => CongestionControl::Cubic,
            Self::Dctcp(_) => CongestionControl::Dctcp,
            Self::Hpcc(_) => CongestionControl::Hpcc,
        }
    }

    /// Whether the window is what the path holds without a queue.
    pub(super) const fn is_exact(&self) -> bool {
        match self {
            Self::Hpcc(a) => a.is_active(),
            Self::NewReno(_) | Self::Cubic(_) | Self::Dctcp(_) => false,
        }
    }

    pub(super) fn algorithm(&mut self) -> &mut dyn Algorithm {
        match self {
            Self::NewReno(a) => a,
            Self::Cubic(a) => a,
            Self::Dctcp(a) => a,
            Self::Hpcc(a) => a,
        }
    }
}
