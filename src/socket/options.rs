//! Socket options of sockets that luna serves: their values, and what they mean to the protocol.
//!
//! The kernel is the judge of what is valid: a value is first set on a kernel socket (the
//! socket's own twin, or one that is kept for the purpose) and read back from there, so limits,
//! rounding and errors are Linux's. Options that the kernel would act upon by itself and we
//! can't are refused.
#![forbid(unsafe_code)]

use libc::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, SOL_SOCKET};
use std::os::fd::RawFd;

use crate::sys::{self, Errno};
use crate::tcp;
use crate::time::Duration;

/// Most options that are remembered without an effect of ours.
const OTHERS_MAX: usize = 64;
/// The longest value that is remembered.
const VALUE_BYTES_MAX: usize = 128;

/// The values of a socket's options, in the units of their `getsockopt`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OptionSet {
    ints: [i32; INTS.len()],
    /// `SO_LINGER` in seconds.
    pub linger: Option<u32>,
    linger_raw: [i32; 2],
    /// `SO_RCVTIMEO`
    pub rcv_timeout: Option<Duration>,
    /// `SO_SNDTIMEO`
    pub snd_timeout: Option<Duration>,
    /// `TCP_CONGESTION`, once it was set.
    pub congestion: Option<tcp::CongestionControl>,
    /// `SO_MAX_PACING_RATE` in bytes per second, as the kernel shows it: all ones is no limit.
    max_pacing_rate: Option<u64>,
    /// Everything else that was set: level, name, and the value as the kernel shows it.
    others: Vec<(i32, i32, Vec<u8>)>,
}

macro_rules! ints {
    ($($(#[$doc:meta])* $field:ident = $level:expr, $name:expr;)*) => {
        /// An option whose value is an `int` and that we read at promotion.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each is named for the option that it is")]
        pub enum Int { $($(#[$doc])* $field),* }

        /// Level and name of each, in the order of [`Int`].
        const INTS: [(i32, i32); [$(Int::$field),*].len()] = [$(($level, $name)),*];
        const INT_LIST: [Int; INTS.len()] = [$(Int::$field),*];
    };
}

ints! {
    NoDelay = IPPROTO_TCP, libc::TCP_NODELAY;
    Cork = IPPROTO_TCP, libc::TCP_CORK;
    KeepAlive = SOL_SOCKET, libc::SO_KEEPALIVE;
    KeepIdle = IPPROTO_TCP, libc::TCP_KEEPIDLE;
    KeepInterval = IPPROTO_TCP, libc::TCP_KEEPINTVL;
    KeepCount = IPPROTO_TCP, libc::TCP_KEEPCNT;
    UserTimeout = IPPROTO_TCP, libc::TCP_USER_TIMEOUT;
    SynCount = IPPROTO_TCP, libc::TCP_SYNCNT;
    Linger2 = IPPROTO_TCP, libc::TCP_LINGER2;
    MaxSegment = IPPROTO_TCP, libc::TCP_MAXSEG;
    QuickAck = IPPROTO_TCP, libc::TCP_QUICKACK;
    DeferAccept = IPPROTO_TCP, libc::TCP_DEFER_ACCEPT;
    WindowClamp = IPPROTO_TCP, libc::TCP_WINDOW_CLAMP;
    NotSentLowWater = IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT;
    RcvBuf = SOL_SOCKET, libc::SO_RCVBUF;
    SndBuf = SOL_SOCKET, libc::SO_SNDBUF;
    RcvLowWater = SOL_SOCKET, libc::SO_RCVLOWAT;
    ReuseAddr = SOL_SOCKET, libc::SO_REUSEADDR;
    ReusePort = SOL_SOCKET, libc::SO_REUSEPORT;
    Priority = SOL_SOCKET, libc::SO_PRIORITY;
    Mark = SOL_SOCKET, libc::SO_MARK;
    OobInline = SOL_SOCKET, libc::SO_OOBINLINE;
    BusyPoll = SOL_SOCKET, libc::SO_BUSY_POLL;
    ZeroCopy = SOL_SOCKET, libc::SO_ZEROCOPY;
    Tos = IPPROTO_IP, libc::IP_TOS;
    Ttl = IPPROTO_IP, libc::IP_TTL;
    V6Only = IPPROTO_IPV6, libc::IPV6_V6ONLY;
    TrafficClass = IPPROTO_IPV6, libc::IPV6_TCLASS;
}

/// Options that change no other's value when they are set.
const INDEPENDENT: [Int; 16] = [
    Int::NoDelay,
    Int::Cork,
    Int::KeepAlive,
    Int::KeepIdle,
    Int::KeepInterval,
    Int::KeepCount,
    Int::UserTimeout,
    Int::SynCount,
    Int::Linger2,
    Int::QuickAck,
    Int::DeferAccept,
    Int::NotSentLowWater,
    Int::RcvLowWater,
    Int::ReuseAddr,
    Int::ReusePort,
    Int::OobInline,
];

/// Which options may have been set on a kernel socket since it was made: what must be read when
/// the socket becomes ours, for each is a system call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched(u32);

impl Touched {
    /// Any of them.
    pub const ANY: Self = Self(1 << 31);

    /// This one has been set.
    pub fn note(&mut self, level: i32, name: i32) {
        let independent = |at: &usize| INDEPENDENT.iter().any(|int| *int as usize == *at);
        self.0 |= match index_of(level, name).filter(independent) {
            Some(at) => 1 << at,
            None => Self::ANY.0,
        };
    }

    /// Whether any may have been.
    pub const fn is_any(self) -> bool {
        self.0 & Self::ANY.0 != 0
    }

    /// Whether one was.
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }

    fn has(self, at: usize) -> bool {
        self.0 & (1 << at) != 0
    }
}

const _: () = assert!(INTS.len() < 31);

/// `SO_RCVTIMEO` and `SO_SNDTIMEO` under their numbers for 64-bit time on 32-bit machines.
const RCVTIMEO_NEW: i32 = 66;
const SNDTIMEO_NEW: i32 = 67;
/// Options of which success would promise what does not happen.
const REFUSED: [(i32, i32); 10] = [
    (IPPROTO_TCP, libc::TCP_ULP),
    (IPPROTO_TCP, libc::TCP_MD5SIG),
    (IPPROTO_TCP, libc::TCP_REPAIR),
    (IPPROTO_TCP, libc::TCP_REPAIR_QUEUE),
    (IPPROTO_TCP, libc::TCP_REPAIR_OPTIONS),
    // TCP_MD5SIG_EXT and TCP_AO_ADD_KEY.
    (IPPROTO_TCP, 32),
    (IPPROTO_TCP, 38),
    (SOL_SOCKET, libc::SO_ATTACH_FILTER),
    (SOL_SOCKET, libc::SO_ATTACH_BPF),
    (IPPROTO_IPV6, libc::IPV6_ADDRFORM),
];

/// Whether luna can't honour the option and says so with `ENOPROTOOPT`.
pub fn is_refused(level: i32, name: i32) -> bool {
    REFUSED.contains(&(level, name))
}

fn index_of(level: i32, name: i32) -> Option<usize> {
    INTS.iter().position(|&known| known == (level, name))
}

fn words(bytes: &[u8]) -> [i64; 2] {
    let mut out = [0; 2];
    for (word, chunk) in out.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = i64::from_ne_bytes(chunk.try_into().unwrap_or_default());
    }
    out
}

/// A `struct timeval` as the kernel shows it: zero is no limit.
fn timeval(bytes: &[u8]) -> Option<Duration> {
    let [seconds, micros] = words(bytes);
    let total = Duration::from_secs(seconds.max(0).cast_unsigned())
        + Duration::from_micros(micros.max(0).cast_unsigned());
    (total > Duration::ZERO).then_some(total)
}

impl OptionSet {
    /// Reads what matters from a kernel socket. What it does not have (IPv6 options of an IPv4
    /// socket) stays zero.
    pub fn read(fd: RawFd) -> Self {
        let mut set = Self::default();
        for (value, (level, name)) in set.ints.iter_mut().zip(INTS) {
            *value = sys::getsockopt_int(fd, level, name).unwrap_or(0);
        }
        const LONGER: [i32; 4] = [
            libc::SO_LINGER,
            libc::SO_RCVTIMEO,
            libc::SO_SNDTIMEO,
            libc::SO_MAX_PACING_RATE,
        ];
        for name in LONGER {
            let mut value = [0; 16];
            if let Ok(len) = sys::getsockopt(fd, SOL_SOCKET, name, &mut value) {
                set.store(SOL_SOCKET, name, value.get(..len).unwrap_or(&value));
            }
        }
        set
    }

    /// Reads again what was touched; `self` is what an untouched socket has.
    #[must_use]
    pub fn reread(mut self, fd: RawFd, touched: Touched) -> Self {
        for (at, (value, (level, name))) in self.ints.iter_mut().zip(INTS).enumerate() {
            if touched.has(at) {
                *value = sys::getsockopt_int(fd, level, name).unwrap_or(0);
            }
        }
        self
    }

    /// Takes over what `earlier` remembers beyond the options that [`OptionSet::read`] asks for.
    pub fn keep_others(&mut self, earlier: &Self) {
        self.others.clone_from(&earlier.others);
    }

    /// Notes the value of an option beyond those, which was just set on a kernel socket.
    pub fn note(&mut self, fd: RawFd, level: i32, name: i32) {
        if is_refused(level, name) || index_of(level, name).is_some() {
            return;
        }
        let mut shown = [0; VALUE_BYTES_MAX];
        if let Ok(len) = sys::getsockopt(fd, level, name, &mut shown) {
            self.store(level, name, shown.get(..len).unwrap_or(&shown));
        }
    }

    /// The value of an `int` option.
    pub fn int(&self, option: Int) -> i32 {
        self.ints.get(option as usize).copied().unwrap_or(0)
    }

    /// Whether an `int` option is on.
    pub fn is_on(&self, option: Int) -> bool {
        self.int(option) != 0
    }

    /// `SO_MAX_PACING_RATE` in bytes per second: all ones is no limit.
    pub fn pacing_limit(&self) -> u64 {
        self.max_pacing_rate.unwrap_or(tcp::RATE_UNLIMITED)
    }

    /// Remembers a value as the kernel shows it.
    pub fn store(&mut self, level: i32, name: i32, value: &[u8]) {
        if let Some(slot) = index_of(level, name).and_then(|at| self.ints.get_mut(at)) {
            let mut int = [0; 4];
            for (to, from) in int.iter_mut().zip(value) {
                *to = *from;
            }
            *slot = i32::from_ne_bytes(int);
            return;
        }
        match (level, name) {
            (SOL_SOCKET, libc::SO_LINGER) => {
                let [pair, _] = words(value);
                let bytes = pair.to_ne_bytes();
                let [a, b, c, d, e, f, g, h] = bytes;
                self.linger_raw = [
                    i32::from_ne_bytes([a, b, c, d]),
                    i32::from_ne_bytes([e, f, g, h]),
                ];
                let [on, seconds] = self.linger_raw;
                self.linger = (on != 0).then_some(seconds.cast_unsigned());
            }
            (SOL_SOCKET, libc::SO_RCVTIMEO | RCVTIMEO_NEW) => self.rcv_timeout = timeval(value),
            (SOL_SOCKET, libc::SO_SNDTIMEO | SNDTIMEO_NEW) => self.snd_timeout = timeval(value),
            (SOL_SOCKET, libc::SO_MAX_PACING_RATE) => {
                let rate = value.first_chunk().copied().map(u64::from_ne_bytes);
                self.max_pacing_rate = rate;
            }
            _ => {
                self.others
                    .retain(|(other, number, _)| (*other, *number) != (level, name));
                if self.others.len() < OTHERS_MAX && value.len() <= VALUE_BYTES_MAX {
                    self.others.push((level, name, value.to_vec()));
                }
            }
        }
    }

    /// The value of an option, if it is one that we hold.
    pub fn value(&self, level: i32, name: i32) -> Option<Vec<u8>> {
        if let Some(at) = index_of(level, name) {
            return self.ints.get(at).map(|value| value.to_ne_bytes().to_vec());
        }
        let time = |limit: Option<Duration>| {
            let limit = limit.unwrap_or(Duration::ZERO);
            let micros = limit.as_micros() % 1_000_000;
            [limit.as_secs().to_ne_bytes(), micros.to_ne_bytes()].concat()
        };
        match (level, name) {
            (SOL_SOCKET, libc::SO_LINGER) => Some(self.linger_raw.map(i32::to_ne_bytes).concat()),
            (IPPROTO_TCP, libc::TCP_CONGESTION) => self.congestion.map(congestion_value),
            (SOL_SOCKET, libc::SO_RCVTIMEO | RCVTIMEO_NEW) => Some(time(self.rcv_timeout)),
            (SOL_SOCKET, libc::SO_SNDTIMEO | SNDTIMEO_NEW) => Some(time(self.snd_timeout)),
            (SOL_SOCKET, libc::SO_MAX_PACING_RATE) => {
                Some(self.pacing_limit().to_ne_bytes().to_vec())
            }
            _ => self
                .others
                .iter()
                .find(|(other, number, _)| (*other, *number) == (level, name))
                .map(|(_, _, value)| value.clone()),
        }
    }

    /// Sets an option: the kernel judges the value on `judge` and shows what became of it.
    ///
    /// # Errors
    ///
    /// What the kernel answers; `ENOPROTOOPT` for what luna can't honour.
    pub fn set(&mut self, judge: RawFd, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        if (level, name) == (IPPROTO_TCP, libc::TCP_ULP) {
            // As on a kernel that was built without the protocol.
            return Err(Errno::NOENT);
        }
        if is_refused(level, name) {
            return Err(Errno::NOPROTOOPT);
        }
        if (level, name) == (IPPROTO_TCP, libc::TCP_CONGESTION) {
            // Which there are is not for the kernel to say.
            self.congestion = Some(congestion_named(value).ok_or(Errno::NOENT)?);
            return Ok(());
        }
        sys::setsockopt(judge, level, name, value)?;
        let mut shown = [0; VALUE_BYTES_MAX];
        if let Ok(len) = sys::getsockopt(judge, level, name, &mut shown) {
            self.store(level, name, shown.get(..len).unwrap_or(&shown));
        }
        Ok(())
    }

    /// The settings of a connection: `base`, changed by what was set. `untouched` holds the
    /// kernel's defaults: a buffer size that equals them leaves the stack's own.
    pub fn apply(&self, base: &tcp::Config, untouched: &Self) -> tcp::Config {
        let mut config = base.clone();
        config.congestion = self.congestion.unwrap_or(base.congestion);
        config.max_pacing_rate = self.pacing_limit();
        config.nodelay = self.is_on(Int::NoDelay);
        config.cork = self.is_on(Int::Cork);
        config.keepalive = self.is_on(Int::KeepAlive).then(|| tcp::Keepalive {
            idle: seconds(self.int(Int::KeepIdle)),
            interval: seconds(self.int(Int::KeepInterval)),
            count: u8::try_from(self.int(Int::KeepCount)).unwrap_or(u8::MAX),
        });
        config.user_timeout = match self.int(Int::UserTimeout) {
            ms if ms > 0 => Some(Duration::from_millis(u64::from(ms.unsigned_abs()))),
            _ => None,
        };
        let changed = |option| {
            let value = self.int(option);
            (value > 0 && value != untouched.int(option)).then_some(value.unsigned_abs())
        };
        if let Some(count) = changed(Int::SynCount) {
            config.syn_retries = u8::try_from(count).unwrap_or(u8::MAX);
        }
        if let Some(limit) = changed(Int::Linger2) {
            config.fin_wait_2 = Duration::from_secs(u64::from(limit));
        }
        if let Some(mss) = changed(Int::MaxSegment) {
            config.mss_local = config.mss_local.min(u16::try_from(mss).unwrap_or(u16::MAX));
        }
        // The kernel shows twice what was asked for: the other half is its bookkeeping.
        if let Some(bytes) = changed(Int::RcvBuf) {
            config.set_receive_buffer(bytes / 2);
        }
        if let Some(bytes) = changed(Int::SndBuf) {
            config.set_send_buffer(bytes / 2);
        }
        if let Some(bytes) = changed(Int::WindowClamp) {
            config.rcv_buf_max_bytes = config.rcv_buf_max_bytes.min(bytes);
        }
        config
    }
}

/// The value of `TCP_CONGESTION` (`TCP_CA_NAME_MAX` is 16).
pub fn congestion_value(control: tcp::CongestionControl) -> Vec<u8> {
    let mut value = control.name().as_bytes().to_vec();
    value.resize(16, 0);
    value
}

/// The control that a value of `TCP_CONGESTION` names.
fn congestion_named(value: &[u8]) -> Option<tcp::CongestionControl> {
    let name = value.split(|byte| *byte == 0).next()?;
    tcp::CongestionControl::from_name(core::str::from_utf8(name).ok()?)
}

fn seconds(value: i32) -> Duration {
    Duration::from_secs(u64::from(value.max(1).unsigned_abs()))
}

/// All `int` options that are read at promotion.
pub fn int_options() -> impl Iterator<Item = (Int, i32, i32)> {
    INT_LIST
        .into_iter()
        .zip(INTS)
        .map(|(option, (level, name))| (option, level, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel_socket() -> RawFd {
        sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap()
    }

    #[test]
    fn the_kernel_judges_and_we_remember() {
        let judge = kernel_socket();
        let untouched = OptionSet::read(judge);
        let mut set = untouched.clone();
        assert!(!set.is_on(Int::NoDelay));
        set.set(judge, IPPROTO_TCP, libc::TCP_NODELAY, &7_i32.to_ne_bytes())
            .unwrap();
        assert_eq!(set.int(Int::NoDelay), 1, "Linux shows one");
        set.set(
            judge,
            SOL_SOCKET,
            libc::SO_RCVBUF,
            &10_000_i32.to_ne_bytes(),
        )
        .unwrap();
        assert_eq!(set.int(Int::RcvBuf), 20_000);
        let idle = IPPROTO_TCP;
        assert_eq!(
            set.set(judge, idle, libc::TCP_KEEPIDLE, &0_i32.to_ne_bytes()),
            Err(Errno::INVAL)
        );
        assert_eq!(
            set.set(judge, idle, libc::TCP_NODELAY, &[1, 0]),
            Err(Errno::INVAL)
        );
        assert_eq!(set.set(judge, idle, 999, &[0; 4]), Err(Errno::NOPROTOOPT));
        assert_eq!(
            set.set(judge, idle, libc::TCP_ULP, b"tls"),
            Err(Errno::NOENT)
        );
        set.set(judge, idle, libc::TCP_CONGESTION, b"reno").unwrap();
        assert!(
            set.value(idle, libc::TCP_CONGESTION)
                .unwrap()
                .starts_with(b"reno")
        );
        assert_eq!(
            set.set(judge, idle, libc::TCP_CONGESTION, b"bbr\0"),
            Err(Errno::NOENT)
        );
        set.set(judge, idle, libc::TCP_CONGESTION, b"hpcc").unwrap();
        let config = set.apply(&tcp::Config::default(), &untouched);
        assert_eq!(config.congestion, tcp::CongestionControl::Hpcc);
        assert!(config.nodelay);
        assert_eq!(config.rcv_buf_max_bytes, 10_000);
        assert_eq!(
            config.snd_buf_max_bytes,
            tcp::Config::default().snd_buf_max_bytes
        );
        sys::close(judge).unwrap();
    }

    #[test]
    fn times_and_linger_have_their_own_shapes() {
        let judge = kernel_socket();
        let mut set = OptionSet::read(judge);
        assert_eq!((set.linger, set.rcv_timeout), (None, None));
        let mut value = [0_u8; 16];
        value[0] = 2;
        value[8..12].copy_from_slice(&250_000_i32.to_ne_bytes());
        set.set(judge, SOL_SOCKET, libc::SO_RCVTIMEO, &value)
            .unwrap();
        // The kernel rounds up to its ticks.
        let limit = set.rcv_timeout.unwrap();
        assert!((2250..=2260).contains(&limit.as_millis()), "{limit:?}");
        let shown = set.value(SOL_SOCKET, libc::SO_RCVTIMEO).unwrap();
        assert_eq!(timeval(&shown), set.rcv_timeout);
        let linger = [1_i32.to_ne_bytes(), 0_i32.to_ne_bytes()].concat();
        set.set(judge, SOL_SOCKET, libc::SO_LINGER, &linger)
            .unwrap();
        assert_eq!(set.linger, Some(0));
        assert_eq!(set.value(SOL_SOCKET, libc::SO_LINGER).unwrap(), linger);
        sys::close(judge).unwrap();
    }

    #[test]
    fn every_int_option_is_where_it_says() {
        for (option, level, name) in int_options() {
            assert_eq!(index_of(level, name), Some(option as usize));
        }
    }
}
