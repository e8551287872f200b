//! The thread that turns records into lines.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::fence;
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;

use weft_core::LogFormat;

use super::{AccessLogTarget, AccessRecord, Shared, line};
use crate::metrics::{Counter, Shard, families};

/// How long records gather before they are written: what a person following the log does not notice.
const GATHER: Duration = Duration::from_millis(50);
/// How long to sleep without traffic: only to notice that all senders are gone.
const LOOK_AROUND: Duration = Duration::from_secs(10);
/// A write is made when this much has gathered, and not more than this is kept.
const CHUNK: usize = 64 * 1024;
/// How often a file's path is looked at for having been renamed.
const ROTATION_CHECK: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    output: Output,
    receiver: Receiver<AccessRecord>,
    format: LogFormat,
    shared: Arc<Shared>,
    written: Counter,
    failed: Counter,
}

impl Writer {
    pub(super) fn new(
        output: Output,
        receiver: Receiver<AccessRecord>,
        format: LogFormat,
        shared: Arc<Shared>,
        shard: &Shard,
    ) -> Self {
        Self {
            output,
            receiver,
            format,
            shared,
            written: shard.counter(&families::ACCESS_LOG_LINES, &[]),
            failed: shard.counter(&families::ACCESS_LOG_DROPPED, &["write_failed"]),
        }
    }

    pub(super) fn run(mut self) {
        let mut buffer = Vec::with_capacity(CHUNK);
        loop {
            // Read before the queue is emptied, so that what was logged before the stop is written.
            let stopping = self.shared.stop.load(Acquire);
            let (drained, state) = self.drain(&mut buffer);
            if stopping || state == TryRecvError::Disconnected {
                return;
            }
            if drained { park_timeout(GATHER) } else { self.rest() }
        }
    }

    /// Writes all that is queued. Says whether there was anything, and how the queue ended.
    fn drain(&mut self, buffer: &mut Vec<u8>) -> (bool, TryRecvError) {
        let (mut drained, mut lines) = (false, 0);
        loop {
            match self.receiver.try_recv() {
                Ok(record) => {
                    drained = true;
                    lines += u64::from(append(buffer, &self.format, &record));
                }
                Err(state) => {
                    self.write(buffer, lines);
                    return (drained, state);
                }
            }
            if buffer.len() >= CHUNK {
                self.write(buffer, std::mem::take(&mut lines));
            }
        }
    }

    /// Sleeps until a record comes. The fence pairs with the one in [`super::AccessLog::submit`]: either the producer sees
    /// that we rest and wakes us, or we see its record.
    fn rest(&self) {
        self.shared.resting.store(true, Relaxed);
        fence(SeqCst);
        if self.receiver.is_empty() && !self.shared.stop.load(Acquire) {
            park_timeout(LOOK_AROUND);
        }
        self.shared.resting.store(false, Relaxed);
    }

    fn write(&mut self, buffer: &mut Vec<u8>, lines: u64) {
        if buffer.is_empty() {
            return;
        }
        let reopen = self.shared.reopen.swap(false, Relaxed);
        match self.output.write(buffer, reopen) {
            Ok(()) => self.written.add(lines),
            Err(error) => {
                tracing::warn!(%error, lines, "access log lines could not be written");
                self.failed.add(lines);
            }
        }
        buffer.clear();
    }
}

/// Appends one line; false if the record does not serialize, which no record does.
fn append(buffer: &mut Vec<u8>, format: &LogFormat, record: &AccessRecord) -> bool {
    if let LogFormat::Line(pieces) = format {
        line::append(buffer, pieces, record);
        return true;
    }
    let start = buffer.len();
    if serde_json::to_writer(&mut *buffer, record).is_err() {
        buffer.truncate(start);
        return false;
    }
    buffer.push(b'\n');
    true
}

/// Where the lines end up.
pub(super) enum Output {
    Stdout,
    File { path: PathBuf, file: File, checked: Instant },
}

impl Output {
    pub(super) fn open(target: &AccessLogTarget) -> io::Result<Self> {
        match target {
            AccessLogTarget::Stdout => Ok(Self::Stdout),
            AccessLogTarget::File(path) => {
                Ok(Self::File { path: path.clone(), file: open(path)?, checked: Instant::now() })
            }
        }
    }

    fn write(&mut self, lines: &[u8], reopen: bool) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(lines)?;
                out.flush()
            }
            Self::File { path, file, checked } => {
                let due = checked.elapsed() >= ROTATION_CHECK;
                if due {
                    *checked = Instant::now();
                }
                if reopen || (due && moved(path, file)) {
                    *file = open(path)?;
                }
                file.write_all(lines)
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Whether the path names another file than the open one, or none.
fn moved(path: &Path, file: &File) -> bool {
    match (path.metadata(), file.metadata()) {
        (Ok(named), Ok(open)) => (named.dev(), named.ino()) != (open.dev(), open.ino()),
        _ => true,
    }
}
