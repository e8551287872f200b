//! Noticing that files have changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

/// Events within this time are one change: certificate, key and bundle are written one after the other.
const SETTLE: Duration = Duration::from_millis(200);
/// Without an event, look anyway: a network filesystem and an exhausted inotify limit send none.
const POLL: Duration = Duration::from_secs(30);

/// Tells when any of some files may have changed.
///
/// It watches the directories, not the files: editors and tools replace files by renaming, and Kubernetes swaps the
/// `..data` symlink beside them when a ConfigMap or Secret changes. A slow poll is the safety net. A wake-up is only a
/// reason to look; whether the content differs is the reader's question.
pub struct FileWatch {
    events: mpsc::Receiver<()>,
    /// Kept for its destructor, which stops the watch; `None` where the kernel refused one.
    _watcher: Option<RecommendedWatcher>,
    poll: Duration,
}

impl FileWatch {
    /// Starts watching. Where inotify is not to be had, says so in the log and polls.
    pub fn new<P: AsRef<Path>>(files: impl IntoIterator<Item = P>) -> Self {
        let directories: BTreeSet<PathBuf> = files.into_iter().map(|file| directory(file.as_ref())).collect();
        let (wake, events) = mpsc::channel(1);
        let watcher = start(&directories, wake)
            .inspect_err(|error| {
                tracing::warn!(?directories, %error, "cannot watch files for changes; polling every 30 s instead");
            })
            .ok();
        Self { events, _watcher: watcher, poll: POLL }
    }

    /// Resolves when there is a reason to look at the files again. A wake-up that is dropped half-way comes again with
    /// the next poll.
    pub async fn changed(&mut self) {
        let poll = Instant::now() + self.poll;
        tokio::select! {
            Some(()) = self.events.recv() => {
                sleep(SETTLE).await;
                while self.events.try_recv().is_ok() {}
            }
            () = sleep_until(poll) => {}
        }
    }
}

impl std::fmt::Debug for FileWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileWatch").field("poll", &self.poll).finish_non_exhaustive()
    }
}

fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn start(
    directories: &BTreeSet<PathBuf>,
    wake: mpsc::Sender<()>,
) -> Result<RecommendedWatcher, notify::Error> {
    let mut watcher = notify::recommended_watcher(move |event: Result<notify::Event, notify::Error>| {
        // Reading the files makes access events; they would wake us for ever.
        if event.is_ok_and(|event| event.kind.is_access()) {
            return;
        }
        // A full channel already holds the wake-up.
        let _ = wake.try_send(());
    })?;
    for directory in directories {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}
