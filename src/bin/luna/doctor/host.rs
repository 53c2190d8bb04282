//! Checks of the machine and of this process's rights.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::run;

/// Numbers of capabilities (linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// The first kernel that attaches an XDP program by a link, which goes away with its process.
const KERNEL_NEEDED: (u32, u32) = (5, 9);
/// Locked memory that one shard's packet buffers may take.
const LOCKED_BYTES_NEEDED: u64 = 64 << 20;

pub(super) fn check() -> Vec<Finding> {
    let mut findings = vec![kernel(), libraries()];
    let capabilities = effective_capabilities();
    findings.push(rights(capabilities));
    findings.push(locked_memory(capabilities));
    findings.push(huge_pages());
    findings
}

/// The kernel's release, and its first two numbers.
pub(super) fn release() -> (String, (u32, u32)) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (release, version)
}

fn kernel() -> Finding {
    let (release, version) = release();
    if version >= KERNEL_NEEDED {
        Finding::ok(format!("kernel: Linux {release}"))
    } else {
        Finding::fail(
            format!("kernel: Linux {release} is too old for AF_XDP with a BPF link"),
            "use Linux 5.9 or newer",
        )
    }
}

fn libraries() -> Finding {
    let Some(preload) = run::library() else {
        return Finding::fail(
            "preload library: libluna_preload.so is neither beside this command nor in ../lib",
            "install with `make install`, or run the luna in target/release",
        );
    };
    let stack = preload.with_file_name("libluna.so");
    if stack.is_file() {
        Finding::ok(format!("preload library: {}", preload.display()))
    } else {
        Finding::fail(
            format!("stack: {} does not exist", stack.display()),
            "libluna.so must be in the directory of libluna_preload.so",
        )
    }
}

/// The set as a bit mask; none if it can't be read.
fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

const fn has(capabilities: u64, number: u32) -> bool {
    capabilities >> number & 1 == 1
}

fn rights(capabilities: u64) -> Finding {
    let mut missing = Vec::new();
    let needed = [
        (CAP_NET_ADMIN, "CAP_NET_ADMIN"),
        (CAP_NET_RAW, "CAP_NET_RAW"),
    ];
    missing.extend(
        needed
            .iter()
            .filter(|(bit, _)| !has(capabilities, *bit))
            .map(|(_, name)| *name),
    );
    if !has(capabilities, CAP_BPF) && !has(capabilities, CAP_SYS_ADMIN) {
        missing.push("CAP_BPF");
    }
    if missing.is_empty() {
        return Finding::ok("privileges: this user may open AF_XDP sockets and load the program");
    }
    Finding::fail(
        format!("privileges: {} missing", missing.join(", ")),
        "run as root, or as a service with AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW CAP_BPF \
         (file capabilities would switch the preload library off)",
    )
}

fn locked_memory(capabilities: u64) -> Finding {
    let limit = getrlimit(Resource::Memlock).current;
    match limit {
        None => Finding::ok("locked memory: unlimited"),
        Some(_) if has(capabilities, CAP_IPC_LOCK) => {
            Finding::ok("locked memory: unlimited (CAP_IPC_LOCK)")
        }
        Some(bytes) if bytes >= LOCKED_BYTES_NEEDED => {
            Finding::ok(format!("locked memory: {} MiB", bytes >> 20))
        }
        Some(bytes) => Finding::fail(
            format!(
                "locked memory: only {} KiB may be locked for packet buffers",
                bytes >> 10
            ),
            "ulimit -l unlimited, or LimitMEMLOCK=infinity in the service",
        ),
    }
}

fn huge_pages() -> Finding {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value = |name: &str| -> Option<u64> {
        let line = memory.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    };
    let (free, size_kib) = (value("HugePages_Free"), value("Hugepagesize"));
    match (free, size_kib) {
        (Some(free), Some(2048)) if free > 0 => {
            Finding::ok(format!("huge pages: {free} of 2 MiB are free"))
        }
        _ => Finding::warn(
            "huge pages: none of 2 MiB is free; buffers lie on ordinary or transparent ones",
            "sysctl vm.nr_hugepages=64 (2 MiB each; a shard takes 16 to begin with)",
        ),
    }
}
