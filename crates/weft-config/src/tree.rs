//! YAML as a tree in which each node knows where it was written.
//!
//! Deserializing straight into structs would stop at the first mistake and forget where each value stood. The tree
//! keeps both, so that all mistakes of a file are told at once, each with its line, and so that a value from the
//! environment or from a flag can be laid over the file and checked by the same code.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Location, Spanned};

use crate::error::{Origin, Problem, ProblemKind};

/// A node of the document.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it holds.
    pub value: Value,
    /// Where it stands. In a tree that was read from a text this is [`Origin::File`].
    pub origin: Origin,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub enum Value {
    /// A value without parts.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A mapping: each key with its place and its value, in the order of the text. Keys may be there twice.
    Map(Vec<(String, Origin, Node)>),
}

/// A value without parts.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Another number.
    Float(f64),
    /// From the file.
    Str(String),
    /// From the environment or a flag: text that may stand for any scalar.
    Text(String),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Str(value) | Self::Text(value) => value.fmt(f),
        }
    }
}

impl Value {
    /// What the value is, for an error message.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Scalar(Scalar::Null) => "nothing",
            Self::Scalar(Scalar::Bool(_)) => "true or false",
            Self::Scalar(Scalar::Int(_) | Scalar::Float(_)) => "a number",
            Self::Scalar(Scalar::Str(_) | Scalar::Text(_)) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Parses a document; an empty one is nothing ([`Scalar::Null`]).
pub(crate) fn parse(text: &str) -> Result<Node, Problem> {
    parse_as(text, MAX_NODES, false)
}

/// The parser's own default: plenty for a configuration that a person writes.
const MAX_NODES: usize = 250_000;

/// What aliases may stand for, all together: people repeat a paragraph, bombs a million.
const MAX_REPLAYED: usize = 50_000;

/// The same for a document of at most so many nodes, counted with what its aliases stand for. Of words only `true` and `false` are
/// not a text (YAML 1.2, core schema): a name may be `on` or `y`.
///
/// # Errors
/// The first thing that is not YAML, or too much of it. There is no telling what comes after it.
pub fn parse_within(text: &str, max_nodes: usize) -> Result<Node, Problem> {
    parse_as(text, max_nodes, true)
}

fn parse_as(text: &str, max_nodes: usize, strict_booleans: bool) -> Result<Node, Problem> {
    let mut options = serde_saphyr::Options::default();
    options.budget = serde_saphyr::budget! {
        max_nodes: max_nodes,
        // A list or a mapping has two events, its begin and its end; a scalar has one. Text and document have theirs.
        max_events: max_nodes.saturating_mul(2).saturating_add(8),
    };
    options.alias_limits = serde_saphyr::alias_limits! {
        max_total_replayed_events: max_nodes.min(MAX_REPLAYED),
    };
    // Duplicates are told by the reader, with the path of the field.
    options.duplicate_keys = DuplicateKeyPolicy::PassThrough;
    options.with_snippet = false;
    options.strict_booleans = strict_booleans;
    match serde_saphyr::from_str_with_options::<Spanned<Value>>(text, options) {
        Ok(root) => Ok(node(root)),
        Err(error) => {
            let origin = error.location().map_or(Origin::File { line: 1, column: 1 }, at);
            let mut reason = error.without_snippet().to_string();
            // The location is told in our own form.
            if let Some(cut) = reason.find("\n").or_else(|| reason.rfind(" at line ")) {
                reason.truncate(cut);
            }
            Err(Problem {
                kind: ProblemKind::Syntax,
                origin,
                field: String::new(),
                reason: format!("this is not YAML that can be read: {reason}"),
                cure: String::new(),
            })
        }
    }
}

fn at(location: Location) -> Origin {
    Origin::File { line: (location.line() as u32).max(1), column: (location.column() as u32).max(1) }
}

fn node(spanned: Spanned<Value>) -> Node {
    Node { origin: at(spanned.referenced), value: spanned.value }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Scalar(Scalar::Null))
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Scalar(Scalar::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Scalar(Scalar::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Scalar(Scalar::Int(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Scalar(Scalar::Int(value.into())))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Scalar(Scalar::Int(value)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Scalar(Scalar::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Scalar(Scalar::Str(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Value>>()? {
            items.push(node(item));
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let value = map.next_value::<Spanned<Value>>()?;
            entries.push((key.value, at(key.referenced), node(value)));
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_and_key_knows_its_place() {
        let root = parse("a: 1\nb:\n  - x\n  - {c: yes, d: 1.5}\n").unwrap();
        let Value::Map(entries) = root.value else { panic!("a mapping") };
        assert_eq!(entries[0].1, Origin::File { line: 1, column: 1 });
        assert_eq!(entries[0].2.origin, Origin::File { line: 1, column: 4 });
        let Value::List(items) = &entries[1].2.value else { panic!("a list") };
        assert_eq!(items[1].origin, Origin::File { line: 4, column: 5 });
        let Value::Map(inner) = &items[1].value else { panic!("a mapping") };
        assert_eq!(inner[1].1, Origin::File { line: 4, column: 14 });
    }

    #[test]
    fn an_empty_document_is_null() {
        for text in ["", "# nothing\n", "---\n"] {
            assert!(matches!(parse(text).unwrap().value, Value::Scalar(Scalar::Null)), "{text:?}");
        }
    }

    #[test]
    fn a_document_has_a_limit_and_words_are_texts() {
        assert!(parse_within("[1, 2, 3]", 4).is_ok());
        assert!(parse_within("[1, 2, 3, 4]", 4).is_err());
        assert!(parse_within("a: &a [1, 2, 3, 4]\nb: [*a, *a, *a, *a]\n", 16).is_err(), "aliases count");
        for (text, is_text) in [("y", true), ("no", true), ("on", true), ("true", false), ("False", false)] {
            let node = parse_within(text, 4).unwrap();
            assert_eq!(matches!(node.value, Value::Scalar(Scalar::Str(_))), is_text, "{text}");
        }
    }

    #[test]
    fn broken_yaml_is_told_with_its_line() {
        for text in
            ["a: 1\nb: [1, 2\nc: 3\n", "a: 1\n\tb: 2\n", "a: 1\nb: \"open\n", "a: 1\n&x b: *y\n", "a: b: c\n"]
        {
            let problem = parse(text).unwrap_err();
            assert!(matches!(problem.origin, Origin::File { .. }), "{problem:?}");
            assert!(!problem.reason.contains(" at line"), "{problem:?}");
        }
    }
}
