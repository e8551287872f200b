//! What one namespace may bring into a pass, so that no tenant can hold up the mesh.
//!
//! Everything that a pass looks at was made by somebody: a Service, its annotations, pods that it selects. Each of these
//! has a limit per namespace, and what is beyond is *held back*: not looked at, not written. Older Services go first, so
//! what worked yesterday works today. Held back means strict: clients find no entry for the Service, so they use mutual
//! TLS or nothing. A Service that is remembered as strict stays remembered.
//!
//! The membership text is shared by all, so its room is shared out: a namespace gets what it needs up to an equal share
//! of what is there, and what others leave. One that is new joins when all of it fits: who labels a large cluster at once
//! must not make its services unreachable.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt::Write as _;

use super::facts::{Key, PodFacts, ServiceFacts};
use super::modes::{self, Observed};
use super::world::{World, is_exception};

/// Services of one namespace. The largest that are known to us have some hundred.
pub(crate) const SERVICES: usize = 2_000;
/// Pairs of a Service and a pod that has to be looked at to tell whether it is selected. 2,000 Services with 100 pods
/// each; without a limit, Services that all select the same pods cost the product of both.
pub(crate) const PAIRS: usize = 200_000;
/// Octets of the membership text, of the million that a ConfigMap holds: 800 Services in the middle of moving in, with
/// five pods and a twin each.
pub(crate) const OCTETS: usize = 400_000;
/// What the annotation of a namespace says that waits to join; the next pass knows it by that.
pub(crate) const WAITS: &str = "the namespace waits to join";
/// Names that are told of what is held back.
const NAMES: usize = 3;

/// Why a Service is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Why {
    /// It has too many ports or selector labels.
    Oversized,
    /// The namespace has too many Services.
    Services,
    /// The namespace's Services select too many pods.
    Pods,
    /// The namespace's entries would be too long.
    Octets,
    /// The namespace is new, and the text has no room for its Services yet.
    Waits,
    /// No proxy could read its name.
    Name,
    /// There is no room to remember more.
    Memory,
}

impl Why {
    pub(crate) const ALL: [Self; 7] =
        [Self::Oversized, Self::Services, Self::Pods, Self::Octets, Self::Waits, Self::Name, Self::Memory];

    /// The value of the label `kind`.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Oversized => "oversized",
            Self::Services => "services",
            Self::Pods => "pods",
            Self::Octets => "octets",
            Self::Waits => "waits",
            Self::Name => "name",
            Self::Memory => "memory",
        }
    }

    /// What it means, and the cure.
    fn told(self) -> String {
        const STRICT: &str = "clients use mutual TLS towards it or nothing";
        match self {
            Self::Oversized => format!("more than 250 ports or 64 selector labels: {STRICT}"),
            Self::Services => format!("beyond the first {SERVICES} Services of the namespace: {STRICT}"),
            Self::Pods => {
                format!("the Services of the namespace select more than {PAIRS} pods together: {STRICT}")
            }
            Self::Octets => format!(
                "no room in the membership text, of which a namespace has {OCTETS} octets, less where all is full: \
                 {STRICT}. Remove Services or annotations, or finish moving in"
            ),
            Self::Waits => format!(
                "{WAITS}: the membership text has no room for its Services, which are called as before. Restart the \
                 workloads of namespaces that are in before labelling more"
            ),
            Self::Name => format!("a name that proxies cannot read: {STRICT}"),
            Self::Memory => {
                "no room in weft-state to remember it as strict: it stays as it is, annotate it with \
                             weft.dev/mode"
                    .to_owned()
            }
        }
    }
}

/// So many, and the names of the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    count: usize,
    names: Vec<String>,
}

/// What is held back, by namespace and reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held(BTreeMap<String, BTreeMap<Why, Tally>>);

impl Held {
    pub(crate) fn add(&mut self, key: &Key, why: Why) {
        let of = self.0.entry(key.namespace.clone()).or_default().entry(why).or_default();
        of.count += 1;
        if of.names.len() < NAMES {
            of.names.push(key.name.clone());
        }
    }

    pub(crate) fn extend(&mut self, other: Self) {
        for (namespace, reasons) in other.0 {
            let own = self.0.entry(namespace).or_default();
            for (why, more) in reasons {
                let of = own.entry(why).or_default();
                of.count += more.count;
                of.names.extend(more.names);
                of.names.truncate(NAMES);
            }
        }
    }

    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// How many Services, by reason.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts: BTreeMap<&'static str, u64> = Why::ALL.map(|why| (why.kind(), 0)).into();
        for (why, of) in self.0.values().flatten() {
            *counts.entry(why.kind()).or_default() += of.count as u64;
        }
        counts
    }

    /// What is held back of one namespace, in words: the text of the Event and of the annotation.
    pub(crate) fn told(&self, namespace: &str) -> Option<String> {
        let mut text = String::new();
        for (why, of) in self.0.get(namespace)? {
            let more = if of.count > of.names.len() { ", ..." } else { "" };
            let separator = if text.is_empty() { "" } else { "; " };
            let _ = write!(
                text,
                "{separator}{} held back ({}{more}): {}",
                of.count,
                of.names.join(", "),
                why.told()
            );
        }
        Some(text)
    }
}

/// A Service of the mesh, and what is seen of it. Found once in a pass.
#[derive(Debug)]
pub(crate) struct Look<'w> {
    pub(crate) key: &'w Key,
    pub(crate) service: &'w ServiceFacts,
    pub(crate) pods: Vec<&'w PodFacts>,
    pub(crate) seen: Observed<'w>,
}

/// The Services that a pass looks at.
#[derive(Debug, Default)]
pub(crate) struct Looks<'w> {
    /// Those whose pods are in the mesh, in order.
    pub(crate) mesh: Vec<Look<'w>>,
    /// Those of participating namespaces that are outside all the same, in order.
    pub(crate) outside: Vec<(&'w Key, &'w ServiceFacts)>,
    /// Those that are not looked at: what is there for them stays as it is.
    pub(crate) unseen: HashSet<&'w Key>,
    pub(crate) held: Held,
}

/// Looks at the Services of the mesh, namespace by namespace, as far as each may go.
pub(crate) fn look(world: &World) -> Looks<'_> {
    let mut looks = Looks::default();
    let mut of_namespace: BTreeMap<&str, Vec<(&Key, &ServiceFacts)>> = BTreeMap::new();
    for (key, service) in world.services() {
        of_namespace.entry(&key.namespace).or_default().push((key, service));
    }
    for services in of_namespace.into_values() {
        looks.take(world, services);
    }
    looks.mesh.sort_unstable_by_key(|look| look.key);
    looks.outside.sort_unstable_by_key(|(key, _)| *key);
    looks
}

impl<'w> Looks<'w> {
    /// Takes in the Services of one namespace.
    fn take(&mut self, world: &'w World, mut services: Vec<(&'w Key, &'w ServiceFacts)>) {
        services.sort_unstable_by_key(|(key, service)| (service.created, &key.name));
        let mut pairs = 0;
        for (number, (key, service)) in services.into_iter().enumerate() {
            let outside = is_exception(service);
            let cost = if outside { 0 } else { world.cost(key, service) };
            let why = if number >= SERVICES {
                Some(Why::Services)
            } else if service.oversized {
                Some(Why::Oversized)
            } else if pairs + cost > PAIRS {
                Some(Why::Pods)
            } else {
                None
            };
            if let Some(why) = why {
                self.held.add(key, why);
                self.unseen.insert(key);
            } else if outside {
                self.outside.push((key, service));
            } else {
                pairs += cost;
                let pods = world.pods_of(key, service);
                let seen = modes::seen(world, key, service, &pods);
                self.mesh.push(Look { key, service, pods, seen });
            }
        }
    }
}

/// The most that each may have of `room`, where some ask for more than there is: everybody gets what it asks for up to
/// the level, and at the level all is used (max-min fairness).
pub(crate) fn level(demands: impl Iterator<Item = usize>, room: usize) -> usize {
    let mut sorted: Vec<usize> = demands.collect();
    sorted.sort_unstable();
    let (mut left, mut others) = (room, sorted.len());
    for demand in sorted {
        let share = left / others;
        if demand > share {
            return share;
        }
        left -= demand;
        others -= 1;
    }
    usize::MAX
}

/// Items in turn, one of each namespace, then another of each: who has many holds up nobody. It begins at namespace
/// number `first`, another one each time, so that what fails again and again does not either.
pub(crate) fn in_turn<T>(items: Vec<T>, namespace: impl Fn(&T) -> &str, first: usize) -> Vec<T> {
    let mut queues: BTreeMap<String, VecDeque<T>> = BTreeMap::new();
    let count = items.len();
    for item in items {
        queues.entry(namespace(&item).to_owned()).or_default().push_back(item);
    }
    let mut queues: VecDeque<VecDeque<T>> = queues.into_values().collect();
    if !queues.is_empty() {
        let by = first % queues.len();
        queues.rotate_left(by);
    }
    let mut mixed = Vec::with_capacity(count);
    while let Some(mut queue) = queues.pop_front() {
        mixed.extend(queue.pop_front());
        if !queue.is_empty() {
            queues.push_back(queue);
        }
    }
    mixed
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
