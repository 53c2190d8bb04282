//! Why a socket is where it is: codes that `luna ss` and `luna_fd_info` show.
#![forbid(unsafe_code)]

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal $name:literal,)*) => {
        /// Why a socket is on the stack, or stays on the kernel. Codes and names are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant = $code,)*
        }

        impl Default for Reason {
            fn default() -> Self {
                Self::Undecided
            }
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The code, from its number; unknown numbers are undecided.
            pub const fn from_code(code: u8) -> Self {
                match code {
                    $($code => Self::$variant,)*
                    _ => Self::Undecided,
                }
            }

            /// The name that tools print.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// A sentence for people.
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)*
                }
            }
        }
    };
}

reasons! {
    /// Not decided: neither `listen()` nor `connect()` was called.
    Undecided = 0 "undecided",
    /// The local port of a listener is in none of the `LUNA_LISTEN` ranges.
    PortNotListed = 1 "port_not_listed",
    /// The listener's address is neither unspecified nor one of the device's.
    AddressNotOurs = 2 "address_not_ours",
    /// No `LUNA_CONNECT` rule matches the destination.
    NoRule = 3 "no_rule",
    /// The destination is this host or a loopback address.
    LocalDestination = 4 "local_destination",
    /// The route to the destination leaves over another interface.
    OtherRoute = 5 "other_route",
    /// The socket was bound to a port outside our client range before `connect()`.
    BoundElsewhere = 6 "bound_elsewhere",
    /// Every client port is in use.
    NoClientPort = 7 "no_client_port",
    /// The stack could not start (the cause was printed).
    NotStarted = 8 "not_started",
    /// Inherited from a parent process over `fork`.
    ChildProcess = 9 "child_process",
    /// The stack refused (a table is full, or the address is taken there).
    Refused = 10 "refused",
    /// Accepted by the kernel's half of a listener (loopback, or a mis-steered client).
    AcceptedByKernel = 11 "accepted_by_kernel",
    /// A feature of this socket exists on the kernel only.
    Unsupported = 12 "unsupported",
    /// On the stack.
    Accelerated = 13 "accelerated",
    /// There is no such device, or it is down.
    NoDevice = 14 "no_device",
    /// The process may not open the device (CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF).
    NoPrivilege = 15 "no_privilege",
    /// There is no route to the destination.
    NoRoute = 16 "no_route",
    /// Not TCP: only stream sockets are accelerated.
    NotTcp = 17 "not_tcp",
    /// A listener that nobody has waited on yet: the stack starts when somebody does.
    NotUsedYet = 18 "not_used_yet",
    /// The program serves each connection from a forked child (`LUNA_FORKING`).
    ForkPerConnection = 19 "fork_per_connection",
    /// The program hands connections of this port to another process (`SCM_RIGHTS`).
    PassesConnections = 20 "passes_connections",
}
