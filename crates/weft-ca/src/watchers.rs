//! Who follows the bundle, and which one each says it uses: what a root rotation will wait for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The open bundle streams.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watchers(Arc<Mutex<Streams>>);

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    /// Stream number to the hash its proxy reports; empty for "none yet".
    reported: HashMap<u64, String>,
}

/// One stream's entry; dropping it forgets the stream.
#[derive(Debug)]
pub(crate) struct Watcher {
    watchers: Watchers,
    number: u64,
}

/// How far a bundle has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Streams that report it.
    pub(crate) using: usize,
    /// All streams.
    pub(crate) watching: usize,
}

impl Watchers {
    pub(crate) fn join(&self) -> Watcher {
        let mut streams = self.lock();
        let number = streams.next;
        streams.next += 1;
        streams.reported.insert(number, String::new());
        Watcher { watchers: self.clone(), number }
    }

    /// How many of the open streams report the bundle with this hash.
    pub(crate) fn progress(&self, hash: &str) -> Progress {
        let streams = self.lock();
        Progress {
            using: streams.reported.values().filter(|reported| *reported == hash).count(),
            watching: streams.reported.len(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher {
    /// Notes what the proxy says it uses.
    pub(crate) fn report(&self, hash: String) {
        self.watchers.lock().reported.insert(self.number, hash);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.watchers.lock().reported.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_counts_open_streams_only() {
        let watchers = Watchers::default();
        let (one, two) = (watchers.join(), watchers.join());
        one.report("a".to_owned());
        assert_eq!(watchers.progress("a"), Progress { using: 1, watching: 2 });
        two.report("b".to_owned());
        one.report("b".to_owned());
        assert_eq!(watchers.progress("b"), Progress { using: 2, watching: 2 });
        drop(one);
        assert_eq!(watchers.progress("b"), Progress { using: 1, watching: 1 });
    }
}
