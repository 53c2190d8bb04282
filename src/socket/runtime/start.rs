//! Bringing the stack up, once, at the first promotion.
#![forbid(unsafe_code)]

mod bulletin;
mod fixed;
#[cfg(feature = "xdp")]
mod xdp;

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::crew::Manner;
use super::steward::{self, Chores};
use super::{RUNTIME, Runtime, dedicated};
use crate::config::{Config, DeviceSpec, Mode, Network};
use crate::device::memif::MemifConfig;
use crate::socket::policy;
use crate::sys::{self, ForkMutex};

const NOT_YET: u32 = 0;
const RUNNING: u32 = 1;
const DONE: u32 = 2;
const FAILED: u32 = 3;

/// Not a lock, so that a fork cannot leave it held: the child resets it.
static STATE: AtomicU32 = AtomicU32::new(NOT_YET);
static CAUSE: ForkMutex<String> = ForkMutex::new(String::new());

/// This process is the child of a fork, and starts for a listener that it has inherited.
static IS_WORKER: AtomicBool = AtomicBool::new(false);

/// How often and how long a child waits for its parent's device: together a third of a second,
/// for closing an AF_XDP socket takes the kernel a grace period.
const PARENT_TRIES: u32 = 16;
const PARENT_TRY_EVERY_NS: u64 = 20_000_000;

/// How often a thread looks whether another has finished starting.
const LOOK_EVERY_NS: u64 = 1_000_000;

/// Starts the shards if they are not up.
///
/// # Errors
///
/// The cause, as one line. It is final for this process.
pub fn start() -> Result<(), String> {
    loop {
        match STATE.load(Ordering::Acquire) {
            DONE => return Ok(()),
            FAILED => return Err(CAUSE.lock().clone()),
            NOT_YET => {
                let ours =
                    STATE.compare_exchange(NOT_YET, RUNNING, Ordering::AcqRel, Ordering::Relaxed);
                if ours.is_ok() {
                    return finish(bring_up());
                }
            }
            _ => {
                let _ = sys::ppoll(&mut [], Some(LOOK_EVERY_NS), None);
            }
        }
    }
}

/// As [`start`] in a child of a fork, whose parent may be about to let go of the device: tries
/// for a while.
///
/// # Errors
///
/// As `start`.
pub fn start_after_parent() -> Result<(), String> {
    // Once: a later attempt waits for no parent.
    let mut tries = if IS_WORKER.swap(true, Ordering::Relaxed) {
        0
    } else {
        PARENT_TRIES
    };
    loop {
        let _again = STATE.compare_exchange(FAILED, NOT_YET, Ordering::AcqRel, Ordering::Relaxed);
        let result = start();
        if result.is_ok() || tries == 0 {
            return result;
        }
        if let Err(cause) = &result {
            log::debug!("process {}: {cause}", sys::getpid());
        }
        tries -= 1;
        let _ = sys::ppoll(&mut [], Some(PARENT_TRY_EVERY_NS), None);
    }
}

fn finish(result: Result<(), String>) -> Result<(), String> {
    if let Err(cause) = &result {
        *CAUSE.lock() = cause.clone();
    }
    STATE.store(
        if result.is_ok() { DONE } else { FAILED },
        Ordering::Release,
    );
    result
}

/// In the child of a fork: as if nothing had been started.
pub(super) fn reset() {
    STATE.store(NOT_YET, Ordering::Release);
    #[cfg(feature = "xdp")]
    xdp::forget_prepared();
    IS_WORKER.store(false, Ordering::Relaxed);
}

fn bring_up() -> Result<(), String> {
    // As it was read at the first socket: nginx empties the environment of its workers.
    let config = policy::get().config.as_ref().ok_or("LUNA_DEV is not set")?;
    match &config.device {
        #[cfg(feature = "xdp")]
        DeviceSpec::Xdp { interface } => xdp::bring_up(config, interface),
        DeviceSpec::Memif {
            socket,
            role,
            address,
            prefix_len,
            mtu,
        } => {
            let network = Network {
                address: *address,
                prefix_len: *prefix_len,
                mtu: *mtu,
            };
            fixed::bring_up_memif(config, &MemifConfig::new(socket, *role, *mtu), &network)
        }
        #[cfg(feature = "dpdk")]
        DeviceSpec::Eal { arguments, network } => {
            fixed::bring_up_dpdk(config, arguments, false, network.as_ref())
        }
        #[cfg(feature = "dpdk")]
        DeviceSpec::Pci {
            address,
            kernel: None,
            network,
        } => fixed::bring_up_dpdk(config, address, true, network.as_ref()),
        other => Err(format!("device `{other}`: this build has no driver for it")),
    }
}

/// Opens what needs privileges, for a process that is about to give them up; [`start`] uses it.
/// Nothing happens if it has been done, or the stack runs, or is not wanted.
///
/// # Errors
///
/// The cause, as one line.
pub fn prepare() -> Result<(), String> {
    let Some(config) = policy::get().config.as_ref() else {
        return Ok(());
    };
    let is_idle = config.listen.is_empty() && config.connect.is_empty();
    if is_idle || STATE.load(Ordering::Acquire) != NOT_YET {
        return Ok(());
    }
    match &config.device {
        #[cfg(feature = "xdp")]
        DeviceSpec::Xdp { interface } => xdp::prepare(config, interface),
        _ => Ok(()),
    }
}

/// In the master of workers, when it has made one more: these ports are theirs.
pub(super) fn relieve_workers(ports: &[u16]) {
    let Some(config) = policy::get().config.as_ref() else {
        return;
    };
    match &config.device {
        #[cfg(feature = "xdp")]
        DeviceSpec::Xdp { interface } if !ports.is_empty() => {
            xdp::relieve_workers(interface, ports)
        }
        _ => {}
    }
}

/// How threads wait, as configured.
fn manner(config: &Config) -> Manner {
    Manner {
        spin: config.spin,
        busy: config.busy,
        steward_after: config.steward_after,
        dedicated: config.mode == Mode::Dedicated,
        ..Manner::default()
    }
}

/// Starts the threads of a runtime, and makes it the process's.
fn go(runtime: &'static Runtime, chores: Box<dyn Chores>) -> Result<(), String> {
    let failed = |error| format!("cannot start a thread: {error}");
    steward::start(&runtime.crew, chores).map_err(failed)?;
    if runtime.crew.manner.dedicated {
        dedicated::start(&&runtime.crew).map_err(failed)?;
    }
    RUNTIME.set(runtime);
    Ok(())
}

/// A shard's random bytes.
fn secret() -> Result<[u8; 32], String> {
    let mut secret = [0; 32];
    // So few bytes come all at once.
    rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| format!("no random numbers: {errno}"))?;
    Ok(secret)
}
