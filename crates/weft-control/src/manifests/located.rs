//! YAML as a tree in which each node knows where it was written.
//!
//! Deserializing straight into types would forget the lines, and a mistake in a values file is told with its line.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;
use serde_saphyr::options::DuplicateKeyPolicy;

/// Line and column, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    pub(super) line: u64,
    pub(super) column: u64,
}

/// A node of a document.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) at: At,
    pub(super) part: Part,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub(super) enum Part {
    /// Null, a boolean, a number or a text.
    Scalar(Value),
    List(Vec<Node>),
    /// Key, place of the key, value; in the order of the document.
    Map(Vec<(String, At, Node)>),
}

/// Why a text is not YAML.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) at: At,
    pub(super) reason: String,
}

/// Parses a document. An empty one is null.
pub(super) fn parse(text: &str) -> Result<Node, Broken> {
    let mut options = serde_saphyr::Options::default();
    options.duplicate_keys = DuplicateKeyPolicy::Error;
    options.with_snippet = false;
    match serde_saphyr::from_str_with_options::<Spanned<Part>>(text, options) {
        Ok(root) => Ok(node(root)),
        Err(error) => {
            let at = error.location().map_or(At { line: 1, column: 1 }, |l| At {
                line: l.line().max(1),
                column: l.column().max(1),
            });
            let message = error.without_snippet().to_string();
            let message = message.lines().next().unwrap_or_default();
            // The place is told in our own form.
            let reason = message.rfind(" at line ").and_then(|cut| message.get(..cut)).unwrap_or(message);
            Err(Broken { at, reason: reason.trim().to_owned() })
        }
    }
}

impl Node {
    /// The value without places.
    pub(super) fn to_value(&self) -> Value {
        match &self.part {
            Part::Scalar(value) => value.clone(),
            Part::List(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Part::Map(entries) => Value::Object(
                entries.iter().map(|(key, _, value)| (key.clone(), value.to_value())).collect::<Map<_, _>>(),
            ),
        }
    }

    /// The node at a path, or the last one above it that is there.
    pub(super) fn nearest(&self, path: &[String]) -> At {
        let Some((first, rest)) = path.split_first() else { return self.at };
        match &self.part {
            Part::Map(entries) => entries
                .iter()
                .find(|(key, ..)| key == first)
                .map_or(self.at, |(_, key, value)| if rest.is_empty() { *key } else { value.nearest(rest) }),
            Part::List(items) => first
                .parse()
                .ok()
                .and_then(|i: usize| items.get(i))
                .map_or(self.at, |item| item.nearest(rest)),
            Part::Scalar(_) => self.at,
        }
    }
}

fn place(location: serde_saphyr::Location) -> At {
    At { line: location.line().max(1), column: location.column().max(1) }
}

fn node(spanned: Spanned<Part>) -> Node {
    Node { at: place(spanned.referenced), part: spanned.value }
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PartVisitor)
    }
}

struct PartVisitor;

impl<'de> Visitor<'de> for PartVisitor {
    type Value = Part;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Part, E> {
        Ok(Part::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Part, E> {
        Ok(Part::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Part, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Part, E> {
        Ok(Part::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Part, E> {
        Ok(Part::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Part, E> {
        Ok(Part::Scalar(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Part, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number must be finite"))?;
        Ok(Part::Scalar(Value::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Part, E> {
        Ok(Part::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Part, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Part>>()? {
            items.push(node(item));
        }
        Ok(Part::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Part, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let value = map.next_value::<Spanned<Part>>()?;
            entries.push((key.value, place(key.referenced), node(value)));
        }
        Ok(Part::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_text() {
        let root = parse("a: 1\nb:\n  - x\n  - {c: 'y', d: 1.5}\n").unwrap();
        let path = |parts: &[&str]| parts.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        assert_eq!(root.nearest(&path(&["b", "1", "d"])), At { line: 4, column: 14 });
        assert_eq!(root.nearest(&path(&["b", "7"])), At { line: 3, column: 3 });
        assert_eq!(root.nearest(&path(&["a"])), At { line: 1, column: 1 });
        assert_eq!(root.to_value(), serde_json::json!({"a": 1, "b": ["x", {"c": "y", "d": 1.5}]}));
    }

    #[test]
    fn broken_yaml_and_repeated_keys_have_a_line() {
        assert_eq!(parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err().at.line, 3);
        let broken = parse("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!(broken.at.line, 3, "{broken:?}");
        assert!(!broken.reason.contains("at line"), "{broken:?}");
    }
}
