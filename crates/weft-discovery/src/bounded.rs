//! A map that never grows beyond a number of entries.

use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Second chance (CLOCK): entries leave in the order they came, but one that was used since its last turn goes to the
/// back once more. That keeps what is in use at the price of one flag, where a list of recent use would need a write
/// lock to read.
#[derive(Debug)]
pub(crate) struct BoundedMap<K, V> {
    slots: HashMap<K, Slot<V>>,
    order: VecDeque<K>,
    capacity: usize,
}

#[derive(Debug)]
struct Slot<V> {
    value: V,
    used: AtomicBool,
}

impl<K: Clone + Eq + Hash, V> BoundedMap<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { slots: HashMap::new(), order: VecDeque::new(), capacity: capacity.max(1) }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.slots.get(key).map(|slot| {
            slot.used.store(true, Relaxed);
            &slot.value
        })
    }

    pub(crate) fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.slots.get_mut(key).map(|slot| {
            slot.used.store(true, Relaxed);
            &mut slot.value
        })
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.value = value;
            return;
        }
        while self.slots.len() >= self.capacity {
            self.evict();
        }
        self.order.push_back(key.clone());
        self.slots.insert(key, Slot { value, used: AtomicBool::new(false) });
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        self.slots.retain(|_, slot| keep(&slot.value));
        let slots = &self.slots;
        self.order.retain(|key| slots.contains_key(key));
    }

    /// Takes one entry out. Each turn clears a flag, so two rounds at the most.
    fn evict(&mut self) {
        while let Some(key) = self.order.pop_front() {
            match self.slots.get(&key) {
                Some(slot) if slot.used.swap(false, Relaxed) => self.order.push_back(key),
                _ => {
                    self.slots.remove(&key);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_used_stays() {
        let mut map = BoundedMap::new(3);
        (0..3).for_each(|i| map.insert(i, i));
        assert_eq!(map.get(&0), Some(&0));
        map.insert(3, 3);
        assert_eq!(map.get(&0), Some(&0));
        assert_eq!(map.get(&1), None);
        assert_eq!(map.len(), 3);
    }

    proptest! {
        #[test]
        fn never_more_than_its_capacity(steps in prop::collection::vec((0u8..3, 0u16..40), 0..300)) {
            let mut map = BoundedMap::new(8);
            let mut last = HashMap::new();
            for (step, (kind, key)) in steps.into_iter().enumerate() {
                match kind {
                    0 => { map.insert(key, step); last.insert(key, step); prop_assert_eq!(map.get(&key), Some(&step)); }
                    1 => if let Some(value) = map.get(&key) { prop_assert_eq!(last.get(&key), Some(value)); }
                    _ => { map.retain(|value| value % 3 != usize::from(key % 3)); }
                }
                prop_assert!(map.len() <= 8);
                prop_assert_eq!(map.order.len(), map.slots.len());
            }
        }
    }
}
