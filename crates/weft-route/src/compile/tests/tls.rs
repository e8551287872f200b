use std::sync::Arc;

use serde_json::{Value, json};
use weft_resource::Spec;
use weft_resource::own::{CertificateContent, CertificatePair};

use super::{backends, listener, rule};
use crate::compile::{Compiled, compile};
use crate::program::{ListenerKind, TlsTermination, Upstream};
use crate::testing::{compiled, edge, options, resource, route, said, service, set, with};

/// A certificate for a name, and its key: PEM.
fn pair(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn secret(name: &str, data: Value) -> Value {
    json!({"kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/tls", "data": data})
}

fn good(name: &str) -> Value {
    let (certificate, key) = pair("a.example");
    secret(name, json!({"tls.crt": certificate, "tls.key": key}))
}

fn https(references: Value) -> Value {
    let listener =
        json!({"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": references}});
    with(edge(), "/spec/listeners", json!([listener]))
}

fn termination(compiled: &Compiled) -> Option<&TlsTermination> {
    match &listener(&compiled.program, 443, "x")?.kind {
        ListenerKind::Https(tls, _) | ListenerKind::Tls(tls, _) => Some(tls),
        other => panic!("{other:?}"),
    }
}

#[test]
fn certificates_are_found_and_checked() {
    let (certificate, key) = pair("a.example");
    let (_, other_key) = pair("b.example");
    let whole = json!({"tls.crt": certificate, "tls.key": key});
    let opaque = with(secret("s", whole.clone()), "/type", json!("Opaque"));
    for (references, documents, reason) in [
        (json!([{"name": "s"}]), vec![secret("s", whole.clone())], None),
        (json!([{"group": "", "kind": "Secret", "name": "s"}]), vec![secret("s", whole.clone())], None),
        (json!([{"name": "s"}]), vec![], Some("InvalidCertificateRef")),
        (json!([{"name": "s"}]), vec![opaque], Some("InvalidCertificateRef")),
        (
            json!([{"name": "s"}]),
            vec![secret("s", json!({"tls.crt": certificate}))],
            Some("InvalidCertificateRef"),
        ),
        (
            json!([{"name": "s"}]),
            vec![secret("s", json!({"tls.crt": "x", "tls.key": key}))],
            Some("InvalidCertificateRef"),
        ),
        (
            json!([{"name": "s"}]),
            vec![secret("s", json!({"tls.crt": certificate, "tls.key": "x"}))],
            Some("InvalidCertificateRef"),
        ),
        (
            json!([{"name": "s"}]),
            vec![secret("s", json!({"tls.crt": certificate, "tls.key": other_key}))],
            Some("InvalidCertificateRef"),
        ),
        (json!([{"kind": "ConfigMap", "name": "s"}]), vec![], Some("InvalidCertificateRef")),
        (json!([{"name": "s", "namespace": "else"}]), vec![secret("s", whole)], Some("RefNotPermitted")),
    ] {
        let compiled = compiled(documents.into_iter().chain([https(references.clone())]));
        let notes: Vec<String> = reason
            .iter()
            .map(|reason| format!("{reason} spec.listeners[0].tls.certificateRefs[0]"))
            .collect();
        assert_eq!(said(&compiled), notes, "{references}");
        assert_eq!(termination(&compiled).is_some(), reason.is_none(), "{references}");
    }
}

#[test]
fn a_certificate_of_another_namespace_wants_a_grant() {
    let there = with(good("s"), "/metadata/namespace", json!("else"));
    let grant = json!({"kind": "ReferenceGrant", "metadata": {"name": "g", "namespace": "else"}, "spec": {
        "from": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "shop"}],
        "to": [{"group": "", "kind": "Secret", "name": "s"}],
    }});
    let compiled = compiled([https(json!([{"name": "s", "namespace": "else"}])), there, grant]);
    assert_eq!(said(&compiled), [] as [&str; 0]);
    assert_eq!(termination(&compiled).unwrap().certificates.len(), 1);
}

#[test]
fn of_several_certificates_the_good_ones_are_served() {
    let compiled =
        compiled([https(json!([{"name": "a"}, {"name": "gone"}, {"name": "b"}])), good("a"), good("b")]);
    assert_eq!(said(&compiled), ["InvalidCertificateRef spec.listeners[0].tls.certificateRefs[1]"]);
    let names: Vec<&str> =
        termination(&compiled).unwrap().certificates.iter().map(|one| &*one.id.name).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn a_listener_has_the_tls_of_its_protocol() {
    for (protocol, tls, fits) in [
        ("HTTPS", json!({"certificateRefs": [{"name": "s"}]}), true),
        ("HTTPS", json!(null), false),
        ("HTTPS", json!({"certificateRefs": []}), false),
        ("HTTPS", json!({"mode": "Passthrough"}), false),
        ("TLS", json!({"mode": "Passthrough"}), true),
        ("TLS", json!({"mode": "Terminate", "certificateRefs": [{"name": "s"}]}), true),
        ("TLS", json!({"mode": "Terminate"}), false),
        ("TLS", json!(null), false),
        ("HTTP", json!({"certificateRefs": [{"name": "s"}]}), false),
        ("TCP", json!({"certificateRefs": [{"name": "s"}]}), false),
    ] {
        let listeners = json!([{"name": "l", "port": 443, "protocol": protocol, "tls": tls}]);
        let compiled = compiled([with(edge(), "/spec/listeners", listeners), good("s")]);
        assert_eq!(
            (!compiled.program.sockets.is_empty(), compiled.notes.is_empty()),
            (fits, fits),
            "{protocol} {tls}"
        );
    }
}

#[test]
fn our_certificate_is_what_its_files_have() {
    let (chain, key) = pair("a.example");
    let of = |content: CertificateContent| {
        let document = json!({"kind": "Certificate", "metadata": {"name": "c"}, "spec": {"certificateFile": "a.pem", "keyFile": "a.key"}});
        let mut resource = Arc::unwrap_or_clone(resource(document));
        let Spec::Certificate(spec) = &mut resource.spec else { panic!() };
        spec.content = content;
        let mut resources = set([https(json!([{"group": "weft.dev", "kind": "Certificate", "name": "c"}]))]);
        resources.insert(Arc::new(resource));
        compile(&resources, &options())
    };
    let read = CertificatePair { chain: chain.into_bytes(), key: key.into_bytes() };
    let found = of(CertificateContent { pair: Some(Arc::new(read)), roots: None });
    assert_eq!(said(&found), [] as [&str; 0]);
    assert!(termination(&found).is_some());
    let lost = of(CertificateContent::default());
    assert_eq!(said(&lost), ["InvalidCertificateRef spec.listeners[0].tls.certificateRefs[0]"]);
}

fn authority(name: &str) -> Value {
    json!({"kind": "ConfigMap", "metadata": {"name": name}, "data": {"ca.crt": pair("ca.example").0}})
}

#[test]
fn clients_are_checked_by_default_and_by_port() {
    let validation = |name: &str, mode: &str| json!({"validation": {"caCertificateRefs": [{"kind": "ConfigMap", "name": name}], "mode": mode}});
    let listeners = json!([
        {"name": "a", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "s"}]}},
        {"name": "b", "port": 444, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "s"}]}},
        {"name": "c", "port": 445, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "s"}]}},
    ]);
    let tls = json!({"frontend": {
        "default": validation("one", "AllowValidOnly"),
        "perPort": [{"port": 444, "tls": validation("two", "AllowInsecureFallback")}, {"port": 445, "tls": {}}],
    }});
    let gateway = with(with(edge(), "/spec/listeners", listeners), "/spec/tls", tls);
    let compiled = compiled([gateway.clone(), good("s"), authority("one"), authority("two")]);
    assert_eq!(said(&compiled), [] as [&str; 0]);
    let clients = [443, 444, 445].map(|port| match &listener(&compiled.program, port, "x").unwrap().kind {
        ListenerKind::Https(tls, _) => {
            tls.clients.as_ref().map(|clients| (clients.roots.len(), clients.insecure_fallback))
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(clients, [Some((1, false)), Some((1, true)), None]);
    // Without anybody who vouches, the listener is not served: it would take clients that it was to refuse.
    let lost = crate::testing::compiled([gateway, good("s"), authority("two")]);
    assert!(listener(&lost.program, 443, "x").is_none());
    assert!(listener(&lost.program, 444, "x").is_some());
    let field = "spec.tls.frontend.default.validation.caCertificateRefs";
    assert_eq!(
        said(&lost),
        [format!("InvalidCACertificateRef {field}[0]"), format!("NoValidCACertificate {field}")]
    );
}

fn policy(name: &str, section: Option<&str>, hostname: &str) -> Value {
    json!({"kind": "BackendTLSPolicy", "metadata": {"name": name}, "spec": {
        "targetRefs": [{"group": "", "kind": "Service", "name": "s", "sectionName": section}],
        "validation": {"caCertificateRefs": [{"kind": "ConfigMap", "name": "ca"}], "hostname": hostname},
    }})
}

fn secured() -> Vec<Value> {
    let ports = json!([{"name": "web", "port": 80, "appProtocol": "https"}]);
    let rules = json!([{"backendRefs": [{"name": "s", "port": 80}]}]);
    vec![edge(), with(service("s"), "/spec/ports", ports), route("r", rules), authority("ca")]
}

fn upstream(compiled: &Compiled) -> Arc<Upstream> {
    let rule = rule(&compiled.program, "x", "/").unwrap();
    rule.backends.at(0).unwrap().upstream.clone().unwrap()
}

#[test]
fn the_most_specific_and_then_the_oldest_policy_holds() {
    let old = |policy: Value| with(policy, "/metadata/creationTimestamp", json!("2024-01-01T00:00:00Z"));
    for (policies, name, notes) in [
        (vec![policy("p", None, "p.example")], "p.example", vec![]),
        (vec![policy("p", None, "p.example"), policy("q", Some("web"), "q.example")], "q.example", vec![]),
        (
            vec![policy("p", None, "p.example"), policy("q", None, "q.example")],
            "p.example",
            vec!["Conflicted spec.targetRefs[0]"],
        ),
        (
            vec![policy("p", None, "p.example"), old(policy("q", None, "q.example"))],
            "q.example",
            vec!["Conflicted spec.targetRefs[0]"],
        ),
        (
            vec![policy("p", None, "p.example"), policy("q", Some("other"), "q.example")],
            "p.example",
            vec!["TargetNotFound spec.targetRefs[0]"],
        ),
    ] {
        let compiled = compiled(secured().into_iter().chain(policies));
        assert_eq!(said(&compiled), notes);
        let tls = upstream(&compiled).tls.clone().unwrap();
        assert_eq!(tls.server_name.as_ref().unwrap().as_str(), name);
        assert_eq!(tls.verification.roots.as_ref().map(Vec::len), Some(1));
    }
}

#[test]
fn a_policy_that_is_wrong_fails_closed() {
    let whole = policy("p", None, "p.example");
    let at = "/spec/validation/caCertificateRefs";
    let field = "spec.validation.caCertificateRefs";
    for (policy, note) in [
        (
            with(whole.clone(), at, json!([{"kind": "ConfigMap", "name": "gone"}])),
            format!("InvalidCACertificateRef {field}[0]"),
        ),
        (with(whole.clone(), at, json!([{"kind": "Pod", "name": "ca"}])), format!("InvalidKind {field}[0]")),
        (
            with(whole.clone(), at, json!([{"kind": "ConfigMap", "name": "ca", "namespace": "else"}])),
            format!("RefNotPermitted {field}[0]"),
        ),
        (with(whole.clone(), at, json!([])), "Invalid spec.validation".to_owned()),
        (
            with(whole, "/spec/validation/wellKnownCACertificates", json!("System")),
            "Invalid spec.validation".to_owned(),
        ),
    ] {
        let compiled = compiled(secured().into_iter().chain([policy.clone()]));
        assert!(said(&compiled).contains(&note), "{policy} {:?}", said(&compiled));
        let found = backends(rule(&compiled.program, "x", "/"));
        assert!(!found[0].contains("svc.cluster.local"), "{found:?}");
    }
}

#[test]
fn the_machines_certificates_and_other_names_can_be_asked_for() {
    let well_known = with(
        policy("p", None, "p.example"),
        "/spec/validation",
        json!({
            "wellKnownCACertificates": "System", "hostname": "p.example",
            "subjectAltNames": [{"type": "Hostname", "hostname": "x.example"}, {"type": "URI", "uri": "spiffe://a/b"}],
        }),
    );
    let compiled = compiled(secured().into_iter().chain([well_known]));
    assert_eq!(said(&compiled), [] as [&str; 0]);
    let tls = upstream(&compiled).tls.clone().unwrap();
    assert_eq!((tls.verification.roots.clone(), tls.verification.names.len()), (None, 2));
}

#[test]
fn the_gateway_shows_its_certificate_to_backends_over_tls() {
    let mut documents = secured();
    documents[0] = with(edge(), "/spec/tls", json!({"backend": {"clientCertificateRef": {"name": "me"}}}));
    let compiled = compiled(documents.into_iter().chain([policy("p", None, "p.example"), good("me")]));
    assert_eq!(said(&compiled), [] as [&str; 0]);
    let shown = upstream(&compiled).tls.clone().unwrap().client_certificate.clone().unwrap();
    assert_eq!(&*shown.id.name, "me");
    assert_eq!(
        listener(&compiled.program, 80, "x").unwrap().gateway.client_certificate.as_ref(),
        Some(&shown)
    );
}

#[test]
fn a_backend_has_tls_of_its_own() {
    let backend = |tls: Value| json!({"kind": "Backend", "metadata": {"name": "b"}, "spec": {"endpoints": [{"host": "api.example.com", "port": 443}], "tls": tls}});
    let to = route("r", json!([{"backendRefs": [{"group": "weft.dev", "kind": "Backend", "name": "b"}]}]));
    let plain = compiled([edge(), to.clone(), backend(json!({}))]);
    let tls = upstream(&plain).tls.clone().unwrap();
    assert_eq!((tls.server_name.clone(), tls.verification.roots.clone()), (None, None));
    let own = json!({"serverName": "x.example", "caCertificateRefs": [{"name": "ca"}], "clientCertificateRef": {"name": "me"}});
    let whole = compiled([edge(), to.clone(), backend(own.clone()), authority("ca"), good("me")]);
    let tls = upstream(&whole).tls.clone().unwrap();
    assert_eq!(tls.server_name.as_ref().unwrap().as_str(), "x.example");
    assert!(tls.client_certificate.is_some() && tls.verification.roots.is_some());
    let lost = compiled([edge(), to, backend(own)]);
    assert_eq!(
        said(&lost),
        ["InvalidTls spec.rules[0].backendRefs[0]", "InvalidCACertificateRef spec.tls.caCertificateRefs[0]"]
    );
}
