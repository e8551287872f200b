//! A large cluster: 5,000 Services, 20,000 pods and 300 namespaces. The figures are in docs/benchmarks.md.
//!
//! ```text
//! cargo test --release -p weft-control --lib controller::scale -- --ignored --nocapture
//! ```

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::runtime::watcher::Event;
use serde_json::json;
use tokio::time::Instant;

use super::budget::look;
use super::facts::Facts;
use super::membership::tests::settings;
use super::memory::recall;
use super::modes::Modes;
use super::pass::{Work, work};
use super::stores::{Store, Stores};
use super::world::{Seen, World};

const NAMESPACES: usize = 300;
const SERVICES: usize = 5_000;
const PODS: usize = 20_000;

/// Resident memory, in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn fill<K, F: Facts<K>>(store: &Store<F>, count: usize, object: impl Fn(usize) -> serde_json::Value)
where
    K: serde::de::DeserializeOwned,
{
    store.apply::<K>(Event::Init);
    for number in 0..count {
        store.apply::<K>(Event::InitApply(serde_json::from_value(object(number)).unwrap()));
    }
    store.apply::<K>(Event::InitDone);
}

/// `bare` of the four pods of each Service have no sidecar.
fn stores(bare: usize) -> Stores {
    let stores = Stores::default();
    let namespace = |service: usize| format!("team-{}", service % NAMESPACES);
    fill::<Namespace, _>(&stores.namespaces, NAMESPACES, |number| {
        json!({"metadata": {"name": format!("team-{number}"), "uid": format!("n{number}"),
                            "labels": {"weft.dev/inject": "enabled"}}})
    });
    fill::<Service, _>(&stores.services, SERVICES, |number| {
        json!({"metadata": {"name": format!("service-{number}"), "namespace": namespace(number), "uid": format!("s{number}"),
                            "creationTimestamp": "2026-01-01T00:00:00Z"},
               "spec": {"clusterIP": "10.96.0.1", "selector": {"app": format!("app-{number}")}, "ports": [{"port": 80}]}})
    });
    fill::<Pod, _>(&stores.pods, PODS, |number| {
        let (service, replica) = (number % SERVICES, number / SERVICES);
        let container = |name: &str| json!({"name": name, "image": "none"});
        let init =
            if replica < bare { vec![] } else { vec![container("weft-init"), container("weft-proxy")] };
        json!({"metadata": {"name": format!("app-{service}-6d4cf56db6-{replica}"), "namespace": namespace(service),
                            "uid": format!("8c1d2a5e-0000-4000-8000-{number:012}"),
                            "labels": {"app": format!("app-{service}"), "pod-template-hash": "6d4cf56db6", "tier": "any"}},
               "spec": {"initContainers": init, "containers": [container("app")]},
               "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                          "podIPs": [{"ip": format!("10.{}.{}.{}", 10 + replica, service / 250, service % 250)}]}})
    });
    stores
}

fn pass(stores: &Stores, modes: &mut Modes, now: Instant) -> Work {
    let mut world = World::new("weft-system", Seen::from(stores));
    modes.settle(&world);
    world.keep(modes.by_pods());
    let looks = look(&world);
    let recall = recall(&world, &looks, modes, now);
    modes.confirm(&recall.due, recall.by_pods);
    work(&world, &looks, &settings(), "-----BEGIN CERTIFICATE-----\n", Some(modes), recall.held)
}

#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "a measurement tells its figures")]
fn a_pass_over_a_large_cluster() {
    for (what, bare) in [("in the middle of moving in", 1), ("moved in", 0)] {
        let before = resident();
        let stores = stores(bare);
        let kept = resident();
        let mut modes = Modes::default();
        let start = Instant::now();
        pass(&stores, &mut modes, start);
        let begun = std::time::Instant::now();
        let work = pass(&stores, &mut modes, start + Duration::from_secs(60));
        let took = begun.elapsed();
        let text = work.meshes.first().and_then(|mesh| mesh.yaml.as_ref()).map_or(0, |yaml| yaml.len());
        println!(
            "{what}: a pass takes {took:?}, facts {} MiB, process {} MiB after it; text {text} octets to {} namespaces, \
             {} twins, {} strict, {} held back",
            kept.saturating_sub(before),
            resident(),
            work.meshes.len(),
            work.twins.create.len(),
            modes.strict().count(),
            work.held.len(),
        );
        assert_eq!(work.meshes.len(), NAMESPACES);
        // Where all Services of such a cluster move in at once, the text has no room for some namespaces: they wait.
        assert_eq!(work.held.is_empty(), bare == 0);
        assert!(work.figures.held["octets"] == 0 && took < Duration::from_secs(30), "{took:?}");
        assert_eq!(modes.strict().count(), if bare == 0 { SERVICES } else { 0 });
    }
}
