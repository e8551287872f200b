//! Reads typed fields out of the tree, keeping every mistake instead of stopping at the first.
//!
//! One pass does it all: a field is looked up in the flags, then in the environment, then in the file, and else has its
//! default. Because each field is asked for by name exactly once, that same pass knows which fields exist (for the
//! refusal of unknown ones and for the reference page), which variable overrides which, and where each value in force
//! came from.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;

use crate::env::{Env, Role, variable};
use crate::error::{Origin, Problem, ProblemKind};
use crate::tree::{Node, Scalar, Value};

/// A field with the value in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The field's path, such as `timeouts.connect`.
    pub field: String,
    /// Its value as text; empty where there is none.
    pub value: String,
    /// Where the value came from.
    pub origin: Origin,
}

/// Why a scalar was refused.
#[derive(Debug)]
pub(crate) struct Bad {
    pub(crate) kind: ProblemKind,
    pub(crate) reason: String,
    pub(crate) cure: String,
}

impl Bad {
    pub(crate) fn value(reason: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { kind: ProblemKind::InvalidValue, reason: reason.into(), cure: cure.into() }
    }

    pub(crate) fn kind(found: &str, wanted: &str, cure: impl Into<String>) -> Self {
        Self {
            kind: ProblemKind::WrongType,
            reason: format!("this is {found}, not {wanted}"),
            cure: cure.into(),
        }
    }
}

/// Collects what one pass over a document finds.
pub(crate) struct Reader<'a> {
    env: &'a Env,
    problems: RefCell<Vec<Problem>>,
    effective: RefCell<Vec<Effective>>,
    fields: RefCell<BTreeSet<String>>,
    used: RefCell<BTreeSet<String>>,
}

/// What a pass over a document found.
pub(crate) struct Found {
    pub(crate) problems: Vec<Problem>,
    pub(crate) effective: Vec<Effective>,
    /// The path of every field there is, list positions as `[]`.
    #[cfg_attr(not(test), expect(dead_code, reason = "compared with the reference page by a test"))]
    pub(crate) fields: BTreeSet<String>,
    /// The variables that were used, and the fields that flags were used for.
    pub(crate) used: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(env: &'a Env) -> Self {
        Self {
            env,
            problems: RefCell::default(),
            effective: RefCell::default(),
            fields: RefCell::default(),
            used: RefCell::default(),
        }
    }

    /// For whom it is read.
    pub(crate) fn role(&self) -> Role {
        self.env.role()
    }

    /// The document as a section without a name.
    pub(crate) fn root<'r>(&'r self, node: &'r Node) -> Section<'r, 'a> {
        Section::new(self, String::new(), Some(node))
    }

    /// One section of a document whose others are somebody else's.
    pub(crate) fn only<'r>(&'r self, root: &'r Node, name: &str) -> Section<'r, 'a> {
        let node = match &root.value {
            Value::Map(entries) => entries.iter().find(|(key, ..)| key == name).map(|(.., node)| node),
            Value::Scalar(_) | Value::List(_) => None,
        };
        Section::new(self, name.to_owned(), node)
    }

    pub(crate) fn finish(self) -> Found {
        Found {
            problems: self.problems.into_inner(),
            effective: self.effective.into_inner(),
            fields: self.fields.into_inner(),
            used: self.used.into_inner(),
        }
    }

    fn problem(&self, kind: ProblemKind, origin: Origin, field: &str, reason: String, cure: String) {
        let field = field.to_owned();
        self.problems.borrow_mut().push(Problem { kind, origin, field, reason, cure });
    }

    pub(crate) fn refuse(&self, origin: Origin, field: &str, bad: Bad) {
        self.problem(bad.kind, origin, field, bad.reason, bad.cure);
    }

    /// A value laid over the file, if there is one.
    fn overlay(&self, path: &str) -> Option<(String, Origin)> {
        if path.contains('[') {
            return None;
        }
        if let Some((flag, value)) = self.env.flag(path) {
            self.used.borrow_mut().insert(path.to_owned());
            return Some((value.to_owned(), Origin::Flag(flag.to_owned())));
        }
        let name = variable(path);
        let value = self.env.var(&name)?.to_owned();
        self.used.borrow_mut().insert(name.clone());
        Some((value, Origin::Env(name)))
    }

    /// The value of a variable that is not read as a scalar.
    pub(crate) fn variable(&self, name: &str) -> Option<&'a str> {
        let value = self.env.var(name)?;
        self.used.borrow_mut().insert(name.to_owned());
        Some(value)
    }

    fn record(&self, path: &str, value: String, origin: &Origin) {
        // Fields of list items are part of their list.
        if path.contains('[') {
            return;
        }
        self.effective.borrow_mut().push(Effective { field: path.to_owned(), value, origin: origin.clone() });
    }
}

/// One mapping of the document. When it goes out of scope, fields that nobody asked for are told as unknown.
pub(crate) struct Section<'r, 'a> {
    reader: &'r Reader<'a>,
    path: String,
    entries: &'r [(String, Origin, Node)],
    origin: Origin,
    asked: RefCell<Vec<&'static str>>,
}

impl<'r, 'a> Section<'r, 'a> {
    fn new(reader: &'r Reader<'a>, path: String, node: Option<&'r Node>) -> Self {
        let origin = node.map_or(Origin::Default, |n| n.origin.clone());
        let entries = match node.map(|n| &n.value) {
            Some(Value::Map(entries)) => entries.as_slice(),
            None | Some(Value::Scalar(Scalar::Null)) => &[],
            Some(other) => {
                let bad = Bad::kind(other.kind(), "a mapping", "write its fields below it, indented");
                reader.refuse(origin.clone(), &path, bad);
                &[]
            }
        };
        for (i, (key, origin, _)) in entries.iter().enumerate() {
            if entries[..i].iter().any(|(earlier, ..)| earlier == key) {
                let reason = "this field is already set above".to_owned();
                let field = join(&path, key);
                reader.problem(
                    ProblemKind::DuplicateField,
                    origin.clone(),
                    &field,
                    reason,
                    "keep one".to_owned(),
                );
            }
        }
        Self { reader, path, entries, origin, asked: RefCell::default() }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn origin(&self) -> Origin {
        self.origin.clone()
    }

    pub(crate) fn reader(&self) -> &'r Reader<'a> {
        self.reader
    }

    fn ask(&self, name: &'static str) -> (String, Option<&'r Node>) {
        self.asked.borrow_mut().push(name);
        let path = join(&self.path, name);
        let node = self.entries.iter().find(|(key, ..)| key == name).map(|(.., node)| node);
        (path, node.filter(|n| !matches!(n.value, Value::Scalar(Scalar::Null))))
    }

    fn declare(&self, path: &str) {
        self.reader.fields.borrow_mut().insert(pattern(path));
    }

    /// A mapping inside this one; empty where it is not written.
    pub(crate) fn section(&self, name: &'static str) -> Section<'r, 'a> {
        let (path, node) = self.ask(name);
        Section::new(self.reader, path, node)
    }

    /// Whether the mapping `name` is written, or a variable or flag sets one of its fields.
    pub(crate) fn has(&self, name: &'static str) -> bool {
        let written = self
            .entries
            .iter()
            .any(|(key, _, node)| key == name && !matches!(node.value, Value::Scalar(Scalar::Null)));
        written || self.reader.env.sets_below(&join(&self.path, name))
    }

    /// Refuses the fields of `names` that are set: they are a sidecar's, and this is read for a gateway.
    pub(crate) fn refuse_for_gateway(&self, names: &[&str], why: &str) {
        if self.reader.role() != Role::Gateway {
            return;
        }
        for name in names {
            let path = join(&self.path, name);
            let written =
                self.entries.iter().find(|(key, ..)| key == name).map(|(_, origin, _)| origin.clone());
            let overlaid = self.reader.overlay(&path).map(|(_, origin)| origin);
            let below =
                || self.reader.env.sets_below(&path).then(|| Origin::Env(format!("{}_*", variable(&path))));
            if let Some(origin) = written.or(overlaid).or_else(below) {
                let bad = Bad {
                    kind: ProblemKind::Conflict,
                    reason: format!("a gateway has no such thing: {why}"),
                    cure: "leave it out, or run `weft proxy`".to_owned(),
                };
                self.reader.refuse(origin, &path, bad);
            }
        }
    }

    /// Whether a variable or flag sets the field `name`.
    pub(crate) fn overlaid(&self, name: &str) -> bool {
        self.reader.overlay(&join(&self.path, name)).is_some()
    }

    /// A scalar, read by `read`; `None` where it is not written or is wrong (which is then told).
    pub(crate) fn scalar<T>(
        &self,
        name: &'static str,
        read: impl FnOnce(&Scalar) -> Result<T, Bad>,
    ) -> Option<(T, Origin)> {
        let (path, node) = self.ask(name);
        self.declare(&path);
        let (scalar, origin) = match (self.reader.overlay(&path), node) {
            (Some((text, origin)), _) => (Scalar::Text(text), origin),
            (None, Some(Node { value: Value::Scalar(scalar), origin })) => (scalar.clone(), origin.clone()),
            (None, Some(Node { value, origin })) => {
                self.reader.refuse(origin.clone(), &path, Bad::kind(value.kind(), "a single value", ""));
                return None;
            }
            (None, None) => return None,
        };
        match read(&scalar) {
            Ok(value) => {
                self.reader.record(&path, scalar.to_string(), &origin);
                Some((value, origin))
            }
            Err(bad) => {
                self.reader.refuse(origin, &path, bad);
                None
            }
        }
    }

    /// A scalar with a default.
    pub(crate) fn or<T: Display>(
        &self,
        name: &'static str,
        default: T,
        read: impl FnOnce(&Scalar) -> Result<T, Bad>,
    ) -> T {
        match self.scalar(name, read) {
            Some((value, _)) => value,
            None => {
                self.default(name, &default);
                default
            }
        }
    }

    /// Notes the default of a field for the list of values in force.
    pub(crate) fn default(&self, name: &str, value: &dyn Display) {
        let path = join(&self.path, name);
        if !self.reader.effective.borrow().iter().any(|e| e.field == path) {
            self.reader.record(&path, value.to_string(), &Origin::Default);
        }
    }

    /// A scalar that has no default: told as missing where it is not written.
    pub(crate) fn required<T>(
        &self,
        name: &'static str,
        read: impl FnOnce(&Scalar) -> Result<T, Bad>,
    ) -> Option<T> {
        let before = self.reader.problems.borrow().len();
        let value = self.scalar(name, read).map(|(value, _)| value);
        if value.is_none() && self.reader.problems.borrow().len() == before {
            self.missing(name);
        }
        value
    }

    /// Tells that `name` is missing.
    pub(crate) fn missing(&self, name: &str) {
        let path = join(&self.path, name);
        let cure = if path.contains('[') {
            "add it".to_owned()
        } else {
            format!("add it, or set {}", variable(&path))
        };
        let reason = "this field is missing and has no default".to_owned();
        self.reader.problem(ProblemKind::Missing, self.origin(), &path, reason, cure);
    }

    /// A list of scalars; a variable or flag gives it as a text with commas. `None` where it is not written. Items
    /// that are wrong are told and left out.
    pub(crate) fn list<T>(
        &self,
        name: &'static str,
        mut read: impl FnMut(&Scalar) -> Result<T, Bad>,
    ) -> Option<Vec<(T, Origin)>> {
        let (path, node) = self.ask(name);
        self.declare(&path);
        let items: Vec<(Scalar, Origin)> = match (self.reader.overlay(&path), node) {
            (Some((text, origin)), _) => text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| (Scalar::Text(item.to_owned()), origin.clone()))
                .collect(),
            (None, Some(node)) => self.scalars(&path, node)?,
            (None, None) => return None,
        };
        let origin = items.first().map_or(Origin::Default, |(_, origin)| origin.clone());
        let texts: Vec<String> = items.iter().map(|(item, _)| item.to_string()).collect();
        self.reader.record(&path, texts.join(", "), &origin);
        let mut read_items = Vec::with_capacity(items.len());
        for (i, (item, origin)) in items.into_iter().enumerate() {
            match read(&item) {
                Ok(value) => read_items.push((value, origin)),
                Err(bad) => self.reader.refuse(origin, &format!("{path}[{i}]"), bad),
            }
        }
        Some(read_items)
    }

    fn scalars(&self, path: &str, node: &Node) -> Option<Vec<(Scalar, Origin)>> {
        let Value::List(items) = &node.value else {
            let bad = Bad::kind(node.value.kind(), "a list", "write [a, b], or one \"- a\" a line");
            self.reader.refuse(node.origin.clone(), path, bad);
            return None;
        };
        let mut scalars = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            match &item.value {
                Value::Scalar(scalar) => scalars.push((scalar.clone(), item.origin.clone())),
                other => {
                    let bad = Bad::kind(other.kind(), "a single value", "");
                    self.reader.refuse(item.origin.clone(), &format!("{path}[{i}]"), bad);
                }
            }
        }
        Some(scalars)
    }

    /// A list of mappings, or of mappings and scalars; empty where it is not written.
    pub(crate) fn items(&self, name: &'static str) -> Vec<Item<'r, 'a>> {
        self.items_shown(name, &|_, text| text)
    }

    /// The same, where not all of it is for everybody's eyes: `shown` makes of what is written under a key, at any depth,
    /// what may be seen.
    pub(crate) fn items_shown(&self, name: &'static str, shown: &Shown) -> Vec<Item<'r, 'a>> {
        let (path, node) = self.ask(name);
        self.declare(&path);
        let Some(node) = node else { return Vec::new() };
        let Value::List(items) = &node.value else {
            let bad = Bad::kind(node.value.kind(), "a list", "begin each item with \"- \"");
            self.reader.refuse(node.origin.clone(), &path, bad);
            return Vec::new();
        };
        self.reader.record(&path, outline(node, shown), &node.origin);
        let item = |(i, node)| Item { reader: self.reader, path: format!("{path}[{i}]"), node };
        items.iter().enumerate().map(item).collect()
    }

    /// A mapping from names of the user's choice to texts.
    pub(crate) fn texts(&self, name: &'static str, secret: bool) -> Vec<(String, String, Origin)> {
        let (path, node) = self.ask(name);
        self.declare(&path);
        let Some(node) = node else { return Vec::new() };
        let Value::Map(entries) = &node.value else {
            let bad = Bad::kind(node.value.kind(), "a mapping", "write \"name: value\" below it, indented");
            self.reader.refuse(node.origin.clone(), &path, bad);
            return Vec::new();
        };
        let mut texts: Vec<(String, String, Origin)> = Vec::with_capacity(entries.len());
        for (key, key_origin, value) in entries {
            let path = join(&path, key);
            let duplicate = texts.iter().any(|(earlier, ..)| earlier == key);
            match &value.value {
                _ if duplicate => {
                    let reason = "this name is already set above".to_owned();
                    let origin = key_origin.clone();
                    self.reader.problem(
                        ProblemKind::DuplicateField,
                        origin,
                        &path,
                        reason,
                        "keep one".to_owned(),
                    );
                }
                Value::Scalar(Scalar::Null) | Value::List(_) | Value::Map(_) => {
                    let bad = Bad::kind(value.value.kind(), "a text", "write the value in quotes");
                    self.reader.refuse(value.origin.clone(), &path, bad);
                }
                Value::Scalar(scalar) => {
                    let shown = if secret { "***".to_owned() } else { scalar.to_string() };
                    self.reader.record(&path, shown, &value.origin);
                    texts.push((key.clone(), scalar.to_string(), value.origin.clone()));
                }
            }
        }
        texts
    }

    /// Declares a list of mappings' fields where the list is empty, so that they are known all the same.
    pub(crate) fn declare_items(&self, name: &str, fields: &[&str]) {
        for field in fields {
            self.declare(&join(&format!("{}[]", join(&self.path, name)), field));
        }
    }
}

impl Drop for Section<'_, '_> {
    fn drop(&mut self) {
        let asked = self.asked.borrow();
        for (key, origin, _) in self.entries {
            if asked.iter().any(|name| name == key) {
                continue;
            }
            let cure = match nearest(key, &asked) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("the fields here are: {}", asked.join(", ")),
            };
            let reason = "there is no such field".to_owned();
            let field = join(&self.path, key);
            self.reader.problem(ProblemKind::UnknownField, origin.clone(), &field, reason, cure);
        }
    }
}

/// One item of a list of mappings.
pub(crate) struct Item<'r, 'a> {
    reader: &'r Reader<'a>,
    pub(crate) path: String,
    node: &'r Node,
}

impl<'r, 'a> Item<'r, 'a> {
    /// The item as a mapping; told as wrong where it is none.
    pub(crate) fn section(&self) -> Section<'r, 'a> {
        Section::new(self.reader, self.path.clone(), Some(self.node))
    }

    /// The item as a scalar, if it is one.
    pub(crate) fn as_scalar(&self) -> Option<&'r Scalar> {
        match &self.node.value {
            Value::Scalar(scalar) => Some(scalar),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    pub(crate) fn origin(&self) -> Origin {
        self.node.origin.clone()
    }
}

/// `a.b`, or `b` at the top.
fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The path with list positions as `[]`.
fn pattern(path: &str) -> String {
    let mut pattern = String::with_capacity(path.len());
    let mut inside = false;
    for c in path.chars() {
        inside = inside && c != ']';
        if !inside {
            pattern.push(c);
        }
        inside = inside || c == '[';
    }
    pattern
}

/// What may be seen of a text, by the key that it is written under.
pub(crate) type Shown = dyn Fn(&str, String) -> String;

/// A node on one line, for the list of values in force.
fn outline(node: &Node, shown: &Shown) -> String {
    match &node.value {
        Value::Scalar(scalar) => scalar.to_string(),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(|item| outline(item, shown)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(entries) => {
            let entries: Vec<String> = entries
                .iter()
                .map(|(key, _, node)| format!("{key}: {}", shown(key, outline(node, shown))))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

/// The one of `names` that was probably meant by `name`.
pub fn nearest<'n>(name: &str, names: &[&'n str]) -> Option<&'n str> {
    /// Beyond this two names have nothing to do with each other.
    const FAR: usize = 3;
    let near = names.iter().map(|known| (distance(known, name), *known)).min_by_key(|(far, _)| *far);
    near.filter(|(far, _)| *far <= FAR).map(|(_, known)| known)
}

/// Levenshtein distance, case ignored; long names are not compared.
fn distance(a: &str, b: &str) -> usize {
    const LONG: usize = 40;
    if a.len() > LONG || b.len() > LONG {
        return usize::MAX;
    }
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        row[0] = left;
        for (cell, cb) in row[1..].iter_mut().zip(&b) {
            let cost = diagonal + usize::from(ca != *cb);
            diagonal = *cell;
            left = cost.min(left + 1).min(*cell + 1);
            *cell = left;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_is_that_of_levenshtein() {
        for (a, b, d) in [
            ("", "", 0),
            ("kitten", "sitting", 3),
            ("mode", "Mode", 0),
            ("mode", "modes", 1),
            ("ab", "ba", 2),
        ] {
            assert_eq!(distance(a, b), d, "{a} {b}");
        }
    }

    #[test]
    fn positions_become_brackets() {
        assert_eq!(pattern("services[12].endpoints[0]"), "services[].endpoints[]");
        assert_eq!(pattern("a.b"), "a.b");
    }
}
