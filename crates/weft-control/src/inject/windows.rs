//! Pods for Windows nodes, where there is no iptables.
//!
//! `spec.os` says so plainly, and few write it: most choose the nodes by their label, which the kubelet sets.

use std::collections::BTreeMap;

use serde_json::Value;

const WINDOWS: &str = "windows";
const LINUX: &str = "linux";
/// The label of nodes; the second is what it was called before Kubernetes 1.14.
const NODE_LABELS: [&str; 2] = ["kubernetes.io/os", "beta.kubernetes.io/os"];

/// Whether a pod can run on Windows nodes only, by these parts of its spec: `os.name`, `nodeSelector`, `affinity`.
pub(crate) fn is_for_windows(
    os: Option<&str>,
    node_selector: Option<&BTreeMap<String, String>>,
    affinity: Option<&Value>,
) -> bool {
    let mut selector = node_selector.into_iter().flatten();
    os.is_some_and(|os| os.eq_ignore_ascii_case(WINDOWS))
        || selector.any(|(label, os)| NODE_LABELS.contains(&label.as_str()) && os == WINDOWS)
        || affinity.is_some_and(requires_windows)
}

/// Whether each of the terms, one of which has to hold, is for Windows. A preference requires nothing.
fn requires_windows(affinity: &Value) -> bool {
    let terms = affinity
        .pointer("/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms")
        .and_then(Value::as_array);
    terms.is_some_and(|terms| !terms.is_empty() && terms.iter().all(is_term_for_windows))
}

/// Whether one of its expressions, all of which have to hold, leaves no other system.
fn is_term_for_windows(term: &Value) -> bool {
    let expressions = term.get("matchExpressions").and_then(Value::as_array);
    expressions.into_iter().flatten().any(|expression| {
        let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
        let values =
            expression.get("values").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        NODE_LABELS.contains(&text("key"))
            && match text("operator") {
                "In" => !values.is_empty() && values.iter().all(|value| value == WINDOWS),
                "NotIn" => values.iter().any(|value| value == LINUX),
                _ => false,
            }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::pod::Pod;
    use super::*;

    fn for_windows(spec: &Value) -> bool {
        Pod::read(&json!({"spec": spec})).unwrap().spec.is_for_windows()
    }

    fn required(terms: &Value) -> Value {
        json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
    }

    #[test]
    fn windows_is_known_by_name_by_selector_and_by_affinity() {
        let os = |operator: &str, values: &[&str]| json!({"key": "kubernetes.io/os", "operator": operator, "values": values});
        let zone = json!({"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["windows"]});
        for (spec, expected) in [
            (json!({"os": {"name": "windows"}}), true),
            (json!({"os": {"name": "linux"}}), false),
            (json!({"nodeSelector": {"kubernetes.io/os": "windows", "a": "b"}}), true),
            (json!({"nodeSelector": {"beta.kubernetes.io/os": "windows"}}), true),
            (json!({"nodeSelector": {"kubernetes.io/os": "linux", "flavour": "windows"}}), false),
            (required(&json!([{"matchExpressions": [zone, os("In", &["windows"])]}])), true),
            (required(&json!([{"matchExpressions": [os("NotIn", &["linux"])]}])), true),
            (required(&json!([{"matchExpressions": [os("In", &["windows", "linux"])]}])), false),
            (required(&json!([{"matchExpressions": [os("NotIn", &["windows"])]}])), false),
            (required(&json!([{"matchExpressions": [os("Exists", &[])]}])), false),
            // Either of them may hold.
            (
                required(
                    &json!([{"matchExpressions": [os("In", &["windows"])]}, {"matchExpressions": [zone]}]),
                ),
                false,
            ),
            (required(&json!([])), false),
            (required(&json!("windows")), false),
            (
                json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 1, "preference": {"matchExpressions": [os("In", &["windows"])]}}]}}}),
                false,
            ),
            (json!({"affinity": 7}), false),
        ] {
            assert_eq!(for_windows(&spec), expected, "{spec}");
        }
    }
}
