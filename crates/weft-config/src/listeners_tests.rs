use std::path::Path;

use crate::{Env, Listen, ProxyConfig};

const LEAST: &str = "identity: {files: {certificate: c.pem, key: k.pem, bundle: b.pem}}\n";
const REDIS: &str = "redis.shop.svc.cluster.local:6379";

fn load(text: &str, env: &Env) -> Result<ProxyConfig, Vec<String>> {
    let loaded = ProxyConfig::from_text(Path::new("weft.yaml"), &format!("{LEAST}{text}"), env);
    loaded.map_err(|errors| errors.to_string().lines().map(str::to_owned).collect())
}

fn refused(text: &str) -> Vec<String> {
    load(text, &Env::empty()).expect_err("refused")
}

#[test]
fn mappings_and_texts_say_the_same() {
    let mappings = format!(
        "outbound: {{listeners: [{{address: \"127.0.1.2:6379\", destination: \"{REDIS}\"}}]}}\n\
         inbound:\n  listeners:\n    - {{address: 8080, application: \"127.0.0.1:18080\"}}\n"
    );
    let texts = format!(
        "outbound: {{listeners: [\"127.0.1.2:6379={REDIS}\"]}}\n\
         inbound: {{listeners: [\"8080=127.0.0.1:18080\"]}}\n"
    );
    let config = load(&mappings, &Env::empty()).unwrap();
    assert_eq!(config.listeners, load(&texts, &Env::empty()).unwrap().listeners);
    let [outbound] = config.listeners.outbound.as_slice() else { panic!("one") };
    assert_eq!(outbound.address, Listen::Exact("127.0.1.2:6379".parse().unwrap()));
    assert_eq!(outbound.destination.to_string(), REDIS);
    let [inbound] = config.listeners.inbound.as_slice() else { panic!("one") };
    assert_eq!(inbound.address, Listen::Any(8080));
    assert_eq!(inbound.application, "127.0.0.1:18080".parse().unwrap());
    assert!(config.listeners.is_outbound("127.0.1.2:6379".parse().unwrap()));
    assert!(!config.listeners.is_outbound("127.0.1.3:6379".parse().unwrap()));
}

#[test]
fn a_variable_or_a_flag_replaces_the_list() {
    let env = Env::from_vars([("WEFT_OUTBOUND_LISTENERS".to_owned(), format!("6379={REDIS}, 6380={REDIS}"))])
        .with_flag("--set", "inbound.listeners", "10.0.0.5:80=127.0.0.1:8080");
    let config = load("inbound: {listeners: [\"9=127.0.0.1:10\"]}\n", &env).unwrap();
    assert_eq!(config.listeners.outbound.len(), 2);
    assert_eq!(config.listeners.outbound[0].address, Listen::Loopback(6379));
    assert_eq!(config.listeners.inbound[0].address, Listen::Exact("10.0.0.5:80".parse().unwrap()));
    assert!(config.warnings.is_empty());
    let wrong = Env::empty().with_flag("--set", "inbound.listeners", "8080");
    let errors = load("", &wrong).expect_err("refused");
    assert!(
        errors[0].contains("inbound.listeners[0]") && errors[0].contains("address=application"),
        "{errors:?}"
    );
}

#[test]
fn what_would_be_less_than_interception_is_refused_with_its_place() {
    let text = "\
outbound:
  listeners:
    - { address: 10.0.0.5:6379, destination: redis.shop.svc.cluster.local:6379 }
    - { address: 6380, destination: redis.shop:6379 }
    - { address: 6381, destination: 10.0.0.9:6379 }
    - { address: 6382, destination: kubernetes.default.svc.cluster.local:443 }
    - { address: 15001, destination: redis.shop.svc.cluster.local:6379 }
    - { address: 6383 }
inbound:
  listeners:
    - { address: 8080, application: 127.0.0.1:8080 }
    - { address: 127.0.0.1:8080, application: 0.0.0.0:80 }
    - { address: 81, application: 127.0.0.1:6380 }
    - { adress: 82, application: 127.0.0.1:82 }
";
    let errors = refused(text);
    for (place, field, said) in [
        ("4:7", "outbound.listeners[0].address", "not loopback"),
        ("5:7", "outbound.listeners[1].destination", "mesh.domains"),
        ("6:37", "outbound.listeners[2].destination", "is an address"),
        ("7:7", "outbound.listeners[3].destination", "mesh.exceptions"),
        ("8:7", "outbound.listeners[4].address", "bind.outbound"),
        ("9:7", "outbound.listeners[5].destination", "missing"),
        ("12:7", "inbound.listeners[0].application", "the proxy's own address"),
        ("13:47", "inbound.listeners[1].application", "cannot be connected to"),
        ("14:7", "inbound.listeners[2].application", "outbound.listeners[1]"),
        ("15:9", "inbound.listeners[3].adress", "address"),
    ] {
        let found = errors
            .iter()
            .any(|line| line.starts_with(&format!("weft.yaml:{place}: {field}: ")) && line.contains(said));
        assert!(found, "{place} {field} {said}\n{}", errors.join("\n"));
    }
}

#[test]
fn two_listeners_cannot_have_one_address() {
    let errors = refused("inbound: {listeners: [\"8080=127.0.0.1:1\", \"10.0.0.5:8080=127.0.0.1:2\"]}\n");
    assert!(errors.len() == 1 && errors[0].contains("inbound.listeners[0]"), "{errors:?}");
}
