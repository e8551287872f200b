//! From permissive to strict, Service by Service, one way.
//!
//! Strict too early refuses calls that were served a minute ago; strict that can be lost again is no promise. So a Service
//! becomes strict only after a stretch in which nothing could have been otherwise, and then stays so whatever happens to
//! its pods: a pod without a sidecar that comes later is a mistake to report, not a reason to talk plaintext. People may
//! decide otherwise, by annotation or by the namespace's label; the machine may not. What is remembered ends with the
//! Service object itself, and only where that is seen to be gone.
//!
//! Clients are told after it was written down: `Modes::observe` says who is due, `Modes::confirm` makes them strict.
//!
//! In a namespace whose own pods refuse plaintext, permissive clients gain nothing towards pods with a sidecar and lose
//! calls to those they have not heard of yet. There a Service is strict from its first moment, unless one of its pods has
//! no sidecar.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;
use weft_core::MtlsMode;

use super::facts::{Inject, Key, PodFacts, ServiceFacts};
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
    /// Namespaces of these that take part by labels of their pods alone: they stay while they have no pods.
    by_pods: BTreeSet<String>,
    progress: HashMap<Key, Progress>,
}

/// Whether what is remembered of a Service is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing<'w> {
    /// It is there, and this is its uid.
    Lives(&'w str),
    /// This leader has never seen it. Its watch may be late: only a question to the API server tells.
    Unseen,
    /// It is gone, another Service has its name, or people have taken its namespace out of the mesh.
    Left,
}

impl Modes {
    pub(crate) fn remembering(strict: BTreeSet<Key>, by_pods: BTreeSet<String>) -> Self {
        let strict = strict.into_iter().map(|key| (key, None)).collect();
        Self { strict, by_pods, progress: HashMap::new() }
    }

    /// The Services that have become strict.
    pub(crate) fn strict(&self) -> impl Iterator<Item = &Key> {
        self.strict.keys()
    }

    /// The namespaces of these that take part by labels of their pods alone.
    pub(crate) fn by_pods(&self) -> &BTreeSet<String> {
        &self.by_pods
    }

    pub(crate) fn is_strict(&self, key: &Key) -> bool {
        self.strict.contains_key(key)
    }

    /// Forgets what is gone for certain. A Service that only seems to be missing, because this leader has never seen it,
    /// is kept: see [`unseen`](Self::unseen).
    pub(crate) fn settle(&mut self, world: &World) {
        let former = std::mem::take(&mut self.by_pods);
        let mut by_pods = BTreeSet::new();
        self.strict.retain(|key, known| {
            let standing = standing(world, &former, key, known.as_deref());
            if standing == Standing::Left {
                return false;
            }
            if let Standing::Lives(uid) = standing {
                *known = Some(uid.to_owned());
            }
            let unsaid = world.namespace(&key.namespace).is_none_or(|ns| ns.inject == Inject::Unsaid);
            if unsaid && (former.contains(&key.namespace) || world.asking.contains(&key.namespace)) {
                by_pods.insert(key.namespace.clone());
            }
            true
        });
        self.by_pods = by_pods;
    }

    /// Those that are remembered and were never seen by this leader.
    pub(crate) fn unseen(&self) -> impl Iterator<Item = &Key> {
        self.strict.iter().filter(|(_, uid)| uid.is_none()).map(|(key, _)| key)
    }

    /// Forgets one that the API server says is not there.
    pub(crate) fn gone(&mut self, key: &Key) {
        self.strict.remove(key);
    }

    /// Takes in Services at `now`. Tells who is due to become strict, and when the next one may be, should nothing change
    /// until then. Those that are not among `observed` begin anew.
    pub(crate) fn observe<'a>(
        &mut self,
        now: Instant,
        observed: impl Iterator<Item = Observed<'a>>,
    ) -> (Vec<Key>, Option<Instant>) {
        let mut became = Vec::new();
        let mut next: Option<Instant> = None;
        let mut progress = HashMap::new();
        for service in observed {
            if self.is_strict(service.key) || !service.pods.all_meshed() {
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
                became.push(service.key.clone());
            } else if so_far.ready {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
            progress.insert(service.key.clone(), so_far);
        }
        self.progress = progress;
        (became, next)
    }

    /// Those who were due are strict: it is written down.
    pub(crate) fn confirm(&mut self, due: &[Key], by_pods: BTreeSet<String>) {
        for key in due {
            if let Some(progress) = self.progress.remove(key) {
                self.strict.insert(key.clone(), Some(progress.uid));
            }
        }
        self.by_pods = by_pods;
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

/// What has become of a remembered Service, whose uid is `known` once this leader has seen it. `by_pods` are the
/// namespaces that took part by labels of their pods until now.
fn standing<'w>(
    world: &'w World,
    by_pods: &BTreeSet<String>,
    key: &Key,
    known: Option<&str>,
) -> Standing<'w> {
    // What was seen once and is not there any more was deleted: the store says so only after that event or a whole list.
    let Some(service) = world.seen.services.get(key) else {
        return if known.is_none() { Standing::Unseen } else { Standing::Left };
    };
    if known.is_some_and(|uid| uid != service.uid) {
        return Standing::Left;
    }
    let takes_part = match world.namespace(&key.namespace).map(|ns| ns.inject) {
        // Not seen yet, or ending with all that is in it.
        None | Some(Inject::Enabled) => true,
        Some(Inject::Disabled) => false,
        // Either pods ask for sidecars, or somebody has taken the label away.
        Some(Inject::Unsaid) => by_pods.contains(&key.namespace) || world.asking.contains(&key.namespace),
    };
    if takes_part { Standing::Lives(&service.uid) } else { Standing::Left }
}

/// What is seen of one Service.
pub fn observed<'a>(world: &World, key: &'a Key, service: &'a ServiceFacts) -> Observed<'a> {
    seen(world, key, service, &world.pods_of(key, service))
}

/// The same, for who knows its pods.
pub(crate) fn seen<'a>(
    world: &World,
    key: &'a Key,
    service: &'a ServiceFacts,
    pods: &[&PodFacts],
) -> Observed<'a> {
    Observed {
        key,
        uid: &service.uid,
        pods: Pods::of(pods),
        inbound_strict: world.inbound(&key.namespace) == MtlsMode::Strict,
    }
}

/// The text of `strict.yaml`: a sorted list of `namespace/service`.
pub(crate) fn write<'a>(strict: impl Iterator<Item = &'a Key>) -> String {
    list(strict.collect())
}

/// The text of `by-pods.yaml`: a sorted list of namespaces. A namespace may be called `null` or `1e3`.
pub(crate) fn write_namespaces<'a>(namespaces: impl Iterator<Item = &'a String>) -> String {
    list(namespaces.map(|name| format!("{name:?}")).collect())
}

fn list<T: Ord + std::fmt::Display>(sorted: BTreeSet<T>) -> String {
    if sorted.is_empty() {
        return "[]\n".to_owned();
    }
    sorted.into_iter().map(|entry| format!("- {entry}\n")).collect()
}

/// Reads `by-pods.yaml`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read_namespaces(text: &str) -> Result<BTreeSet<String>, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
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
