//! From permissive to strict, Service by Service, one way.
//!
//! Strict too early refuses calls that were served a minute ago; strict that can be lost again is no promise. So a Service
//! becomes strict only after a stretch in which nothing could have been otherwise, and then stays so whatever happens to
//! its pods: a pod without a sidecar that comes later is a mistake to report, not a reason to talk plaintext. People may
//! decide otherwise, by annotation; the machine may not.
//!
//! In a namespace whose own pods refuse plaintext, permissive clients gain nothing towards pods with a sidecar and lose
//! calls to those they have not heard of yet. There a Service is strict from its first moment, unless one of its pods has
//! no sidecar.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;
use weft_core::MtlsMode;

use super::facts::{Key, PodFacts, ServiceFacts};
use super::world::World;

/// How long all pods must have had a sidecar: a client's DNS TTL (5 s), its refresh floor, and pods that are just ending.
pub(crate) const SETTLING: Duration = Duration::from_secs(30);

/// What is seen of a Service's pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    /// All that it selects.
    pub all: usize,
    /// Those of them that take mesh links.
    pub meshed: usize,
    /// Those of them that are ready.
    pub ready: usize,
}

impl Pods {
    pub(crate) fn of(pods: &[&PodFacts]) -> Self {
        let count = |which: fn(&PodFacts) -> bool| pods.iter().filter(|pod| which(pod)).count();
        Self { all: pods.len(), meshed: count(PodFacts::takes_mesh_links), ready: count(|pod| pod.ready) }
    }

    fn all_meshed(self) -> bool {
        self.all > 0 && self.meshed == self.all
    }

    fn some_bare(self) -> bool {
        self.meshed < self.all
    }
}

/// A Service and what is seen of it.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    pub(crate) key: &'a Key,
    pub(crate) uid: &'a str,
    /// Its pods.
    pub pods: Pods,
    /// Its namespace's inbound mode is strict.
    pub(crate) inbound_strict: bool,
}

#[derive(Clone, Debug)]
struct Progress {
    uid: String,
    since: Instant,
    ready: bool,
}

/// What is remembered about Services.
#[derive(Clone, Debug, Default)]
pub(crate) struct Modes {
    /// Those that have become strict; with their uid once it was seen, so that one that was deleted and made again
    /// between two looks is not taken for the former.
    strict: BTreeMap<Key, Option<String>>,
    progress: HashMap<Key, Progress>,
}

impl Modes {
    pub(crate) fn remembering(strict: BTreeSet<Key>) -> Self {
        Self { strict: strict.into_iter().map(|key| (key, None)).collect(), progress: HashMap::new() }
    }

    /// The Services that have become strict.
    pub(crate) fn strict(&self) -> impl Iterator<Item = &Key> {
        self.strict.keys()
    }

    pub(crate) fn is_strict(&self, key: &Key) -> bool {
        self.strict.contains_key(key)
    }

    /// Takes in all Services at `now`; those that are not among `observed` are forgotten. Tells who has become strict, and
    /// when the next one may, should nothing change until then.
    pub(crate) fn observe<'a>(
        &mut self,
        now: Instant,
        observed: impl Iterator<Item = Observed<'a>>,
    ) -> (Vec<Key>, Option<Instant>) {
        let mut became = Vec::new();
        let mut next: Option<Instant> = None;
        let mut strict = BTreeMap::new();
        let mut progress = HashMap::new();
        for service in observed {
            let same = |known: &Option<String>| known.as_deref().is_none_or(|uid| uid == service.uid);
            if self.strict.get(service.key).is_some_and(same) {
                strict.insert(service.key.clone(), Some(service.uid.to_owned()));
                continue;
            }
            if !service.pods.all_meshed() {
                continue;
            }
            let mut so_far = self
                .progress
                .remove(service.key)
                .filter(|p| p.uid == service.uid)
                .unwrap_or_else(|| Progress { uid: service.uid.to_owned(), since: now, ready: false });
            so_far.ready |= service.pods.ready > 0;
            let due = if service.inbound_strict { so_far.since } else { so_far.since + SETTLING };
            if so_far.ready && now >= due {
                strict.insert(service.key.clone(), Some(service.uid.to_owned()));
                became.push(service.key.clone());
                continue;
            }
            if so_far.ready {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
            progress.insert(service.key.clone(), so_far);
        }
        self.strict = strict;
        self.progress = progress;
        (became, next)
    }

    /// The mode of clients towards a Service of the mesh.
    pub(crate) fn towards(&self, service: &Observed<'_>, said: Option<MtlsMode>) -> MtlsMode {
        match said {
            Some(mode) => mode,
            None if self.is_strict(service.key) => MtlsMode::Strict,
            None if service.inbound_strict && !service.pods.some_bare() => MtlsMode::Strict,
            None => MtlsMode::Permissive,
        }
    }
}

/// What is seen of one Service.
pub fn observed<'a>(world: &World, key: &'a Key, service: &'a ServiceFacts) -> Observed<'a> {
    Observed {
        key,
        uid: &service.uid,
        pods: Pods::of(&world.pods_of(key, service)),
        inbound_strict: world.inbound(&key.namespace) == MtlsMode::Strict,
    }
}

/// The text of `strict.yaml`: a sorted list of `namespace/service`.
pub(crate) fn write<'a>(strict: impl Iterator<Item = &'a Key>) -> String {
    let sorted: BTreeSet<&Key> = strict.collect();
    if sorted.is_empty() {
        return "[]\n".to_owned();
    }
    sorted.into_iter().map(|key| format!("- {key}\n")).collect()
}

/// Reads `strict.yaml`.
///
/// # Errors
/// What is wrong with it. Going on without would take strict back, so nothing goes on.
pub fn read(text: &str) -> Result<BTreeSet<Key>, String> {
    let entries: Vec<String> = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let key = |entry: &String| match entry.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(Key::new(namespace, name))
        }
        _ => Err(format!("{entry:?} is not namespace/service")),
    };
    entries.iter().map(key).collect()
}

#[cfg(test)]
#[path = "modes_tests.rs"]
mod tests;
