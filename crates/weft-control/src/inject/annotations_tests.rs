use serde_json::json;

use super::*;

const CPU_REQUEST: &str = "weft.dev/proxy-cpu-request";
const CPU_LIMIT: &str = "weft.dev/proxy-cpu-limit";
const MEMORY_REQUEST: &str = "weft.dev/proxy-memory-request";
const MEMORY_LIMIT: &str = "weft.dev/proxy-memory-limit";

fn read(annotations: &[(&str, &str)]) -> (Asked, Vec<String>) {
    let annotations: serde_json::Map<String, serde_json::Value> =
        annotations.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    let pod = json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "app"}]}});
    let mut problems = Vec::new();
    let settings = InjectSettings::new("weft");
    let asked = Asked::read(&Pod::read(&pod).unwrap(), &settings, &Limits::default(), &mut problems);
    (asked, problems.iter().map(Problem::to_string).collect())
}

fn refused(name: &str, value: &str) -> String {
    let (_, problems) = read(&[(name, value)]);
    assert_eq!(problems.len(), 1, "{name}: {value:?}: {problems:?}");
    problems.into_iter().next().unwrap_or_default()
}

#[test]
fn every_annotation_is_read() {
    let (asked, problems) = read(&[
        (MODE, "strict"),
        (SKIP_INBOUND, "22, 9000-9010,22"),
        (SKIP_OUTBOUND, "25"),
        (SKIP_CIDRS, "10.9.0.0/16,fd00::/8, 10.0.0.1"),
        (OPAQUE, "3306,6000-6100"),
        (PROXY_PROTOCOL, "5432=v1, 8080,8081 = 2,8080=v2"),
        (LOG, "info,weft_proxy=debug"),
        (CONFIG, "\n# a comment\n timeouts.connect = 2s\nmesh.namespaces=shop,data\n"),
        (REWRITE_PROBES, "disabled"),
        (CPU_REQUEST, "100m"),
        (CPU_LIMIT, "1"),
        (MEMORY_LIMIT, "1Gi"),
        (INJECTED, "anything"),
        ("example.com/other", "x"),
    ]);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(asked.mode.as_deref(), Some("strict"));
    assert_eq!((asked.skip_inbound.as_str(), asked.skip_outbound.as_str()), ("22,9000-9010", "25"));
    assert_eq!(asked.skip_cidrs, "10.9.0.0/16,fd00::/8,10.0.0.1/32");
    assert_eq!(asked.opaque, "3306,6000-6100");
    assert_eq!(asked.proxy_protocol, "5432=v1,8080=v2,8081=v2");
    assert_eq!(asked.log.as_deref(), Some("info,weft_proxy=debug"));
    let sets = [("timeouts.connect", "2s"), ("mesh.namespaces", "shop,data")];
    assert_eq!(asked.config, sets.map(|(field, value)| (field.to_owned(), value.to_owned())));
    assert!(asked.keep_probes);
    assert_eq!(asked.resources.requests["cpu"].as_str(), "100m");
    assert_eq!(asked.resources.requests["memory"].as_str(), "24Mi");
    assert_eq!(asked.resources.limits["memory"].as_str(), "1Gi");
}

#[test]
fn the_reference_page_has_every_annotation() {
    let page = include_str!("../../../../docs/reference/annotations.md");
    for annotation in POD_ANNOTATIONS {
        assert!(page.contains(&format!("`{annotation}`")), "{annotation}");
    }
}

/// A quota on limits, or a LimitRange, wants values for each container of a pod.
#[test]
fn both_containers_have_their_resources_by_annotation() {
    let (asked, problems) = read(&[
        ("weft.dev/init-cpu-request", "50m"),
        ("weft.dev/init-cpu-limit", "100m"),
        ("weft.dev/init-memory-request", "32Mi"),
        ("weft.dev/init-memory-limit", "48Mi"),
        ("weft.dev/init-ephemeral-storage-request", "1Mi"),
        ("weft.dev/init-ephemeral-storage-limit", "10Mi"),
        ("weft.dev/proxy-ephemeral-storage-limit", "20Mi"),
    ]);
    assert!(problems.is_empty(), "{problems:?}");
    let shown = |resources: &Resources| serde_json::to_value(resources).unwrap();
    assert_eq!(
        shown(&asked.init_resources),
        json!({
            "requests": {"cpu": "50m", "memory": "32Mi", "ephemeral-storage": "1Mi"},
            "limits": {"cpu": "100m", "memory": "48Mi", "ephemeral-storage": "10Mi"},
        })
    );
    assert_eq!(
        shown(&asked.resources),
        json!({
            "requests": {"cpu": "10m", "memory": "24Mi"},
            "limits": {"memory": "256Mi", "ephemeral-storage": "20Mi"},
        })
    );
    for share in OF_PROXY.iter().chain(&OF_INIT) {
        assert!(refused(share.annotation, "some").contains("write a quantity"), "{}", share.annotation);
    }
    assert!(refused("weft.dev/init-memory-request", "1Gi").contains("above the memory limit 64Mi"));
    assert!(refused("weft.dev/init-ephemeral-storage-limit", "1m").contains("whole octets"));
}

#[test]
fn values_that_cannot_be_read_name_annotation_value_and_cure() {
    for (name, value, said) in [
        (MODE, "Strict", "strict or permissive or disable"),
        (MODE, "", "strict or permissive or disable"),
        (SKIP_INBOUND, "80,http", "range such as 6000-6100"),
        (SKIP_INBOUND, "80,", "range such as 6000-6100"),
        (SKIP_INBOUND, "80:90", "range such as 6000-6100"),
        (SKIP_OUTBOUND, "70000", "1 to 65535"),
        (SKIP_OUTBOUND, "0", "1 to 65535"),
        (SKIP_CIDRS, "10.0.0.5/24", "10.0.0.0/24"),
        (SKIP_CIDRS, "10.0.0.0/33", "10.0.0.0/8"),
        (OPAQUE, "9-8", "range such as"),
        (PROXY_PROTOCOL, "8080=v3", "5432=v1"),
        (PROXY_PROTOCOL, "8080-8090", "a port such as 8080"),
        (PROXY_PROTOCOL, "8080,8080=v1", "has the port 8080"),
        (LOG, "loud", "debug"),
        (REWRITE_PROBES, "true", "enabled or disabled"),
        (CPU_REQUEST, "100mm", "100m, 0.5"),
        (MEMORY_LIMIT, "100000000500m", "thousandths"),
        (MEMORY_REQUEST, "512Mi", "above the memory limit 256Mi"),
        (CONFIG, "timeouts.connect", "field=value"),
    ] {
        let problem = refused(name, value);
        assert!(problem.contains(name) && problem.contains(said), "{problem}");
    }
    assert!(refused(MODE, "Strict").contains("\"Strict\""));
}

#[test]
fn what_the_proxy_would_refuse_is_refused_before_it_starts() {
    for (value, said) in [
        ("timeouts.connect=soon", "timeouts.connect"),
        ("timeouts.conect=1s", "timeouts.conect"),
        ("services=a", "services"),
        ("inbound.mode=open", "inbound.mode"),
        ("bind.inbound=1", "belongs to the injector"),
        ("workload.name=other", "belongs to the injector"),
        ("log=info\nlog=debug", "set above already"),
    ] {
        assert!(refused(CONFIG, value).contains(said), "{value}");
    }
    let (_, problems) = read(&[(CONFIG, "a=1\nb=2\ntimeouts.connect=1s")]);
    assert_eq!(problems.len(), 2, "all mistakes at once: {problems:?}");
}

#[test]
fn a_field_is_set_in_one_place_only() {
    let (_, problems) = read(&[(MODE, "strict"), (CONFIG, "inbound.mode=permissive")]);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].contains(MODE) && problems[0].contains("inbound.mode"), "{problems:?}");
}

/// The proxy would never see a connection to such a port, and its application none with a header.
#[test]
fn a_port_that_is_announced_is_captured() {
    let (_, problems) = read(&[(PROXY_PROTOCOL, "5432,8080"), (SKIP_INBOUND, "22,8000-8100")]);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains(SKIP_INBOUND) && problems[0].contains("8080"), "{problems:?}");
    assert!(read(&[(PROXY_PROTOCOL, "5432"), (SKIP_INBOUND, "22")]).1.is_empty());
    assert!(read(&[(PROXY_PROTOCOL, ""), (SKIP_INBOUND, "22")]).1.is_empty());
}

#[test]
fn unknown_annotations_are_refused_with_a_hint() {
    assert!(
        refused("weft.dev/skip-inbound-port", "80").contains("did you mean weft.dev/skip-inbound-ports?")
    );
    assert!(refused("weft.dev/inject", "true").contains("label"));
    assert!(refused("weft.dev/mesh", "disabled").contains("Service"));
    assert!(refused("weft.dev/whatever-this-is", "80").contains("there are: weft.dev/mode"));
    let long = "x".repeat(10_000);
    assert!(refused(MODE, &long).len() < 300);
}
