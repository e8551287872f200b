//! Checks values by the chart's JSON schema.
//!
//! Helm checks values by the same file, so what one refuses the other refuses. Only the words of JSON Schema that the file
//! uses are known here; a test fails when the file comes to use another, which would otherwise be ignored in silence.

use regex::Regex;
use serde_json::{Map, Value};

/// The schema of the chart's values.
pub(super) const SCHEMA: &str = include_str!("../../../../deploy/helm/weft/values.schema.json");

/// Something that the schema does not allow.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation {
    /// Keys and positions from the top.
    pub(super) path: Vec<String>,
    /// What is wrong, and what is allowed.
    pub(super) reason: String,
}

/// Everything in `value` that `schema` does not allow.
pub(super) fn check(schema: &Value, value: &Value) -> Vec<Violation> {
    let mut violations = Vec::new();
    visit(schema, value, &mut Vec::new(), &mut violations);
    violations
}

fn visit(schema: &Value, value: &Value, path: &mut Vec<String>, found: &mut Vec<Violation>) {
    let mut refuse = |path: &[String], reason: String| found.push(Violation { path: path.to_vec(), reason });
    if let Some(wanted) = schema["type"].as_str()
        && !is(wanted, value)
    {
        return refuse(path, format!("{} is not {}", shown(value), a(wanted)));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<String> = allowed.iter().map(shown).collect();
        refuse(path, format!("{} is none of {}", shown(value), allowed.join(", ")));
    }
    match value {
        Value::String(text) => {
            if let Some(reason) = text_reason(schema, text) {
                refuse(path, reason);
            }
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            if schema["minimum"].as_f64().is_some_and(|least| number < least)
                || schema["maximum"].as_f64().is_some_and(|most| number > most)
            {
                refuse(
                    path,
                    format!("{number} is not between {} and {}", schema["minimum"], schema["maximum"]),
                );
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                path.push(i.to_string());
                visit(&schema["items"], item, path, found);
                path.pop();
            }
        }
        Value::Object(entries) => object(schema, entries, path, found),
        Value::Null | Value::Bool(_) => {}
    }
}

fn object(schema: &Value, entries: &Map<String, Value>, path: &mut Vec<String>, found: &mut Vec<Violation>) {
    let empty = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&empty);
    for (key, value) in entries {
        path.push(key.clone());
        match (properties.get(key), &schema["additionalProperties"]) {
            (Some(property), _) => visit(property, value, path, found),
            (None, Value::Bool(false)) => {
                let known: Vec<&str> = properties.keys().map(String::as_str).collect();
                let reason = format!("there is no such field; there are {}", known.join(", "));
                found.push(Violation { path: path.clone(), reason });
            }
            (None, any) => visit(any, value, path, found),
        }
        path.pop();
    }
}

fn text_reason(schema: &Value, text: &str) -> Option<String> {
    let length = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
    if schema["minLength"].as_u64().is_some_and(|least| length < least) {
        return Some("may not be empty".to_owned());
    }
    if let Some(most) = schema["maxLength"].as_u64()
        && length > most
    {
        return Some(format!("is longer than {most} characters"));
    }
    let pattern = schema["pattern"].as_str()?;
    match Regex::new(pattern) {
        Ok(regex) if regex.is_match(text) => None,
        Ok(_) => {
            let examples: Vec<String> =
                schema["examples"].as_array().into_iter().flatten().map(shown).collect();
            Some(format!("\"{text}\" has not the right form; write it as {}", examples.join(" or ")))
        }
        Err(error) => Some(format!("cannot be checked: {error}")),
    }
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

fn a(kind: &str) -> &str {
    match kind {
        "string" => "a text; write it in quotes",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        "array" => "a list",
        "object" => "a mapping",
        other => other,
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
        Value::String(text) => format!("\"{text}\""),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        serde_json::from_str(SCHEMA).unwrap()
    }

    fn reasons(value: &Value) -> Vec<String> {
        check(&schema(), value).into_iter().map(|v| format!("{}: {}", v.path.join("."), v.reason)).collect()
    }

    #[test]
    fn the_defaults_are_allowed() {
        let defaults: Value =
            serde_saphyr::from_str(include_str!("../../../../deploy/helm/weft/values.yaml")).unwrap();
        assert_eq!(reasons(&defaults), Vec::<String>::new());
    }

    #[test]
    fn each_mistake_is_told_with_its_path() {
        let mistakes = json!({
            "image": {"tagg": "1"},
            "control": {"replicas": "two", "tolerations": [{"operator": "Exist"}]},
            "ca": {"leafLifetime": "1 day"},
            "mesh": {"podCidrs": ["10.0.0.0"]},
            "proxy": {"anything": {"goes": [1, "x"]}},
        });
        let told = reasons(&mistakes);
        for said in [
            "image.tagg: there is no such field; there are digest, pullPolicy, pullSecrets, repository, tag",
            "control.replicas: \"two\" is not a whole number",
            "control.tolerations.0.operator: \"Exist\" is none of \"Exists\", \"Equal\"",
            "ca.leafLifetime: \"1 day\" has not the right form; write it as \"24h\"",
            "mesh.podCidrs.0: \"10.0.0.0\" has not the right form; write it as \"10.244.0.0/16\"",
        ] {
            assert!(told.iter().any(|t| t.starts_with(said)), "{said}\n{told:#?}");
        }
        assert_eq!(told.len(), 5, "{told:#?}");
    }

    /// Every word of the schema is one that `check` knows or that says nothing about values, every object is strict or
    /// says why not, every field has a description, every pattern compiles and its examples match.
    #[test]
    fn the_schema_uses_only_what_is_checked() {
        fn walk(schema: &Value, path: &str, seen: &mut usize) {
            *seen += 1;
            for word in schema.as_object().unwrap().keys() {
                let known = [
                    "$schema",
                    "title",
                    "description",
                    "examples",
                    "type",
                    "enum",
                    "minimum",
                    "maximum",
                    "items",
                    "properties",
                    "additionalProperties",
                    "minLength",
                    "maxLength",
                    "pattern",
                ];
                assert!(known.contains(&word.as_str()), "{path}: {word}");
            }
            assert_eq!(schema.get("minimum").is_some(), schema.get("maximum").is_some(), "{path}");
            if let Some(pattern) = schema["pattern"].as_str() {
                let regex = Regex::new(pattern).unwrap();
                let examples =
                    schema["examples"].as_array().unwrap_or_else(|| panic!("{path} has no examples"));
                assert!(
                    !examples.is_empty() && examples.iter().all(|e| regex.is_match(e.as_str().unwrap())),
                    "{path}"
                );
            }
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                assert!(property["description"].as_str().is_some_and(|d| d.ends_with('.')), "{path}.{name}");
                walk(property, &format!("{path}.{name}"), seen);
            }
            let free = [".proxy", ".control.affinity", ".global"].contains(&path);
            match &schema["additionalProperties"] {
                Value::Object(_) => walk(&schema["additionalProperties"], &format!("{path}.*"), seen),
                Value::Bool(false) => {}
                Value::Null if schema["type"] != "object" || free => {}
                other => panic!("{path} is not strict: {other}"),
            }
            if let Some(items) = schema.get("items") {
                walk(items, &format!("{path}[]"), seen);
            }
        }
        let mut seen = 0;
        walk(&schema(), "", &mut seen);
        assert!(seen > 40, "{seen}");
    }
}
