//! `weft-state`: which Services have become strict.
//!
//! Written before clients are told, so that the next leader knows. It is one ConfigMap and so has a size: what does not
//! fit does not become strict, and a namespace alone cannot fill it.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::budget::{Held, Looks, Why};
use super::facts::{Inject, Key, digest};
use super::modes::{self, Modes};
use super::world::World;
use super::{BY_PODS_KEY, STATE_CONFIG, STATE_KEY};

/// Octets of all entries. etcd takes 1.5 MiB, the API server 1 MiB of data; the rest is room for the namespaces beside.
const MOST: usize = 900_000;
/// Octets of one namespace's entries: a thousand Services with usual names.
const OF_NAMESPACE: usize = 32_768;

/// The texts of `weft-state`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateText {
    pub(crate) strict: String,
    pub(crate) by_pods: String,
}

/// What is to be remembered.
#[derive(Debug)]
pub(crate) struct Recall {
    /// Where it differs from what is there.
    pub(crate) state: Option<StateText>,
    /// Services that are strict once it is written.
    pub(crate) due: Vec<Key>,
    /// The namespaces that take part by labels of their pods, those of `due` among them.
    pub(crate) by_pods: BTreeSet<String>,
    /// Those for which there is no room.
    pub(crate) held: Held,
    /// When another may be due although nothing changes.
    pub(crate) next: Option<Instant>,
}

/// Takes in what is seen. Nobody is strict by it before [`Modes::confirm`].
pub(crate) fn recall(world: &World, looks: &Looks<'_>, modes: &mut Modes, now: Instant) -> Recall {
    let (due, next) = modes.observe(now, looks.mesh.iter().map(|look| look.seen));
    let (due, held) = admit(modes, due);
    let mut by_pods = modes.by_pods().clone();
    let unsaid = |key: &&Key| world.namespace(&key.namespace).is_some_and(|ns| ns.inject == Inject::Unsaid);
    by_pods.extend(due.iter().filter(unsaid).map(|key| key.namespace.clone()));
    let text = StateText {
        strict: modes::write(modes.strict().chain(&due)),
        by_pods: modes::write_namespaces(by_pods.iter()),
    };
    let found = world.seen.state.get(&Key::new(&world.own, STATE_CONFIG));
    let has =
        |key: &str, text: &str| found.and_then(|map| map.data.get(key)) == Some(&digest(text.as_bytes()));
    let same = has(STATE_KEY, &text.strict) && has(BY_PODS_KEY, &text.by_pods);
    Recall { state: (!same).then_some(text), due, by_pods, held, next }
}

/// Those of `due` that fit beside what is remembered.
fn admit(modes: &Modes, due: Vec<Key>) -> (Vec<Key>, Held) {
    let mut held = Held::default();
    if due.is_empty() {
        return (due, held);
    }
    let octets = |key: &Key| key.namespace.len() + key.name.len() + "- /\n".len();
    let mut used = std::collections::HashMap::new();
    let mut all = 0;
    for key in modes.strict() {
        *used.entry(key.namespace.clone()).or_insert(0) += octets(key);
        all += octets(key);
    }
    let fits = |key: &Key| {
        let of = used.entry(key.namespace.clone()).or_insert(0);
        let fits = *of + octets(key) <= OF_NAMESPACE && all + octets(key) <= MOST;
        if fits {
            *of += octets(key);
            all += octets(key);
        } else {
            held.add(key, Why::Memory);
        }
        fits
    };
    let mut due = due;
    due.retain(fits);
    (due, held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_cannot_fill_the_memory_and_all_together_cannot_overfill_it() {
        let key = |namespace: usize, service: usize| {
            Key::new(format!("{namespace:0>63}"), format!("{service:0>63}"))
        };
        let many: Vec<Key> = (0..1_000).map(|service| key(0, service)).collect();
        let (admitted, held) = admit(&Modes::default(), many);
        assert_eq!(admitted.len(), OF_NAMESPACE / 130);
        assert_eq!(held.counts()["memory"], 1_000 - admitted.len() as u64);
        let remembered: BTreeSet<Key> =
            (1..40).flat_map(|namespace| (0..250).map(move |service| key(namespace, service))).collect();
        let modes = Modes::remembering(remembered, BTreeSet::new());
        let (none, held) = admit(&modes, vec![key(0, 0)]);
        assert!(none.is_empty());
        assert_eq!(held.counts()["memory"], 1);
        let remembered: BTreeSet<Key> =
            (1..20).flat_map(|namespace| (0..250).map(move |service| key(namespace, service))).collect();
        let modes = Modes::remembering(remembered, BTreeSet::new());
        let (mut all, _) = admit(&modes, (0..1_000).map(|service| key(0, service)).collect());
        all.extend(modes.strict().cloned());
        assert!(modes::write(all.iter()).len() <= MOST);
    }
}
