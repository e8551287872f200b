//! The difference of two objects as a JSON patch (RFC 6902).
//!
//! A comparison of lists by position would tell "the first container became another one" for each that moved back by a
//! place: long, and wrong to read in an audit log. Here what is added at the front is added at the front.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation};
use serde_json::{Map, Value};

/// The patch that makes `after` of `before`; empty where they are equal.
pub fn patch(before: &Value, after: &Value) -> Patch {
    let mut operations = Vec::new();
    value(&PointerBuf::new(), before, after, &mut operations);
    Patch(operations)
}

fn value(at: &PointerBuf, before: &Value, after: &Value, into: &mut Vec<PatchOperation>) {
    match (before, after) {
        (before, after) if before == after => {}
        (Value::Object(before), Value::Object(after)) => object(at, before, after, into),
        (Value::Array(before), Value::Array(after)) => array(at, before, after, into),
        (_, after) => {
            into.push(PatchOperation::Replace(ReplaceOperation { path: at.clone(), value: after.clone() }));
        }
    }
}

fn object(
    at: &PointerBuf,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    into: &mut Vec<PatchOperation>,
) {
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        into.push(PatchOperation::Remove(RemoveOperation { path: below(at, key) }));
    }
    for (key, after) in after {
        match before.get(key) {
            Some(before) => value(&below(at, key), before, after, into),
            None => {
                into.push(PatchOperation::Add(AddOperation { path: below(at, key), value: after.clone() }));
            }
        }
    }
}

/// Entries are told from another by their names. Where those of `before` are not all there, in their order, the whole
/// list is replaced.
fn array(at: &PointerBuf, before: &[Value], after: &[Value], into: &mut Vec<PatchOperation>) {
    let mut rest = before.iter();
    let mut next = rest.next();
    let mut operations = Vec::new();
    for (i, entry) in after.iter().enumerate() {
        let place = below(at, &i.to_string());
        match next.filter(|old| is_same(old, entry)) {
            Some(old) => {
                value(&place, old, entry, &mut operations);
                next = rest.next();
            }
            None => operations.push(PatchOperation::Add(AddOperation { path: place, value: entry.clone() })),
        }
    }
    if next.is_some() {
        let whole = Value::Array(after.to_vec());
        operations = vec![PatchOperation::Replace(ReplaceOperation { path: at.clone(), value: whole })];
    }
    into.append(&mut operations);
}

fn is_same(before: &Value, after: &Value) -> bool {
    match (super::pod::name_of(before), super::pod::name_of(after)) {
        (Some(before), Some(after)) => before == after,
        _ => before == after,
    }
}

fn below(at: &PointerBuf, token: &str) -> PointerBuf {
    let mut path = at.clone();
    path.push_back(token);
    path
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn shown(before: &Value, after: &Value) -> Vec<String> {
        patch(before, after)
            .0
            .iter()
            .map(|operation| serde_json::to_string(operation).unwrap_or_default())
            .collect()
    }

    #[test]
    fn what_is_put_in_front_is_added_and_what_changed_behind_it_is_found() {
        let before = json!({"c": [{"name": "a", "x": 1}, {"name": "b"}]});
        let after = json!({"c": [{"name": "n"}, {"name": "a", "x": 2}, {"name": "b"}], "a/b": 1});
        assert_eq!(
            shown(&before, &after),
            [
                r#"{"op":"add","path":"/a~1b","value":1}"#,
                r#"{"op":"add","path":"/c/0","value":{"name":"n"}}"#,
                r#"{"op":"replace","path":"/c/1/x","value":2}"#,
            ]
        );
        assert!(shown(&after, &after).is_empty());
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..3).prop_map(Value::from),
            "[a-c~/]{0,2}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-b~/]{0,2}|name", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_patch_makes_the_one_of_the_other(before in json(), after in json()) {
            let mut made = before.clone();
            json_patch::patch(&mut made, &patch(&before, &after)).unwrap();
            prop_assert_eq!(made, after);
        }
    }
}
