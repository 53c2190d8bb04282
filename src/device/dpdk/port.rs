//! Ports and their queues, as safe values over the driver's table.

use core::ffi::{c_int, c_void};
use core::ptr::NonNull;
use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk_sys::{
    luna_dpdk_limits, luna_dpdk_piece, luna_dpdk_queue, luna_dpdk_queue_setup, luna_dpdk_segment,
    luna_dpdk_setup, luna_dpdk_stats, luna_dpdk_table,
};

use super::driver::{Eal, Thread};
use crate::zbuf::Pool;

/// A port that was set up. Stopped and closed with its first queue.
#[derive(Debug)]
pub(super) struct Port {
    table: &'static luna_dpdk_table,
    number: u16,
    limits: luna_dpdk_limits,
    closed: AtomicBool,
}

/// Calls a function of the table, or says that it is missing.
macro_rules! call {
    ($table:expr, $name:ident ( $($argument:expr),* )) => {
        match $table.$name {
            // SAFETY: arguments as shim.h describes them: what each pointer points to lives
            // longer than the call, with as many elements as the count beside it says. `queue`
            // is open: `Queue` frees it when it is dropped. One thread at a time is inside a
            // queue: `Queue` needs `&mut`.
            Some(function) => unsafe { function($($argument),*) },
            None => unreachable!("the driver's table is complete"),
        }
    };
}

/// The kernel's numbers for what went wrong, as text.
fn checked(result: c_int, action: &str) -> Result<c_int, String> {
    if result >= 0 {
        return Ok(result);
    }
    let error = std::io::Error::from_raw_os_error(result.saturating_neg());
    Err(format!("cannot {action}: {error}"))
}

impl Port {
    /// Finds, or makes, the device that `devargs` describe.
    pub(super) fn probe(devargs: &str, pci: Option<&str>) -> Result<Self, String> {
        let table = Eal::get(pci)?.table();
        let name = devargs.split(',').next().unwrap_or(devargs);
        let c = |text: &str| CString::new(text).map_err(|_| "a zero byte in its name".to_owned());
        let (devargs, name) = (c(devargs)?, c(name)?);
        let _same_thread_as_before = Thread::lend();
        let number = checked(
            call!(table, port_probe(devargs.as_ptr(), name.as_ptr())),
            "find or make the device (is its name right, and its driver installed?)",
        )?;
        let mut limits = luna_dpdk_limits::default();
        checked(
            call!(table, port_limits(number as u16, &raw mut limits)),
            "ask for its limits",
        )?;
        Ok(Self {
            table,
            number: number as u16,
            limits,
            closed: AtomicBool::new(false),
        })
    }

    pub(super) fn limits(&self) -> &luna_dpdk_limits {
        &self.limits
    }

    /// The driver's name.
    pub(super) fn driver(&self) -> String {
        let name = self.limits.driver.map(|byte| byte as u8);
        let end = name.iter().position(|byte| *byte == 0);
        let name = name.get(..end.unwrap_or(name.len()));
        String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
    }

    pub(super) fn set_up(&self, setup: &luna_dpdk_setup) -> Result<(), String> {
        let _same_thread_as_before = Thread::lend();
        checked(
            call!(self.table, port_setup(self.number, setup)),
            "set it up",
        )
        .map(drop)
    }

    pub(super) fn start(&self) -> Result<(), String> {
        let _same_thread_as_before = Thread::lend();
        checked(call!(self.table, port_start(self.number)), "start it").map(drop)
    }

    pub(super) fn is_up(&self) -> bool {
        !self.is_closed() && call!(self.table, port_link(self.number)) == 1
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn stats(&self) -> luna_dpdk_stats {
        let mut stats = luna_dpdk_stats::default();
        if !self.is_closed() {
            let _unknown = call!(self.table, port_stats(self.number, &raw mut stats));
        }
        stats
    }

    /// Stops and closes it, once.
    pub(super) fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Err(error) = checked(call!(self.table, port_close(self.number)), "close it") {
            log::warn!("port {}: {error}", self.number);
        }
    }
}

/// What a queue has to receive into and to send from.
#[derive(Debug)]
pub(super) struct Buffers {
    pub(super) rx: u32,
    pub(super) tx: u32,
    pub(super) tx_descriptors: u16,
    /// The device sees DPDK's own memory only.
    pub(super) private_memory: bool,
}

/// One queue each way.
#[derive(Debug)]
pub(super) struct Queue {
    port: Arc<Port>,
    queue: NonNull<luna_dpdk_queue>,
}

impl Queue {
    /// Opens queue `number` of a port that is set up and not started, over the pool's memory.
    pub(super) fn open(
        port: &Arc<Port>,
        number: u16,
        pool: &Pool,
        buffers: &Buffers,
    ) -> Result<Self, String> {
        let (memory, memory_bytes) = pool.umem();
        let setup = luna_dpdk_queue_setup {
            memory: memory.cast(),
            memory_bytes: memory_bytes as u64,
            buffer_bytes: pool.rx_object_bytes() as u32,
            rx_buffers: buffers.rx,
            tx_buffers: buffers.tx,
            tx_descriptors: buffers.tx_descriptors,
            port: port.number,
            queue: number,
            private_memory: buffers.private_memory.into(),
        };
        let mut error = 0;
        let queue = call!(port.table, queue_open(&raw const setup, &raw mut error));
        match NonNull::new(queue) {
            Some(queue) => Ok(Self {
                port: Arc::clone(port),
                queue,
            }),
            None => Err(checked(error, "open a queue").err().unwrap_or_default()),
        }
    }

    pub(super) fn port(&self) -> &Port {
        &self.port
    }

    /// Sets the port's queue up. It has its buffers by then.
    pub(super) fn set_up(&mut self) -> Result<(), String> {
        let result = call!(self.port.table, queue_set_up(self.queue.as_ptr()));
        checked(result, "set a queue up").map(drop)
    }

    pub(super) fn rx_wanted(&self) -> usize {
        call!(self.port.table, rx_wanted(self.queue.as_ptr())) as usize
    }

    /// Gives it objects to receive into; how many it took.
    ///
    /// # Safety
    /// Each is a whole receive object of the pool that the queue was opened over, and the caller's
    /// reference to it passes to the queue.
    pub(super) unsafe fn rx_refill(&mut self, buffers: &[*mut c_void]) -> usize {
        let count = buffers.len() as u32;
        call!(
            self.port.table,
            rx_refill(self.queue.as_ptr(), buffers.as_ptr(), count)
        ) as usize
    }

    pub(super) fn rx_burst(&mut self, out: &mut [luna_dpdk_segment], frames: usize) -> usize {
        let (room, frames) = (out.len() as u32, frames as u32);
        call!(
            self.port.table,
            rx_burst(self.queue.as_ptr(), out.as_mut_ptr(), room, frames)
        ) as usize
    }

    /// Lets go of foreign segments.
    pub(super) fn rx_release(&mut self) {
        call!(self.port.table, rx_release(self.queue.as_ptr()));
    }

    /// Sends; how many frames.
    ///
    /// # Safety
    /// Pieces that are not copied lie in the pool's memory, and stay valid until their cookies
    /// come back.
    pub(super) unsafe fn tx_burst(&mut self, pieces: &[luna_dpdk_piece]) -> usize {
        let count = pieces.len() as u32;
        call!(
            self.port.table,
            tx_burst(self.queue.as_ptr(), pieces.as_ptr(), count)
        ) as usize
    }

    pub(super) fn completions(&mut self, out: &mut [u64]) -> usize {
        let room = out.len() as u32;
        call!(
            self.port.table,
            completions(self.queue.as_ptr(), out.as_mut_ptr(), room)
        ) as usize
    }

    pub(super) fn rx_reclaim(&mut self, out: &mut [*mut c_void]) -> usize {
        let room = out.len() as u32;
        call!(
            self.port.table,
            rx_reclaim(self.queue.as_ptr(), out.as_mut_ptr(), room)
        ) as usize
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Nothing may use its memory any more.
        self.port.close();
        call!(self.port.table, queue_free(self.queue.as_ptr()));
    }
}
