//! A recorder: wraps any device and writes what passes to a pcapng file.
//!
//! Where nobody records, nobody wraps, and it costs nothing. A file that cannot be written ends
//! the recording, never the traffic. Knows nothing of what is in a frame.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{BufWriter, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};

use super::{Capabilities, Device, DeviceStats, RxFrame, TxFrame};
use crate::time::{Clock, Duration};
use crate::zbuf::{Pool, Slice};

/// How to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureConfig {
    /// What to call the link in the file.
    pub interface: String,
    /// How much of each frame to keep.
    pub snap_bytes: u32,
    /// How much to write in all; then the recording ends.
    pub file_bytes_max: u64,
    /// The clock's origin, as time since 1970 began: zero keeps the clock's own times.
    pub epoch: Duration,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self {
            interface: "luna".into(),
            snap_bytes: 65535,
            file_bytes_max: 1 << 30,
            epoch: Duration::ZERO,
        }
    }
}

/// Option "flags" of a packet block: the packet was received.
const INBOUND: u32 = 1;
/// The packet was sent.
const OUTBOUND: u32 = 2;
/// Option "if_tsresol": the power of ten that times count in.
const NANOSECONDS: u8 = 9;
/// A packet block's bytes besides the packet, rounded up.
const BLOCK_BYTES: u64 = 48;
/// What is collected before it is written.
const BUFFER_BYTES: usize = 256 << 10;

/// A device that is being recorded. Frames sent are recorded when the device takes them, with
/// their checksums as they are then.
#[derive(Debug)]
pub struct Capture<D, C, W: Write = CaptureFile> {
    inner: D,
    clock: C,
    recorder: Recorder<W>,
    offered: Vec<TxFrame>,
}

impl<D: Device, C: Clock> Capture<D, C> {
    /// Records to the file `path`, which is overwritten if it exists.
    ///
    /// # Errors
    /// The file cannot be created or written.
    pub fn create(inner: D, clock: C, path: &Path, config: CaptureConfig) -> std::io::Result<Self> {
        let file = CaptureFile::create(path)?;
        Self::to_writer(inner, clock, file, config)
    }
}

impl<D: Device, C: Clock, W: Write> Capture<D, C, W> {
    /// Records to `writer`, which this buffers.
    ///
    /// # Errors
    /// The writer's own, of the file's head.
    pub fn to_writer(
        inner: D,
        clock: C,
        writer: W,
        config: CaptureConfig,
    ) -> std::io::Result<Self> {
        let recorder = Recorder::new(writer, config).map_err(io_error)?;
        Ok(Self {
            inner,
            clock,
            recorder,
            offered: Vec::new(),
        })
    }

    /// Why the recording has ended, if it has.
    pub fn ended(&self) -> Option<&str> {
        self.recorder.ended.as_deref()
    }

    /// Writes out what has been collected.
    pub fn write_out(&mut self) {
        self.recorder.write_out();
    }

    /// The device itself.
    pub fn inner(&self) -> &D {
        &self.inner
    }
}

impl<D: Device, C: Clock, W: Write> Device for Capture<D, C, W> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn rx_burst(&mut self, pool: &mut Pool, frames: &mut Vec<RxFrame>, room: usize) -> usize {
        let before = frames.len();
        let received = self.inner.rx_burst(pool, frames, room);
        if received > 0 && self.recorder.is_open() {
            let now = self.clock.now().as_nanos();
            for frame in frames.iter().skip(before) {
                let pieces = frame.pieces.iter().map(Slice::as_bytes);
                self.recorder.record(now, INBOUND, pieces);
            }
        }
        received
    }

    fn tx_burst(&mut self, pool: &mut Pool, frames: &mut VecDeque<TxFrame>) -> usize {
        if frames.is_empty() || !self.recorder.is_open() {
            return self.inner.tx_burst(pool, frames);
        }
        // The device keeps what it takes, and says only afterwards how much that was.
        self.offered.extend(frames.iter().cloned());
        let taken = self.inner.tx_burst(pool, frames);
        let now = self.clock.now().as_nanos();
        for frame in self.offered.drain(..).take(taken) {
            let payload = frame.payload.iter().map(Slice::as_bytes);
            let header = core::iter::once(frame.header.as_slice());
            self.recorder.record(now, OUTBOUND, header.chain(payload));
        }
        taken
    }

    fn flush(&mut self, pool: &mut Pool) {
        self.inner.flush(pool);
    }

    fn arm(&mut self) -> bool {
        // There is time now.
        self.recorder.write_out();
        self.inner.arm()
    }

    fn wait_fds(&self) -> &[RawFd] {
        self.inner.wait_fds()
    }

    fn stats(&self) -> DeviceStats {
        self.inner.stats()
    }

    fn close(&mut self, pool: &mut Pool) {
        self.inner.close(pool);
    }
}

/// The file's side.
struct Recorder<W: Write> {
    /// `None` once the recording has ended.
    writer: Option<PcapNgWriter<BufWriter<W>>>,
    ended: Option<String>,
    config: CaptureConfig,
    written: u64,
    packet: Vec<u8>,
}

impl<W: Write> core::fmt::Debug for Recorder<W> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Recorder")
            .field("config", &self.config)
            .field("written", &self.written)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl<W: Write> Recorder<W> {
    fn new(writer: W, config: CaptureConfig) -> Result<Self, PcapError> {
        let mut writer = PcapNgWriter::new(BufWriter::with_capacity(BUFFER_BYTES, writer))?;
        writer.write_pcapng_block(InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: config.snap_bytes,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(config.interface.as_str())),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        })?;
        writer.get_mut().flush().map_err(PcapError::IoError)?;
        Ok(Self {
            writer: Some(writer),
            ended: None,
            config,
            written: 0,
            packet: Vec::new(),
        })
    }

    fn is_open(&self) -> bool {
        self.writer.is_some()
    }

    fn record<'a>(&mut self, now_ns: u64, flags: u32, parts: impl Iterator<Item = &'a [u8]>) {
        let Some(writer) = &mut self.writer else {
            return;
        };
        let snap = self.config.snap_bytes as usize;
        self.packet.clear();
        let mut bytes = 0;
        for part in parts {
            bytes += part.len();
            let kept = part.len().min(snap - self.packet.len());
            self.packet
                .extend_from_slice(part.get(..kept).unwrap_or_default());
        }
        self.written += BLOCK_BYTES + self.packet.len() as u64;
        if self.written > self.config.file_bytes_max {
            self.write_out();
            self.end("the file has reached its greatest length".into());
            return;
        }
        let since_1970 = self.config.epoch.as_nanos().saturating_add(now_ns);
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: core::time::Duration::from_nanos(since_1970),
            original_len: bytes as u32,
            data: Cow::Borrowed(&self.packet),
            options: vec![EnhancedPacketOption::Flags(flags)],
        };
        if let Err(error) = writer.write_pcapng_block(block) {
            self.end(error.to_string());
        }
    }

    fn write_out(&mut self) {
        if let Some(writer) = &mut self.writer
            && let Err(error) = writer.get_mut().flush()
        {
            self.end(error.to_string());
        }
    }

    fn end(&mut self, why: String) {
        if let Some(writer) = self.writer.take() {
            // Not dropped as it is: that would try to write once more.
            let _ = writer.into_inner().into_parts();
        }
        self.ended.get_or_insert(why);
    }
}

impl<W: Write> Drop for Recorder<W> {
    fn drop(&mut self) {
        self.write_out();
    }
}

fn io_error(error: PcapError) -> std::io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => std::io::Error::other(other),
    }
}

/// A file that is written with system calls of our own: those of the standard library go through
/// symbols that a preload library may replace.
#[derive(Debug)]
pub struct CaptureFile(OwnedFd);

impl CaptureFile {
    /// Creates or empties `path`, readable by its owner only: it holds what was said.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        use rustix::fs::{Mode, OFlags, open};
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        Ok(Self(open(path, flags, Mode::RUSR | Mode::WUSR)?))
    }
}

impl Write for CaptureFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(rustix::io::write(&self.0, bytes)?)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;
    use crate::device::pair::{PairConfig, local};
    use crate::device::testing::{pool, send, tx_frame};
    use crate::time::{Instant, ManualClock};

    /// (nanoseconds, flags, length on the wire, bytes kept) of every packet in `file`.
    fn packets(file: &Path) -> Vec<(u64, u32, u32, Vec<u8>)> {
        let mut reader = PcapNgReader::new(std::fs::File::open(file).unwrap()).unwrap();
        let mut all = Vec::new();
        while let Some(block) = reader.next_block() {
            let Block::EnhancedPacket(packet) = block.unwrap() else {
                continue;
            };
            let [EnhancedPacketOption::Flags(flags)] = packet.options[..] else {
                panic!()
            };
            let nanos = packet.timestamp.as_nanos() as u64;
            all.push((nanos, flags, packet.original_len, packet.data.into_owned()));
        }
        all
    }

    #[test]
    fn what_passes_is_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("both.pcapng");
        let clock = ManualClock::default();
        let (left, mut right) = local(PairConfig {
            ring_frames: 2,
            ..PairConfig::default()
        });
        let config = CaptureConfig {
            snap_bytes: 60,
            epoch: Duration::from_secs(1_700_000_000),
            ..CaptureConfig::default()
        };
        let mut left = Capture::create(left, clock.clone(), &path, config).unwrap();
        let mut pool = pool();
        clock.advance_to(Instant::from_nanos(1_001));
        let mut frames: VecDeque<_> = (1..=3)
            .map(|i| tx_frame(&mut pool, &[i; 54], &[&[i; 30], &[i; 3]]))
            .collect();
        // Recorded is what the device took.
        assert_eq!(left.tx_burst(&mut pool, &mut frames), 2);
        left.flush(&mut pool);
        clock.advance_to(Instant::from_nanos(2_002));
        send(&mut right, &mut pool, &[9; 20], &[&[8; 10]]);
        let mut got = Vec::new();
        assert_eq!(left.rx_burst(&mut pool, &mut got, 64), 1);
        assert!(left.arm());
        let second = 1_700_000_000_000_000_000;
        let sent = |i| (second + 1_001, OUTBOUND, 87, vec![i; 60]);
        let received = (
            second + 2_002,
            INBOUND,
            30,
            [vec![9; 20], vec![8; 10]].concat(),
        );
        assert_eq!(packets(&path), [sent(1), sent(2), received]);
        assert_eq!(left.ended(), None);
        drop((left, right, frames, got));
        assert_eq!(pool.objects_in_use(), 0);
    }

    #[test]
    fn a_full_file_ends_the_recording_but_not_the_traffic() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("full.pcapng");
        let (left, right) = local(PairConfig::default());
        let config = CaptureConfig {
            file_bytes_max: 2 * 150,
            ..CaptureConfig::default()
        };
        let mut left = Capture::create(left, ManualClock::default(), &path, config).unwrap();
        let mut pool = pool();
        for i in 0..4 {
            assert_eq!(send(&mut left, &mut pool, &[i; 100], &[]), 1);
        }
        assert!(left.ended().unwrap().contains("length"));
        assert_eq!((packets(&path).len(), right.incoming_frames()), (2, 4));
    }

    #[test]
    fn a_broken_file_ends_the_recording_but_not_the_traffic() {
        struct Broken(usize);
        impl Write for Broken {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0 = self
                    .0
                    .checked_sub(1)
                    .ok_or(std::io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (left, right) = local(PairConfig::default());
        let clock = ManualClock::default();
        let config = CaptureConfig::default();
        let mut left = Capture::to_writer(left, clock, Broken(1), config.clone()).unwrap();
        let mut pool = pool();
        assert_eq!(send(&mut left, &mut pool, &[1; 100], &[]), 1);
        left.write_out();
        assert!(left.ended().is_some());
        assert_eq!(send(&mut left, &mut pool, &[1; 100], &[]), 1);
        assert_eq!(right.incoming_frames(), 2);
        assert!(Capture::to_writer(right, ManualClock::default(), Broken(0), config).is_err());
        let nowhere = Path::new("/nonexistent/x.pcapng");
        let (left, _) = local(PairConfig::default());
        assert!(
            Capture::create(
                left,
                ManualClock::default(),
                nowhere,
                CaptureConfig::default()
            )
            .is_err()
        );
    }
}
