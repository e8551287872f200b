//! A map that never grows beyond a number of entries, nor beyond a total weight of them.

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
    weight: usize,
    most_weight: usize,
}

#[derive(Debug)]
struct Slot<V> {
    value: V,
    weight: usize,
    used: AtomicBool,
}

impl<K: Clone + Eq + Hash, V> BoundedMap<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self::weighted(capacity, usize::MAX)
    }

    /// At most `capacity` entries, which together weigh at most `most_weight`.
    pub(crate) fn weighted(capacity: usize, most_weight: usize) -> Self {
        let capacity = capacity.max(1);
        Self { slots: HashMap::new(), order: VecDeque::new(), capacity, weight: 0, most_weight }
    }

    /// Whether at least half of it is taken.
    pub(crate) fn is_half_full(&self) -> bool {
        self.slots.len() >= self.capacity / 2
    }

    /// The weight of all entries.
    pub(crate) fn weight(&self) -> usize {
        self.weight
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
        self.insert_weighing(key, value, 0);
    }

    /// Puts an entry in that weighs `weight`. One that weighs more than all together may is not kept, nor is what it would
    /// have replaced.
    pub(crate) fn insert_weighing(&mut self, key: K, value: V, weight: usize) {
        if weight > self.most_weight {
            self.remove(&key);
            return;
        }
        if let Some(slot) = self.slots.get_mut(&key) {
            self.weight = self.weight - slot.weight + weight;
            (slot.value, slot.weight) = (value, weight);
            // Used now, so that it is not the first to go.
            slot.used.store(true, Relaxed);
            while self.weight > self.most_weight {
                self.evict();
            }
            return;
        }
        while self.slots.len() >= self.capacity || self.weight + weight > self.most_weight {
            self.evict();
        }
        self.weight += weight;
        self.order.push_back(key.clone());
        self.slots.insert(key, Slot { value, weight, used: AtomicBool::new(false) });
    }

    pub(crate) fn remove(&mut self, key: &K) {
        if let Some(slot) = self.slots.remove(key) {
            self.weight -= slot.weight;
            self.order.retain(|other| other != key);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slots.iter().map(|(key, slot)| (key, &slot.value))
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        self.retain_entries(|_, value| keep(value));
    }

    /// Keeps the entries that `keep` says, which may change their values.
    pub(crate) fn retain_entries(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        let weight = &mut self.weight;
        self.slots.retain(|key, slot| {
            let kept = keep(key, &mut slot.value);
            if !kept {
                *weight -= slot.weight;
            }
            kept
        });
        let slots = &self.slots;
        self.order.retain(|key| slots.contains_key(key));
    }

    /// Takes one entry out. Each turn clears a flag, so two rounds at the most.
    fn evict(&mut self) {
        while let Some(key) = self.order.pop_front() {
            match self.slots.get(&key) {
                Some(slot) if slot.used.swap(false, Relaxed) => self.order.push_back(key),
                _ => {
                    if let Some(slot) = self.slots.remove(&key) {
                        self.weight -= slot.weight;
                    }
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

    #[test]
    fn weight_is_bounded_and_what_is_too_heavy_is_not_kept() {
        let mut map = BoundedMap::weighted(100, 10);
        for key in 0..5 {
            map.insert_weighing(key, key, 4);
        }
        assert_eq!((map.len(), map.weight()), (2, 8));
        assert_eq!((map.get(&3), map.get(&4)), (Some(&3), Some(&4)));
        map.insert_weighing(4, 40, 11);
        assert_eq!((map.get(&3), map.get(&4), map.weight()), (Some(&3), None, 4));
        map.insert_weighing(3, 30, 10);
        assert_eq!((map.get(&3), map.weight()), (Some(&30), 10));
        map.retain(|_| false);
        assert_eq!((map.len(), map.weight()), (0, 0));
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
