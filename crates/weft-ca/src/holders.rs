//! What one identity holds, or one pod: its connections, and which of them do nothing.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// Connections and bundle streams, by who holds them. Bounded by the places that there are: who holds nothing is not here.
pub(crate) struct Holders<K>(HashMap<K, Held>);

#[derive(Default)]
struct Held {
    /// Connections; the lowest number is the oldest.
    places: BTreeSet<u64>,
    /// Those of them without an open call.
    idle: BTreeSet<u64>,
    streams: usize,
}

impl<K> Default for Holders<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq + Clone> Holders<K> {
    /// How many connections `key` has.
    pub(crate) fn places(&self, key: &K) -> usize {
        self.0.get(key).map_or(0, |held| held.places.len())
    }

    /// The connection of `key` that has had no open call for longest, by the time of its beginning.
    pub(crate) fn oldest_idle(&self, key: &K) -> Option<u64> {
        self.0.get(key)?.idle.first().copied()
    }

    /// The oldest connection of `key`.
    pub(crate) fn oldest(&self, key: &K) -> Option<u64> {
        self.0.get(key)?.places.first().copied()
    }

    /// A connection of `key`, at work.
    pub(crate) fn join(&mut self, key: &K, number: u64) {
        self.0.entry(key.clone()).or_default().places.insert(number);
    }

    /// Whether a call is open on it.
    pub(crate) fn set_idle(&mut self, key: &K, number: u64, idle: bool) {
        let Some(held) = self.0.get_mut(key) else { return };
        if idle {
            held.idle.insert(number);
        } else {
            held.idle.remove(&number);
        }
    }

    /// It has gone.
    pub(crate) fn leave(&mut self, key: &K, number: u64) {
        self.change(key, |held| {
            held.places.remove(&number);
            held.idle.remove(&number);
        });
    }

    /// How many bundle streams `key` has.
    pub(crate) fn streams(&self, key: &K) -> usize {
        self.0.get(key).map_or(0, |held| held.streams)
    }

    /// One more stream.
    pub(crate) fn add_stream(&mut self, key: &K) {
        self.0.entry(key.clone()).or_default().streams += 1;
    }

    /// One stream less.
    pub(crate) fn remove_stream(&mut self, key: &K) {
        self.change(key, |held| held.streams = held.streams.saturating_sub(1));
    }

    /// Changes what `key` holds, and forgets it where that is nothing.
    fn change(&mut self, key: &K, change: impl FnOnce(&mut Held)) {
        let Some(held) = self.0.get_mut(key) else { return };
        change(held);
        if held.places.is_empty() && held.streams == 0 {
            self.0.remove(key);
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
