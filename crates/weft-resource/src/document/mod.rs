//! YAML documents to resources.
//!
//! A file is cut into its documents before anything is parsed, so that a mistake costs one document and not its neighbours. A
//! document becomes a tree whose nodes know their place; types are read from the tree, and where one refuses a value, that
//! node is told, hidden, and the rest is read again: so all mistakes of a document are told at once.

mod fault;
mod item;
mod reader;
mod split;

use std::path::Path;
use std::sync::Arc;

use weft_config::Origin;
use weft_config::tree::{Node, Value};

use crate::error::{DocumentError, ErrorKind, Mistake};
use crate::{Resource, ResourceId, Source};

pub(crate) use item::{Body, Item, hasher};
pub(crate) use split::split;

/// The largest file that is read, octets. It is many times what 5,000 routes take.
pub const MAX_FILE: u64 = 32 << 20;

/// The largest document, in values: with what its aliases stand for, and the items of a `List` all together.
pub const MAX_NODES: usize = 1_000_000;

/// The resources of a text, and what is wrong with its other documents. Nothing but the text is read: a `Certificate` has no
/// content yet ([`crate::own::CertificateSpec::content`]).
pub fn parse(path: &Path, text: &str) -> (Vec<Resource>, Vec<DocumentError>) {
    let path: Arc<Path> = path.into();
    let (mut resources, mut errors) = (Vec::new(), Vec::new());
    if text.len() as u64 > MAX_FILE {
        errors.push(too_large(&path));
        return (resources, errors);
    }
    for chunk in split(text) {
        for item in items(chunk.text) {
            match item.body {
                Ok(body) => resources.push(body.resource(&path, chunk.first_line + item.line - 1)),
                Err(mistakes) => errors.extend(
                    mistakes.iter().map(|mistake| mistake.within(&path, chunk.first_line, item.id.as_ref())),
                ),
            }
        }
    }
    (resources, errors)
}

pub(crate) fn too_large(path: &Arc<Path>) -> DocumentError {
    DocumentError {
        kind: ErrorKind::TooLarge,
        path: path.clone(),
        line: 0,
        column: 0,
        resource: None,
        field: String::new(),
        reason: format!("the file has more than {} MiB", MAX_FILE >> 20),
        cure: "split it".to_owned(),
    }
}

/// Where a field of a resource stands in a text, as line and column; where the field is not written, that of the next thing
/// around it. `None`: the text has no such resource.
pub fn locate(text: &str, resource: &ResourceId, field: &str) -> Option<(u32, u32)> {
    split(text).find_map(|chunk| {
        let root = weft_config::tree::parse_within(chunk.text, MAX_NODES).ok()?;
        let node =
            item::nodes(&root).into_iter().find(|(node, _)| item::id(node).as_ref() == Some(resource))?.0;
        let (line, column) = position(node, field);
        Some((chunk.first_line + line - 1, column))
    })
}

/// The resources of one document: one, or as many as its `List` has, or none.
pub(crate) fn items(text: &str) -> Vec<Item> {
    match weft_config::tree::parse_within(text, MAX_NODES) {
        Ok(root) => item::items(&root),
        Err(problem) => {
            let (line, column) = place(&problem.origin);
            let mistake = Mistake {
                kind: ErrorKind::Syntax,
                line,
                column,
                field: String::new(),
                reason: problem.reason,
                cure: "nothing of this document is read, up to the next `---`".to_owned(),
            };
            vec![Item { line, id: None, body: Err(vec![mistake]) }]
        }
    }
}

impl Body {
    /// The resource, at its place.
    pub(crate) fn resource(self, path: &Arc<Path>, line: u32) -> Resource {
        let source = Source { path: path.clone(), line };
        Resource { id: self.id, meta: self.meta, hash: self.hash, source, spec: self.spec }
    }
}

/// Line and column of what was read from a text.
fn place(origin: &Origin) -> (u32, u32) {
    match origin {
        Origin::File { line, column } => (*line, *column),
        Origin::Env(_) | Origin::Flag(_) | Origin::Default => (1, 1),
    }
}

/// What a node is known by while its tree lives.
fn address(node: &Node) -> usize {
    std::ptr::from_ref(node).addr()
}

/// Adds a step to a field's path. A key that is no plain name, such as that of a label, is written as `["a.b/c"]`.
fn push_key(field: &mut String, key: &str) {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match plain {
        true if field.is_empty() => field.push_str(key),
        true => {
            field.push('.');
            field.push_str(key);
        }
        false => field.push_str(&format!("[{key:?}]")),
    }
}

/// Where a field stands below a node, or the next thing around it.
fn position(root: &Node, field: &str) -> (u32, u32) {
    let (mut node, mut rest) = (root, field);
    loop {
        rest = rest.trim_start_matches('.');
        let (step, after) = next_step(rest);
        let child = match (&node.value, step) {
            (Value::Map(entries), Step::Key(name)) => {
                entries.iter().find(|(key, ..)| *key == name).map(|(.., node)| node)
            }
            (Value::List(items), Step::Index(index)) => items.get(index),
            _ => None,
        };
        let Some(child) = child else { return place(&node.origin) };
        (node, rest) = (child, after);
    }
}

enum Step<'f> {
    Key(&'f str),
    Index(usize),
    End,
}

fn next_step(field: &str) -> (Step<'_>, &str) {
    if let Some(quoted) = field.strip_prefix("[\"") {
        return quoted.split_once("\"]").map_or((Step::End, ""), |(key, rest)| (Step::Key(key), rest));
    }
    if let Some((index, rest)) = field.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        return index.parse().map_or((Step::End, ""), |index| (Step::Index(index), rest));
    }
    match field.find(['.', '[']).unwrap_or(field.len()) {
        0 => (Step::End, ""),
        end => (Step::Key(&field[..end]), &field[end..]),
    }
}

#[cfg(test)]
mod tests;
