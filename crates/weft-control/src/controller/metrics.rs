//! What the controller tells about itself.
//!
//! Written a few times a second at the most, so a lock is fine here; the rules of the request path do not apply.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use weft_telemetry::Registry;
use weft_telemetry::metrics::{Encoder, Family, families};

use super::pace::Kind;
use super::recreate::Answer;

/// One for each bound of a pass's duration, and one for what took longer.
const BUCKETS: usize = families::PASS_SECONDS.bounds.len() + 1;

/// What went wrong, the label `kind` of `weft_controller_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A namespace began to have Services held back.
    Budget,
    /// There is no membership that could be written.
    Membership,
    /// `weft-state` could not be read or written.
    State,
    /// Another write failed.
    Write,
    /// An Event could not be written.
    Event,
    /// There was no room for an Event.
    EventLost,
    /// The settings are refused.
    Settings,
}

impl Fault {
    const ALL: [Self; 7] = [
        Self::Budget,
        Self::Membership,
        Self::State,
        Self::Write,
        Self::Event,
        Self::EventLost,
        Self::Settings,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Membership => "membership",
            Self::State => "state",
            Self::Write => "write",
            Self::Event => "event",
            Self::EventLost => "event_lost",
            Self::Settings => "settings",
        }
    }
}

/// What became of pods that were to be made anew, the label `result` of `weft_controller_recreations_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recreated {
    /// A pod was evicted.
    Evicted,
    /// The API server did not let one go, or it would not have been let in again.
    Refused,
    /// It was not asked for, or nobody knows the outcome.
    Failed,
    /// A workload was given up.
    GivenUp,
}

impl Recreated {
    const ALL: [Self; 4] = [Self::Evicted, Self::Refused, Self::Failed, Self::GivenUp];

    fn name(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::GivenUp => "given_up",
        }
    }

    /// `None` where the pod was gone already.
    pub(crate) fn of(answer: &Answer) -> Option<Self> {
        match answer {
            Answer::Evicted => Some(Self::Evicted),
            Answer::Refused(_) => Some(Self::Refused),
            Answer::Unsure(_) | Answer::NotReady(_) => Some(Self::Failed),
            Answer::Gone => None,
        }
    }
}

/// The controller's metrics; one per process, shared by reference.
#[derive(Debug, Default)]
pub struct Metrics {
    leader: AtomicBool,
    ok: AtomicU64,
    failed: AtomicU64,
    /// Objects and octets, by what was written.
    writes: [(AtomicU64, AtomicU64); Kind::ALL.len()],
    faults: [AtomicU64; Fault::ALL.len()],
    recreations: [AtomicU64; Recreated::ALL.len()],
    duration_nanos: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
    figures: Mutex<Figures>,
}

/// What the last pass of the leader found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Services by the mode of clients towards them.
    pub(crate) services: BTreeMap<&'static str, u64>,
    /// Uninjected pods that should have been injected, by namespace.
    pub(crate) uninjected: BTreeMap<String, u64>,
    /// Injected pods by namespace.
    pub(crate) injected: BTreeMap<String, u64>,
    /// Twins that are not possible: a foreign Service of the name, or too long a name.
    pub(crate) twin_conflicts: u64,
    /// Twins that are kept.
    pub(crate) twins: u64,
    /// Services that are held back, by reason.
    pub(crate) held: BTreeMap<&'static str, u64>,
    /// Workloads whose pods are not made anew any more.
    pub(crate) given_up: u64,
}

impl Metrics {
    pub(crate) fn lead(&self, leads: bool) {
        self.leader.store(leads, Ordering::Relaxed);
        if !leads {
            // Only the leader tells figures: two replicas that both did would be counted twice.
            self.tell(Figures::default());
        }
    }

    /// Whether this replica leads, for `/ready` and tests.
    pub fn leads(&self) -> bool {
        self.leader.load(Ordering::Relaxed)
    }

    pub(crate) fn tell(&self, figures: Figures) {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner) = figures;
    }

    pub(crate) fn wrote(&self, kind: Kind, octets: usize) {
        if let Some((objects, all)) = self.writes.get(kind as usize) {
            objects.fetch_add(1, Ordering::Relaxed);
            all.fetch_add(octets as u64, Ordering::Relaxed);
        }
    }

    pub(crate) fn fault(&self, fault: Fault, count: u64) {
        if let Some(counter) = self.faults.get(fault as usize) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(crate) fn recreated(&self, what: Option<Recreated>, count: u64) {
        if let Some(counter) = what.and_then(|what| self.recreations.get(what as usize)) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(crate) fn pass(&self, took: Duration, ok: bool) {
        let counter = if ok { &self.ok } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.duration_nanos.fetch_add(nanos, Ordering::Relaxed);
        let beyond = families::PASS_SECONDS.bounds.iter().take_while(|bound| nanos > **bound).count();
        if let Some(bucket) = self.buckets.get(beyond) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Has all of it collected with what `registry` has.
    pub fn register(self: &Arc<Self>, registry: &Registry) {
        let metrics = Arc::clone(self);
        registry.register_collector(Box::new(move |encoder| metrics.collect(encoder)));
    }

    fn collect(&self, encoder: &mut Encoder<'_>) {
        let (ok, failed) = (self.ok.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        encoder.family(&families::CONTROLLER_LEADER).value(&[], u64::from(self.leads()));
        encoder.family(&families::CONTROLLER_RECONCILES).value(&["ok"], ok).value(&["error"], failed);
        self.collect_writes(encoder);
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let sum = self.duration_nanos.load(Ordering::Relaxed);
        encoder.family(&families::CONTROLLER_RECONCILE_DURATION).histogram(&[], counts, sum);
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).collect(encoder);
    }

    fn collect_writes(&self, encoder: &mut Encoder<'_>) {
        let mut objects = encoder.family(&families::CONTROLLER_WRITES);
        for (kind, (count, _)) in Kind::ALL.iter().zip(&self.writes) {
            objects.value(&[kind.name()], count.load(Ordering::Relaxed));
        }
        let mut octets = encoder.family(&families::CONTROLLER_WRITTEN_BYTES);
        for (kind, (_, count)) in Kind::ALL.iter().zip(&self.writes) {
            octets.value(&[kind.name()], count.load(Ordering::Relaxed));
        }
        let mut errors = encoder.family(&families::CONTROLLER_ERRORS);
        for (fault, count) in Fault::ALL.iter().zip(&self.faults) {
            errors.value(&[fault.name()], count.load(Ordering::Relaxed));
        }
        let mut recreations = encoder.family(&families::CONTROLLER_RECREATIONS);
        for (what, count) in Recreated::ALL.iter().zip(&self.recreations) {
            recreations.value(&[what.name()], count.load(Ordering::Relaxed));
        }
    }
}

impl Figures {
    fn collect(&self, encoder: &mut Encoder<'_>) {
        by(encoder, &families::SERVICES, &self.services);
        by(encoder, &families::UNINJECTED_PODS, &self.uninjected);
        by(encoder, &families::INJECTED_PODS, &self.injected);
        by(encoder, &families::HELD_BACK_SERVICES, &self.held);
        encoder.family(&families::GIVEN_UP_WORKLOADS).value(&[], self.given_up);
        encoder.family(&families::TWINS).value(&[], self.twins);
        encoder.family(&families::TWIN_CONFLICTS).value(&[], self.twin_conflicts);
    }
}

/// A family with one label.
fn by<K: AsRef<str>>(encoder: &mut Encoder<'_>, family: &'static Family, counts: &BTreeMap<K, u64>) {
    let mut family = encoder.family(family);
    for (label, count) in counts {
        family.value(&[label.as_ref()], *count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_told_and_a_former_leader_tells_no_figures() {
        let (metrics, registry) = (Arc::new(Metrics::default()), Registry::default());
        metrics.register(&registry);
        metrics.lead(true);
        metrics.pass(Duration::from_millis(3), true);
        metrics.pass(Duration::from_secs(3), false);
        metrics.wrote(Kind::Mesh, 700);
        metrics.fault(Fault::Budget, 2);
        metrics.recreated(Some(Recreated::GivenUp), 1);
        metrics.recreated(Recreated::of(&Answer::Gone), 1);
        metrics.tell(Figures {
            services: [("strict", 2), ("permissive", 1)].into(),
            uninjected: [("shop".to_owned(), 4)].into(),
            held: [("octets", 3)].into(),
            ..Figures::default()
        });
        let mut text = String::new();
        registry.encode(&mut text);
        for line in [
            "weft_controller_leader 1",
            "weft_controller_reconciles_total{result=\"error\"} 1",
            "weft_controller_reconcile_duration_seconds_bucket{le=\"0.005\"} 1",
            "weft_controller_reconcile_duration_seconds_bucket{le=\"10\"} 2",
            "weft_controller_reconcile_duration_seconds_sum 3.003",
            "weft_controller_writes_total{type=\"mesh\"} 1",
            "weft_controller_written_bytes_total{type=\"mesh\"} 700",
            "weft_controller_errors_total{kind=\"budget\"} 2",
            "weft_controller_errors_total{kind=\"settings\"} 0",
            "weft_controller_recreations_total{result=\"given_up\"} 1",
            "weft_controller_recreations_total{result=\"evicted\"} 0",
            "weft_given_up_workloads 0",
            "weft_held_back_services{kind=\"octets\"} 3",
            "weft_services{mode=\"strict\"} 2",
            "weft_uninjected_pods{namespace=\"shop\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        metrics.lead(false);
        let mut text = String::new();
        registry.encode(&mut text);
        assert!(!text.contains("shop") && text.contains("weft_controller_leader 0"), "{text}");
    }
}
