//! What is kept as long as it is used.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::Hash;

/// Values by key, each with whether it was asked for since the last sweep.
pub(super) struct Kept<K, V>(HashMap<K, (V, Cell<bool>)>);

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V> Kept<K, V> {
    /// The value of a key, which is used by that.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        let (value, used) = self.0.get(key)?;
        used.set(true);
        Some(value)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.0.insert(key, (value, Cell::new(true)));
    }

    /// Forgets what is not wanted any more, as soon as nobody holds it.
    pub(super) fn follow(&mut self, wanted: impl Fn(&K) -> bool, held: impl Fn(&V) -> bool) {
        self.0.retain(|key, (value, _)| wanted(key) || held(value));
    }

    /// Forgets what nobody has asked for since the last sweep, nor holds.
    pub(super) fn sweep(&mut self, held: impl Fn(&V) -> bool) {
        self.0.retain(|_, (value, used)| used.replace(false) || held(value));
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    fn held(value: &Rc<str>) -> bool {
        Rc::strong_count(value) > 1
    }

    fn kept() -> Kept<&'static str, Rc<str>> {
        let mut kept = Kept::default();
        kept.insert("a", Rc::from("a"));
        kept.insert("b", Rc::from("b"));
        kept
    }

    #[test]
    fn what_is_used_between_two_sweeps_outlives_them() {
        let mut kept = kept();
        let first = Rc::as_ptr(kept.get(&"a").unwrap());
        for _ in 0..3 {
            kept.sweep(held);
            assert_eq!(
                kept.get(&"a").map(Rc::as_ptr),
                Some(first),
                "idle in the moment of the sweep, and used"
            );
        }
        assert!(kept.get(&"b").is_none());
        let under_way = Rc::clone(kept.get(&"a").unwrap());
        kept.sweep(held);
        kept.sweep(held);
        drop(under_way);
        kept.sweep(held);
        assert!(kept.get(&"a").is_none());
    }

    #[test]
    fn what_is_not_wanted_goes_when_it_is_idle() {
        let mut kept = kept();
        let under_way = Rc::clone(kept.get(&"b").unwrap());
        kept.follow(|key| *key == "a", held);
        assert!(kept.get(&"a").is_some() && kept.get(&"b").is_some());
        drop(under_way);
        kept.follow(|key| *key == "a", held);
        assert!(kept.get(&"a").is_some() && kept.get(&"b").is_none());
    }
}
