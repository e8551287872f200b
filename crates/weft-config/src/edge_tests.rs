use std::path::Path;

use super::*;
use crate::{Env, ProxyConfig};

const IDENTITY: &str = "identity: {files: {certificate: c, key: k, bundle: b}}\n";

fn load(gateway: &str) -> Result<EdgeConfig, String> {
    load_with(gateway, &[])
}

fn load_with(gateway: &str, vars: &[(&str, &str)]) -> Result<EdgeConfig, String> {
    let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let env = Env::from_vars(vars).with_role(Role::Gateway);
    let text = format!("resources: [r]\ngateway: {gateway}\n");
    let config = ProxyConfig::from_text(Path::new("weft.yaml"), &text, &env);
    config.map(|config| config.edge).map_err(|errors| errors.to_string())
}

fn refused_for_sidecar(gateway: &str) -> String {
    let text = format!("{IDENTITY}gateway: {gateway}\n");
    ProxyConfig::from_text(Path::new("weft.yaml"), &text, &Env::empty()).unwrap_err().to_string()
}

#[test]
fn nobody_is_trusted_unless_it_is_written() {
    assert_eq!(load("{}").unwrap(), EdgeConfig::default());
    assert!(!load("{proxyProtocol: {trusted: []}}").unwrap().proxy_protocol.at(443));
}

#[test]
fn load_balancers_are_networks_at_some_ports_or_all() {
    let all = load("{proxyProtocol: {trusted: [10.0.0.0/8, 192.0.2.1, \"fd00::/64\"]}}").unwrap();
    let nets: Vec<String> = all.proxy_protocol.trusted.iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.0.0.0/8", "192.0.2.1/32", "fd00::/64"]);
    assert!(all.proxy_protocol.at(1) && all.proxy_protocol.at(65_535));
    let some = "{proxyProtocol: {trusted: [10.0.0.0/8], ports: [443, \"8000-8010\"]}}";
    let some = load(some).unwrap().proxy_protocol;
    let at: Vec<u16> = [80, 443, 7999, 8000, 8010, 8011].into_iter().filter(|port| some.at(*port)).collect();
    assert_eq!(at, [443, 8000, 8010]);
    let vars = [("WEFT_GATEWAY_PROXY_PROTOCOL_TRUSTED", "10.0.0.0/8,192.0.2.1")];
    assert_eq!(load_with("{}", &vars).unwrap().proxy_protocol.trusted.len(), 2);
}

#[test]
fn mistakes_about_load_balancers_are_told_with_their_place() {
    for (gateway, field, told) in [
        ("{proxyProtocol: {trusted: [10.0.0.1/8]}}", "gateway.proxyProtocol.trusted[0]", "10.0.0.0/8"),
        ("{proxyProtocol: {trusted: [lb.example]}}", "gateway.proxyProtocol.trusted[0]", "lb.example"),
        ("{proxyProtocol: {trusted: 10.0.0.0/8}}", "gateway.proxyProtocol.trusted", "a list"),
        ("{proxyProtocol: {ports: [443]}}", "gateway.proxyProtocol.ports", "trusted"),
        ("{proxyProtocol: {trusted: [10.0.0.0/8], ports: [0]}}", "gateway.proxyProtocol.ports[0]", "port"),
        ("{proxyProtocol: {trust: []}}", "gateway.proxyProtocol.trust", "did you mean \"trusted\""),
    ] {
        let errors = load(gateway).unwrap_err();
        let place = errors.starts_with("weft.yaml:2:") && errors.contains(&format!(" {field}: "));
        assert!(place && errors.contains(told), "{gateway}: {errors}");
    }
    let told = refused_for_sidecar("{proxyProtocol: {trusted: [10.0.0.0/8]}}");
    assert!(told.contains("gateway.proxyProtocol.trusted: ") && told.contains("weft gateway"), "{told}");
}

#[test]
fn the_size_of_a_body_has_a_limit_only_where_it_is_written() {
    assert_eq!(load("{limits: {requestBody: 10MiB}}").unwrap().request_body, Some(10 << 20));
    let vars = [("WEFT_GATEWAY_LIMITS_REQUEST_BODY", "4096")];
    assert_eq!(load_with("{}", &vars).unwrap().request_body, Some(4096));
    for (gateway, told) in [
        ("{limits: {requestBody: 0}}", "gateway.limits.requestBody: "),
        ("{limits: {requestBody: much}}", "gateway.limits.requestBody: "),
        ("{limits: {requestbody: 1MiB}}", "did you mean \"requestBody\""),
    ] {
        let errors = load(gateway).unwrap_err();
        assert!(errors.contains(told), "{gateway}: {errors}");
    }
    let told = refused_for_sidecar("{limits: {requestBody: 1MiB}}");
    assert!(told.contains("gateway.limits.requestBody: ") && told.contains("weft gateway"), "{told}");
}

#[test]
fn proxies_are_counted_or_known_by_their_networks_and_not_both() {
    assert_eq!(load("{}").unwrap().trust, ForwardedTrust::Hops(0));
    assert_eq!(load("{trustedHops: 2}").unwrap().trust, ForwardedTrust::Hops(2));
    let networks = load("{trustedNetworks: [10.0.0.0/8, \"fd00::/8\"]}").unwrap().trust;
    let expected = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    assert_eq!(networks, ForwardedTrust::Networks(expected));
    assert!(load("{forwarded: on}").unwrap().forwarded && !load("{forwarded: false}").unwrap().forwarded);
    for (gateway, told) in [
        ("{trustedHops: 1, trustedNetworks: [10.0.0.0/8]}", "gateway.trustedNetworks: `trustedHops` is set"),
        ("{trustedHops: 11}", "gateway.trustedHops: "),
        ("{trustedNetworks: [10.1.0.0/8]}", "gateway.trustedNetworks[0]: "),
        ("{forwarded: maybe}", "gateway.forwarded: "),
    ] {
        let errors = load(gateway).unwrap_err();
        assert!(errors.starts_with("weft.yaml:2:") && errors.contains(told), "{gateway}: {errors}");
    }
    for written in ["trustedHops: 1", "trustedNetworks: [10.0.0.0/8]", "forwarded: on"] {
        let told = refused_for_sidecar(&format!("{{{written}}}"));
        assert!(told.contains("weft.yaml:2:") && told.contains("weft gateway"), "{written}: {told}");
    }
}
