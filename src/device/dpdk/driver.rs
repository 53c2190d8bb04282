//! The C driver and the EAL: loaded and started at the first device, once per process.
//!
//! The driver is a shared object inside this library ([`dpdk_sys::DRIVER`]), loaded from a memory
//! file. What DPDK's start changes in the calling thread (affinity, name, signal mask) is put
//! back, and its own threads get no signal of the application's.

use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicBool, Ordering};
use std::ffi::CString;
use std::os::fd::AsRawFd;

use dpdk_sys::luna_dpdk_table;
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, getpid};

use crate::sys::{ForkMutex, SignalSet, set_signal_mask};

/// What DPDK's threads are called: at first by us, and then by DPDK.
pub(crate) const THREAD_PREFIXES: [&str; 4] = ["luna-eal", "eal-", "rte_mp", "vhost"];

/// In MiB; without hugepages it is all there ever is.
const MEMORY_WITHOUT_HUGEPAGES: &str = "128";
/// So many free hugepages of 2 MiB are enough for the queues' headers.
const HUGEPAGES_MIN: u64 = 32;

/// The process's EAL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Eal {
    table: &'static luna_dpdk_table,
    owner: Pid,
}

static EAL: ForkMutex<Option<Eal>> = ForkMutex::new(None);
/// Set for good once it was tried: it can't be tried twice.
static FAILED: ForkMutex<Option<String>> = ForkMutex::new(None);

/// Set before the first of DPDK's threads runs.
static IN_USE: AtomicBool = AtomicBool::new(false);

/// Whether there may be threads of DPDK's.
#[inline]
pub(crate) fn is_in_use() -> bool {
    IN_USE.load(Ordering::Relaxed)
}

impl Eal {
    /// The functions.
    pub(super) fn table(&self) -> &'static luna_dpdk_table {
        self.table
    }

    /// Starts it if it is not up. `pci`: a device that must be looked for at the start.
    ///
    /// # Errors
    ///
    /// One line.
    pub(super) fn get(pci: Option<&str>) -> Result<Self, String> {
        let mut eal = EAL.lock();
        if let Some(eal) = *eal {
            if eal.owner == getpid() {
                return Ok(eal);
            }
            return Err("a child of a process that uses DPDK cannot use it".into());
        }
        if let Some(cause) = &*FAILED.lock() {
            return Err(cause.clone());
        }
        let started = load().and_then(|table| {
            start(table, pci)?;
            Ok(Self {
                table,
                owner: getpid(),
            })
        });
        match &started {
            Ok(up) => *eal = Some(*up),
            Err(cause) => *FAILED.lock() = Some(cause.clone()),
        }
        started
    }
}

/// Loads the driver, and DPDK with it.
fn load() -> Result<&'static luna_dpdk_table, String> {
    let in_memory = |errno| format!("no memory file for the DPDK driver: {errno}");
    let fd = rustix::fs::memfd_create("libluna_dpdk.so", MemfdFlags::CLOEXEC).map_err(in_memory)?;
    let mut rest = dpdk_sys::DRIVER;
    while !rest.is_empty() {
        let written = rustix::io::write(&fd, rest).map_err(in_memory)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    let path = CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let path = path.map_err(|_| "a path with a zero byte".to_owned())?;
    // SAFETY: a path; the library's constructors are DPDK's, which expect no more than to run
    // once. It is never unloaded.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() {
        return Err(format!(
            "DPDK cannot be loaded: {} (is it installed? Debian: apt-get install libdpdk-dev, or \
             librte-ethdev23 and the drivers librte-net-…)",
            load_error()
        ));
    }
    // SAFETY: a library that is loaded, and a name.
    let symbol = unsafe { libc::dlsym(library, dpdk_sys::TABLE_SYMBOL.as_ptr()) };
    let table = symbol.cast::<luna_dpdk_table>();
    // SAFETY: the symbol is a `luna_dpdk_table`, or there is none and the pointer null; never
    // unloaded, and constant.
    match unsafe { table.as_ref() } {
        Some(table) if table.version == dpdk_sys::luna_dpdk_table_version => Ok(table),
        _ => Err("the DPDK driver does not fit this library".into()),
    }
}

fn load_error() -> String {
    // SAFETY: no arguments; the text is this thread's until its next call.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "no reason given".into();
    }
    // SAFETY: not null: a string.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// Starts the EAL.
fn start(table: &'static luna_dpdk_table, pci: Option<&str>) -> Result<(), String> {
    IN_USE.store(true, Ordering::Relaxed);
    let arguments = arguments(pci);
    log::debug!("EAL: {}", arguments.join(" "));
    let strings: Result<Vec<CString>, _> = arguments.into_iter().map(CString::new).collect();
    let strings = strings.map_err(|_| "a DPDK argument with a zero byte".to_owned())?;
    // DPDK keeps pointers to them.
    let strings: &'static [CString] = strings.leak();
    let mut pointers: Vec<*mut c_char> = strings
        .iter()
        .map(|text| text.as_ptr().cast_mut())
        .collect();
    let count = pointers.len() as i32;
    pointers.push(core::ptr::null_mut());
    let init = table.eal_init.ok_or("the DPDK driver has no start")?;
    let result = {
        let _same_thread_as_before = Thread::lend();
        // SAFETY: as many strings as it says, with a null at the end, that live for ever; called
        // once per process.
        unsafe { init(count, pointers.leak().as_mut_ptr()) }
    };
    if result < 0 {
        let error = std::io::Error::from_raw_os_error(-result);
        return Err(format!(
            "DPDK does not start: {error} (more with LUNA_LOG=debug)"
        ));
    }
    if let Some(version) = table.dpdk_version {
        // SAFETY: no arguments; a string that lives for ever.
        let version = unsafe { CStr::from_ptr(version()) };
        log::info!("{}", version.to_string_lossy());
    }
    Ok(())
}

/// What is not left to DPDK's defaults: it shall keep to itself.
fn arguments(pci: Option<&str>) -> Vec<String> {
    let mut arguments: Vec<String> = ["luna", "--no-telemetry"].map(String::from).to_vec();
    let cpus = cpus();
    if !cpus.is_empty() {
        // One logical core, the calling thread: no workers.
        arguments.push(format!("--lcores=0@({cpus})"));
    }
    match pci {
        Some(address) => arguments.extend(["--allow".into(), address.into()]),
        None => arguments.extend(["--no-pci".into(), "--iova-mode=va".into()]),
    }
    // Either way no files that outlive the process, and no socket under /var/run.
    if free_hugepages() >= HUGEPAGES_MIN {
        // One file for all of it, which can be shared with a peer (virtio-user).
        arguments.extend(["--in-memory", "--single-file-segments"].map(String::from));
    } else {
        log::info!("DPDK runs without hugepages (vm.nr_hugepages reserves some)");
        arguments
            .extend(["--no-huge", "--no-shconf", "-m", MEMORY_WITHOUT_HUGEPAGES].map(String::from));
    }
    let level = if log::log_enabled!(log::Level::Debug) {
        "debug"
    } else {
        "error"
    };
    arguments.push(format!("--log-level={level}"));
    arguments
}

/// The processors of the calling thread, as DPDK lists them.
fn cpus() -> String {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else {
        return String::new();
    };
    (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|cpu| set.is_set(*cpu))
        .map(|cpu| cpu.to_string())
        .collect::<Vec<_>>()
        .join(",")
}

fn free_hugepages() -> u64 {
    let path = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// The calling thread's properties while DPDK has it; put back when dropped. For every call that
/// may start threads of DPDK's.
pub(super) struct Thread {
    signals: SignalSet,
    affinity: Option<rustix::thread::CpuSet>,
    name: Option<CString>,
}

impl Thread {
    pub(super) fn lend() -> Self {
        let name = rustix::thread::name().ok();
        // New threads inherit it, and are known by it (`THREAD_PREFIXES`).
        let _ = rustix::thread::set_name(c"luna-eal");
        Self {
            signals: set_signal_mask(SignalSet::ALL),
            affinity: rustix::thread::sched_getaffinity(None).ok(),
            name,
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(affinity) = &self.affinity {
            let _ = rustix::thread::sched_setaffinity(None, affinity);
        }
        if let Some(name) = &self.name {
            let _ = rustix::thread::set_name(name);
        }
        set_signal_mask(self.signals);
    }
}
