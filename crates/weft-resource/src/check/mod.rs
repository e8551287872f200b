//! What a document alone can be wrong in although each of its values is right: the rules of the Gateway API's own validation (the
//! limits and the CEL rules of its CRDs, v1.5), and ours for our kinds.

mod meta;

use crate::Spec;
use crate::error::ErrorKind;

pub(crate) use meta::meta;

/// One rule that is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The kind of mistake.
    pub kind: ErrorKind,
    /// The field, from the document's root.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// How to put it right; empty where the reason says it.
    pub cure: String,
}

impl Finding {
    fn new(kind: ErrorKind, field: impl Into<String>, reason: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { kind, field: field.into(), reason: reason.into(), cure: cure.into() }
    }
}

/// The rules that the content of a resource breaks.
pub fn spec(spec: &Spec) -> Vec<Finding> {
    let _ = spec;
    Vec::new()
}
