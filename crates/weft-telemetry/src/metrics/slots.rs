//! A small map that is read without a lock and filled as keys turn up.

use std::sync::OnceLock;

use super::{Counter, Family, Shard};

/// Up to `N` values by key, in order of appearance. Reading is a linear scan over initialised slots: for the handful of
/// status codes or error codes that one destination shows, that is a few compares in one or two cache lines.
#[derive(Debug)]
pub(super) struct Slots<K, V, const N: usize>(Box<[OnceLock<(K, V)>; N]>);

impl<K: Copy + PartialEq, V, const N: usize> Slots<K, V, N> {
    pub(super) fn new() -> Self {
        Self(Box::new([const { OnceLock::new() }; N]))
    }

    /// The value of `key`, made by `make` on first use; `None` when all slots are taken by other keys.
    #[inline]
    pub(super) fn get_or_make(&self, key: K, mut make: impl FnMut() -> V) -> Option<&V> {
        for slot in self.0.iter() {
            let (have, value) = slot.get_or_init(|| (key, make()));
            if *have == key {
                return Some(value);
            }
        }
        None
    }
}

/// Counters of one family that differ only in their last label, a code out of the program's own small set.
#[derive(Debug)]
pub struct CodeCounters {
    shard: Shard,
    family: &'static Family,
    first: Vec<String>,
    slots: Slots<&'static str, Counter, 24>,
}

impl CodeCounters {
    /// Counters of `family` whose labels are `first` and then the code.
    pub fn new(shard: &Shard, family: &'static Family, first: &[&str]) -> Self {
        let first = first.iter().map(|s| (*s).to_owned()).collect();
        Self { shard: shard.clone(), family, first, slots: Slots::new() }
    }

    /// Counts one event with this code. The first use of a code locks the registry.
    pub fn inc(&self, code: &'static str) {
        match self.slots.get_or_make(code, || self.find(code)) {
            Some(counter) => counter.inc(),
            None => self.find(code).inc(),
        }
    }

    fn find(&self, code: &str) -> Counter {
        let mut labels: Vec<&str> = self.first.iter().map(String::as_str).collect();
        labels.push(code);
        self.shard.counter(self.family, &labels)
    }
}
