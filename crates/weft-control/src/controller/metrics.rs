//! What the controller tells about itself, as Prometheus text.
//!
//! Written a few times a second at the most, so a lock is fine here; the rules of the request path do not apply.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::pace::Kind;
use super::recreate::Answer;

/// Upper bounds of the buckets of a pass's duration, in seconds: a pass over a small cluster takes a millisecond, one
/// with many writes seconds.
const BUCKETS: [f64; 8] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0];

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
    duration_micros: AtomicU64,
    buckets: [AtomicU64; BUCKETS.len()],
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
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.duration_micros.fetch_add(micros, Ordering::Relaxed);
        for (bound, bucket) in BUCKETS.iter().zip(&self.buckets) {
            if took.as_secs_f64() <= *bound {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Appends all families in the Prometheus text format to `out`.
    pub fn render(&self, out: &mut String) {
        let family = |out: &mut String, name: &str, kind: &str, help: &str| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        let (ok, failed) = (self.ok.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        family(out, "weft_controller_leader", "gauge", "1 on the replica that leads.");
        let _ = writeln!(out, "weft_controller_leader {}", u8::from(self.leads()));
        family(out, "weft_controller_reconciles_total", "counter", "Passes over the whole state, by result.");
        let _ = writeln!(out, "weft_controller_reconciles_total{{result=\"ok\"}} {ok}");
        let _ = writeln!(out, "weft_controller_reconciles_total{{result=\"error\"}} {failed}");
        self.render_writes(out, &family);
        let name = "weft_controller_reconcile_duration_seconds";
        family(out, name, "histogram", "How long a pass took, its writes included.");
        for (bound, bucket) in BUCKETS.iter().zip(&self.buckets) {
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {}", bucket.load(Ordering::Relaxed));
        }
        let sum = Duration::from_micros(self.duration_micros.load(Ordering::Relaxed)).as_secs_f64();
        let count = ok + failed;
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
        self.figures.lock().unwrap_or_else(PoisonError::into_inner).render(out);
    }
}

impl Metrics {
    fn render_writes(&self, out: &mut String, family: &impl Fn(&mut String, &str, &str, &str)) {
        let name = "weft_controller_writes_total";
        family(out, name, "counter", "Objects written or removed, by type.");
        for (kind, (objects, _)) in Kind::ALL.iter().zip(&self.writes) {
            let _ = writeln!(out, "{name}{{type=\"{}\"}} {}", kind.name(), objects.load(Ordering::Relaxed));
        }
        let name = "weft_controller_written_bytes_total";
        family(out, name, "counter", "Octets of the objects that were written, by type.");
        for (kind, (_, octets)) in Kind::ALL.iter().zip(&self.writes) {
            let _ = writeln!(out, "{name}{{type=\"{}\"}} {}", kind.name(), octets.load(Ordering::Relaxed));
        }
        let name = "weft_controller_errors_total";
        family(out, name, "counter", "What went wrong, by kind.");
        for (fault, count) in Fault::ALL.iter().zip(&self.faults) {
            let _ = writeln!(out, "{name}{{kind=\"{}\"}} {}", fault.name(), count.load(Ordering::Relaxed));
        }
        let name = "weft_controller_recreations_total";
        family(out, name, "counter", "Pods without a sidecar that were to be made anew, by result.");
        for (what, count) in Recreated::ALL.iter().zip(&self.recreations) {
            let _ = writeln!(out, "{name}{{result=\"{}\"}} {}", what.name(), count.load(Ordering::Relaxed));
        }
    }
}

impl Figures {
    fn render(&self, out: &mut String) {
        let mut by = |name: &str, label: &str, help: &str, values: &mut dyn Iterator<Item = (&str, u64)>| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
            for (value, count) in values {
                // Names of namespaces and modes need no escaping.
                let _ = writeln!(out, "{name}{{{label}=\"{value}\"}} {count}");
            }
        };
        let services = &mut self.services.iter().map(|(mode, count)| (*mode, *count));
        by("weft_services", "mode", "Services of the mesh by the mode of clients towards them.", services);
        let uninjected = &mut self.uninjected.iter().map(|(ns, count)| (ns.as_str(), *count));
        by("weft_uninjected_pods", "namespace", "Pods without a sidecar that should have one.", uninjected);
        let injected = &mut self.injected.iter().map(|(ns, count)| (ns.as_str(), *count));
        by("weft_injected_pods", "namespace", "Pods with a sidecar.", injected);
        let held = &mut self.held.iter().map(|(kind, count)| (*kind, *count));
        by("weft_held_back_services", "kind", "Services that are held back; see their Events.", held);
        let mut one = |name: &str, help: &str, value: u64| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
        };
        one(
            "weft_given_up_workloads",
            "Workloads that get no sidecar by being made anew; see the Events of their pods.",
            self.given_up,
        );
        one("weft_twins", "Headless twins that are kept.", self.twins);
        one(
            "weft_twin_conflicts",
            "Services whose twin cannot be made; see their Events.",
            self.twin_conflicts,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_told_and_a_former_leader_tells_no_figures() {
        let metrics = Metrics::default();
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
        metrics.render(&mut text);
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
        metrics.render(&mut text);
        assert!(!text.contains("shop") && text.contains("weft_controller_leader 0"), "{text}");
    }
}
