//! Resources from files, kept fresh while the process runs.
//!
//! What people edit is wrong for a while, and what they replace is not there for a moment. So: a document that is broken leaves the last
//! good version of its resource in force and costs no other; a file whose writer has not closed it is not read; a file that is moved
//! away has a moment to come back. Everything is driven by events of the directories (inotify): a change is in force a few
//! milliseconds after the file landed. Where events do not come, as from some network file systems, files are looked at every
//! [`POLL`].
//!
//! | module | |
//! |---|---|
//! | `scan`, `inotify` | which files there are, and what happens to them |
//! | `text` | one file: its documents, and what of them is in force |
//! | `certificates` | the PEM files that `Certificate`s name |
//! | `store` | all files together |

mod certificates;
mod inotify;
mod scan;
mod store;
mod text;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::error::DocumentError;
use crate::{Resource, ResourceSet, Source};
use inotify::{Events, Seen};
use store::{Look, Store};

/// The safety net where inotify sees nothing.
const POLL: Duration = Duration::from_secs(10);

/// Events are gathered this long: several files are often changed together, such as a certificate and its key.
const DEBOUNCE: Duration = Duration::from_millis(4);

/// A file that was moved away or deleted has this long to come back.
const ABSENCE: Duration = Duration::from_millis(15);

/// The resources in force.
#[derive(Debug)]
pub struct ResourceHandle {
    current: ArcSwap<ResourceSet>,
    changed: watch::Sender<u64>,
    errors: ArcSwap<Vec<DocumentError>>,
    accepted: AtomicU64,
    refused: AtomicU64,
    store: Mutex<Store>,
}

impl ResourceHandle {
    /// Reads these files and directories, and keeps nothing fresh.
    pub fn new(paths: Vec<PathBuf>) -> Arc<Self> {
        let mut store = Store::new(paths);
        store.look(Look::Start, &Seen::default);
        let handle = Self {
            current: ArcSwap::new(store.set().clone()),
            changed: watch::Sender::new(1),
            errors: ArcSwap::default(),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            store: Mutex::new(Store::new(Vec::new())),
        };
        handle.tell(store.errors());
        *handle.store() = store;
        Arc::new(handle)
    }

    /// The resources in force.
    pub fn load(&self) -> Arc<ResourceSet> {
        self.current.load_full()
    }

    /// Tells the version of each new set, from 1; a resource that did not change is the very same one (`Arc::ptr_eq`) in the next.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What is wrong with the files now.
    pub fn errors(&self) -> Arc<Vec<DocumentError>> {
        self.errors.load_full()
    }

    /// How often a new set came into force.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// How often a change brought mistakes that were not there before.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Where a resource is written now. ([`Resource::source`] has the line of the time when it changed last.)
    pub fn source(&self, resource: &Resource) -> Source {
        self.store().source_in(resource)
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // What a panic left behind is whole: a set is replaced at once.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the files; whether another look is due soon. `late` tells what happens meanwhile.
    fn look(&self, look: Look, late: &dyn Fn() -> Seen) -> bool {
        let mut store = self.store();
        let again = store.look(look, late);
        let set = store.set().clone();
        self.tell(store.errors());
        if !Arc::ptr_eq(&set, &self.current.load()) {
            let count = set.len();
            self.current.store(set);
            self.accepted.fetch_add(1, Ordering::Relaxed);
            let mut version = 0;
            self.changed.send_modify(|now| {
                *now += 1;
                version = *now;
            });
            tracing::info!(version, resources = count, "new resources in force");
        }
        again
    }

    /// Logs what was not wrong before.
    fn tell(&self, errors: Vec<DocumentError>) {
        let before = self.errors.load();
        let known: HashSet<String> = before.iter().map(ToString::to_string).collect();
        let new: Vec<String> =
            errors.iter().map(ToString::to_string).filter(|error| !known.contains(error)).collect();
        if !new.is_empty() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                code = "resources-refused",
                "resources have mistakes, and what was good before stays in force:\n{}",
                new.join("\n")
            );
        }
        if *errors != **before {
            self.errors.store(Arc::new(errors));
        }
    }
}

/// A handle with what these files and directories have now, and the task that keeps it fresh until the handle is dropped everywhere
/// else. The task does its reading on a thread for blocking work.
pub fn watch(paths: Vec<PathBuf>) -> (Arc<ResourceHandle>, impl Future<Output = ()> + Send + 'static) {
    let handle = ResourceHandle::new(paths);
    let weak = Arc::downgrade(&handle);
    let task = async move {
        let mut events = events();
        let mut due = Some(Duration::ZERO);
        // Between the first reading and the first watch something may have happened.
        let mut is_new = true;
        loop {
            let look = match next(events.as_ref(), due).await {
                Look::Events(seen) if is_new => Look::Events(Seen { all: true, ..seen }),
                look => look,
            };
            let Some(handle) = weak.upgrade() else { return };
            let watching = events.take();
            let looked = tokio::task::spawn_blocking(move || {
                let late = || watching.as_ref().map(Events::late).unwrap_or_default();
                let again = handle.look(look, &late);
                (again, handle.store().directories(), watching)
            });
            let Ok((again, directories, watched)) = looked.await else {
                // A panic in there was told by its thread.
                (events, is_new, due) = (self::events(), true, Some(POLL));
                continue;
            };
            events = watched;
            is_new = events.as_mut().is_some_and(|events| events.set(&directories));
            due = match (is_new, again) {
                // What is watched only now may have changed before.
                (true, _) => Some(Duration::ZERO),
                (false, true) => Some(ABSENCE),
                (false, false) => None,
            };
        }
    };
    (handle, task)
}

fn events() -> Option<Events> {
    let events = Events::new();
    let events = events.inspect_err(
        |error| tracing::warn!(%error, "cannot watch the resources; they are looked at every 10 s"),
    );
    events.ok()
}

/// The next reason to look.
async fn next(events: Option<&Events>, due: Option<Duration>) -> Look {
    let Some(events) = events else {
        tokio::time::sleep(due.unwrap_or(POLL)).await;
        return Look::Poll;
    };
    tokio::select! {
        () = events.ready() => tokio::time::sleep(DEBOUNCE).await,
        () = tokio::time::sleep(due.unwrap_or(POLL)) => {
            if due.is_none() {
                return Look::Poll;
            }
        }
    }
    Look::Events(events.take())
}

#[cfg(test)]
mod tests;
