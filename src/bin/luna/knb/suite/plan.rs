//! Which runs each table consists of.

use clap::ValueEnum;

/// A table of docs/BENCHMARKS.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Table {
    /// Raw frames over memif and AF_XDP: the limit of each link
    Link,
    /// Requests over memif, beside three kernels and smoltcp
    Rpc,
    /// A connection for each request
    Short,
    /// Requests over AF_XDP on veth, MTU 1500 and 9000
    Xdp,
    /// redis and memcached, unmodified
    Apps,
    /// The curves of `make figures`
    Figures,
}

impl Table {
    pub(crate) fn all() -> Vec<Self> {
        vec![Self::Link, Self::Rpc, Self::Short, Self::Xdp, Self::Apps]
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Rpc => "rpc",
            Self::Short => "short",
            Self::Xdp => "xdp",
            Self::Apps => "apps",
            Self::Figures => "figures",
        }
    }

    pub(crate) fn runs(self) -> Vec<Run> {
        match self {
            Self::Link => link(),
            Self::Rpc => rpc(),
            Self::Short => short(),
            Self::Xdp => xdp(),
            Self::Apps => apps(),
            Self::Figures => figures(),
        }
    }
}

/// Whose TCP, over which link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Kernel,
    KernelSpin,
    KernelBare,
    Inline,
    Batch,
    Dedicated,
    Smoltcp,
    /// No TCP at all, over memif.
    RawMemif,
    /// No TCP at all, over AF_XDP.
    RawXdp,
    /// luna on both sides, over AF_XDP.
    Xdp,
    /// The same, run by the inline loop.
    XdpInline,
    /// A kernel client, and luna over AF_XDP as the server.
    KernelToXdp,
    /// The same, while the kernel's lists of free pages are short.
    KernelToXdpShortLists,
}

impl Variant {
    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::KernelSpin => "kernel-spin",
            Self::KernelBare => "kernel-bare",
            Self::Inline => "inline",
            Self::Batch => "batch",
            Self::Dedicated => "dedicated",
            Self::Smoltcp => "smoltcp",
            Self::RawMemif => "raw-memif",
            Self::RawXdp => "raw-xdp",
            Self::Xdp => "xdp",
            Self::XdpInline => "xdp-inline",
            Self::KernelToXdp => "kernel-to-xdp",
            Self::KernelToXdpShortLists => "kernel-to-xdp-short-lists",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::KernelSpin => "kernel, spinning",
            Self::KernelBare => "kernel, no offloads",
            Self::Inline => "luna inline, zero copy",
            Self::Batch => "luna batch, copying",
            Self::Dedicated => "luna dedicated, copying",
            Self::Smoltcp => "smoltcp",
            Self::RawMemif => "raw frames, memif",
            Self::RawXdp => "raw frames, AF_XDP",
            Self::Xdp => "luna ↔ luna, batch",
            Self::XdpInline => "luna ↔ luna, inline",
            Self::KernelToXdp => "kernel client → luna",
            Self::KernelToXdpShortLists => "the same, short page lists",
        }
    }

    /// All, in the order of the tables.
    pub(crate) const ALL: [Self; 13] = [
        Self::Kernel,
        Self::KernelSpin,
        Self::KernelBare,
        Self::Smoltcp,
        Self::Batch,
        Self::Dedicated,
        Self::Inline,
        Self::KernelToXdp,
        Self::KernelToXdpShortLists,
        Self::Xdp,
        Self::XdpInline,
        Self::RawMemif,
        Self::RawXdp,
    ];
}

/// What is done in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Rpc {
        size: u32,
        connections: u32,
        iodepth: u32,
        threads: u16,
    },
    /// Connect, one exchange, close: so many at a time.
    Short {
        connections: u32,
    },
    /// So many frames there and back.
    Raw {
        frames: u32,
        bytes: u32,
    },
    Redis,
    Memcached,
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) cell: String,
    pub(crate) variant: Variant,
    pub(crate) mtu: u32,
    pub(crate) work: Work,
}

fn runs(cell: &str, mtu: u32, work: Work, variants: &[Variant]) -> Vec<Run> {
    variants
        .iter()
        .map(|&variant| Run {
            cell: cell.to_owned(),
            variant,
            mtu,
            work,
        })
        .collect()
}

/// A size for people.
pub(crate) fn bytes(size: u32) -> String {
    match size {
        size if size >= 1024 && size.is_multiple_of(1024) => format!("{} KB", size / 1024),
        size => format!("{size} B"),
    }
}

fn rpc_cell(size: u32, connections: u32, iodepth: u32) -> (String, Work) {
    let cell = format!("{} {connections}x{iodepth}", bytes(size));
    (
        cell,
        Work::Rpc {
            size,
            connections,
            iodepth,
            threads: 1,
        },
    )
}

fn link() -> Vec<Run> {
    let mut all = Vec::new();
    for (frames, bytes) in [(1, 64), (1, 1514), (3, 1514), (16, 1514), (48, 1514)] {
        let cell = format!("{frames} x {bytes} B");
        let work = Work::Raw { frames, bytes };
        all.extend(runs(
            &cell,
            1500,
            work,
            &[Variant::RawMemif, Variant::RawXdp],
        ));
    }
    all.extend(runs(
        "16 x 64 B",
        1500,
        Work::Raw {
            frames: 16,
            bytes: 64,
        },
        &[Variant::RawMemif],
    ));
    all
}

fn rpc() -> Vec<Run> {
    use Variant::{Batch, Inline, Kernel, KernelBare, KernelSpin, Smoltcp};
    let mut all = Vec::new();
    for size in [64, 4096, 65_536] {
        for (connections, iodepth) in [(1, 1), (8, 1), (1, 16), (16, 16)] {
            let (cell, work) = rpc_cell(size, connections, iodepth);
            let variants = [Kernel, KernelSpin, KernelBare, Smoltcp, Batch, Inline];
            all.extend(runs(&cell, 1500, work, &variants));
        }
    }
    all
}

fn short() -> Vec<Run> {
    use Variant::{Batch, Inline, Kernel, KernelSpin, Xdp};
    let mut all = Vec::new();
    for connections in [1, 16] {
        let cell = format!("64 B, {connections} at a time");
        let variants = [Kernel, KernelSpin, Batch, Inline, Xdp];
        all.extend(runs(&cell, 1500, Work::Short { connections }, &variants));
    }
    all
}

fn xdp() -> Vec<Run> {
    use Variant::{Kernel, KernelSpin, KernelToXdp, KernelToXdpShortLists, Xdp, XdpInline};
    let mut all = Vec::new();
    for mtu in [1500, 9000] {
        for (size, connections, iodepth) in [(64, 1, 1), (4096, 1, 1), (4096, 16, 16)] {
            let (cell, work) = rpc_cell(size, connections, iodepth);
            let cell = format!("MTU {mtu}, {cell}");
            let variants = [
                Kernel,
                KernelSpin,
                KernelToXdp,
                KernelToXdpShortLists,
                Xdp,
                XdpInline,
            ];
            all.extend(runs(&cell, mtu, work, &variants));
        }
    }
    all
}

fn apps() -> Vec<Run> {
    use Variant::{Batch, Kernel, KernelToXdp, Xdp};
    let mut all = Vec::new();
    for (cell, work) in [("redis", Work::Redis), ("memcached", Work::Memcached)] {
        all.extend(runs(cell, 1500, work, &[Kernel, KernelToXdp, Xdp, Batch]));
    }
    all
}

/// The sizes, depths and threads that the figures draw.
pub(crate) const SIZES: [u32; 8] = [64, 256, 1024, 2048, 4096, 8192, 16_384, 65_536];
pub(crate) const DEPTHS: [u32; 6] = [1, 2, 4, 8, 16, 32];

/// Cores of one side, as a figure's abscissa: half of the machine.
pub(crate) fn cores_per_side() -> Vec<u16> {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let most = u16::try_from(all / 2).unwrap_or(1).clamp(1, 16);
    (0..5)
        .map(|power| 1 << power)
        .filter(|&cores| cores <= most)
        .collect()
}

fn figures() -> Vec<Run> {
    use Variant::{Batch, Inline, Kernel, KernelSpin, Smoltcp};
    let variants = [Kernel, KernelSpin, Smoltcp, Batch, Inline];
    let mut all = Vec::new();
    for size in SIZES {
        let work = Work::Rpc {
            size,
            connections: 1,
            iodepth: 1,
            threads: 1,
        };
        all.extend(runs(&format!("size {size}"), 1500, work, &variants));
    }
    for iodepth in DEPTHS {
        let work = Work::Rpc {
            size: 4096,
            connections: 1,
            iodepth,
            threads: 1,
        };
        all.extend(runs(&format!("iodepth {iodepth}"), 1500, work, &variants));
    }
    for threads in cores_per_side() {
        let work = Work::Rpc {
            size: 4096,
            connections: 1,
            iodepth: 1,
            threads,
        };
        let variants = [Kernel, KernelSpin, Batch, Inline];
        all.extend(runs(&format!("cores {threads}"), 1500, work, &variants));
    }
    all
}
