//! Pods that slipped by: they should have a sidecar and have none.
//!
//! That is so for each pod that was there before its namespace was labelled, and for one that was made while the injector
//! was away. Nothing is restarted: when a workload restarts is its owner's decision. The pod is told of instead, by a
//! condition that `kubectl describe` and readiness dashboards show, by an Event, and by a metric.

use std::collections::BTreeMap;

use super::facts::{Inject, Key, PodFacts};
use super::world::World;

/// What is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slips {
    /// Pods that get the condition, with their uid.
    pub(crate) report: Vec<(Key, String)>,
    /// Pods that have it and should not (any more).
    pub(crate) clear: Vec<(Key, String)>,
    /// All that slipped by, by namespace.
    pub(crate) count: BTreeMap<String, u64>,
}

/// Finds them.
pub(crate) fn slips(world: &World) -> Slips {
    let mut slips = Slips::default();
    for (key, pod) in &world.seen.pods {
        let slipped = slipped(world, key, pod);
        if slipped {
            *slips.count.entry(key.namespace.clone()).or_default() += 1;
        }
        let entry = || (key.clone(), pod.uid.clone());
        match (slipped, pod.reported) {
            (true, false) => slips.report.push(entry()),
            (false, true) if !pod.ending && !pod.finished => slips.clear.push(entry()),
            _ => {}
        }
    }
    slips
}

/// Whether a pod should have a sidecar by the labels, could have one, and has none.
pub fn slipped(world: &World, key: &Key, pod: &PodFacts) -> bool {
    if pod.injected || pod.left_alone || pod.finished || pod.ending {
        return false;
    }
    let asked = match world.namespace(&key.namespace).map(|ns| ns.inject) {
        Some(Inject::Enabled) => pod.inject != Inject::Disabled,
        Some(Inject::Unsaid) => pod.inject == Inject::Enabled,
        Some(Inject::Disabled) | None => false,
    };
    asked && world.may_participate(&key.namespace)
}

#[cfg(test)]
mod tests {
    use super::super::world::tests::{Draft, no_change};
    use super::*;

    #[test]
    fn labels_say_who_should_have_been_injected() {
        let world = Draft::default()
            .namespace("shop", Inject::Enabled, None)
            .namespace("plain", Inject::Unsaid, None)
            .namespace("out", Inject::Disabled, None)
            .namespace("kube-system", Inject::Enabled, None)
            .pod("shop", "slipped", "10.0.0.1", false, no_change)
            .pod("shop", "in", "10.0.0.2", true, no_change)
            .pod("shop", "host", "10.0.0.3", false, |pod| pod.left_alone = true)
            .pod("shop", "done", "10.0.0.4", false, |pod| pod.finished = true)
            .pod("shop", "ending", "10.0.0.5", false, |pod| pod.ending = true)
            .pod("shop", "opted-out", "10.0.0.6", false, |pod| pod.inject = Inject::Disabled)
            .pod("shop", "told", "10.0.0.7", false, |pod| pod.reported = true)
            .pod("plain", "opted-in", "10.0.1.1", false, |pod| pod.inject = Inject::Enabled)
            .pod("plain", "other", "10.0.1.2", false, no_change)
            .pod("plain", "was", "10.0.1.3", false, |pod| pod.reported = true)
            .pod("out", "asked", "10.0.2.1", false, |pod| pod.inject = Inject::Enabled)
            .pod("kube-system", "dns", "10.0.3.1", false, no_change)
            .world();
        let slips = slips(&world);
        let uids = |list: &[(Key, String)]| list.iter().map(|(_, uid)| uid.clone()).collect::<Vec<_>>();
        assert_eq!(uids(&slips.report), ["10.0.1.1", "10.0.0.1"]);
        assert_eq!(uids(&slips.clear), ["10.0.1.3"]);
        assert_eq!(slips.count, [("plain".to_owned(), 1), ("shop".to_owned(), 2)].into());
    }
}
