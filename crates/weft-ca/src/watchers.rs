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
    /// The bundle that was last found in use everywhere.
    settled: String,
}

/// One stream's entry; dropping it forgets the stream.
#[derive(Debug)]
pub(crate) struct Watcher {
    watchers: Watchers,
    number: u64,
}

impl Watchers {
    pub(crate) fn join(&self) -> Watcher {
        let mut streams = self.lock();
        let number = streams.next;
        streams.next += 1;
        streams.reported.insert(number, String::new());
        Watcher { watchers: self.clone(), number }
    }

    /// The number of open streams, the first time that all of them report the bundle with this hash.
    pub(crate) fn settled(&self, hash: &str) -> Option<usize> {
        let mut streams = self.lock();
        if streams.settled == hash || streams.reported.is_empty() {
            return None;
        }
        if streams.reported.values().any(|reported| reported != hash) {
            return None;
        }
        streams.settled = hash.to_owned();
        Some(streams.reported.len())
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
    fn a_bundle_settles_once_when_every_open_stream_reports_it() {
        let watchers = Watchers::default();
        assert_eq!(watchers.settled("a"), None);
        let (one, two) = (watchers.join(), watchers.join());
        one.report("a".to_owned());
        assert_eq!(watchers.settled("a"), None, "one has reported nothing yet");
        two.report("a".to_owned());
        assert_eq!(watchers.settled("a"), Some(2));
        assert_eq!(watchers.settled("a"), None, "once is enough");
        one.report("b".to_owned());
        assert_eq!(watchers.settled("b"), None);
        drop(two);
        assert_eq!(watchers.settled("b"), Some(1), "who is gone is not waited for");
    }
}
