use proptest::prelude::*;

use super::super::facts::{Facts as _, Inject, Owner, PodFacts};
use super::super::world::Seen;
use super::super::world::tests::{Draft, no_change};
use super::*;

fn port(name: Option<&str>, port: i32, target: IntOrString, protocol: &str) -> PortFacts {
    let (name, protocol) = (name.map(str::to_owned), protocol.to_owned());
    PortFacts { name, port, target, protocol, app_protocol: Some("http".to_owned()) }
}

fn http(service: &mut ServiceFacts) {
    service.ports = vec![
        port(Some("web"), 80, IntOrString::String("http".to_owned()), "TCP"),
        port(Some("dns"), 53, IntOrString::Int(5353), "UDP"),
        port(None, 9090, IntOrString::Int(9091), "TCP"),
    ];
    service.ip_families = vec!["IPv4".to_owned()];
    service.ip_family_policy = Some("SingleStack".to_owned());
    service.publish_not_ready = true;
}

fn draft() -> Draft {
    Draft::default().namespace("shop", Inject::Enabled, None).service("shop", "orders", http)
}

fn injected(draft: Draft) -> Draft {
    draft.pod("shop", "orders", "10.0.0.1", true, no_change)
}

/// The world after the plan was carried out.
fn carried_out(mut seen: Seen, plan: &Plan) -> Seen {
    for twin in plan.create.iter().chain(&plan.update) {
        let mut object = twin.over(None);
        object.metadata.uid = Some(format!("uid-{}", twin.key));
        let (key, facts) = ServiceFacts::take(&object);
        seen.services.insert(key, facts.into());
    }
    for (key, _) in &plan.remove {
        seen.services.remove(key);
    }
    seen
}

#[test]
fn the_first_injected_pod_brings_the_twin() {
    let without = draft().pod("shop", "orders", "10.0.0.1", false, no_change).world();
    assert_eq!(plan(&without), Plan::default());
    let made = plan(&injected(draft()).world());
    let object = made.create[0].over(None);
    let json = serde_json::to_value(&object).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "orders-endpoints", "namespace": "shop",
                "labels": {"weft.dev/twin-of": "orders", "app.kubernetes.io/managed-by": "weft"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "orders", "uid": "shop-orders", "controller": true}],
            },
            "spec": {
                "type": "ClusterIP", "clusterIP": "None", "selector": {"app": "orders"}, "publishNotReadyAddresses": true,
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                "ports": [
                    {"name": "p80", "port": 80, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"},
                    {"name": "p9090", "port": 9090, "targetPort": 9091, "protocol": "TCP", "appProtocol": "http"},
                ],
            },
        })
    );
    assert_eq!((made.kept, made.update.len(), made.remove.len()), (1, 0, 0));
}

#[test]
fn what_was_carried_out_needs_nothing_more_and_stays_at_zero_pods() {
    let first = injected(draft());
    let first_plan = plan(&World::new(
        "weft-system",
        Seen {
            services: first.0.services.clone(),
            namespaces: first.0.namespaces.clone(),
            pods: first.0.pods.clone(),
            ..Seen::default()
        },
    ));
    let seen = carried_out(first.0, &first_plan);
    let mut world = World::new("weft-system", seen);
    assert_eq!(plan(&world), Plan { kept: 1, ..Plan::default() });
    world.seen.pods.clear();
    let world = World::new("weft-system", world.seen);
    assert_eq!(plan(&world), Plan { kept: 1, ..Plan::default() });
}

#[test]
fn a_changed_service_changes_its_twin_and_a_changed_twin_is_put_back() {
    let base = || {
        let world = injected(draft()).world();
        let made = plan(&world);
        carried_out(world.seen, &made)
    };
    let key = Key::new("shop", "orders-endpoints");
    let changes: [fn(&mut ServiceFacts); 5] = [
        |twin| twin.ports[0].target = IntOrString::Int(1),
        |twin| twin.selector.clear(),
        |twin| twin.publish_not_ready = false,
        |twin| twin.ports[0].app_protocol = None,
        |twin| twin.ports.clear(),
    ];
    for change in changes {
        let mut seen = base();
        let mut twin = (*seen.services[&key]).clone();
        change(&mut twin);
        seen.services.insert(key.clone(), twin.into());
        let found = plan(&World::new("weft-system", seen));
        assert_eq!((found.update.len(), found.create.len(), found.kept), (1, 0, 1));
    }
}

#[test]
fn a_foreign_service_of_the_name_is_reported_and_never_touched() {
    let foreign: [fn(&mut ServiceFacts); 4] = [
        |_| {},
        |service| service.twin_of = Some("orders".to_owned()),
        // The labels and an owner of another kind: copied, or another tool's.
        |service| {
            service.twin_of = Some("orders".to_owned());
            service.owner =
                Some(Owner { kind: "Deployment".into(), name: "orders".into(), uid: "shop-orders".into() });
        },
        |service| {
            service.twin_of = Some("other".to_owned());
            service.owner =
                Some(Owner { kind: "Service".into(), name: "orders".into(), uid: "shop-orders".into() });
        },
    ];
    for change in foreign {
        let world = injected(draft()).service("shop", "orders-endpoints", change).world();
        let found = plan(&world);
        assert_eq!(found.hindered, [(Key::new("shop", "orders"), Hindrance::Foreign)]);
        assert!(found.create.is_empty() && found.update.is_empty() && found.remove.is_empty(), "{found:?}");
    }
}

#[test]
fn too_long_a_name_is_reported() {
    let long = "a".repeat(54);
    let world = Draft::default()
        .namespace("shop", Inject::Enabled, None)
        .service("shop", &long, http)
        .pod("shop", &long, "10.0.0.1", true, no_change)
        .world();
    assert_eq!(plan(&world).hindered, [(Key::new("shop", long), Hindrance::TooLong)]);
}

#[test]
fn some_services_need_none_or_want_none() {
    let changes: [fn(&mut ServiceFacts); 5] = [
        |service| service.kind = ServiceKind::Headless,
        |service| service.kind = ServiceKind::External,
        |service| service.mesh_disabled = true,
        |service| service.selector.clear(),
        |service| service.ports.retain(|port| port.protocol == "UDP"),
    ];
    for change in changes {
        let both = |service: &mut ServiceFacts| {
            http(service);
            change(service);
        };
        let draft = Draft::default().namespace("shop", Inject::Enabled, None).service("shop", "orders", both);
        assert_eq!(plan(&injected(draft).world()), Plan::default());
    }
    let outside = Draft::default().namespace("shop", Inject::Unsaid, None).service("shop", "orders", http);
    assert_eq!(plan(&injected(outside).world()), Plan::default());
}

#[test]
fn a_twin_goes_when_its_service_goes_leaves_or_is_another() {
    let base = || {
        let world = injected(draft()).world();
        let made = plan(&world);
        carried_out(world.seen, &made)
    };
    let removed = |seen| {
        let found = plan(&World::new("weft-system", seen));
        found.remove.len() == 1
            && found.create.is_empty()
            && found.update.is_empty()
            && found.hindered.is_empty()
    };
    let mut gone = base();
    gone.services.remove(&Key::new("shop", "orders"));
    assert!(removed(gone));
    let mut left = base();
    left.namespaces.clear();
    assert!(removed(left));
    let mut another = base();
    let mut service = (*another.services[&Key::new("shop", "orders")]).clone();
    service.uid = "new".to_owned();
    another.services.insert(Key::new("shop", "orders"), service.into());
    assert!(removed(another));
}

#[test]
fn what_others_added_to_a_twin_stays() {
    let made = plan(&injected(draft()).world());
    let mut found = made.create[0].over(None);
    found.metadata.annotations = Some([("other".to_owned(), "1".to_owned())].into());
    found.metadata.resource_version = Some("7".to_owned());
    found.spec.as_mut().unwrap().selector = None;
    let object = made.create[0].over(Some(found));
    assert!(
        object.metadata.annotations.is_some() && object.metadata.resource_version.as_deref() == Some("7")
    );
    assert!(object.spec.unwrap().selector.is_some());
}

proptest! {
    /// One pass is enough, from whatever was there; and Services that are not ours are never written.
    #[test]
    fn one_pass_is_enough(
        services in proptest::collection::vec((0usize..4, any::<bool>(), 0u8..4, any::<bool>()), 0..8),
        member in any::<bool>(),
    ) {
        const NAMES: [&str; 4] = ["a", "a-endpoints", "b", "b-endpoints"];
        let inject = if member { Inject::Enabled } else { Inject::Unsaid };
        let mut draft = Draft::default().namespace("shop", inject, None);
        for (name, twin, kind, pod) in services {
            draft = draft.service("shop", NAMES[name], |service| {
                http(service);
                service.kind = if kind == 0 { ServiceKind::Headless } else { ServiceKind::Virtual };
                service.mesh_disabled = kind == 1;
                if twin {
                    let of = NAMES[name].trim_end_matches("-endpoints");
                    service.twin_of = Some(of.to_owned());
                    service.owner = Some(Owner { kind: "Service".into(), name: of.into(), uid: format!("shop-{of}") });
                }
            });
            draft = draft.pod("shop", NAMES[name], "10.0.0.1", pod, |_: &mut PodFacts| {});
        }
        let world = draft.world();
        let made = plan(&world);
        for (key, _) in &made.remove {
            prop_assert!(world.seen.services[key].is_twin());
        }
        for twin in &made.update {
            prop_assert!(world.seen.services[&twin.key].is_twin());
        }
        for twin in &made.create {
            prop_assert!(!world.seen.services.contains_key(&twin.key));
        }
        // Removing what belonged to something else may make room for another twin; then all is as it should be.
        let after = World::new("weft-system", carried_out(world.seen, &made));
        let again = plan(&after);
        let after = World::new("weft-system", carried_out(after.seen, &again));
        let last = plan(&after);
        prop_assert!(last.create.is_empty() && last.update.is_empty() && last.remove.is_empty(), "{:?}", last);
    }
}
