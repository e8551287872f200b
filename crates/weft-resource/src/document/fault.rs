//! Why a value could not be read, and where it stands.

use std::fmt;

use serde::de::{self, Expected, Unexpected};
use weft_config::nearest;
use weft_config::tree::Node;

use crate::error::ErrorKind;

/// The first thing that is wrong in what was read. It is made without a place; the reader that hands it up gives it one.
#[derive(Debug)]
pub(crate) struct Fault(Box<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) kind: ErrorKind,
    pub(crate) reason: String,
    pub(crate) cure: String,
    /// For [`ErrorKind::Missing`]: the field, which has no node.
    pub(crate) missing: Option<&'static str>,
    pub(crate) place: Option<Place>,
    /// The way to it, innermost step first.
    steps: Vec<Step>,
}

/// Where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) line: u32,
    pub(crate) column: u32,
    /// The node without which the rest could be read, as the address it has in its tree.
    pub(crate) node: usize,
}

#[derive(Debug)]
enum Step {
    Key(String),
    Index(usize),
}

impl Fault {
    pub(crate) fn new(kind: ErrorKind, reason: impl Into<String>, cure: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            reason: reason.into(),
            cure: cure.into(),
            missing: None,
            place: None,
            steps: Vec::new(),
        }))
    }

    /// Puts it at a node, if it is nowhere yet. A reason that begins with the name of one of the node's fields, as in
    /// `value: this is no path`, is put at that field.
    pub(crate) fn at(mut self, node: &Node) -> Self {
        use weft_config::tree::Value;
        if self.0.place.is_some() {
            return self;
        }
        let Value::Map(entries) = &node.value else { return self.at_place(node) };
        let named = self.0.reason.split_once(": ").and_then(|(name, rest)| {
            let (key, _, child) = entries.iter().find(|(key, ..)| key == name)?;
            Some((key.clone(), child, rest.to_owned()))
        });
        let Some((key, child, rest)) = named else { return self.at_place(node) };
        self.0.reason = rest;
        self.at_place(child).within_key(&key)
    }

    fn at_place(mut self, node: &Node) -> Self {
        let (line, column) = super::place(&node.origin);
        self.0.place = Some(Place { line, column, node: super::address(node) });
        self
    }

    /// Puts it at a key, and holds the key's value for what must go.
    pub(crate) fn at_key(mut self, origin: &weft_config::Origin, key: &str, value: &Node) -> Self {
        if self.0.place.is_none() {
            let (line, column) = super::place(origin);
            self.0.place = Some(Place { line, column, node: super::address(value) });
            self.0.steps.push(Step::Key(key.to_owned()));
        }
        self
    }

    pub(crate) fn within_key(mut self, key: &str) -> Self {
        self.0.steps.push(Step::Key(key.to_owned()));
        self
    }

    pub(crate) fn within_index(mut self, index: usize) -> Self {
        self.0.steps.push(Step::Index(index));
        self
    }

    pub(crate) fn inner(self) -> Inner {
        *self.0
    }
}

impl Inner {
    /// The field's path below `root`.
    pub(crate) fn field(&self, root: &str) -> String {
        let mut field = root.to_owned();
        for step in self.steps.iter().rev() {
            match step {
                Step::Key(key) => super::push_key(&mut field, key),
                Step::Index(index) => field.push_str(&format!("[{index}]")),
            }
        }
        if let Some(name) = self.missing {
            super::push_key(&mut field, name);
        }
        field
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.reason)
    }
}

impl std::error::Error for Fault {}

/// What serde calls a type, in words for the author of a document.
fn wanted(expected: &dyn Expected) -> String {
    let words = expected.to_string();
    match words.as_str() {
        "a string" | "a borrowed string" => "a text".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" => "a whole number from 0 to 4294967295".to_owned(),
        "i64" => "a whole number".to_owned(),
        _ if words.starts_with("struct ") => "a mapping".to_owned(),
        _ if words.starts_with("enum ") || words.starts_with("variant ") => "a text".to_owned(),
        _ => words,
    }
}

/// What there is instead. Never the value itself: it may be a secret.
fn found(unexpected: &Unexpected<'_>) -> String {
    let words = match unexpected {
        Unexpected::Bool(_) => "true or false",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
        Unexpected::Str(_) | Unexpected::Char(_) | Unexpected::Bytes(_) => "a text",
        Unexpected::Unit | Unexpected::Option => "nothing",
        Unexpected::Seq => "a list",
        Unexpected::Map | Unexpected::StructVariant => "a mapping",
        other => return other.to_string(),
    };
    words.to_owned()
}

fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        // What refuses a value ends its sentence with the cure behind a semicolon.
        let message = message.to_string();
        match message.rsplit_once("; ") {
            // A semicolon between backticks is the author's.
            Some((reason, cure)) if reason.matches('`').count() % 2 == 0 => {
                Self::new(ErrorKind::InvalidValue, reason, cure)
            }
            _ => Self::new(ErrorKind::InvalidValue, message, ""),
        }
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let wanted = wanted(expected);
        let cure = match (&unexpected, wanted.as_str()) {
            (
                Unexpected::Bool(_) | Unexpected::Signed(_) | Unexpected::Unsigned(_) | Unexpected::Float(_),
                "a text",
            ) => "write it in quotes",
            (Unexpected::Str(_), "true or false") => "write `true` or `false`, without quotes",
            (Unexpected::Str(_), number) if number.starts_with("a whole number") => "write it without quotes",
            (_, "a list") => "begin each item with `- `",
            (_, "a mapping") => "write its fields below it, indented",
            _ => "",
        };
        Self::new(ErrorKind::WrongType, format!("this is {}, not {wanted}", found(&unexpected)), cure)
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let reason = format!("this is {}, not {}", found(&unexpected), wanted(expected));
        Self::new(ErrorKind::InvalidValue, reason, "")
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let cure = match nearest(variant, expected) {
            Some(near) => format!("did you mean `{near}`?"),
            None => String::new(),
        };
        Self::new(ErrorKind::InvalidValue, format!("`{variant}` is not one of {}", list(expected)), cure)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let cure = match nearest(field, expected) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the fields here are {}", list(expected)),
        };
        Self::new(ErrorKind::UnknownField, "there is no such field", cure)
    }

    fn missing_field(field: &'static str) -> Self {
        let mut fault = Self::new(ErrorKind::Missing, "this field is missing and has no default", "add it");
        fault.0.missing = Some(field);
        fault
    }

    fn duplicate_field(_: &'static str) -> Self {
        Self::new(ErrorKind::DuplicateField, "this field is already set above", "keep one")
    }
}
