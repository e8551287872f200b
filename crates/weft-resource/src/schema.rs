//! The JSON Schemas of our own kinds, `docs/reference/*.schema.json`, made from the types: here it is checked that they are up to date.
//! `WEFT_WRITE_SCHEMAS=1 cargo test -p weft-resource schema` writes them anew.

use std::borrow::Cow;
use std::path::Path;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::Kind;
use crate::own::{BackendSpec, CertificateSpec};
use crate::value::{BackendHost, Port, PreciseHost};

/// What the schema of a host name can say of it: labels of letters, digits and hyphens (RFC 1123 section 2.1).
const HOST: &str =
    r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$";

macro_rules! schema_of {
    ($type:ty, $name:literal, $schema:tt) => {
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

schema_of!(Port, "Port", {"type": "integer", "minimum": 1, "maximum": 65535});
schema_of!(PreciseHost, "Host", {"type": "string", "pattern": HOST, "maxLength": 253});
schema_of!(BackendHost, "BackendHost", {"type": "string", "minLength": 1, "maxLength": 255});

/// The schema of a whole document.
fn document<S: JsonSchema>(kind: Kind, about: &str) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut spec = settings.into_generator().into_root_schema_for::<S>().to_value();
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("$schema");
        spec.remove("title");
    }
    let texts = json!({"type": "object", "additionalProperties": {"type": "string"}});
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.as_str(),
        "description": about,
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": false,
        "properties": {
            "apiVersion": {"const": format!("{}/{}", kind.group(), kind.versions().first().unwrap())},
            "kind": {"const": kind.as_str()},
            "metadata": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "minLength": 1},
                    "namespace": {"type": "string", "description": "Without it `default`."},
                    "labels": texts,
                    "annotations": texts,
                    "creationTimestamp": {"type": "string", "format": "date-time"},
                },
            },
            "spec": spec,
            "status": {"description": "Passed over."},
        },
    })
}

fn schemas() -> [(&'static str, Value); 2] {
    [
        (
            "backend.schema.json",
            document::<BackendSpec>(Kind::Backend, "An upstream that is no service of the cluster."),
        ),
        (
            "certificate.schema.json",
            document::<CertificateSpec>(
                Kind::Certificate,
                "PEM files, which are read again when they change.",
            ),
        ),
    ]
}

#[test]
fn the_schemas_in_the_reference_are_those_of_the_types() {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    for (name, schema) in schemas() {
        let file = reference.join(name);
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var_os("WEFT_WRITE_SCHEMAS").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            written == text,
            "docs/reference/{name} is not up to date: run WEFT_WRITE_SCHEMAS=1 cargo test -p weft-resource schema"
        );
    }
}

/// The fields of a schema, as the reference names them.
fn fields(schema: &Value, path: &str, found: &mut Vec<String>) {
    for (name, of) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        found.push(path.clone());
        fields(of, &path, found);
        fields(&of["items"], &format!("{path}[]"), found);
        for choice in of["anyOf"].as_array().into_iter().flatten() {
            fields(choice, &path, found);
        }
    }
}

#[test]
fn the_reference_has_every_field() {
    let page = include_str!("../../../docs/reference/resources.md");
    for (name, schema) in schemas() {
        let mut found = Vec::new();
        fields(&schema["properties"]["spec"], "", &mut found);
        assert!(found.len() >= 3, "{name}: {found:?}");
        // Those of a reference to an object are told once, for all.
        for field in found.iter().filter(|field| !field.contains("Refs[].") && !field.contains("Ref.")) {
            assert!(
                page.contains(&format!("| `{field}` |")),
                "docs/reference/resources.md has no `{field}` of {name}"
            );
        }
    }
}

#[test]
fn the_schemas_say_what_the_types_take() {
    let [(_, backend), (_, certificate)] = schemas();
    let spec = &backend["properties"]["spec"];
    assert_eq!(spec["required"], json!(["endpoints"]));
    assert_eq!(spec["additionalProperties"], json!(false));
    let endpoints = &spec["properties"]["endpoints"];
    assert_eq!((&endpoints["minItems"], &endpoints["maxItems"]), (&json!(1), &json!(64)));
    assert_eq!(endpoints["items"]["properties"]["port"]["maximum"], 65535);
    let protocol = spec["properties"]["protocol"].to_string();
    for known in ["http/1.1", "h2", "grpc", "tcp"] {
        assert!(protocol.contains(&format!("\"{known}\"")), "{protocol}");
    }
    let files = certificate["properties"]["spec"]["properties"].as_object().unwrap();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["caFile", "certificateFile", "keyFile"]);
}
