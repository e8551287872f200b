//! Pods that slipped by are made anew, where the owner of the cluster wants that: which one is evicted next, and when.
//!
//! To take a running pod away is the most that this controller can do to anybody, so it is asked for in the way that
//! leaves others the last word (the Eviction API, which a PodDisruptionBudget refuses), and every doubt is a reason to
//! wait. One pod of a workload at a time: until its replacement is there and ready, nothing else of it is touched. No pod
//! before the injector has been ready for a while, or the replacement would slip by as well. A replacement that does all
//! the same counts as a try that failed, and after some of them the workload is given up until somebody else brings about
//! a pod with a sidecar. That it is given up stands in the condition of its pods, so the next leader knows.
//!
//! Like everything that decides, `Recreation::plan` is a function of what is seen, what is remembered and the time;
//! `evict` carries out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::facts::{Key, PodFacts, Reported};
use super::maker::Maker;
use super::notices::Notice;
use super::settings::RecreateSettings;
use super::slips;
use super::world::World;
use crate::names::{CONTROL_CONFIG, INJECTOR, MESH_CONFIG};

/// How long the injector must have been ready: the API server's way to a replica (endpoints, kube-proxy) is some seconds
/// behind, up to ten on a large cluster.
const SETTLED: Duration = Duration::from_secs(30);
/// First and longest pause after a refusal. A budget that lets nobody go now may do so in a minute, or after a roll-out.
const PAUSE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(30 * 60));
/// After an eviction whose outcome is not known: a pod that is not ending by then was not evicted.
const DOUBT: Duration = Duration::from_secs(60);
/// A workload without pods is remembered for so long: between a pod and the next there may be none.
const FORGET: Duration = Duration::from_secs(60 * 60);

/// A workload with its namespace.
pub(crate) type Id = (String, Maker);

/// Why a pod that slipped by is not evicted whatever happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kept {
    /// Nothing would make it anew.
    Bare,
    /// As `kubectl drain` does.
    DaemonSet,
    /// Its work would be lost, and one of the Job's retries with it.
    Job,
    /// Data on its node would be lost; `kubectl drain` asks for a flag.
    LocalData,
    /// Its author has said so.
    Stays,
}

impl Kept {
    /// In a few words, for people.
    pub fn told(self) -> &'static str {
        match self {
            Self::Bare => "nothing would make it anew",
            Self::DaemonSet => "it is a DaemonSet's",
            Self::Job => "it is a Job's, whose work would be lost",
            Self::LocalData => "it has an emptyDir (deleteEmptyDirData is off)",
            Self::Stays => "its annotation safe-to-evict is \"false\"",
        }
    }
}

/// Whether a pod is left where it is.
pub fn kept(pod: &PodFacts, settings: &RecreateSettings) -> Option<Kept> {
    let Some(maker) = &pod.maker else { return Some(Kept::Bare) };
    match maker.kind.as_str() {
        // A mirror pod's controller is its node; those are not injected either.
        "Node" => Some(Kept::Bare),
        "DaemonSet" => Some(Kept::DaemonSet),
        "Job" => Some(Kept::Job),
        _ if pod.stays => Some(Kept::Stays),
        _ if pod.local_data && !settings.delete_empty_dir_data => Some(Kept::LocalData),
        _ => None,
    }
}

/// Whether a pod's condition says that its workload is given up.
pub fn is_given_up(pod: &PodFacts) -> bool {
    pod.reported == Some(Reported::GivenUp)
}

/// One eviction to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) id: Id,
    pub(crate) key: Key,
    pub(crate) uid: String,
    /// The pods of the workload, so that a new one is known by its absence here.
    known: HashSet<String>,
    tries: u32,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Evicted,
    /// It is another pod by now, or gone.
    Gone,
    /// The API server does not let it go: a budget, or anything else that it says.
    Refused(String),
    /// Nobody knows whether it was.
    Unsure(String),
    /// It was not asked for: the injector would not be called.
    NotReady(String),
}

/// What a pass is to do.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) order: Option<Order>,
    /// When there may be something to do although nothing changes.
    pub(crate) wake: Option<Instant>,
    pub(crate) given_up: BTreeSet<Id>,
    /// Workloads that were given up just now.
    pub(crate) gave_up: u64,
    pub(crate) notices: Vec<Notice>,
}

impl Plan {
    fn wake(&mut self, when: Instant, now: Instant) {
        // What is over already would have the next pass begin at once, for nothing.
        if when > now {
            self.wake = Some(self.wake.map_or(when, |wake| wake.min(when)));
        }
    }
}

/// What is remembered between passes. Another leader begins anew.
#[derive(Debug, Default)]
pub(crate) struct Recreation {
    workloads: BTreeMap<Id, Workload>,
    /// Since when a pod is seen without its sidecar, by uid.
    since: HashMap<String, Instant>,
    /// When a namespace had its last turn.
    turns: HashMap<String, Instant>,
    /// When the next eviction may be asked for.
    next: Option<Instant>,
    /// Since when the injector is ready.
    ready: Option<Instant>,
    /// What the API server showed that is in the way, and when to look again.
    held: Option<(Instant, String)>,
    under_way: bool,
}

#[derive(Debug, Default)]
struct Workload {
    tries: u32,
    /// The last time that anything was asked for.
    last: Option<Instant>,
    /// An eviction whose replacement is not seen yet.
    awaits: Option<Awaits>,
    /// The pods there were at the last eviction, or when it was given up.
    known: HashSet<String>,
    not_before: Option<Instant>,
    pause: Option<Duration>,
    /// That it waits was told.
    told: bool,
    given_up: bool,
}

#[derive(Debug)]
struct Awaits {
    uid: String,
    since: Instant,
    sure: bool,
}

/// The pods of a workload that has some without a sidecar, or had.
#[derive(Default)]
struct Group<'w> {
    slipped: Vec<(&'w Key, &'w PodFacts)>,
    others: Vec<&'w PodFacts>,
}

impl<'w> Group<'w> {
    fn pods(&self) -> impl Iterator<Item = &'w PodFacts> {
        self.slipped.iter().map(|(_, pod)| *pod).chain(self.others.iter().copied())
    }

    fn uids(&self) -> HashSet<String> {
        self.pods().map(|pod| pod.uid.clone()).collect()
    }

    /// The pod to be evicted next. Others of the workload are all there and ready; one that is not ready itself takes
    /// nothing away, so it comes first and need not wait for others of its like.
    fn next(
        &self,
        settings: &RecreateSettings,
        may: impl Fn(&PodFacts) -> bool,
    ) -> Option<(&'w Key, &'w PodFacts)> {
        if self.others.iter().any(|pod| pod.ending || !pod.ready) {
            return None;
        }
        let candidates = self.slipped.iter().filter(|(_, pod)| kept(pod, settings).is_none() && may(pod));
        let first = candidates.min_by_key(|(key, pod)| (pod.ready, &key.name))?;
        let whole = || self.slipped.iter().all(|(_, pod)| pod.ready);
        (!first.1.ready || whole()).then_some(*first)
    }
}

impl Recreation {
    /// What is to be done now.
    pub(crate) fn plan(&mut self, world: &World, settings: &RecreateSettings, now: Instant) -> Plan {
        if !settings.enabled {
            *self = Self { under_way: self.under_way, ..Self::default() };
            return Plan::default();
        }
        let mut plan = Plan::default();
        let groups = self.groups(world);
        self.remember(&groups, now);
        for (id, group) in &groups {
            let Some(workload) = self.workloads.get_mut(id) else { continue };
            if workload.settle(group, settings, now) {
                plan.gave_up += 1;
                tracing::warn!(
                    namespace = id.0,
                    kind = id.1.kind,
                    workload = id.1.name,
                    "its pods have no sidecar, however often they are made anew: given up"
                );
            }
            if let Some(awaits) = workload.awaits.as_ref().filter(|awaits| !awaits.sure) {
                plan.wake(awaits.since + DOUBT, now);
            }
        }
        let given_up = self.workloads.iter().filter(|(_, workload)| workload.given_up);
        plan.given_up = given_up.map(|(id, _)| id.clone()).collect();
        if !self.is_injector_ready(world, now, &mut plan) || self.under_way {
            return plan;
        }
        plan.order = self.choose(world, &groups, (settings, now), &mut plan);
        if plan.order.is_some() {
            self.under_way = true;
            self.next = Some(now + Duration::from_secs(60) / settings.per_minute.max(1));
        }
        plan
    }

    /// Pods by workload, of those that matter.
    fn groups<'w>(&self, world: &'w World) -> BTreeMap<Id, Group<'w>> {
        let mut groups: BTreeMap<Id, Group<'w>> = BTreeMap::new();
        let mut wanted: HashSet<(&str, &Maker)> =
            self.workloads.keys().map(|(namespace, maker)| (namespace.as_str(), maker)).collect();
        let pods =
            || world.seen.pods.iter().filter_map(|(key, pod)| Some((key, &**pod, pod.maker.as_ref()?)));
        let mut slipped = HashSet::new();
        for (key, pod, maker) in pods().filter(|(key, pod, _)| slips::slipped(world, key, pod)) {
            wanted.insert((key.namespace.as_str(), maker));
            slipped.insert(pod.uid.as_str());
        }
        let wanted = |key: &Key, maker: &Maker| wanted.contains(&(key.namespace.as_str(), maker));
        for (key, pod, maker) in pods().filter(|(key, pod, maker)| !pod.finished && wanted(key, maker)) {
            let group = groups.entry((key.namespace.clone(), maker.clone())).or_default();
            if slipped.contains(pod.uid.as_str()) {
                group.slipped.push((key, pod));
            } else {
                group.others.push(pod);
            }
        }
        groups
    }

    /// Takes in what is new, and forgets what is over.
    fn remember(&mut self, groups: &BTreeMap<Id, Group<'_>>, now: Instant) {
        let mut since = HashMap::new();
        for (id, group) in groups {
            for (_, pod) in &group.slipped {
                let first = self.since.get(&pod.uid).copied().unwrap_or(now);
                since.insert(pod.uid.clone(), first);
            }
            if !group.slipped.is_empty() && !self.workloads.contains_key(id) {
                // What the leader before had given up.
                let given_up = group.pods().any(is_given_up);
                let known = if given_up { group.uids() } else { HashSet::new() };
                self.workloads.insert(id.clone(), Workload { given_up, known, ..Workload::default() });
            }
        }
        self.since = since;
        self.workloads.retain(|id, workload| {
            let lasts = groups.get(id).is_some_and(|group| !group.slipped.is_empty());
            let fresh = workload.last.is_some_and(|last| now - last < FORGET);
            lasts || workload.awaits.is_some() && (groups.contains_key(id) || fresh)
        });
        self.turns.retain(|_, turn| now - *turn < FORGET);
    }

    /// By what is seen: a replica that is ready, and has been for a while.
    fn is_injector_ready(&mut self, world: &World, now: Instant, plan: &mut Plan) -> bool {
        let key = Key::new(&world.own, INJECTOR);
        let pods = world.seen.services.get(&key).map(|service| world.pods_of(&key, service));
        let ready = pods.iter().flatten().any(|pod| pod.ready && !pod.ending);
        let since = if ready { *self.ready.get_or_insert(now) } else { now };
        if !ready {
            self.ready = None;
        }
        let anything = !self.since.is_empty();
        if let Some((until, reason)) = self.held.as_ref().filter(|_| anything) {
            plan.notices.push(held(world, reason));
            plan.wake(*until, now);
        } else if !ready && anything {
            plan.notices.push(held(world, "the Service weft-injector has no ready replica"));
        }
        if ready && anything {
            plan.wake(since + SETTLED, now);
        }
        let looked = self.held.as_ref().is_none_or(|(until, _)| now >= *until);
        ready && looked && now >= since + SETTLED
    }

    /// The workload whose turn it is: of the namespace, and in it of the workload, that has waited longest.
    fn choose(
        &self,
        world: &World,
        groups: &BTreeMap<Id, Group<'_>>,
        (settings, now): (&RecreateSettings, Instant),
        plan: &mut Plan,
    ) -> Option<Order> {
        let grace = Duration::from_secs(settings.grace_seconds.into());
        let ripe = |pod: &PodFacts| self.since.get(&pod.uid).map_or(now, |since| *since) + grace;
        let mut ready = Vec::new();
        for (id, group) in groups {
            let Some(workload) = self.workloads.get(id) else { continue };
            if workload.given_up || workload.awaits.is_some() || !takes_pods(world, &id.0) {
                continue;
            }
            if let Some(later) = workload.not_before.filter(|later| now < *later) {
                plan.wake(later, now);
                continue;
            }
            match group.next(settings, |pod| now >= ripe(pod)) {
                Some((key, pod)) => ready.push((id, workload, key, pod, group)),
                None => {
                    let waiting = group.slipped.iter().filter(|(_, pod)| kept(pod, settings).is_none());
                    waiting.for_each(|(_, pod)| plan.wake(ripe(pod), now));
                }
            }
        }
        let turn = |id: &Id| self.turns.get(&id.0);
        let (id, workload, key, pod, group) =
            ready.into_iter().min_by_key(|(id, workload, ..)| (turn(id), workload.last, *id))?;
        if let Some(next) = self.next.filter(|next| now < *next) {
            plan.wake(next, now);
            return None;
        }
        Some(Order {
            id: id.clone(),
            key: key.clone(),
            uid: pod.uid.clone(),
            known: group.uids(),
            tries: workload.tries + 1,
        })
    }

    /// Takes in what became of an order; what is to be told of it.
    pub(crate) fn answered(
        &mut self,
        order: Order,
        answer: &Answer,
        settings: &RecreateSettings,
        now: Instant,
    ) -> Option<Notice> {
        self.under_way = false;
        self.held = None;
        if let Answer::NotReady(reason) = answer {
            self.held = Some((now + SETTLED, reason.clone()));
            return None;
        }
        self.turns.insert(order.id.0.clone(), now);
        let workload = self.workloads.entry(order.id).or_default();
        workload.last = Some(now);
        match answer {
            Answer::Evicted | Answer::Unsure(_) => {
                let sure = *answer == Answer::Evicted;
                workload.tries = order.tries;
                workload.awaits = Some(Awaits { uid: order.uid.clone(), since: now, sure });
                workload.known = order.known;
                if sure {
                    (workload.not_before, workload.pause, workload.told) = (None, None, false);
                    return Some(Notice::evicted(&order.key, &order.uid, (order.tries, settings.tries)));
                }
                workload.wait(now);
                None
            }
            Answer::Refused(reason) => {
                workload.wait(now);
                let told = std::mem::replace(&mut workload.told, true);
                (!told).then(|| Notice::eviction_waits(&order.key, &order.uid, reason))
            }
            Answer::Gone | Answer::NotReady(_) => None,
        }
    }
}

impl Workload {
    fn wait(&mut self, now: Instant) {
        let pause = self.pause.map_or(PAUSE.0, |pause| (pause * 2).min(PAUSE.1));
        self.pause = Some(pause);
        self.not_before = Some(now + pause);
    }

    /// Looks for the replacement of what was evicted; whether the workload is given up just now.
    fn settle(&mut self, group: &Group<'_>, settings: &RecreateSettings, now: Instant) -> bool {
        let is_new = |pod: &PodFacts| !self.known.contains(&pod.uid);
        let watched = self.awaits.is_some() || self.given_up || self.tries > 0;
        if watched && group.others.iter().any(|pod| pod.injected && !pod.ending && is_new(pod)) {
            // Whoever brought it about: pods of this workload are injected.
            *self = Self { last: self.last, ..Self::default() };
            return false;
        }
        let Some(awaits) = &self.awaits else { return false };
        if group.slipped.iter().any(|(_, pod)| is_new(pod)) {
            self.awaits = None;
            self.given_up = self.tries >= settings.tries;
            self.known = group.uids();
            return self.given_up;
        }
        let stays = group.pods().any(|pod| pod.uid == awaits.uid && !pod.ending);
        if !awaits.sure && stays && now >= awaits.since + DOUBT {
            self.awaits = None;
            self.tries = self.tries.saturating_sub(1);
        }
        false
    }
}

/// Whether an injected pod could start in the namespace: it mounts `weft-mesh`.
fn takes_pods(world: &World, namespace: &str) -> bool {
    world.writable(namespace) && world.seen.meshes.contains_key(&Key::new(namespace, MESH_CONFIG))
}

fn held(world: &World, reason: &str) -> Notice {
    let note = format!("pods without a sidecar are not made anew until pods can be injected: {reason}");
    Notice::own(
        &Key::new(&world.own, CONTROL_CONFIG),
        "SidecarRecreateHeld",
        note.chars().take(900).collect(),
    )
}

#[cfg(test)]
#[path = "recreate_tests.rs"]
mod tests;
