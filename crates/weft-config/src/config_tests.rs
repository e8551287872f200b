use std::collections::BTreeSet;

use proptest::prelude::*;
use weft_core::{AppProtocol, CaCertificates, LogFormat, MtlsMode, ProxyProtocol, ServiceKey};

use super::*;
use crate::telemetry::url;
use crate::types::{HalfClose, IdentitySource, OtlpProtocol};
use crate::{AccessLogMode, AddrVerdict, NameVerdict, Role};

/// Every field there is.
const FULL: &str = include_str!("../tests/full.yaml");
const REFERENCE: &str = include_str!("../../../docs/reference/configuration.md");

const LEAST: &str = "identity: {files: {certificate: c.pem, key: k.pem, bundle: b.pem}}\n";

fn load(text: &str) -> Result<ProxyConfig, ConfigErrors> {
    ProxyConfig::from_text(Path::new("weft.yaml"), text, &Env::empty())
}

fn env(vars: &[(&str, &str)]) -> Env {
    Env::from_vars(vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

/// The one-line errors of a text.
fn errors(text: &str) -> Vec<String> {
    load(text).expect_err("refused").to_string().lines().map(str::to_owned).collect()
}

fn fields(text: &str) -> BTreeSet<String> {
    let (env, root) = (Env::empty(), tree::parse(text).unwrap());
    let reader = Reader::new(&env);
    let _ = document(&reader.root(&root), Path::new("weft.yaml"));
    reader.finish().fields
}

#[test]
fn the_least_configuration_has_the_documented_defaults() {
    let config = load(LEAST).unwrap();
    assert_eq!(config.workers, Workers::Count(NonZeroUsize::MIN));
    assert_eq!(config.bind.ports(), [15001, 15006, 15053, 15000, 15020, 15021]);
    for (addr, own) in [
        ("10.0.0.5:15006", true),
        ("10.0.0.5:15020", true),
        ("127.0.0.1:15001", true),
        ("[::1]:15053", true),
        ("10.0.0.5:15001", false),
        ("10.0.0.5:15000", false),
        ("10.0.0.5:15008", false),
    ] {
        assert_eq!(config.bind.takes(addr.parse().unwrap()), own, "{addr}");
    }
    assert_eq!(
        config.bind.admin.addrs(),
        ["127.0.0.1:15000".parse().unwrap(), "[::1]:15000".parse().unwrap()]
    );
    assert_eq!(config.identity.trust_domain.as_str(), "weft.local");
    assert_eq!(config.snapshot.inbound.mode, MtlsMode::Strict);
    assert_eq!(config.snapshot.membership.mode(), MtlsMode::Strict);
    assert_eq!(config.timeouts.request, None);
    assert!(config.telemetry.tracing.is_none() && config.telemetry.metrics.is_none());
    let kubernetes = "kubernetes.default.svc.cluster.local".parse().unwrap();
    assert!(matches!(config.snapshot.membership.of_name(&kubernetes), NameVerdict::Outside(_)));
    let orders = "orders.shop.svc.cluster.local".parse().unwrap();
    assert!(matches!(config.snapshot.membership.of_name(&orders), NameVerdict::Mesh { .. }));
    assert!(config.warnings.is_empty());
}

#[test]
fn every_field_is_read() {
    let config = load(FULL).unwrap();
    assert_eq!(config.workload.addresses.len(), 2);
    assert_eq!(config.workers, Workers::Auto);
    assert_eq!(config.bind.admin, Listen::Exact("127.0.0.1:16000".parse().unwrap()));
    let IdentitySource::Ca(ca) = &config.identity.source else { panic!("a CA") };
    assert_eq!(ca.address.to_string(), "10.0.0.2:15012");
    assert_eq!(config.dns.servers, ["10.0.0.2:53".parse().unwrap(), "[fd00::2]:5353".parse().unwrap()]);
    let tracing = config.telemetry.tracing.as_ref().unwrap();
    let spans = &tracing.collector;
    assert_eq!(spans.headers, [("authorization".to_owned(), "Bearer secret".to_owned())]);
    assert_eq!(spans.ca, Some(CaCertificates::File("/etc/weft/collector-ca.pem".into())));
    let metrics = config.telemetry.metrics.as_ref().unwrap();
    assert_eq!(metrics.interval, Duration::from_secs(15));
    assert_eq!(metrics.collector.endpoint, "https://collector.example:4317");
    assert_eq!(
        (metrics.collector.protocol, metrics.collector.timeout),
        (OtlpProtocol::Grpc, Duration::from_secs(3))
    );
    assert_eq!(metrics.collector.headers, [("x-scope".to_owned(), "secret tenant".to_owned())]);
    assert_eq!(metrics.collector.ca, Some(CaCertificates::File("/etc/weft/metrics-ca.pem".into())));
    assert!(!format!("{config:?}").contains("secret"), "a credential must not get into a log");
    assert_eq!(config.limits.max_header_bytes, 32 << 10);
    assert_eq!(config.limits.max_target_bytes, 16 << 10);
    assert_eq!(config.timeouts.ping, None);
    assert_eq!(config.timeouts.body_pause, Some(Duration::from_secs(90)));
    assert_eq!(config.http.half_close, HalfClose::Cancel);
    assert_eq!(config.timeouts.request, Some(Duration::from_secs(15)));
    let snapshot = &config.snapshot;
    assert_eq!(snapshot.access_log, AccessLogMode::Sampled);
    assert_eq!(snapshot.inbound.opaque_ports.to_string(), "3306, 6000-6100");
    assert_eq!(snapshot.inbound.connect_ports.to_string(), "3128");
    let announced = [5432, 8080, 80].map(|port| config.proxy_protocol.get(port));
    assert_eq!(announced, [Some(ProxyProtocol::V1), Some(ProxyProtocol::V2), None]);
    let key = ServiceKey::new("payments.shop.svc.cluster.local".parse().unwrap(), 80);
    let payments = snapshot.services.get(&key).unwrap();
    assert_eq!((payments.endpoints.len(), payments.protocol), (2, AppProtocol::Http));
    assert!(matches!(snapshot.membership.of_addr("10.0.0.77".parse().unwrap()), AddrVerdict::Mesh { .. }));
}

#[test]
fn the_access_log_has_a_format() {
    let load = |format: &str| {
        let text = format!(
            "identity: {{files: {{certificate: c, key: k, bundle: b}}}}\ntelemetry: {{accessLog: {{format: {format}}}}}\n"
        );
        let config = ProxyConfig::from_text(Path::new("weft.yaml"), &text, &Env::empty());
        config.map(|config| config.telemetry.log_format).map_err(|errors| errors.to_string())
    };
    assert_eq!(load("json").unwrap(), LogFormat::Json);
    assert!(
        matches!(load("'$remote_addr \"$request\" $status'"), Ok(LogFormat::Line(pieces)) if pieces.len() == 5)
    );
    let told = load("'$remote_adr $status'").unwrap_err();
    let place = "weft.yaml:2:33: telemetry.accessLog.format: ";
    assert!(told.starts_with(place) && told.contains("`$remote_adr`, which is no field"), "{told}");
    assert!(told.contains("did you mean \"$remote_addr\"?") && told.contains("$upstream_addr"), "{told}");
    for bad in ["text", "'$'", "[a]", "7"] {
        assert!(load(bad).unwrap_err().contains("telemetry.accessLog.format: "), "{bad}");
    }
}

#[test]
fn resources_are_beside_the_file_that_lists_them() {
    let gateway = Env::empty().with_role(Role::Gateway);
    let text =
        "identity: {files: {certificate: c, key: k, bundle: b}}\nresources: [routes, /etc/weft/edge.yaml]\n";
    let config = ProxyConfig::from_text(Path::new("/srv/weft.yaml"), text, &gateway).unwrap();
    assert_eq!(config.resources.paths, [Path::new("/srv/routes"), Path::new("/etc/weft/edge.yaml")]);
    let config = ProxyConfig::from_text(Path::new("weft.yaml"), text, &gateway).unwrap();
    assert_eq!(config.resources.paths[0], Path::new("routes"));
}

#[test]
fn the_reference_page_has_every_field_and_every_code() {
    // The full file and the empty one know the same fields, so none hides behind a value.
    assert_eq!(fields(FULL), fields(""));
    for field in fields("") {
        assert!(
            REFERENCE.contains(&format!("`{field}`")),
            "docs/reference/configuration.md has no `{field}`"
        );
    }
    for kind in ProblemKind::ALL {
        assert!(REFERENCE.contains(&format!("`{}`", kind.code())), "no `{}`", kind.code());
    }
}

#[test]
fn the_reference_page_tells_the_default_that_is_in_force() {
    for effective in load(LEAST).unwrap().snapshot.effective.iter().filter(|e| e.origin == Origin::Default) {
        let row = REFERENCE.lines().find(|line| line.starts_with(&format!("| `{}` |", effective.field)));
        let row = row.unwrap_or_else(|| panic!("no row for {}", effective.field));
        let told = row.split('|').nth(3).unwrap().replace('`', "");
        assert_eq!(told.trim(), effective.value, "{}", effective.field);
    }
}

#[test]
fn all_mistakes_are_told_at_once_each_with_its_place_and_cure() {
    let text = "\
workers: many
bind:
  admin: 0
  metrics: 15001
identity:
  trustDomain: Weft.Local
mesh:
  domains: [\"{service}.{team}.svc\"]
  cidrs:
    - 10.0.0.0/24
    - 10.0.0.0/33
inbund: {mode: strict}
services:
  - name: a.b.svc
    port: 80
    endpoints: [\"10.0.0.9\"]
  - {name: c.d.svc, port: 0, endpoints: [\"10.0.0.9:80\"]}
timeouts: {connect: 5}
";
    let errors = errors(text);
    for (place, field, said) in [
        ("1:10", "workers", "auto"),
        ("3:10", "bind.admin", "1 to 65535"),
        ("3:3", "bind.metrics", "bind.outbound"),
        ("6:16", "identity.trustDomain", "not allowed"),
        ("6:3", "identity", "ca:"),
        ("8:13", "mesh.domains[0]", "{team}"),
        ("11:7", "mesh.cidrs[1]", "10.0.0.0/33"),
        ("12:1", "inbund", "did you mean \"inbound\"?"),
        ("16:17", "services[0].endpoints[0]", "ip:port"),
        ("17:27", "services[1].port", "from 1"),
        ("18:21", "timeouts.connect", "5s"),
    ] {
        let line = errors.iter().find(|line| line.contains(&format!(": {field}: ")));
        let line = line.unwrap_or_else(|| panic!("nothing on {field} in {errors:#?}"));
        assert!(line.starts_with(&format!("weft.yaml:{place}: ")), "{line}");
        assert!(line.contains(said), "{line}");
    }
}

#[test]
fn mistakes_between_fields() {
    let one = |text: &str, said: &str| {
        let errors = errors(text);
        assert!(errors.len() == 1 && errors[0].contains(said), "{errors:#?}");
    };
    one("", "no source");
    one(
        "identity: {ca: {address: \"a:1\"}, files: {certificate: c, key: k, bundle: b}}",
        "both ca and files",
    );
    one("identity: {files: {certificate: c, key: k}}", "identity.files.bundle");
    one(&format!("{LEAST}dns: {{minTtl: 1m, maxTtl: 1s}}"), "dns.minTtl");
    one(&format!("{LEAST}workers: 1\nworkers: 2"), "weft.yaml:3:1: workers: this field is already set above");
    one(&format!("{LEAST}telemetry: {{tracing: {{protocol: http}}}}"), "telemetry.tracing.endpoint");
    let tracing = |fields: &str| format!("{LEAST}telemetry: {{tracing: {{{fields}}}}}");
    let pem = "caPem: \"-----BEGIN CERTIFICATE-----\"";
    one(&tracing(&format!("endpoint: \"https://c:1\", caFile: c.pem, {pem}")), "caFile is set as well");
    one(&tracing(&format!("endpoint: \"http://c:1\", {pem}")), "caPem: endpoint is an http:// one");
    one(&tracing("endpoint: \"https://c:1\", caPem: ca.pem"), "caPem: there is no certificate in this");
    let metrics = |fields: &str| format!("{LEAST}telemetry: {{metrics: {{{fields}}}}}");
    one(&metrics("otlp: {interval: 30s}"), "telemetry.metrics.otlp.endpoint");
    one(&metrics("otlp: {endpoint: \"http://c:1\", interval: 1ms}"), "telemetry.metrics.otlp.interval");
    one(&metrics("endpoint: \"http://c:1\""), "telemetry.metrics.endpoint");
    one(&format!("{LEAST}mesh: []"), "mesh: this is a list, not a mapping");
    one(&format!("{LEAST}mesh: {{mode: [strict]}}"), "mesh.mode: this is a list, not a single value");
    one(&format!("{LEAST}mesh: {{namespaces: shop}}"), "mesh.namespaces: this is a text, not a list");
    one(&format!("{LEAST}workload: {{namespace: 42}}"), "in quotes: \"42\"");
    let twice = "services:\n- {name: a.b, port: 1, endpoints: [\"1.1.1.1:1\"]}\n- {name: A.b., port: 1, endpoints: [\"1.1.1.1:1\"]}";
    one(&format!("{LEAST}{twice}"), "weft.yaml:4:3: services[1]: a.b:1 is listed twice, first at line 3");
    one(&format!("{LEAST}services: [{{name: a.b, port: 1, endpoints: []}}]"), "at least one ip:port");
    one(
        &format!("{LEAST}services: [{{name: a.b, port: 1}}]"),
        "services[0].endpoints: this field is missing",
    );
    one(
        &format!("{LEAST}mesh: {{modes: [{{name: a.b, mode: strict}}, {{name: a.b, mode: disable}}]}}"),
        "same name",
    );
}

#[test]
fn variables_override_the_file_and_flags_override_both() {
    let text = format!("{LEAST}workers: 2\ninbound: {{mode: strict}}\nlog: info\n");
    let vars = env(&[
        ("WEFT_WORKERS", "auto"),
        ("WEFT_INBOUND_MODE", "permissive"),
        ("WEFT_LOG", "debug"),
        ("WEFT_MESH_NAMESPACES", "shop, data"),
        ("WEFT_MESH_DOMAINS", "{service}.{namespace}.mesh"),
        ("WEFT_TIMEOUTS_CONNECT", "1s"),
        ("WEFT_BIND_ADMIN", "16000"),
        ("WEFT_INBOUND_OPAQUE_PORTS", "3306,6000-6100"),
        ("WEFT_RETRIES_CONNECT_ATTEMPTS", "1"),
        ("WEFT_TELEMETRY_ACCESS_LOG_MODE", ""),
    ])
    .with_flag("--log", "log", "trace");
    let config = ProxyConfig::from_text(Path::new("weft.yaml"), &text, &vars).unwrap();
    assert_eq!(config.workers, Workers::Auto);
    assert_eq!(config.snapshot.inbound.mode, MtlsMode::Permissive);
    assert_eq!(&*config.snapshot.log, "trace");
    assert_eq!(config.timeouts.connect, SECOND);
    assert_eq!(config.bind.admin.port(), 16000);
    assert_eq!(config.retries.connect_attempts, 1);
    assert!(config.snapshot.inbound.opaque_ports.contains(6050));
    let orders = "orders.shop.mesh".parse().unwrap();
    assert!(matches!(config.snapshot.membership.of_name(&orders), NameVerdict::Mesh { .. }));
    let origin =
        |field: &str| config.snapshot.effective.iter().find(|e| e.field == field).unwrap().origin.to_string();
    assert_eq!(origin("workers"), "environment variable WEFT_WORKERS");
    assert_eq!(origin("log"), "flag --log");
    assert_eq!(origin("telemetry.accessLog.mode"), "default", "an empty variable is not set");
}

#[test]
fn a_variable_can_choose_the_identity_source_and_its_mistakes_name_it() {
    let vars = env(&[("WEFT_IDENTITY_CA_ADDRESS", "10.0.0.2:15012"), ("WEFT_WROKERS", "2")]);
    let config = ProxyConfig::from_text(Path::new("weft.yaml"), "", &vars).unwrap();
    assert!(matches!(config.identity.source, IdentitySource::Ca(_)));
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].contains("WEFT_WROKERS"));

    let vars = env(&[("WEFT_WORKERS", "0"), ("WEFT_MESH_CIDRS", "10.0.0.0/24,nonsense")]);
    let told = ProxyConfig::from_text(Path::new("weft.yaml"), LEAST, &vars).unwrap_err().to_string();
    assert!(told.contains("WEFT_WORKERS: workers: 0 is out of range"), "{told}");
    assert!(told.contains("WEFT_MESH_CIDRS: mesh.cidrs[1]: \"nonsense\""), "{told}");
}

#[test]
fn the_networks_of_services_are_read_and_checked() {
    let config =
        load(&format!("{LEAST}mesh: {{serviceCidrs: [10.96.0.0/12, \"fd00:10::/108\"]}}\n")).unwrap();
    for (ip, inside) in
        [("10.97.0.1", true), ("10.112.0.1", false), ("fd00:10::7", true), ("fd00:11::7", false)]
    {
        let membership = &config.snapshot.membership;
        let ip = ip.parse().unwrap();
        assert_eq!(membership.is_service_range(ip), inside, "{ip}");
        // Without a name nothing less than strict would do for whatever service it is.
        let strict = matches!(membership.of_addr(ip), AddrVerdict::Mesh { mode: MtlsMode::Strict, .. });
        assert_eq!(strict, inside, "{ip}");
    }
    assert!(!load(LEAST).unwrap().snapshot.membership.is_service_range("10.96.0.1".parse().unwrap()));
    let told = load(&format!("{LEAST}mesh: {{serviceCidrs: [10.96.0.0/33]}}\n")).unwrap_err().to_string();
    assert!(told.contains("mesh.serviceCidrs[0]"), "{told}");
}

#[test]
fn ten_thousand_modes_are_read_in_a_moment_and_one_twice_is_still_told() {
    let mut text = format!("{LEAST}mesh:\n  modes:\n");
    for number in 0..10_000 {
        text.push_str(&format!("    - {{name: s{number}.shop.svc.cluster.local, mode: disable}}\n"));
    }
    assert!(load(&text).is_ok());
    text.push_str("    - {name: s7.shop.svc.cluster.local, mode: strict}\n");
    let told = load(&text).unwrap_err().to_string();
    assert!(told.contains("an entry above has the same name"), "{told}");
}

#[test]
fn a_flag_for_a_field_that_cannot_be_set_is_an_error() {
    for field in ["inbound.mod", "services", "mesh.modes", "telemetry.resource.a"] {
        let env = Env::empty().with_flag("--set", field, "x");
        let told = ProxyConfig::from_text(Path::new("weft.yaml"), LEAST, &env).unwrap_err().to_string();
        assert!(told.starts_with(&format!("--set: {field}: ")), "{told}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_told() {
    let told = ProxyConfig::load(Path::new("/nonexistent/weft.yaml"), &Env::empty()).unwrap_err().to_string();
    assert!(
        told.contains("/nonexistent/weft.yaml: the file cannot be read") && told.contains("--config"),
        "{told}"
    );
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("weft.yaml"), b"a: 1\nb: \xff\n").unwrap();
    let told = ProxyConfig::load(&dir.path().join("weft.yaml"), &Env::empty()).unwrap_err().to_string();
    assert!(told.contains("not UTF-8 (line 2)"), "{told}");
    let told = ProxyConfig::load(Path::new("/dev/zero"), &Env::empty()).unwrap_err().to_string();
    assert!(told.contains("larger than 8MiB"), "{told}");
}

#[test]
fn aliases_are_bounded() {
    // Nine levels of nine references: 387 million nodes if they were all made.
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for i in 1..9 {
        let refs = vec![format!("*a{}", i - 1); 9].join(",");
        bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    let errors = load(&bomb).unwrap_err();
    assert_eq!(errors.problems[0].kind, ProblemKind::Syntax, "{errors}");
}

#[test]
fn urls() {
    let good = [
        "http://10.0.0.3:4317",
        "https://collector.obs.svc/v1/traces",
        "http://[fd00::3]:4318",
        "http://[::1]",
    ];
    for text in good {
        assert!(url(&Scalar::Str(text.to_owned())).is_ok(), "{text}");
    }
    for text in [
        "10.0.0.3:4317",
        "grpc://a",
        "http://",
        "http://a:0",
        "http://a:x",
        "http://[fd00::3",
        "http://a b",
        "http://[x]:1",
    ] {
        assert!(url(&Scalar::Str(text.to_owned())).is_err(), "{text}");
    }
}

/// Texts that are near to a configuration.
fn near() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("1".to_owned()),
        Just("-1".to_owned()),
        Just("1e999".to_owned()),
        Just(".nan".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        Just("~".to_owned()),
        Just("*x".to_owned()),
        Just("&x y".to_owned()),
        Just("!!binary abc".to_owned()),
        Just("\"\\0\"".to_owned()),
        "\\PC{0,12}",
        Just("[{a: [1, {b: 2}]}]".to_owned()),
        Just("0x7fffffffffffffffffffffffffffffff".to_owned()),
    ];
    let keys: Vec<String> = fields("").iter().map(|f| f.replace("[]", "")).collect();
    proptest::collection::vec((prop::sample::select(keys), value), 0..6).prop_map(|entries| {
        let mut text = String::new();
        for (path, value) in entries {
            let parts: Vec<&str> = path.split('.').collect();
            for (depth, part) in parts.iter().enumerate() {
                let value = if depth + 1 == parts.len() { value.as_str() } else { "" };
                text.push_str(&format!("{}{part}: {value}\n", "  ".repeat(depth)));
            }
        }
        text
    })
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        let _ = load(&text);
    }

    #[test]
    fn text_near_a_configuration_never_panics_and_errors_have_a_place(text in near()) {
        if let Err(errors) = load(&text) {
            prop_assert!(!errors.problems.is_empty());
            prop_assert!(!errors.to_string().is_empty());
        }
    }

    #[test]
    fn any_cut_of_the_full_file_never_panics(cut in 0..FULL.len(), insert in "\\PC{0,3}") {
        let at = (0..=cut).rev().find(|i| FULL.is_char_boundary(*i)).unwrap_or(0);
        let _ = load(&FULL[..at]);
        let _ = load(&format!("{}{insert}{}", &FULL[..at], &FULL[at..]));
    }
}
