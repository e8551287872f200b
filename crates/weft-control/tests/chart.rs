//! The chart and `weft install` make the same objects, and refuse the same values.
//!
//! Needs the real `helm`: `cargo xtask cluster e2e` builds it and runs these.
//! By hand: `WEFT_HELM=.../helm cargo test -p weft-control --test chart -- --include-ignored`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use weft_control::manifests::{Source, Values, render};

/// What one installation is given.
struct Given {
    name: &'static str,
    namespace: &'static str,
    /// Texts of values files.
    files: &'static [&'static str],
    sets: &'static [&'static str],
}

const GIVEN: &[Given] = &[
    Given { name: "defaults", namespace: "weft-system", files: &[], sets: &[] },
    Given { name: "a system namespace", namespace: "kube-system", files: &[], sets: &[] },
    Given {
        name: "everything another way",
        namespace: "mesh",
        files: &[r#"
image:
  repository: registry.example:5000/mesh/weft
  tag: v9
  digest: ""
  pullPolicy: Always
  pullSecrets: [one, two]
trustDomain: example.org
clusterDomain: k8s.example.org
control:
  replicas: 5
  log: info,weft_control=debug
  drainSeconds: 40
  resources: {requests: {cpu: "1", memory: 1Gi, ephemeral-storage: 1Gi}, limits: {cpu: "2"}}
  nodeSelector: {kubernetes.io/os: linux, pool: "7"}
  tolerations:
    - {key: dedicated, operator: Equal, value: mesh, effect: NoSchedule}
    - {operator: Exists, effect: NoExecute, tolerationSeconds: 30}
  affinity:
    podAntiAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        - topologyKey: kubernetes.io/hostname
          labelSelector: {matchLabels: {app.kubernetes.io/name: weft}}
    nodeAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
        - {weight: 1, preference: {matchExpressions: [{key: a, operator: In, values: ["1", "no"]}]}}
  podAnnotations: {prometheus.io/scrape: "true", prometheus.io/port: "15020"}
  priorityClassName: system-cluster-critical
  telemetry:
    tracing:
      endpoint: https://otel.example:4317
      sampling: 0.25
      queue: 100
      headers: {authorization: "Bearer <x> & y"}
      timeout: 3s
    metrics: {otlp: {endpoint: "http://otel.example:4318", protocol: http, interval: 30s}}
    resource: {deployment.environment.name: "1"}
ca: {leafLifetime: 1h30m, rootLifetime: 1y, identityConnections: 2500}
injector:
  failurePolicy: Fail
  nativeSidecar: never
  resources: {requests: {cpu: 5m}}
  initResources: {limits: {memory: 32Mi}}
controller:
  recreateSlipped: {enabled: true, perMinute: 60, graceSeconds: 86400, tries: 1, deleteEmptyDirData: true}
webhook:
  clientNames: [weft-injector-client]
  clientCa: |
    -----BEGIN CERTIFICATE-----
    MIIBezCCASGgAwIBAgIUPF/VArUQZeRO+Vq60kcZbOGf7ZgwCgYIKoZIzj0EAwIw
    EjEQMA4GA1UEAwwHY2x1c3RlcjAgFw0yNjExMzAxNjE2NThaGA8yMTI2MTEwNjE2
    MTY1OFowEjEQMA4GA1UEAwwHY2x1c3RlcjBZMBMGByqGSM49AgEGCCqGSM49AwEH
    A0IABOIOSVZ4JcazmGsXg4E0qpiru9VY8XRFiTD/HaKIPnoW7pCk1gndWAqROlDI
    lC1HqPzb7ruReiQAtCcVRCSpQxSjUzBRMB0GA1UdDgQWBBQGGiWY4c0fHvNWxU3a
    wSS4V3+ZOzAfBgNVHSMEGDAWgBQGGiWY4c0fHvNWxU3awSS4V3+ZOzAPBgNVHRMB
    Af8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIBLlcn4GjLGH0wwWQvm8Up0k5aKQ
    bwr0GpiIPGLIbC3DAiEApqAum47PW9dSNszhDJ/pnsivRly3XBnSbe2DmTBlS4A=
    -----END CERTIFICATE-----
mesh: {podCidrs: [10.0.0.0/8, "fd00::/8"], podCidrMode: strict, serviceCidrs: [10.96.0.0/12]}
networkPolicy: {enabled: true, apiServerCidrs: [192.0.2.1/32, "2001:db8::1/128"]}
podDisruptionBudget: {enabled: false}
uninstall: {keepCa: true, force: true}
"#],
        sets: &[],
    },
    Given {
        name: "texts and numbers that YAML likes to misread",
        namespace: "weft-system",
        files: &[r#"
control:
  podAnnotations:
    a: "yes"
    b: "1e3"
    c: "0x10"
    d: "null"
    e: "on: # not a comment"
    f: |
      two
      lines
    g: "  spaces  "
    h: "<a href='x'>&\u2028 ü \\ \" {{ .Values }}"
    i: ""
    j: "2026-11-23"
    k: "~"
    l: "012"
    m: "*a"
    "n": "- x"
    "on": "off"
    "1": "2"
proxy:
  limits: {maxConnections: 1000000, maxHeaders: 64}
  telemetry:
    tracing: {endpoint: "http://otel.example:4317", sampling: 0.01, headers: {authorization: "Bearer <x> & y"}}
    resource: {"deployment.environment": "yes"}
  outbound: {opaquePorts: [3306, "6000-6100"]}
  timeouts: {connect: 1s, request: none}
  services: [{name: db.example, port: 5432, endpoints: ["192.0.2.7:5432", "[2001:db8::7]:5432"], protocol: opaque}]
"#],
        sets: &[],
    },
    Given {
        name: "files over files, and defaults taken away",
        namespace: "weft-system",
        files: &[
            "control: {resources: {limits: null}, replicas: 3}\nimage: {tag: a}\n",
            "image: {tag: b}\ninjector: {resources: {requests: null, limits: {cpu: 500m}}}\nproxy: {telemetry: {tracing: {endpoint: 'http://a:4317', sampling: 1.0}}}\n",
            "# nothing\n",
            "networkPolicy: {enabled: yes}\npodDisruptionBudget: {enabled: off}\n",
        ],
        sets: &[],
    },
    Given {
        name: "--set",
        namespace: "weft-system",
        files: &["control: {replicas: 3}\n"],
        sets: &[
            "control.replicas=4,image.pullSecrets={a,b}",
            r"control.podAnnotations.example\.com/a=x\,y",
            "image.digest=sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "networkPolicy.enabled=false,proxy.timeouts.connect=2s,proxy.retries.connectAttempts=2",
            "control.resources.limits=null",
            "controller.recreateSlipped.enabled=true,controller.recreateSlipped.perMinute=1",
        ],
    },
];

/// Values that both must refuse, and the field that both must name.
const REFUSED: &[(&str, &str, &str)] = &[
    ("image: {tagg: v1}\n", "image", "tagg"),
    ("control: {replicas: two}\n", "control", "replicas"),
    ("control: {replicas: -1}\n", "control", "replicas"),
    ("control: null\n", "control", "control"),
    ("control: {resources: {limits: {memory: lots}}}\n", "limits", "memory"),
    ("control: {resources: {limits: {memory: null}, requests: {gpu: '1'}}}\n", "requests", "gpu"),
    ("control: {tolerations: [{operator: Exist}]}\n", "tolerations", "operator"),
    ("control: {podAnnotations: {a: 1}}\n", "podAnnotations", "a"),
    // YAML 1.1, which Helm reads, takes these for booleans and a number.
    ("control: {podAnnotations: {a: yes}}\n", "podAnnotations", "a"),
    ("control: {podAnnotations: {a: 012}}\n", "podAnnotations", "a"),
    ("control: {drainSeconds: 301}\n", "control", "drainSeconds"),
    ("control: {telemetry: {tracing: {endpoint: 'otel:4317'}}}\n", "tracing", "endpoint"),
    ("control: {telemetry: {tracing: {sampling: 2}}}\n", "tracing", "sampling"),
    ("control: {telemetry: {metrics: {interval: 1m}}}\n", "metrics", "interval"),
    ("webhook: {clientCa: text}\n", "webhook", "clientCa"),
    ("webhook: {clientNames: a}\n", "webhook", "clientNames"),
    ("ca: {leafLifetime: '24'}\n", "ca", "leafLifetime"),
    ("injector: {failurePolicy: ignore}\n", "injector", "failurePolicy"),
    ("controller: {recreateSlipped: {enabled: 'yes'}}\n", "recreateSlipped", "enabled"),
    ("controller: {recreateSlipped: {perMinute: 0}}\n", "recreateSlipped", "perMinute"),
    ("controller: {recreateSlipped: {perMinutes: 1}}\n", "recreateSlipped", "perMinutes"),
    ("injector: {nativeSidecar: true}\n", "injector", "nativeSidecar"),
    ("mesh: {podCidrs: 10.0.0.0/8}\n", "mesh", "podCidrs"),
    ("mesh: {podCidrs: [pods]}\n", "mesh", "podCidrs"),
    ("mesh: {serviceCidrs: [services]}\n", "mesh", "serviceCidrs"),
    ("proxy: text\n", "proxy", "proxy"),
    ("networkPolicy: {enabled: 'yes'}\n", "networkPolicy", "enabled"),
    ("image: {digest: sha256:0}\n", "image", "digest"),
    ("replicas: 3\n", "replicas", "replicas"),
];

fn helm() -> PathBuf {
    let helm = PathBuf::from(std::env::var_os("WEFT_HELM").expect("WEFT_HELM names the program helm"));
    assert!(helm.is_file(), "there is no {}", helm.display());
    helm
}

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/weft")
}

/// Helm in a home of its own, so that nothing of the machine's reaches it.
fn run_helm(home: &Path, arguments: &[&str], files: &[PathBuf], sets: &[&str]) -> Output {
    let mut command = Command::new(helm());
    command.args(arguments).arg(chart()).env("HOME", home).env("KUBECONFIG", "/nonexistent");
    for file in files {
        command.arg("--values").arg(file);
    }
    for set in sets {
        command.args(["--set", set]);
    }
    command.output().unwrap()
}

fn write(home: &Path, files: &[&str]) -> Vec<PathBuf> {
    let path = |(i, text): (usize, &&str)| {
        let path = home.join(format!("values{i}.yaml"));
        std::fs::write(&path, text).unwrap();
        path
    };
    files.iter().enumerate().map(path).collect()
}

fn sources(files: &[&str], sets: &[&str]) -> Vec<Source> {
    let file = |text: &&str| Source::File { name: "values.yaml".to_owned(), text: (*text).to_owned() };
    files.iter().map(file).chain(sets.iter().map(|set| Source::Set((*set).to_owned()))).collect()
}

/// Objects by kind and name, without what says only who made them.
fn objects(text: &str) -> BTreeMap<String, Value> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut objects = BTreeMap::new();
    for mut object in documents.into_iter().filter(|object| !object.is_null()) {
        if object.pointer("/metadata/annotations/helm.sh~1hook").is_some() {
            continue;
        }
        let labels = object.pointer_mut("/metadata/labels").and_then(Value::as_object_mut).unwrap();
        assert!(labels.remove("app.kubernetes.io/managed-by").is_some());
        labels.remove("helm.sh/chart");
        if let Some(config) = object.pointer_mut("/data/config.yaml") {
            *config = serde_saphyr::from_str(config.as_str().unwrap()).unwrap();
        }
        whole_numbers(&mut object);
        let key =
            format!("{}/{}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
        assert!(objects.insert(key.clone(), object).is_none(), "{key} is there twice");
    }
    objects
}

/// 1.0 and 1 are the same number.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0) {
                *value = Value::from(float as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(entries) => entries.values_mut().for_each(whole_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[test]
#[ignore = "needs helm: cargo xtask cluster e2e"]
fn helm_and_weft_install_make_the_same_objects() {
    for given in GIVEN {
        let home = tempfile::tempdir().unwrap();
        let files = write(home.path(), given.files);
        let output =
            run_helm(home.path(), &["template", "weft", "--namespace", given.namespace], &files, given.sets);
        assert!(output.status.success(), "{}: {}", given.name, String::from_utf8_lossy(&output.stderr));
        let helms = objects(&String::from_utf8(output.stdout).unwrap());

        let values = Values::read(&sources(given.files, given.sets)).unwrap();
        let ours: String = render(&values, given.namespace, false)
            .unwrap()
            .iter()
            .map(|m| format!("---\n{}", m.yaml))
            .collect();
        let ours = objects(&ours);

        assert_eq!(ours.keys().collect::<Vec<_>>(), helms.keys().collect::<Vec<_>>(), "{}", given.name);
        assert!(ours.len() >= 12, "{}: only {}", given.name, ours.len());
        for (key, object) in &ours {
            let (ours, helms) = (pretty(object), pretty(&helms[key]));
            assert!(ours == helms, "{}: {key}\nours:\n{ours}\nHelm's:\n{helms}", given.name);
        }
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

#[test]
#[ignore = "needs helm: cargo xtask cluster e2e"]
fn both_refuse_the_same_values_and_name_the_field() {
    for (text, parent, field) in REFUSED {
        let home = tempfile::tempdir().unwrap();
        let files = write(home.path(), &[text]);
        let output = run_helm(home.path(), &["template", "weft"], &files, &[]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "Helm takes {text}");
        assert!(told.contains(field) || told.contains(parent), "{text}: Helm says {told}");

        let problems = Values::read(&sources(&[text], &[])).expect_err(text);
        let told = problems.to_string();
        assert!(told.contains(field), "{text}: {told}");
        assert!(told.starts_with("values.yaml:1:") || told.starts_with("values:"), "{text}: {told}");
    }
}

#[test]
#[ignore = "needs helm: cargo xtask cluster e2e"]
fn helm_lint_finds_nothing() {
    let home = tempfile::tempdir().unwrap();
    let output = run_helm(home.path(), &["lint", "--strict"], &[], &[]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    for word in ["WARNING", "ERROR"] {
        assert!(!told.contains(word), "{told}");
    }
}

/// The chart's hooks remove what was made at run time: with rights of their own for the time after the release has gone.
#[test]
#[ignore = "needs helm: cargo xtask cluster e2e"]
fn the_chart_removes_what_was_made_at_run_time() {
    let home = tempfile::tempdir().unwrap();
    let render = |sets: &[&str]| {
        let output = run_helm(home.path(), &["template", "weft", "--namespace", "mesh"], &[], sets);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&String::from_utf8(output.stdout).unwrap()).unwrap();
        let job = |name: &str| {
            let job = documents.iter().find(|d| d["kind"] == "Job" && d["metadata"]["name"] == name)?;
            assert_eq!(job["spec"]["template"]["spec"]["securityContext"]["runAsUser"], 2102);
            Some(job["spec"]["template"]["spec"]["containers"][0]["args"].clone())
        };
        (job("weft-uninstall-check"), job("weft-uninstall"))
    };
    let base = ["uninstall", "--runtime-objects", "--namespace=mesh"];
    let args = |more: &[&str]| Some(Value::from([&base, more].concat()));
    assert_eq!(render(&[]), (args(&["--dry-run", "--helm-release=weft/1"]), args(&["--force"])));
    assert_eq!(
        render(&["uninstall.force=true,uninstall.keepCa=true"]),
        (None, args(&["--force", "--keep-ca"]))
    );
}
