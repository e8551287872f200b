use super::*;

/// The secret of the tests; each pod of the cluster has another.
fn secret() -> ProbeSecret {
    ProbeSecret::derived(b"key", "")
}

fn inject_here(pod: &Value, namespace: &Namespace, injector: &Injector) -> Outcome {
    inject(pod, namespace, injector, &secret())
}

fn injector() -> Injector {
    Injector {
        settings: InjectSettings::new("weft:0.1.0"),
        native: true,
        own_namespace: "weft-system".to_owned(),
        ca: None,
    }
}

fn namespace(name: &str, labels: &[(&str, &str)]) -> Namespace {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Namespace { name: Some(name.to_owned()), labels: Some(labels), ..Namespace::default() }
}

fn enabled() -> Namespace {
    namespace("shop", &[(INJECT_LABEL, "enabled")])
}

fn app() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "app-"}, "spec": {"containers": [{"name": "app"}]}})
}

fn patched(pod: &Value) -> Value {
    match inject_here(pod, &enabled(), &injector()) {
        Outcome::Patched(injected) => injected.object,
        other => panic!("{other:?}"),
    }
}

fn refused(pod: &Value) -> String {
    match inject_here(pod, &enabled(), &injector()) {
        Outcome::Refuse(problems) => problems.iter().map(|p| format!("{p}\n")).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn labels_decide() {
    let with = |label: Option<&str>| {
        let mut pod = app();
        if let Some(label) = label {
            pod["metadata"]["labels"] = json!({INJECT_LABEL: label});
        }
        pod
    };
    let unknown = Namespace { name: Some("shop".to_owned()), ..Namespace::default() };
    for (namespace, label, skip) in [
        (enabled(), None, None),
        (enabled(), Some("enabled"), None),
        (enabled(), Some("disabled"), Some(Skip::Disabled)),
        (namespace("shop", &[]), None, Some(Skip::NotAsked)),
        (namespace("shop", &[]), Some("enabled"), None),
        (namespace("shop", &[(INJECT_LABEL, "yes")]), None, Some(Skip::NotAsked)),
        (namespace("shop", &[(INJECT_LABEL, "yes")]), Some("enabled"), None),
        // The words of other meshes.
        (namespace("shop", &[(INJECT_LABEL, "true")]), None, None),
        (namespace("shop", &[]), Some("true"), None),
        (enabled(), Some("false"), Some(Skip::Disabled)),
        (namespace("shop", &[(INJECT_LABEL, "false")]), Some("true"), Some(Skip::Disabled)),
        (namespace("shop", &[(INJECT_LABEL, "disabled")]), Some("enabled"), Some(Skip::Disabled)),
        (namespace("kube-system", &[(INJECT_LABEL, "enabled")]), Some("enabled"), Some(Skip::Reserved)),
        (namespace("weft-system", &[(INJECT_LABEL, "enabled")]), None, Some(Skip::Reserved)),
        (unknown.clone(), None, None),
        (unknown, Some("disabled"), Some(Skip::Disabled)),
        (Namespace::default(), None, None),
    ] {
        let outcome = inject_here(&with(label), &namespace, &injector());
        match skip {
            Some(skip) => assert_eq!(outcome, Outcome::Skip(skip), "{namespace:?} {label:?}"),
            None => assert!(matches!(outcome, Outcome::Patched(_)), "{namespace:?} {label:?} {outcome:?}"),
        }
    }
    assert!(refused(&with(Some("yes"))).contains("write enabled or disabled"));
    // Where the namespace says nothing a mistake is not passed over either.
    let open = inject_here(&with(Some("ture")), &namespace("shop", &[]), &injector());
    assert!(matches!(open, Outcome::Refuse(_)), "{open:?}");
}

#[test]
fn what_is_not_a_pods_network_is_left_alone() {
    for (change, skip) in [
        (json!({"hostNetwork": true}), Skip::HostNetwork),
        (json!({"os": {"name": "windows"}}), Skip::Windows),
        (json!({"nodeSelector": {"kubernetes.io/os": "windows"}}), Skip::Windows),
    ] {
        let mut pod = app();
        for (key, value) in change.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        // Nor is it refused for what would be in the way.
        pod["spec"]["securityContext"] = json!({"runAsUser": 2102});
        assert_eq!(inject_here(&pod, &enabled(), &injector()), Outcome::Skip(skip));
    }
    let mut mirror = app();
    mirror["metadata"]["annotations"] = json!({MIRROR: "x"});
    assert_eq!(inject_here(&mirror, &enabled(), &injector()), Outcome::Skip(Skip::Mirror));
}

#[test]
fn the_sidecar_comes_first_and_only_once() {
    let mut pod = app();
    pod["spec"]["initContainers"] = json!([{"name": "migrate"}]);
    let injected = patched(&pod);
    let names = |list: &str| -> Vec<String> {
        injected["spec"][list]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|c| pod::name_of(c).map(str::to_owned))
            .collect()
    };
    assert_eq!(names("initContainers"), ["weft-init", "weft-proxy", "migrate"]);
    assert_eq!(names("containers"), ["app"]);
    assert_eq!(names("volumes"), ["weft-mesh", "weft-token", "weft-no-api"]);
    assert_eq!(injected["spec"]["initContainers"][1]["restartPolicy"], "Always");
    assert_eq!(inject_here(&injected, &enabled(), &injector()), Outcome::Skip(Skip::Injected));
    // The annotation alone says nothing.
    let mut copied = app();
    copied["metadata"]["annotations"] = json!({INJECTED: "{}"});
    assert!(matches!(inject_here(&copied, &enabled(), &injector()), Outcome::Patched(_)));
}

#[test]
fn a_classic_sidecar_holds_the_start_of_the_others() {
    let classic = Injector { native: false, ..injector() };
    let mut pod = app();
    pod["spec"]["initContainers"] = json!([{"name": "migrate"}]);
    pod["metadata"]["ownerReferences"] = json!([{"kind": "Job", "name": "x"}]);
    let Outcome::Patched(Injected { object, warnings }) = inject_here(&pod, &enabled(), &classic) else {
        panic!()
    };
    let inits = object["spec"]["initContainers"].as_array().unwrap();
    assert_eq!(inits.iter().filter_map(pod::name_of).collect::<Vec<_>>(), ["migrate", "weft-init"]);
    let proxy = &object["spec"]["containers"][0];
    assert_eq!(proxy["name"], "weft-proxy");
    assert_eq!(proxy["lifecycle"]["postStart"]["exec"]["command"], json!(["weft", "wait-ready"]));
    assert!(proxy.get("restartPolicy").is_none());
    assert_eq!(warnings.len(), 1);
    assert_eq!(inject_here(&object, &enabled(), &classic), Outcome::Skip(Skip::Injected));
}

#[test]
fn annotations_reach_the_containers() {
    let mut pod = app();
    pod["metadata"]["annotations"] = json!({
        "weft.dev/mode": "permissive",
        "weft.dev/skip-inbound-ports": "22",
        "weft.dev/skip-outbound-ports": "25,9000-9010",
        "weft.dev/skip-outbound-cidrs": "10.9.0.0/16",
        "weft.dev/opaque-ports": "3306",
        "weft.dev/connect-ports": "3128",
        "weft.dev/proxy-protocol-ports": "5432=v1,8080",
        "weft.dev/log": "debug",
        "weft.dev/config": "timeouts.connect=2s\ntelemetry.accessLog.path=/tmp/$(HOME)",
        "weft.dev/proxy-cpu-limit": "2",
    });
    let injected = patched(&pod);
    let inits = &injected["spec"]["initContainers"];
    assert_eq!(
        inits[0]["args"],
        json!([
            "init",
            "--verify",
            "--proxy-uid=2102",
            "--exclude-inbound-ports=22",
            "--exclude-outbound-ports=25,9000-9010",
            "--exclude-outbound-cidrs=10.9.0.0/16"
        ])
    );
    assert_eq!(
        inits[1]["args"],
        json!([
            "proxy",
            "--config=/etc/weft/weft.yaml",
            "--set=timeouts.connect=2s",
            "--set=telemetry.accessLog.path=/tmp/$$(HOME)"
        ])
    );
    let env = inits[1]["env"].as_array().unwrap();
    let value = |name: &str| env.iter().find(|e| e["name"] == name).map(|e| e["value"].clone());
    assert_eq!(value("WEFT_INBOUND_MODE"), Some(json!("permissive")));
    assert_eq!(value("WEFT_INBOUND_OPAQUE_PORTS"), Some(json!("3306")));
    assert_eq!(value("WEFT_OUTBOUND_OPAQUE_PORTS"), Some(json!("3306")));
    assert_eq!(value("WEFT_INBOUND_CONNECT_PORTS"), Some(json!("3128")));
    assert_eq!(value("WEFT_INBOUND_PROXY_PROTOCOL"), Some(json!("5432=v1,8080=v2")));
    assert_eq!(value("WEFT_LOG"), Some(json!("debug")));
    assert_eq!(value("WEFT_PROBES"), None);
    assert_eq!(inits[1]["resources"]["limits"], json!({"cpu": "2", "memory": "256Mi"}));
}

#[test]
fn probes_have_the_pods_secret_and_keep_it() {
    let mut pod = app();
    pod["spec"]["containers"][0]["lifecycle"] =
        json!({"preStop": {"httpGet": {"port": 80, "path": "/$bye"}}});
    let injected = patched(&pod);
    let path = secret().path("app", "preStop");
    assert_eq!(injected["spec"]["containers"][0]["lifecycle"]["preStop"]["httpGet"]["path"], path.as_str());
    // It is read again from what the proxy is told, so that a pass over the same pod does not draw another.
    assert_eq!(ProbeSecret::of(&injected), Some(secret()));
    let again = ProbeSecret::derived(b"another", "");
    assert_eq!(inject(&injected, &enabled(), &injector(), &again), Outcome::Skip(Skip::Injected));
    // Annotations are copied into metrics and logs.
    let annotation = injected["metadata"]["annotations"][INJECTED].as_str().unwrap();
    assert!(annotation.contains("/probe/app/preStop") && !annotation.contains(&path), "{annotation}");
    assert_eq!(uninject(&injected).unwrap(), Some(pod));
    for without in [
        app(),
        patched(&app()),
        json!({}),
        json!({"spec": {"containers": [{"name": "weft-proxy", "env": 7}]}}),
    ] {
        assert_eq!(ProbeSecret::of(&without), None, "{without}");
    }
}

#[test]
fn the_cas_address_comes_to_pods_that_cannot_resolve_its_name() {
    let known = Injector { ca: Some("10.96.0.7:15012".parse().unwrap()), ..injector() };
    let mut pod = app();
    pod["spec"]["dnsPolicy"] = json!("Default");
    let told = |outcome: Outcome| {
        let Outcome::Patched(injected) = outcome else { panic!("{outcome:?}") };
        let env = injected.object["spec"]["initContainers"][1]["env"].as_array().unwrap().clone();
        let value = env.iter().find(|e| e["name"] == "WEFT_IDENTITY_CA_ADDRESS").map(|e| e["value"].clone());
        (value, injected.warnings.len())
    };
    assert_eq!(told(inject_here(&pod, &enabled(), &known)), (Some(json!("10.96.0.7:15012")), 0));
    assert!(refused(&pod).contains("identity.ca.address="), "what is not known is not waited for");
    pod["spec"]["dnsPolicy"] = json!("None");
    assert_eq!(told(inject_here(&pod, &enabled(), &injector())), (None, 1), "with a warning");
    pod["spec"]["dnsPolicy"] = json!("ClusterFirst");
    assert_eq!(told(inject_here(&pod, &enabled(), &known)), (None, 0));
}

#[test]
fn a_pods_own_resources_are_shared_in() {
    let mut pod = app();
    pod["spec"]["resources"] =
        json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}});
    pod["metadata"]["annotations"] = json!({"weft.dev/proxy-cpu-request": "100m"});
    let injected = patched(&pod);
    assert_eq!(injected["spec"]["resources"], pod["spec"]["resources"]);
    let inits = &injected["spec"]["initContainers"];
    assert_eq!(
        inits[0]["resources"],
        json!({"requests": {"cpu": "0", "memory": "0"}, "limits": {"memory": "64Mi"}})
    );
    assert_eq!(
        inits[1]["resources"],
        json!({"requests": {"cpu": "100m", "memory": "0"}, "limits": {"memory": "256Mi"}})
    );
}

#[test]
fn probes_stay_where_an_annotation_says_so() {
    let mut pod = app();
    pod["spec"]["containers"][0]["livenessProbe"] = json!({"tcpSocket": {"port": 80}});
    assert_eq!(patched(&pod)["spec"]["containers"][0]["livenessProbe"]["httpGet"]["port"], 15021);
    pod["metadata"]["annotations"] = json!({"weft.dev/rewrite-probes": "disabled"});
    assert_eq!(patched(&pod)["spec"]["containers"], pod["spec"]["containers"]);
}

#[test]
fn probes_that_the_proxy_could_not_be_told_are_refused() {
    let mut pod = app();
    let with = |octets: usize| json!({"httpGet": {"port": 80, "path": format!("/{}", "x".repeat(octets))}});
    pod["spec"]["containers"][0]["livenessProbe"] = with(90_000);
    assert!(matches!(inject_here(&pod, &enabled(), &injector()), Outcome::Patched(_)));
    pod["spec"]["containers"][0]["livenessProbe"] = with(110_000);
    assert!(refused(&pod).contains("the proxy can be told 100000; shorten"));
    // Nothing is told where they stay.
    pod["metadata"]["annotations"] = json!({"weft.dev/rewrite-probes": "disabled"});
    assert!(matches!(inject_here(&pod, &enabled(), &injector()), Outcome::Patched(_)));
}

#[test]
fn sidecars_among_the_init_containers_keep_their_probes() {
    let mut pod = app();
    let side = json!({"name": "side", "restartPolicy": "Always", "startupProbe": {"httpGet": {"port": 81, "path": "/$(X)"}}});
    pod["spec"]["initContainers"] = json!([side]);
    let injected = patched(&pod);
    assert_eq!(
        injected["spec"]["initContainers"][2]["startupProbe"]["httpGet"]["path"],
        secret().path("side", "startup")
    );
    let env = injected["spec"]["initContainers"][1]["env"].as_array().unwrap().clone();
    let probes =
        env.iter().find(|e| e["name"] == "WEFT_PROBES").unwrap()["value"].as_str().unwrap().to_owned();
    assert!(probes.contains("/$$(X)"), "the kubelet must not put a variable in: {probes}");
}

#[test]
fn security_contexts_hold_whatever_the_pod_says() {
    let mut pod = app();
    pod["spec"]["securityContext"] = json!({"runAsNonRoot": true, "runAsUser": 1000, "fsGroup": 2102});
    pod["spec"]["shareProcessNamespace"] = json!(true);
    pod["spec"]["ephemeralContainers"] = json!([{"name": "debugger"}]);
    let injected = patched(&pod);
    for key in ["securityContext", "shareProcessNamespace", "ephemeralContainers"] {
        assert_eq!(injected["spec"][key], pod["spec"][key]);
    }
    let init = &injected["spec"]["initContainers"][0]["securityContext"];
    assert_eq!((&init["runAsUser"], &init["runAsNonRoot"]), (&json!(0), &json!(false)));
    assert_eq!(init["capabilities"], json!({"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}));
    let proxy = &injected["spec"]["initContainers"][1]["securityContext"];
    assert_eq!((&proxy["runAsUser"], &proxy["runAsNonRoot"]), (&json!(2102), &json!(true)));
    assert_eq!(proxy["capabilities"], json!({"drop": ["ALL"]}));
}

#[test]
fn everything_in_the_way_is_told_at_once() {
    let mut pod = app();
    pod["metadata"]["annotations"] = json!({"weft.dev/mode": "on"});
    pod["spec"] = json!({
        "securityContext": {"runAsUser": 2102},
        "initContainers": [{"name": "weft-init"}],
        "containers": [
            {"name": "app", "securityContext": {"runAsUser": 2102}, "ports": [{"containerPort": 15006}]},
            {"name": "b", "livenessProbe": {"httpGet": {"port": 15020}}},
        ],
        "volumes": [{"name": "weft-token"}],
    });
    let told = refused(&pod);
    for said in [
        "annotation weft.dev/mode: \"on\"",
        "the pod: securityContext.runAsUser 2102",
        "container app: securityContext.runAsUser 2102",
        "container weft-init",
        "volume weft-token",
        "container app: port 15006",
        "container b: livenessProbe on port 15020",
    ] {
        assert!(told.contains(said), "{said}\n{told}");
    }
}

#[test]
fn a_pod_security_level_is_told_with_its_cure() {
    for (level, refused) in [("privileged", false), ("baseline", true), ("restricted", true), ("typo", true)]
    {
        let labels = [(INJECT_LABEL, "enabled"), ("pod-security.kubernetes.io/enforce", level)];
        match inject_here(&app(), &namespace("shop", &labels), &injector()) {
            Outcome::Refuse(problems) if refused => {
                let told = problems[0].to_string();
                for said in
                    ["namespace shop", level, "NET_ADMIN", "enforce: privileged", "weft.dev/inject: disabled"]
                {
                    assert!(told.contains(said), "{said}: {told}");
                }
            }
            Outcome::Patched(_) if !refused => {}
            other => panic!("{level}: {other:?}"),
        }
    }
}

#[test]
fn what_is_no_pod_is_told_with_its_place() {
    for (pod, place) in [
        (json!(null), "not an object"),
        (json!({}), "spec: this is missing"),
        (json!({"spec": 1}), "spec: this is not an object"),
        (json!({"spec": {"containers": {}}}), "spec.containers"),
        (
            json!({"spec": {"containers": [{"name": "a"}, {"image": "x"}]}}),
            "spec.containers[1]: missing field `name`",
        ),
        (
            json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 70000}]}]}}),
            "spec.containers[0]",
        ),
        (json!({"metadata": {"annotations": {"a": 1}}, "spec": {}}), "metadata"),
        (json!({"spec": {"securityContext": "x"}}), "spec"),
        (json!({"spec": {"containers": [["a"]]}}), "spec.containers[0]: this is not an object"),
        (json!({"spec": {"volumes": [1]}}), "spec"),
        (json!({"spec": {"containers": [{"name": "A b"}]}}), "container \"A b\""),
        (
            json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "a"}]}}),
            "two of this name",
        ),
    ] {
        match inject_here(&pod, &enabled(), &injector()) {
            Outcome::Invalid(reason) => assert!(reason.contains(place), "{reason}"),
            other => panic!("{pod}: {other:?}"),
        }
    }
}

/// The whole of an injected Deployment's template: a change to anything that is injected is a change to this file, on
/// purpose.
#[test]
fn the_example_deployment() {
    let before: Value = serde_saphyr::from_str(include_str!("../../tests/inject/deployment.yaml")).unwrap();
    let after: Value =
        serde_saphyr::from_str(include_str!("../../tests/inject/deployment.injected.yaml")).unwrap();
    let found = workloads(&before);
    let mut made = before.clone();
    for workload in &found {
        let template = made.pointer_mut(&workload.pointer).unwrap();
        let Outcome::Patched(injected) = inject_here(template, &Namespace::default(), &injector()) else {
            panic!()
        };
        *template = injected.object;
    }
    assert_eq!(made, after, "made:\n{}", serde_saphyr::to_string(&made).unwrap_or_default());
    let template = after.pointer(&found[0].pointer).unwrap();
    assert_eq!(uninject(template).unwrap().as_ref(), before.pointer(&found[0].pointer));
}
