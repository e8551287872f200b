use serde_json::json;

use super::super::{InjectSettings, Injected};
use super::*;

fn injector(native: bool) -> Injector {
    Injector {
        settings: InjectSettings::new("weft:1"),
        native,
        own_namespace: "weft-system".to_owned(),
        ca: None,
    }
}

fn secret() -> ProbeSecret {
    ProbeSecret::derived(b"key", "")
}

fn app() -> Value {
    json!({
        "metadata": {"labels": {"app": "orders"}},
        "spec": {
            "initContainers": [{"name": "migrate"}],
            "containers": [{
                "name": "app", "image": "orders:1",
                "livenessProbe": {"httpGet": {"port": 80, "path": "/live", "scheme": "HTTP"}, "periodSeconds": 10},
            }],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    })
}

fn outcome(pod: &Value, native: bool) -> Outcome {
    super::super::inject(pod, &Namespace::default(), &injector(native), &secret())
}

fn patched(pod: &Value, native: bool) -> Value {
    match outcome(pod, native) {
        Outcome::Patched(Injected { object, .. }) => object,
        other => panic!("{other:?}"),
    }
}

fn refused(pod: &Value) -> String {
    match outcome(pod, true) {
        Outcome::Refuse(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        other => panic!("{other:?}"),
    }
}

/// The container of ours at this place of an injected pod, to be changed.
fn ours<'a>(pod: &'a mut Value, name: &str) -> &'a mut Value {
    let lists = pod["spec"].as_object_mut().unwrap().iter_mut();
    let mut all = lists
        .filter(|(list, _)| list.ends_with("ontainers"))
        .flat_map(|(_, list)| list.as_array_mut().unwrap().iter_mut());
    all.find(|container| container["name"] == name).unwrap()
}

/// What an API server and its plugins add to a pod between two webhooks.
fn filled_in(mut pod: Value) -> Value {
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().unwrap() {
            container["terminationMessagePath"] = json!("/dev/termination-log");
            container["imagePullPolicy"] = json!("Always");
            // A LimitRange's.
            container["resources"]["limits"]["cpu"] = json!("1");
            container["resources"]["requests"]["cpu"] = json!("20m");
            for (_, place) in KINDS {
                let probe = place.iter().try_fold(&mut *container, |at, key| at.get_mut(*key));
                if let Some(get) = probe.and_then(|probe| probe.get_mut("httpGet")) {
                    get["scheme"] = json!("HTTP");
                }
            }
            for env in container.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(field) = env.pointer_mut("/valueFrom/fieldRef") {
                    field["apiVersion"] = json!("v1");
                }
            }
        }
    }
    for volume in pod["spec"]["volumes"].as_array_mut().unwrap() {
        for kind in ["configMap", "projected", "downwardAPI"] {
            if volume.get(kind).is_some() {
                volume[kind]["defaultMode"] = json!(420);
            }
        }
    }
    // A service account's, at the end.
    pod["spec"]["volumes"].as_array_mut().unwrap().push(json!({"name": "kube-api-access", "projected": {}}));
    pod["spec"]["tolerations"] = json!([{"key": "a"}]);
    pod
}

#[test]
fn what_is_only_filled_in_stays_as_it_is() {
    for native in [true, false] {
        let injected = patched(&app(), native);
        assert_eq!(outcome(&injected, native), Outcome::Skip(Skip::Injected));
        assert_eq!(outcome(&filled_in(injected), native), Outcome::Skip(Skip::Injected));
    }
}

#[test]
fn containers_and_probes_that_came_later_are_rewritten_and_only_once() {
    for native in [true, false] {
        let mut pod = filled_in(patched(&app(), native));
        let late = json!({"name": "late", "readinessProbe": {"tcpSocket": {"port": 9000}}});
        pod["spec"]["containers"].as_array_mut().unwrap().push(late);
        let app = ours(&mut pod, "app");
        app["startupProbe"] = json!({"grpc": {"port": 9001}});
        app["livenessProbe"]["timeoutSeconds"] = json!(7);
        let mended = patched(&pod, native);
        let text = mended.to_string();
        let secret = ProbeSecret::of(&mended).unwrap();
        for (container, kind) in [("late", "readiness"), ("app", "startup"), ("app", "liveness")] {
            let probe = format!("{container}/{kind}");
            // In the pod, and in what the proxy is told; in the annotation without the secret.
            assert_eq!(text.matches(&secret.path(container, kind)).count(), 2, "{probe}: {text}");
            assert_eq!(text.matches(&format!("/probe/{probe}")).count(), 1, "{probe}: {text}");
        }
        assert!(text.contains(r#"\"timeoutSeconds\":7"#), "{text}");
        assert_eq!(outcome(&mended, native), Outcome::Skip(Skip::Injected));
        assert_eq!(outcome(&filled_in(mended), native), Outcome::Skip(Skip::Injected));
    }
}

#[test]
fn what_came_later_is_checked_as_everything_else() {
    let mut pod = patched(&app(), true);
    pod["spec"]["containers"].as_array_mut().unwrap().push(json!({
        "name": "late", "securityContext": {"runAsUser": 2102}, "ports": [{"containerPort": 15006}],
    }));
    pod["metadata"]["annotations"]["weft.dev/mode"] = json!("of");
    let told = refused(&pod);
    for said in
        ["container late: securityContext.runAsUser 2102", "container late: port 15006", "weft.dev/mode"]
    {
        assert!(told.contains(said), "{said}: {told}");
    }
}

#[test]
fn a_sidecar_that_somebody_changed_is_ours_again() {
    let before = patched(&app(), true);
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 13] = [
        ("another image", |pod| ours(pod, PROXY)["image"] = json!("mine:1")),
        ("an init that does nothing", |pod| ours(pod, INIT)["image"] = json!("busybox")),
        ("an init with another library", |pod| {
            ours(pod, INIT)["env"] = json!([{"name": "LD_PRELOAD", "value": "/x"}]);
        }),
        ("rules that let by", |pod| {
            ours(pod, INIT)["args"] = json!(["init", "--exclude-inbound-ports=1-65535"]);
        }),
        ("another user", |pod| ours(pod, PROXY)["securityContext"]["runAsUser"] = json!(0)),
        ("no mode", |pod| {
            ours(pod, PROXY)["env"][0] = json!({"name": "WEFT_INBOUND_MODE", "value": "disable"});
        }),
        ("one more variable", |pod| {
            let env = json!({"name": "WEFT_INBOUND_MODE", "value": "disable"});
            ours(pod, PROXY)["env"].as_array_mut().unwrap().push(env);
        }),
        ("variables from elsewhere", |pod| {
            ours(pod, PROXY)["envFrom"] = json!([{"configMapRef": {"name": "a"}}]);
        }),
        ("another binary", |pod| {
            let mount = json!({"name": "data", "mountPath": "/usr/bin"});
            ours(pod, PROXY)["volumeMounts"].as_array_mut().unwrap().push(mount);
        }),
        ("a hook", |pod| ours(pod, PROXY)["lifecycle"] = json!({"preStop": {"exec": {"command": ["x"]}}})),
        ("an init that stays", |pod| ours(pod, INIT)["restartPolicy"] = json!("Always")),
        ("another volume", |pod| {
            pod["spec"]["volumes"][1] = json!({"name": "weft-mesh", "emptyDir": {}});
        }),
        ("somebody before us", |pod| {
            pod["spec"]["initContainers"].as_array_mut().unwrap().swap(0, 2);
        }),
    ];
    for (what, change) in changes {
        let mut pod = before.clone();
        change(&mut pod);
        assert_ne!(pod, before, "{what}");
        assert_eq!(patched(&pod, true), before, "{what}");
    }
    // A field of the API server's own makes no difference to that.
    let mut pod = filled_in(before);
    let expected = pod.clone();
    ours(&mut pod, PROXY)["image"] = json!("mine:1");
    assert_eq!(patched(&pod, true), expected);
}

#[test]
fn what_only_has_our_names_is_refused() {
    let named = json!({"spec": {
        "initContainers": [{"name": "weft-init", "image": "busybox"}],
        "containers": [{"name": "app"}, {"name": "weft-proxy", "image": "busybox"}],
    }});
    let told = refused(&named);
    assert!(told.contains("container weft-init: ") && told.contains("container weft-proxy: "), "{told}");
    // Nor does the annotation make it ours.
    let mut pod = named;
    pod["metadata"] = json!({"annotations": {INJECTED: "{\"version\":\"1\",\"image\":\"weft:1\"}"}});
    assert!(refused(&pod).contains("container weft-proxy: "));
    let mut pod = patched(&app(), true);
    pod["metadata"]["annotations"].as_object_mut().unwrap().remove(INJECTED);
    assert!(refused(&pod).contains("container weft-init: "));
    let mut pod = patched(&app(), true);
    ours(&mut pod, PROXY)["command"] = json!(["sleep"]);
    let told = refused(&pod);
    assert!(told.contains("container weft-proxy: ") && !told.contains("weft-init"), "{told}");
    let mut pod = patched(&app(), true);
    pod["metadata"]["annotations"][INJECTED] = json!("{\"version\":\"1\",\"image\":\"weft:1\"}");
    assert!(refused(&pod).contains("does not tell how it was"));
}

#[test]
fn another_version_of_the_injector_makes_its_own_of_it() {
    let older = patched(&app(), true);
    let newer = Injector {
        settings: InjectSettings::new("weft:9"),
        native: false,
        own_namespace: "w".to_owned(),
        ca: None,
    };
    let fresh = |pod: &Value| super::super::inject(pod, &Namespace::default(), &newer, &secret());
    let (Outcome::Patched(again), Outcome::Patched(first)) = (fresh(&older), fresh(&app())) else { panic!() };
    assert_eq!(again.object, first.object);
    assert_eq!(fresh(&again.object), Outcome::Skip(Skip::Injected));
}
