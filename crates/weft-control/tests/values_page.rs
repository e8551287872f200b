//! `docs/reference/helm-values.md` is made from the chart's schema and defaults.
//!
//! `WEFT_WRITE_DOCS=1 cargo test -p weft-control --test values_page` writes it anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

const HEAD: &str = "# Values of the installation

What `helm install --values` and `weft install --values` take; both check it, and refuse what is not in this table. This page is made
from the chart's `values.schema.json` and `values.yaml`.

A mapping is merged with the defaults, everything else replaces them, and `null` takes a default away. In `--set`, steps are
separated by dots: `--set control.replicas=3`.

| field | type | default | meaning |
|---|---|---|---|
";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn kind(schema: &Value) -> String {
    if let Some(allowed) = schema["enum"].as_array() {
        return allowed.iter().map(|v| format!("`{}`", v.as_str().unwrap())).collect::<Vec<_>>().join(", ");
    }
    let example = schema["examples"][0].as_str().map(|e| format!(", such as `{e}`")).unwrap_or_default();
    match schema["type"].as_str().unwrap() {
        "string" => format!("text{example}"),
        "boolean" => "true or false".to_owned(),
        "integer" if schema["minimum"].is_null() => "whole number".to_owned(),
        "integer" | "number" => format!("{} to {}", schema["minimum"], schema["maximum"]),
        "array" => format!("list of: {}", kind(&schema["items"])),
        "object" if schema["additionalProperties"]["type"] == "string" => "mapping of texts".to_owned(),
        "object" => "mapping".to_owned(),
        other => panic!("{other}"),
    }
}

fn rows(schema: &Value, defaults: &Value, path: &str, page: &mut String) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let default = &defaults[name];
        let meaning = property["description"].as_str().unwrap();
        if property["properties"].is_object() {
            // A section: its fields follow.
            writeln!(page, "| **`{path}`** | | | {meaning} |").unwrap();
            rows(property, default, &path, page);
            continue;
        }
        let default = match default {
            Value::Null => String::new(),
            Value::String(text) if text.is_empty() => "empty".to_owned(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        };
        writeln!(page, "| `{path}` | {} | {default} | {meaning} |", kind(property)).unwrap();
        rows(&property["items"], &Value::Null, &format!("{path}[]"), page);
    }
}

#[test]
fn the_page_is_the_schemas() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let schema: Value = serde_json::from_str(&read("deploy/helm/weft/values.schema.json")).unwrap();
    let defaults: Value = serde_saphyr::from_str(&read("deploy/helm/weft/values.yaml")).unwrap();
    let mut page = HEAD.to_owned();
    rows(&schema, &defaults, "", &mut page);
    let path = root().join("docs/reference/helm-values.md");
    if std::env::var_os("WEFT_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/reference/helm-values.md is stale: WEFT_WRITE_DOCS=1 cargo test -p weft-control --test values_page"
    );
}
