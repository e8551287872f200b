//! Our types of the Gateway API against those of the `gateway-api` crate, which are generated from its CRDs: whatever they can say, ours
//! can be told, but for what is listed here by name; and what ours take, theirs take as well and mean the same.

use std::collections::BTreeSet;
use std::path::Path;

use gateway_api::apis::experimental::gateways::{Gateway, GatewaySpec};
use gateway_api::apis::experimental::grpcroutes::{GrpcRoute, GrpcRouteSpec};
use gateway_api::apis::experimental::httproutes::{HttpRoute, HttpRouteSpec};
use gateway_api::apis::experimental::referencegrants::{ReferenceGrant, ReferenceGrantSpec};
use gateway_api::apis::experimental::tcproutes::{TcpRoute, TcpRouteSpec};
use gateway_api::apis::experimental::tlsroutes::{TlsRoute, TlsRouteSpec};
use gateway_api::apis::standard::backendtlspolicies::{BackendTlsPolicy, BackendTlsPolicySpec};
use schemars::{JsonSchema, schema_for};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use weft_resource::{ErrorKind, Resource, parse};

/// What theirs has and ours refuses, and why.
const REFUSED: &[(&str, &str)] = &[
    ("GRPCRoute spec.useDefaultGateways", NAMED),
    ("Gateway spec.defaultScope", NAMED),
    ("HTTPRoute spec.rules[].backendRefs[].filters[].externalAuth", ASKED),
    ("HTTPRoute spec.rules[].filters[].externalAuth", ASKED),
    ("HTTPRoute spec.useDefaultGateways", NAMED),
    ("TCPRoute spec.useDefaultGateways", NAMED),
    ("TLSRoute spec.useDefaultGateways", NAMED),
];
const NAMED: &str = "experimental: a route names its gateways";
const ASKED: &str = "experimental: nobody is asked yet whether a request may pass";

/// Compares one kind: a document that has every field of theirs is read, and what is refused is taken out of it, until nothing is. (A
/// document's mistakes are told twenty at a time.)
fn refused<S: JsonSchema>(version: &str, kind: &str) -> BTreeSet<String> {
    let schema = schema_for!(S).to_value();
    let api = format!("gateway.networking.k8s.io/{version}");
    let spec = sample(&schema, &schema, 0);
    let mut document = json!({"apiVersion": api, "kind": kind, "metadata": {"name": "x"}, "spec": spec});
    let mut unknown = BTreeSet::new();
    loop {
        let (_, errors) = parse(Path::new("theirs.json"), &document.to_string());
        let before = document.clone();
        for error in &errors {
            let mut steps = steps(&error.field);
            match error.kind {
                ErrorKind::UnknownField => {
                    unknown.insert(format!("{kind} {}", error.field.replace("[0]", "[]")));
                }
                // Without it the thing around it cannot be; all else in that was read before.
                ErrorKind::Missing => {
                    steps.pop();
                }
                _ => {}
            }
            remove(&mut document, &steps);
        }
        if document == before {
            return unknown;
        }
    }
}

/// `spec.rules[0].name` as keys and places.
fn steps(field: &str) -> Vec<&str> {
    field.split(['.', '[']).map(|step| step.trim_end_matches(']')).filter(|step| !step.is_empty()).collect()
}

fn remove(document: &mut Value, steps: &[&str]) {
    let Some((last, way)) = steps.split_last() else { return };
    let mut at = document;
    for step in way {
        let next = match at {
            Value::Array(items) => step.parse().ok().and_then(|place: usize| items.get_mut(place)),
            other => other.get_mut(*step),
        };
        match next {
            Some(next) => at = next,
            None => return,
        }
    }
    match at {
        Value::Array(items) => items.clear(),
        Value::Object(fields) => drop(fields.remove(*last)),
        _ => {}
    }
}

/// A value that has every field that a schema knows.
fn sample(schema: &Value, root: &Value, depth: usize) -> Value {
    assert!(depth < 60, "the types refer to themselves");
    let next = |schema: &Value| sample(schema, root, depth + 1);
    if let Some(reference) = schema["$ref"].as_str() {
        return next(root.pointer(reference.trim_start_matches('#')).expect("a definition"));
    }
    for choice in ["anyOf", "oneOf", "allOf"] {
        if let Some(choices) = schema[choice].as_array() {
            return next(choices.iter().find(|one| one["type"] != "null").expect("one that is something"));
        }
    }
    if let Some(value) = schema.get("const").or_else(|| schema["enum"].get(0)) {
        return value.clone();
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().find_map(Value::as_str).unwrap_or_default(),
        kind => kind.as_str().unwrap_or_default(),
    };
    match kind {
        "object" => {
            let fields = schema["properties"].as_object().cloned().unwrap_or_default();
            let mut object: Map<String, Value> =
                fields.iter().map(|(name, of)| (name.clone(), next(of))).collect();
            if let Some(of) = schema.get("additionalProperties").filter(|of| of.is_object()) {
                object.insert("key".to_owned(), next(of));
            }
            Value::Object(object)
        }
        "array" => json!([next(&schema["items"])]),
        "integer" | "number" => json!(1),
        "boolean" => json!(true),
        _ => json!("x"),
    }
}

#[test]
fn ours_can_be_told_what_theirs_can_say() {
    let kinds = [
        refused::<GatewaySpec>("v1", "Gateway"),
        refused::<HttpRouteSpec>("v1", "HTTPRoute"),
        refused::<GrpcRouteSpec>("v1", "GRPCRoute"),
        refused::<TlsRouteSpec>("v1", "TLSRoute"),
        refused::<TcpRouteSpec>("v1alpha2", "TCPRoute"),
        refused::<ReferenceGrantSpec>("v1", "ReferenceGrant"),
        refused::<BackendTlsPolicySpec>("v1", "BackendTLSPolicy"),
    ];
    let refused: BTreeSet<String> = kinds.into_iter().flatten().collect();
    let known: BTreeSet<String> = REFUSED.iter().map(|(field, _)| (*field).to_owned()).collect();
    assert_eq!(refused, known, "fields that are refused, and those that are listed");
}

/// Documents that say what our types take, each kind at least once.
const DOCUMENTS: &str = include_str!("gateway_api.yaml");

fn without_null(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(_, value)| !value.is_null());
            kept.map(|(name, value)| (name, without_null(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(without_null).collect(),
        other => other,
    }
}

fn through<T: Serialize + DeserializeOwned>(document: &Value) -> Value {
    let theirs: T =
        serde_json::from_value(document.clone()).unwrap_or_else(|error| panic!("{error} in {document}"));
    without_null(serde_json::to_value(theirs).unwrap())
}

fn ours(document: &Value) -> Resource {
    let (mut resources, errors) = parse(Path::new("ours.json"), &document.to_string());
    assert!(errors.is_empty(), "{errors:?} in {document}");
    resources.pop().expect("a resource")
}

#[test]
fn what_ours_take_theirs_take_too_and_mean_the_same() {
    let mut kinds = BTreeSet::new();
    for text in DOCUMENTS.split("\n---\n") {
        let document: Value =
            serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"));
        let kind = document["kind"].as_str().expect("a kind").to_owned();
        let theirs = match kind.as_str() {
            "Gateway" => through::<Gateway>(&document),
            "HTTPRoute" => through::<HttpRoute>(&document),
            "GRPCRoute" => through::<GrpcRoute>(&document),
            "TLSRoute" => through::<TlsRoute>(&document),
            "TCPRoute" => through::<TcpRoute>(&document),
            "ReferenceGrant" => through::<ReferenceGrant>(&document),
            "BackendTLSPolicy" => through::<BackendTlsPolicy>(&document),
            other => panic!("{other}"),
        };
        // Nothing was lost on the way through theirs.
        assert_eq!(theirs["spec"], document["spec"], "{kind}");
        assert!(ours(&theirs).spec == ours(&document).spec, "{kind}");
        kinds.insert(kind);
    }
    assert_eq!(kinds.len(), 7, "{kinds:?}");
}
