//! Resources for tests, written as JSON.

#![allow(clippy::needless_pass_by_value, reason = "what `json!` makes is handed over")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use weft_resource::core_kinds::{ConfigMap, NamespaceSpec, Secret};
use weft_resource::{Kind, ObjectMeta, Resource, ResourceId, ResourceSet, Source, Spec};

use crate::compile::{Compiled, Gateways, Options, compile};

/// The options of most tests.
pub(crate) fn options() -> Options {
    Options {
        cluster_domain: "cluster.local".parse().unwrap(),
        gateways: Gateways::All,
        client_namespace: None,
    }
}

/// A document as a resource. A namespace that is not said is `shop`; the kind says the group.
pub(crate) fn resource(document: Value) -> Arc<Resource> {
    let kind = Kind::ALL.iter().find(|kind| kind.as_str() == document["kind"]).copied().expect("a kind");
    let meta: ObjectMeta = serde_json::from_value(document["metadata"].clone()).unwrap();
    let namespace = match kind {
        Kind::Namespace => "",
        _ => meta.namespace.as_deref().unwrap_or("shop"),
    };
    let id = ResourceId::new(kind, namespace, &meta.name);
    fn read<T: for<'de> Deserialize<'de>>(document: &Value) -> T {
        serde_json::from_value(document["spec"].clone())
            .unwrap_or_else(|error| panic!("{error} in {document}"))
    }
    fn data(document: &Value) -> BTreeMap<String, String> {
        serde_json::from_value(document["data"].clone()).unwrap()
    }
    let spec = match kind {
        Kind::Gateway => Spec::Gateway(read(&document)),
        Kind::HttpRoute => Spec::HttpRoute(read(&document)),
        Kind::GrpcRoute => Spec::GrpcRoute(read(&document)),
        Kind::TlsRoute => Spec::TlsRoute(read(&document)),
        Kind::TcpRoute => Spec::TcpRoute(read(&document)),
        Kind::ReferenceGrant => Spec::ReferenceGrant(read(&document)),
        Kind::BackendTlsPolicy => Spec::BackendTlsPolicy(read(&document)),
        Kind::Service => Spec::Service(read(&document)),
        Kind::Backend => Spec::Backend(read(&document)),
        Kind::Certificate => Spec::Certificate(read(&document)),
        Kind::Namespace => Spec::Namespace(NamespaceSpec),
        Kind::ConfigMap => Spec::ConfigMap(ConfigMap { data: data(&document), ..ConfigMap::default() }),
        Kind::Secret => Spec::Secret(Secret {
            kind: document["type"].as_str().unwrap_or("kubernetes.io/tls").to_owned(),
            data: data(&document).into_iter().map(|(key, value)| (key, value.into_bytes())).collect(),
        }),
    };
    let source = Source { path: Path::new("/etc/weft/test.yaml").into(), line: 1 };
    Arc::new(Resource { id, meta, hash: 0, source, spec })
}

pub(crate) fn set(documents: impl IntoIterator<Item = Value>) -> ResourceSet {
    documents.into_iter().map(resource).collect()
}

pub(crate) fn compiled(documents: impl IntoIterator<Item = Value>) -> Compiled {
    compile(&set(documents), &options())
}

/// A gateway `edge` with one HTTP listener `http` on port 80 that takes routes of all namespaces.
pub(crate) fn edge() -> Value {
    json!({"kind": "Gateway", "metadata": {"name": "edge"}, "spec": {
        "gatewayClassName": "weft",
        "listeners": [{"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}}],
    }})
}

/// A service with port 80.
pub(crate) fn service(name: &str) -> Value {
    json!({"kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}})
}

/// An HTTPRoute of `edge` with these rules.
pub(crate) fn route(name: &str, rules: Value) -> Value {
    json!({"kind": "HTTPRoute", "metadata": {"name": name}, "spec": {"parentRefs": [{"name": "edge"}], "rules": rules}})
}

/// The same document with another value at a place, such as `/spec/hostnames`. What is not there on the way is made.
pub(crate) fn with(mut document: Value, pointer: &str, value: Value) -> Value {
    let mut at = &mut document;
    for key in pointer.split('/').skip(1) {
        at = match key.parse::<usize>() {
            Ok(index) => at.get_mut(index).expect("an element"),
            Err(_) => &mut at[key],
        };
    }
    *at = value;
    document
}

/// The notes as `reason field`.
pub(crate) fn said(compiled: &Compiled) -> Vec<String> {
    compiled.notes.iter().map(|note| format!("{} {}", note.reason, note.field)).collect()
}
