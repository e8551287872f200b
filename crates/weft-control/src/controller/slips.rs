//! Pods that slipped by: they should have a sidecar and have none.
//!
//! That is so for each pod that was there before its namespace was labelled, and for one that was made while the injector
//! was away. When a workload restarts is its owner's decision, so the pod is told of, by a condition that `kubectl
//! describe` and readiness dashboards show, by an Event, and by a metric. Where the owner of the cluster has decided so,
//! [`recreate`](super::recreate) has such pods made anew.

use std::collections::BTreeMap;

use super::facts::{Inject, Key, PodFacts, Reported};
use super::world::World;

/// What is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slips {
    /// Pods that get the condition, with their uid.
    pub(crate) report: Vec<(Key, String)>,
    /// Pods whose condition is to say that their workload is given up.
    pub(crate) give_up: Vec<(Key, String)>,
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
        let wanted =
            slipped.then(|| if world.is_given_up(key, pod) { Reported::GivenUp } else { Reported::Missing });
        match wanted {
            _ if wanted == pod.reported => {}
            Some(Reported::Missing) => slips.report.push(entry()),
            Some(Reported::GivenUp) => slips.give_up.push(entry()),
            None if !pod.ending && !pod.finished => slips.clear.push(entry()),
            None => {}
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
    use super::super::maker::Maker;
    use super::super::world::tests::{Draft, no_change};
    use super::*;

    #[test]
    fn labels_say_who_should_have_been_injected() {
        let maker = |name: &str| Some(Maker { kind: "Deployment".to_owned(), name: name.to_owned() });
        let mut world = Draft::default()
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
            .pod("shop", "told", "10.0.0.7", false, |pod| pod.reported = Some(Reported::Missing))
            .pod("shop", "hopeless", "10.0.0.8", false, |pod| pod.maker = maker("hopeless"))
            .pod("shop", "told-so", "10.0.0.9", false, |pod| {
                pod.maker = maker("hopeless");
                pod.reported = Some(Reported::GivenUp);
            })
            .pod("shop", "no-more", "10.0.0.10", false, |pod| pod.reported = Some(Reported::GivenUp))
            .pod("plain", "opted-in", "10.0.1.1", false, |pod| pod.inject = Inject::Enabled)
            .pod("plain", "other", "10.0.1.2", false, no_change)
            .pod("plain", "was", "10.0.1.3", false, |pod| pod.reported = Some(Reported::Missing))
            .pod("out", "asked", "10.0.2.1", false, |pod| pod.inject = Inject::Enabled)
            .pod("kube-system", "dns", "10.0.3.1", false, no_change)
            .world();
        world.given_up = maker("hopeless").into_iter().map(|maker| ("shop".to_owned(), maker)).collect();
        let slips = slips(&world);
        let uids = |list: &[(Key, String)]| list.iter().map(|(_, uid)| uid.clone()).collect::<Vec<_>>();
        assert_eq!(uids(&slips.report), ["10.0.1.1", "10.0.0.10", "10.0.0.1"]);
        assert_eq!(uids(&slips.give_up), ["10.0.0.8"]);
        assert_eq!(uids(&slips.clear), ["10.0.1.3"]);
        assert_eq!(slips.count, [("plain".to_owned(), 1), ("shop".to_owned(), 5)].into());
    }
}
