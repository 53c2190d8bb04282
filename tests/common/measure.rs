//! What the kernel counts: TCP segments of a namespace, CPU time and context switches of a
//! process.

use std::time::Duration;

use super::netns::Netns;

/// The kernel's TCP counters of one namespace (`/proc/net/snmp`). Traffic of an accelerated
/// program leaves them where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelTcp {
    /// Segments received.
    pub in_segs: u64,
    /// Segments sent, retransmissions not counted.
    pub out_segs: u64,
    /// Segments retransmitted.
    pub retrans_segs: u64,
}

impl KernelTcp {
    /// Reads the counters.
    pub fn of(netns: &Netns) -> Self {
        let text = netns
            .enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp").expect("read snmp"));
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let names = lines
            .next()
            .expect("the names of the TCP counters")
            .split(' ');
        let values = lines
            .next()
            .expect("the values of the TCP counters")
            .split(' ');
        let counter = |wanted: &str| {
            let value = names
                .clone()
                .zip(values.clone())
                .find(|(name, _)| *name == wanted);
            value
                .expect("a counter of this name")
                .1
                .parse()
                .expect("a counter's value")
        };
        Self {
            in_segs: counter("InSegs"),
            out_segs: counter("OutSegs"),
            retrans_segs: counter("RetransSegs"),
        }
    }

    /// Segments in and out since an earlier reading.
    pub fn segments_since(&self, earlier: &Self) -> u64 {
        self.in_segs + self.out_segs - earlier.in_segs - earlier.out_segs
    }
}

/// What a process, all of its threads, has used so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Voluntary and involuntary context switches.
    pub switches: u64,
}

impl Usage {
    /// Reads the usage of a living process.
    pub fn of(pid: u32) -> Self {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("read a stat file");
        // The second field, the name, may hold spaces and brackets.
        let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks: u64 =
            fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
        let tick = Duration::from_secs(1)
            / u32::try_from(rustix::param::clock_ticks_per_second()).expect("a tick rate");
        let cpu = tick * u32::try_from(ticks).expect("a young process");
        Self {
            cpu,
            switches: switches(pid),
        }
    }
}

fn switches(pid: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("list threads");
    let of_status = |status: String| -> u64 {
        let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
        lines
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum()
    };
    threads
        .flatten()
        // A thread may end between listing and reading.
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok())
        .map(of_status)
        .sum()
}

/// The middle value of some measurements.
pub fn median(mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty(), "the median of nothing");
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
