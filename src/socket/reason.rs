//! Why a socket is where it is: codes that `luna ss` and `luna_fd_info` show.
#![forbid(unsafe_code)]

/// Why a socket stays on the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Reason {
    /// Not decided: neither `listen()` nor `connect()` was called.
    #[default]
    Undecided = 0,
    /// The local port of a listener is in none of the `LUNA_LISTEN` ranges.
    PortNotListed = 1,
    /// The listener's address is neither unspecified nor one of the device's.
    AddressNotOurs = 2,
    /// No `LUNA_CONNECT` rule matches the destination.
    NoRule = 3,
    /// The destination is this host or a loopback address.
    LocalDestination = 4,
    /// The route to the destination leaves over another interface.
    OtherRoute = 5,
    /// The socket was bound to a port outside our client range before `connect()`.
    BoundElsewhere = 6,
    /// Every client port is in use.
    NoClientPort = 7,
    /// The stack could not start (the cause was printed).
    NotStarted = 8,
    /// Inherited from a parent process over `fork`.
    ChildProcess = 9,
    /// The stack refused (a table is full, or the address is taken there).
    Refused = 10,
    /// Accepted by the kernel's half of a listener (loopback, or a mis-steered client).
    AcceptedByKernel = 11,
    /// A feature of this socket exists on the kernel only.
    Unsupported = 12,
}

impl Reason {
    /// The code, from its number; unknown numbers are undecided.
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::PortNotListed,
            2 => Self::AddressNotOurs,
            3 => Self::NoRule,
            4 => Self::LocalDestination,
            5 => Self::OtherRoute,
            6 => Self::BoundElsewhere,
            7 => Self::NoClientPort,
            8 => Self::NotStarted,
            9 => Self::ChildProcess,
            10 => Self::Refused,
            11 => Self::AcceptedByKernel,
            12 => Self::Unsupported,
            _ => Self::Undecided,
        }
    }

    /// The name that tools print.
    pub fn name(self) -> &'static str {
        self.c_name().to_str().unwrap_or_default()
    }

    /// The name as a C string.
    pub const fn c_name(self) -> &'static core::ffi::CStr {
        match self {
            Self::Undecided => c"undecided",
            Self::PortNotListed => c"port_not_listed",
            Self::AddressNotOurs => c"address_not_ours",
            Self::NoRule => c"no_rule",
            Self::LocalDestination => c"local_destination",
            Self::OtherRoute => c"other_route",
            Self::BoundElsewhere => c"bound_elsewhere",
            Self::NoClientPort => c"no_client_port",
            Self::NotStarted => c"not_started",
            Self::ChildProcess => c"child_process",
            Self::Refused => c"refused",
            Self::AcceptedByKernel => c"accepted_by_kernel",
            Self::Unsupported => c"unsupported",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip() {
        for code in 0..=12 {
            assert_eq!(Reason::from_code(code) as u8, code);
            assert!(!Reason::from_code(code).name().is_empty());
        }
        assert_eq!(Reason::from_code(200), Reason::Undecided);
    }
}
