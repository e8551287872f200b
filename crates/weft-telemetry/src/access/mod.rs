//! The access log: one line for a request or a relayed connection, JSON or in a format of the user's own.
//!
//! A worker only moves a record into a bounded queue; a thread of its own turns records into lines and writes many of
//! them at once, because stdout may be a pipe that nobody reads and a disk may stall. What the queue cannot take is
//! dropped and counted.
//!
//! Nothing secret is logged: no header but `user-agent` and `x-request-id`, no body, and the path without its query
//! string, since tokens and personal data are often put there.

mod line;
mod record;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU8,
    Ordering::{Relaxed, Release, SeqCst},
    fence,
};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use weft_core::LogFormat;

pub use record::{AccessProtocol, AccessRecord};

use crate::TelemetryError;
use crate::metrics::{Counter, Registry, Shard, families};
use writer::{Output, Writer};

/// Which requests are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum AccessLogMode {
    /// None.
    #[default]
    Off = 0,
    /// Those that failed: status 500 and above, a failed gRPC status, or ended by Weft.
    Errors = 1,
    /// Those whose trace is sampled, and those that failed.
    Sampled = 2,
    /// All.
    All = 3,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Standard output.
    Stdout,
    /// A file, appended to; made if missing, opened anew when it was renamed or removed (log rotation).
    File(PathBuf),
}

/// The workers' end. Clones share the queue and the mode, each with the drop counter of its own shard.
#[derive(Clone, Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    queue: mpsc::Sender<AccessRecord>,
    writer: Thread,
    dropped: Counter,
}

#[derive(Debug, Default)]
struct Shared {
    mode: AtomicU8,
    reopen: AtomicBool,
    stop: AtomicBool,
    /// The writer sleeps and must be woken for the next record.
    resting: AtomicBool,
}

/// The writer thread. Dropping it lets the thread run until all [`AccessLog`]s are gone.
#[derive(Debug)]
pub struct AccessLogWriter {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl AccessLog {
    /// Opens the target and starts the writer thread, with room for `capacity` records.
    ///
    /// # Errors
    /// When the file cannot be opened or the thread not be started.
    pub fn start(
        target: &AccessLogTarget,
        mode: AccessLogMode,
        capacity: usize,
        registry: &Registry,
    ) -> Result<(Self, AccessLogWriter), TelemetryError> {
        Self::start_as(target, LogFormat::Json, mode, capacity, registry)
    }

    /// The same with lines of this format.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_as(
        target: &AccessLogTarget,
        format: LogFormat,
        mode: AccessLogMode,
        capacity: usize,
        registry: &Registry,
    ) -> Result<(Self, AccessLogWriter), TelemetryError> {
        let failed = |source| TelemetryError::AccessLog { target: target.to_string(), source };
        let output = Output::open(target).map_err(failed)?;
        Self::spawn(output, format, mode, capacity, registry).map_err(failed)
    }

    fn spawn(
        output: Output,
        format: LogFormat,
        mode: AccessLogMode,
        capacity: usize,
        registry: &Registry,
    ) -> std::io::Result<(Self, AccessLogWriter)> {
        let (queue, receiver) = mpsc::channel(capacity.max(1));
        let shared = Arc::new(Shared::default());
        let shard = registry.shared();
        let writer = Writer::new(output, receiver, format, shared.clone(), &shard);
        let thread = std::thread::Builder::new().name("weft-access-log".to_owned()).spawn(|| writer.run())?;
        let log = Self {
            shared: shared.clone(),
            queue,
            writer: thread.thread().clone(),
            dropped: shard.counter(&families::ACCESS_LOG_DROPPED, &["queue_full"]),
        };
        log.set_mode(mode);
        Ok((log, AccessLogWriter { shared, thread }))
    }

    /// The same log, counting its drops in another worker's shard.
    pub fn for_shard(&self, shard: &Shard) -> Self {
        Self { dropped: shard.counter(&families::ACCESS_LOG_DROPPED, &["queue_full"]), ..self.clone() }
    }

    /// Changes the mode for requests from now on.
    pub fn set_mode(&self, mode: AccessLogMode) {
        self.shared.mode.store(mode as u8, Relaxed);
    }

    /// The mode in force.
    pub fn mode(&self) -> AccessLogMode {
        match self.shared.mode.load(Relaxed) {
            1 => AccessLogMode::Errors,
            2 => AccessLogMode::Sampled,
            3 => AccessLogMode::All,
            _ => AccessLogMode::Off,
        }
    }

    /// Whether a request is to be logged: ask before building a record.
    #[inline]
    pub fn wants(&self, failed: bool, sampled: bool) -> bool {
        match self.mode() {
            AccessLogMode::Off => false,
            AccessLogMode::Errors => failed,
            AccessLogMode::Sampled => failed || sampled,
            AccessLogMode::All => true,
        }
    }

    /// Hands a record over. Never waits: where the queue is full, the record is dropped and counted.
    pub fn submit(&self, record: AccessRecord) {
        if self.queue.try_send(record).is_err() {
            self.dropped.inc();
            return;
        }
        // With traffic the writer gathers records by the clock, and is hurried only to make room; without, it sleeps.
        fence(SeqCst);
        if self.shared.resting.load(Relaxed) || self.queue.capacity() < self.queue.max_capacity() / 2 {
            self.writer.unpark();
        }
    }

    /// Closes and opens the file before the next line (on SIGHUP, after log rotation).
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Relaxed);
    }
}

impl AccessLogWriter {
    /// Writes what is queued and ends the thread, waiting `deadline` at the most. True if all was written.
    ///
    /// Blocks; call it after the workers have ended. Records logged after this may be lost.
    pub fn finish(self, deadline: Duration) -> bool {
        self.shared.stop.store(true, Release);
        let until = Instant::now() + deadline;
        while !self.thread.is_finished() && Instant::now() < until {
            self.thread.thread().unpark();
            std::thread::park_timeout(Duration::from_millis(5));
        }
        self.thread.is_finished()
    }
}

impl std::fmt::Display for AccessLogTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
