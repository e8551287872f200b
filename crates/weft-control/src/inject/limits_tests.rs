use proptest::prelude::*;
use serde_json::json;

use super::super::settings::InjectSettings;
use super::*;

fn limits(items: &[Value]) -> Limits {
    let range = |(number, item): (usize, &Value)| {
        let object = json!({"metadata": {"name": format!("r{number}")}, "spec": {"limits": [item]}});
        LimitRange::of(&serde_json::from_value(object).unwrap())
    };
    items.iter().enumerate().map(range).collect()
}

fn resources(requests: &[(&str, &str)], of: &[(&str, &str)]) -> Resources {
    let read = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, amount)| ((*name).to_owned(), amount.parse().unwrap())).collect()
    };
    Resources { requests: read(requests), limits: read(of) }
}

/// The proxy's default resources, made to fit.
fn fitted(items: &[Value]) -> Value {
    let mut ours = InjectSettings::new("weft").resources;
    let warnings = limits(items).fit("weft-proxy", &mut ours, &[]);
    assert!(warnings.is_empty(), "{warnings:?}");
    serde_json::to_value(&ours).unwrap()
}

#[test]
fn defaults_are_made_to_fit() {
    let untouched = json!({"requests": {"cpu": "10m", "memory": "24Mi"}, "limits": {"memory": "256Mi"}});
    for (items, expected) in [
        (vec![], untouched.clone()),
        // Wide enough; what the API server fills in for the CPU limit fits too.
        (
            vec![
                json!({"type": "Container", "min": {"cpu": "5m", "memory": "8Mi"}, "max": {"cpu": "4", "memory": "1Gi"},
                        "default": {"cpu": "4", "memory": "1Gi"}, "defaultRequest": {"cpu": "4", "memory": "1Gi"}}),
            ],
            untouched.clone(),
        ),
        (vec![json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}})], untouched.clone()),
        (vec![json!({"type": "Pod", "max": {"memory": "1Mi"}})], untouched.clone()),
        (
            vec![
                json!({"type": "Container", "max": {"example.com/gpu": "1"}, "min": {"hugepages-2Mi": "2Mi"}}),
            ],
            untouched,
        ),
        (
            vec![json!({"type": "Container", "min": {"cpu": "50m", "memory": "64Mi"}})],
            json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}),
        ),
        (
            vec![json!({"type": "Container", "min": {"memory": "512Mi"}})],
            json!({"requests": {"cpu": "10m", "memory": "512Mi"}, "limits": {"memory": "512Mi"}}),
        ),
        (
            vec![json!({"type": "Container", "max": {"memory": "128Mi"}})],
            json!({"requests": {"cpu": "10m", "memory": "24Mi"}, "limits": {"memory": "128Mi"}}),
        ),
        (
            vec![json!({"type": "Container", "max": {"memory": "16Mi"}})],
            json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "16Mi"}}),
        ),
        // A maximum without a default, as no API server stores it.
        (
            vec![json!({"type": "Container", "max": {"cpu": "1"}})],
            json!({"requests": {"cpu": "10m", "memory": "24Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}}),
        ),
    ] {
        assert_eq!(fitted(&items), expected, "{items:?}");
    }
}

#[test]
fn defaults_keep_to_ratios_and_to_what_is_filled_in() {
    for (items, expected) in [
        // 256Mi is more than four times 24Mi; for the CPU the default of 1 is filled in, a hundred times 10m.
        (
            vec![json!({"type": "Container", "maxLimitRequestRatio": {"memory": "4"}})],
            json!({"requests": {"cpu": "10m", "memory": "67108864"}, "limits": {"memory": "256Mi"}}),
        ),
        (
            vec![json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "3"}, "default": {"cpu": "1"}})],
            json!({"requests": {"cpu": "334m", "memory": "24Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}}),
        ),
        (
            vec![json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "1"}})],
            json!({"requests": {"cpu": "10m", "memory": "24Mi"}, "limits": {"cpu": "10m", "memory": "256Mi"}}),
        ),
        // A default limit that is less than what we ask for would make the pod invalid.
        (
            vec![json!({"type": "Container", "default": {"cpu": "5m"}, "max": {"cpu": "20m"}})],
            json!({"requests": {"cpu": "10m", "memory": "24Mi"}, "limits": {"cpu": "10m", "memory": "256Mi"}}),
        ),
        (
            vec![
                json!({"type": "Container", "default": {"cpu": "5m"}, "maxLimitRequestRatio": {"cpu": "2"}}),
            ],
            json!({"requests": {"cpu": "10m", "memory": "24Mi"}, "limits": {"cpu": "10m", "memory": "256Mi"}}),
        ),
        // Of several the narrowest.
        (
            vec![
                json!({"type": "Container", "max": {"memory": "200Mi"}}),
                json!({"type": "Container", "max": {"memory": "100Mi"}, "min": {"memory": "50Mi"}}),
            ],
            json!({"requests": {"cpu": "10m", "memory": "50Mi"}, "limits": {"memory": "100Mi"}}),
        ),
        (
            vec![
                json!({"type": "Container", "min": {"ephemeral-storage": "1Gi"}, "max": {"ephemeral-storage": "2Gi"}}),
            ],
            json!({"requests": {"cpu": "10m", "memory": "24Mi", "ephemeral-storage": "1Gi"},
                   "limits": {"memory": "256Mi", "ephemeral-storage": "2Gi"}}),
        ),
        // The API server fills these in; nothing has to be written.
        (
            vec![
                json!({"type": "Container", "min": {"ephemeral-storage": "1Gi"}, "defaultRequest": {"ephemeral-storage": "1Gi"}}),
            ],
            json!({"requests": {"cpu": "10m", "memory": "24Mi"}, "limits": {"memory": "256Mi"}}),
        ),
    ] {
        assert_eq!(fitted(&items), expected, "{items:?}");
    }
}

/// `ours` with `fixed` by annotation becomes what is expected, with what is said of it.
fn annotated(
    item: &Value,
    ours: &Resources,
    fixed: &[(&str, bool)],
    (expected, said): (&Resources, Option<&str>),
) {
    let mut fitted = ours.clone();
    let warnings = limits(std::slice::from_ref(item)).fit("weft-proxy", &mut fitted, fixed);
    let told = format!("{item} {ours:?}: {warnings:?}");
    assert_eq!((&fitted, warnings.len()), (expected, usize::from(said.is_some())), "{told}");
    for warning in &warnings {
        assert!(warning.contains(said.unwrap_or_default()) && warning.len() <= 256, "{warning}");
        assert!(warning.contains("weft.dev/*-memory-*"), "{warning}");
    }
}

#[test]
fn what_an_annotation_says_stays_and_is_warned_of() {
    let memory = ("memory", false);
    let memory_limit = ("memory", true);
    for (item, ours, fixed, expected, said) in [
        (
            json!({"type": "Container", "max": {"memory": "1Gi"}}),
            resources(&[("memory", "24Mi")], &[("memory", "2Gi")]),
            &[memory_limit][..],
            resources(&[("memory", "24Mi")], &[("memory", "2Gi")]),
            Some("the memory limit 2Gi is above the maximum 1Gi of LimitRange r0"),
        ),
        (
            json!({"type": "Container", "min": {"memory": "64Mi"}}),
            resources(&[("memory", "24Mi")], &[("memory", "32Mi")]),
            &[memory_limit],
            resources(&[("memory", "32Mi")], &[("memory", "32Mi")]),
            Some("below the minimum 64Mi"),
        ),
        (
            json!({"type": "Container", "min": {"memory": "64Mi"}}),
            resources(&[("memory", "24Mi")], &[("memory", "256Mi")]),
            &[memory],
            resources(&[("memory", "24Mi")], &[("memory", "256Mi")]),
            Some("the memory request 24Mi is below the minimum 64Mi"),
        ),
        (
            json!({"type": "Container", "maxLimitRequestRatio": {"memory": "2"}}),
            resources(&[("memory", "24Mi")], &[("memory", "256Mi")]),
            &[memory, memory_limit],
            resources(&[("memory", "24Mi")], &[("memory", "256Mi")]),
            Some("the memory limit 256Mi is more than 2 times the request 24Mi"),
        ),
    ] {
        annotated(&item, &ours, fixed, (&expected, said));
    }
}

#[test]
fn beside_an_annotation_the_other_one_gives_way() {
    let memory = ("memory", false);
    let memory_limit = ("memory", true);
    for (item, ours, fixed, expected) in [
        (
            json!({"type": "Container", "maxLimitRequestRatio": {"memory": "2"}}),
            resources(&[("memory", "24Mi")], &[("memory", "256Mi")]),
            &[memory][..],
            resources(&[("memory", "24Mi")], &[("memory", "50331648")]),
        ),
        (
            json!({"type": "Container", "maxLimitRequestRatio": {"memory": "2"}}),
            resources(&[("memory", "24Mi")], &[("memory", "256Mi")]),
            &[memory_limit],
            resources(&[("memory", "134217728")], &[("memory", "256Mi")]),
        ),
        (
            json!({"type": "Container", "default": {"memory": "16Mi"}, "max": {"memory": "64Mi"}}),
            resources(&[("memory", "32Mi")], &[]),
            &[memory],
            resources(&[("memory", "32Mi")], &[("memory", "32Mi")]),
        ),
        // Nothing of a resource is asked for that nobody asks for.
        (
            json!({"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}}),
            resources(&[], &[("memory", "1Gi")]),
            &[memory_limit],
            resources(&[], &[("memory", "1Gi")]),
        ),
    ] {
        annotated(&item, &ours, fixed, (&expected, None));
    }
}

#[test]
fn ranges_that_nothing_fits_into_are_told() {
    let items = [
        json!({"type": "Container", "min": {"memory": "64Mi"}}),
        json!({"type": "Container", "max": {"memory": "32Mi"}, "default": {"memory": "32Mi"}}),
    ];
    let mut ours = InjectSettings::new("weft").resources;
    let warnings = limits(&items).fit("weft-init", &mut ours, &[]);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].starts_with(
            "weft: weft-init: the memory request 32Mi is below the minimum 64Mi of LimitRange r0;"
        ),
        "{warnings:?}"
    );
}

#[test]
fn a_pod_as_a_whole_is_added_up_as_the_api_server_does() {
    let container = |memory: &str, restart: Option<&str>| {
        let mut container =
            json!({"name": "c", "resources": {"limits": {"memory": memory}, "requests": {"memory": memory}}});
        if let Some(policy) = restart {
            container["restartPolicy"] = json!(policy);
        }
        container
    };
    let pod = |init: Vec<Value>, containers: Vec<Value>| json!({"spec": {"initContainers": init, "containers": containers}});
    let always = Some("Always");
    let before =
        pod(vec![container("300Mi", None)], vec![container("100Mi", None), container("100Mi", None)]);
    let after = pod(
        vec![container("64Mi", None), container("256Mi", always), container("300Mi", None)],
        vec![container("100Mi", None), container("100Mi", None)],
    );
    let none = Limits::default();
    let sum = |pod: &Value| none.sum(pod, "limits", "memory").map(|sum| sum.to_string());
    // 300Mi while it starts are more than 200Mi; with the sidecar they are 556Mi.
    assert_eq!((sum(&before).as_deref(), sum(&after).as_deref()), (Some("300Mi"), Some("556Mi")));
    assert_eq!(sum(&json!({"spec": {"containers": [{"name": "a"}]}})), None);
    for (max, warnings) in [("1Gi", 0), ("556Mi", 0), ("555Mi", 2), ("300Mi", 2), ("299Mi", 0)] {
        let limits = limits(&[json!({"type": "Pod", "max": {"memory": max}})]);
        let told = limits.whole(&before, &after);
        assert_eq!(told.len(), warnings, "{max}: {told:?}");
        for warning in told {
            assert!(warning.contains("556Mi") && warning.contains(max) && warning.len() <= 256, "{warning}");
        }
    }
    // With resources of its own as a whole, ours are within them.
    let mut whole = before;
    whole["spec"]["resources"] = json!({"limits": {"memory": "300Mi"}});
    assert!(limits(&[json!({"type": "Pod", "max": {"memory": "300Mi"}})]).whole(&whole, &after).is_empty());
}

#[test]
fn an_injected_pod_keeps_within_the_limits_of_its_namespace() {
    use crate::inject::{INJECT_LABEL, Injector, Namespace, Outcome, ProbeSecret, Skip, inject};
    let injector = Injector {
        settings: InjectSettings::new("weft"),
        native: true,
        own_namespace: "weft-system".to_owned(),
        ca: None,
    };
    let namespace = Namespace {
        name: Some("shop".to_owned()),
        labels: Some([(INJECT_LABEL.to_owned(), "enabled".to_owned())].into()),
        limits: limits(&[
            json!({"type": "Container", "max": {"memory": "128Mi"}, "min": {"memory": "32Mi"}}),
            json!({"type": "Pod", "max": {"memory": "150Mi"}}),
        ]),
    };
    let app =
        json!({"name": "app", "resources": {"limits": {"memory": "100Mi"}, "requests": {"memory": "100Mi"}}});
    let pod = json!({"metadata": {"annotations": {"weft.dev/init-memory-limit": "1Gi"}}, "spec": {"containers": [app]}});
    let secret = ProbeSecret::derived(b"key", "");
    let Outcome::Patched(injected) = inject(&pod, &namespace, &injector, &secret) else {
        panic!("not injected")
    };
    let of = |at: usize| injected.object["spec"]["initContainers"][at]["resources"].clone();
    assert_eq!(of(0), json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "1Gi"}}));
    assert_eq!(of(1), json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}));
    let told = injected.warnings.join("\n");
    assert!(told.contains("memory limits of 1024Mi, above the 150Mi of LimitRange r1"), "{told}");
    assert!(
        told.contains("weft-init: the memory limit 1Gi is above the maximum 128Mi of LimitRange r0"),
        "{told}"
    );
    assert_eq!(injected.warnings.len(), 2);
    // A second look changes nothing.
    assert_eq!(inject(&injected.object, &namespace, &injector, &secret), Outcome::Skip(Skip::Injected));
}

fn amount() -> impl Strategy<Value = String> {
    (1_u32..2_000).prop_map(|amount| format!("{amount}Mi"))
}

proptest! {
    /// Where anything fits, what is made fits; and what fitted stays.
    #[test]
    fn what_can_fit_fits(
        min in proptest::option::of(amount()),
        max in proptest::option::of(amount()),
        ratio in proptest::option::of(1_000_u32..9_000),
        request in proptest::option::of(amount()),
        limit in proptest::option::of(amount()),
    ) {
        let read = |text: &Option<String>| text.as_ref().map(|text| text.parse::<Quantity>().unwrap());
        prop_assume!(read(&min).zip(read(&max)).is_none_or(|(min, max)| min <= max));
        prop_assume!(read(&request).zip(read(&limit)).is_none_or(|(request, limit)| request <= limit));
        let mut item = json!({"type": "Container"});
        for (field, amount) in [("min", &min), ("max", &max), ("default", &max), ("defaultRequest", &max.clone().or(min.clone()))] {
            if let Some(amount) = amount {
                item[field] = json!({"memory": amount});
            }
        }
        if let Some(ratio) = ratio {
            item["maxLimitRequestRatio"] = json!({"memory": format!("{ratio}m")});
        }
        let limits = limits(&[item]);
        let pairs = |amount: &Option<String>| amount.clone().map(|amount| ("memory".to_owned(), amount.parse().unwrap())).into_iter().collect();
        let before = Resources { requests: pairs(&request), limits: pairs(&limit) };
        let share = Share { request: read(&request), limit: read(&limit) };
        // Without anything to begin with there is nothing to bring into a ratio.
        prop_assume!(ratio.is_none() || limits.filled("memory", &share).request.is_some());
        let fitted_before = limits.misfit("memory", &limits.filled("memory", &share)).is_none();
        let mut after = before.clone();
        let warnings = limits.fit("weft-proxy", &mut after, &[]);
        prop_assert!(warnings.is_empty(), "{warnings:?} {after:?}");
        prop_assert!(after.problems().is_empty(), "{after:?}");
        prop_assert!(!fitted_before || after == before);
    }
}
