//! A tree's nodes as serde sees them, so that the types of this crate are read from it, and each refusal is known with its place.

use std::collections::HashSet;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
};
use weft_config::Origin;
use weft_config::tree::{Node, Scalar, Value};

use super::fault::Fault;
use crate::error::ErrorKind;

/// Nodes that are passed over as if they were not there, by address: what was found wrong in them is told already.
pub(crate) type Hidden = HashSet<usize>;

/// One node, to be read.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'n> {
    pub(crate) node: &'n Node,
    pub(crate) hidden: &'n Hidden,
}

impl<'n> Reader<'n> {
    fn of(self, node: &'n Node) -> Self {
        Self { node, hidden: self.hidden }
    }

    fn is_hidden(self, node: &Node) -> bool {
        !self.hidden.is_empty() && self.hidden.contains(&super::address(node))
    }

    fn scalar<'de, V: Visitor<'de>>(scalar: &Scalar, visitor: V) -> Result<V::Value, Fault> {
        match scalar {
            Scalar::Null => visitor.visit_unit(),
            Scalar::Bool(value) => visitor.visit_bool(*value),
            Scalar::Int(value) => match (i64::try_from(*value), u64::try_from(*value)) {
                (Ok(value), _) => visitor.visit_i64(value),
                (_, Ok(value)) => visitor.visit_u64(value),
                _ => Err(Fault::invalid_value(Unexpected::Other("a number out of range"), &visitor)),
            },
            Scalar::Float(value) => visitor.visit_f64(*value),
            Scalar::Str(text) | Scalar::Text(text) => visitor.visit_str(text),
        }
    }

    fn any<'de, V: Visitor<'de>>(self, fields: Option<&[&str]>, visitor: V) -> Result<V::Value, Fault> {
        let result = match &self.node.value {
            Value::Scalar(scalar) => Self::scalar(scalar, visitor),
            Value::List(items) => visitor.visit_seq(Items { reader: self, items: items.iter().enumerate() }),
            Value::Map(entries) => {
                let entries = Entries {
                    reader: self,
                    fields,
                    seen: HashSet::new(),
                    entries: entries.iter(),
                    value: None,
                };
                visitor.visit_map(entries)
            }
        };
        result.map_err(|fault| fault.at(self.node))
    }
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.any(None, visitor)
    }

    /// Where true or false is wanted, Kubernetes takes the words of YAML 1.1 too.
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let word = match &self.node.value {
            Value::Scalar(Scalar::Str(text)) => text.to_ascii_lowercase(),
            _ => String::new(),
        };
        match word.as_str() {
            "yes" | "on" => visitor.visit_bool(true),
            "no" | "off" => visitor.visit_bool(false),
            _ => self.any(None, visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Scalar(Scalar::Null) => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.any(Some(fields), visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self).map_err(|fault| fault.at(self.node))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Scalar(Scalar::Str(text) | Scalar::Text(text)) => {
                let variant: StrDeserializer<'_, Fault> = text.as_str().into_deserializer();
                visitor.visit_enum(variant).map_err(|fault| fault.at(self.node))
            }
            other => {
                let reason = format!("this is {}, not a text", other.kind());
                Err(Fault::new(ErrorKind::WrongType, reason, "").at(self.node))
            }
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier
    }
}

/// The items of a list.
struct Items<'n, I> {
    reader: Reader<'n>,
    items: I,
}

impl<'de, 'n, I: Iterator<Item = (usize, &'n Node)>> SeqAccess<'de> for Items<'n, I> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let reader = self.reader;
        let Some((index, node)) = self.items.find(|(_, node)| !reader.is_hidden(node)) else {
            return Ok(None);
        };
        let item = seed.deserialize(reader.of(node));
        item.map(Some).map_err(|fault| fault.at(node).within_index(index))
    }
}

/// The entries of a mapping.
struct Entries<'n, 'f> {
    reader: Reader<'n>,
    /// The fields that a struct has; one that is written with nothing behind it is one that is not written, as in Kubernetes.
    fields: Option<&'f [&'f str]>,
    seen: HashSet<&'n str>,
    entries: std::slice::Iter<'n, (String, Origin, Node)>,
    value: Option<(&'n str, &'n Node)>,
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        for (key, origin, node) in self.entries.by_ref() {
            if self.reader.is_hidden(node) {
                continue;
            }
            if !self.seen.insert(key) {
                return Err(Fault::duplicate_field("").at_key(origin, key, node));
            }
            let is_nothing = matches!(node.value, Value::Scalar(Scalar::Null));
            if is_nothing && self.fields.is_some_and(|fields| fields.contains(&key.as_str())) {
                continue;
            }
            self.value = Some((key, node));
            let name: StrDeserializer<'_, Fault> = key.as_str().into_deserializer();
            return seed.deserialize(name).map(Some).map_err(|fault| fault.at_key(origin, key, node));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some((key, node)) = self.value.take() else {
            return Err(Fault::custom("a value was asked for before its key"));
        };
        seed.deserialize(self.reader.of(node)).map_err(|fault| fault.at(node).within_key(key))
    }
}
