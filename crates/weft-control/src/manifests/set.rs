//! `--set path.to.field=value`, in the words of Helm's flag of that name.

use serde_json::Value;

use super::located::{At, Node, Part};

const NOWHERE: At = At { line: 1, column: 1 };

/// Each assignment as a tree of its own.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, String> {
    split(text, ',')?.iter().map(|assignment| one(assignment)).collect()
}

fn one(assignment: &str) -> Result<Node, String> {
    let Some((path, value)) = assignment.split_once('=') else {
        return Err(format!("{assignment:?} has no =; write path.to.field=value"));
    };
    if path.ends_with(']') {
        return Err(format!("{path}: one item of a list cannot be set; set the whole list as {{a,b}}"));
    }
    let mut node = leaf(value)?;
    for key in split(path, '.')?.iter().rev() {
        if key.is_empty() {
            return Err(format!("{path:?} has an empty step; write path.to.field=value"));
        }
        node = Node { at: NOWHERE, part: Part::Map(vec![(unescape(key), NOWHERE, node)]) };
    }
    Ok(node)
}

fn leaf(text: &str) -> Result<Node, String> {
    let part = match text.strip_prefix('{').map(|rest| rest.strip_suffix('}')) {
        Some(Some("")) => Part::List(Vec::new()),
        Some(Some(items)) => Part::List(
            split(items, ',')?.iter().map(|i| Node { at: NOWHERE, part: Part::Scalar(scalar(i)) }).collect(),
        ),
        Some(None) => return Err(format!("{text:?} has no closing brace")),
        None => Part::Scalar(scalar(text)),
    };
    Ok(Node { at: NOWHERE, part })
}

/// Types as Helm guesses them: true, false, null, whole numbers without a leading zero; all else is text.
fn scalar(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        "0" => Value::from(0),
        _ => match text.parse::<i64>() {
            Ok(number) if !text.starts_with('0') && !text.starts_with('+') => Value::from(number),
            _ => Value::String(unescape(text)),
        },
    }
}

/// Splits at `separator`, unless it is escaped or in braces. Escapes stay.
fn split(text: &str, separator: char) -> Result<Vec<String>, String> {
    let mut parts = vec![String::new()];
    let (mut braces, mut escaped) = (false, false);
    for c in text.chars() {
        if c == separator && !braces && !escaped {
            parts.push(String::new());
            continue;
        }
        match c {
            '{' if !escaped => braces = true,
            '}' if !escaped => braces = false,
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        if let Some(last) = parts.last_mut() {
            last.push(c);
        }
    }
    if escaped { Err("ends in a backslash".to_owned()) } else { Ok(parts) }
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut escaped = false;
    for c in text.chars() {
        escaped = c == '\\' && !escaped;
        if !escaped {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn assignments_are_read_as_helm_reads_them() {
        for (text, wanted) in [
            ("a=1", json!({"a": 1})),
            ("a.b=x=y", json!({"a": {"b": "x=y"}})),
            ("a=007", json!({"a": "007"})),
            ("a=1.5", json!({"a": "1.5"})),
            ("a=", json!({"a": ""})),
            ("a=null", json!({"a": null})),
            ("a={}", json!({"a": []})),
            (r"a={x,2,z\,w}", json!({"a": ["x", 2, "z,w"]})),
            (r"a.b\.c/d=1\,2", json!({"a": {"b.c/d": "1,2"}})),
            (r"a=back\\slash", json!({"a": r"back\slash"})),
        ] {
            let trees = parse(text).unwrap();
            assert_eq!((trees.len(), trees[0].to_value()), (1, wanted), "{text}");
        }
        assert_eq!(parse("a=1,b={x,y},c=2").unwrap().len(), 3);
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        for (text, said) in [
            ("a", "has no ="),
            ("a..b=1", "empty step"),
            ("a[0]=1", "whole list"),
            ("a={x", "closing brace"),
            ("a=\\", "backslash"),
        ] {
            assert!(parse(text).unwrap_err().contains(said), "{text}");
        }
    }
}
