//! What is wrong with a document, told so that it can be put right without reading the source.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::ResourceId;

/// What kind of mistake a [`DocumentError`] is. Each has a stable code, explained in `docs/reference/resources.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The file or directory cannot be read.
    Unreadable,
    /// The file, or a document in it, is larger than what is read.
    TooLarge,
    /// The text is not YAML.
    Syntax,
    /// `apiVersion` and `kind` name nothing that is known here.
    UnknownKind,
    /// A field that does not exist.
    UnknownField,
    /// A field written twice in one mapping.
    DuplicateField,
    /// A mapping where a list belongs, a number where a text belongs...
    WrongType,
    /// The right type with a value that is not allowed.
    InvalidValue,
    /// A field that has no default is not there.
    Missing,
    /// Values that cannot all hold.
    Conflict,
    /// More items than the Gateway API allows, or fewer.
    Count,
    /// A resource that another document has defined already.
    Duplicate,
    /// A certificate or key that is not there or cannot be used.
    Certificate,
}

impl ErrorKind {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Unreadable => "resource-unreadable",
            Self::TooLarge => "resource-too-large",
            Self::Syntax => "resource-syntax",
            Self::UnknownKind => "resource-unknown-kind",
            Self::UnknownField => "resource-unknown-field",
            Self::DuplicateField => "resource-duplicate-field",
            Self::WrongType => "resource-wrong-type",
            Self::InvalidValue => "resource-invalid-value",
            Self::Missing => "resource-missing",
            Self::Conflict => "resource-conflict",
            Self::Count => "resource-count",
            Self::Duplicate => "resource-duplicate",
            Self::Certificate => "resource-certificate",
        }
    }

    /// Every kind, for the reference page's test.
    pub const ALL: [Self; 13] = [
        Self::Unreadable,
        Self::TooLarge,
        Self::Syntax,
        Self::UnknownKind,
        Self::UnknownField,
        Self::DuplicateField,
        Self::WrongType,
        Self::InvalidValue,
        Self::Missing,
        Self::Conflict,
        Self::Count,
        Self::Duplicate,
        Self::Certificate,
    ];
}

/// One mistake. What it says of a Secret never has the secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct DocumentError {
    /// The kind of mistake.
    pub kind: ErrorKind,
    /// The file, or the directory.
    pub path: Arc<Path>,
    /// The line, from 1; 0 for the file as a whole.
    pub line: u32,
    /// The column, from 1, in characters; 0 for the file as a whole.
    pub column: u32,
    /// The resource, as far as it could be told.
    pub resource: Option<ResourceId>,
    /// The field, as a path such as `spec.rules[0].matches[1].path.value`; empty for the document as a whole.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// How to put it right; empty where the reason says it all.
    pub cure: String,
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        f.write_str(" ")?;
        if let Some(resource) = &self.resource {
            write!(f, "{resource}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)?;
        if !self.cure.is_empty() {
            write!(f, "; {}", self.cure)?;
        }
        write!(f, " [{}]", self.kind.code())
    }
}

/// One mistake within a document: its line counts from the document's first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(crate) kind: ErrorKind,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) field: String,
    pub(crate) reason: String,
    pub(crate) cure: String,
}

impl Mistake {
    /// The same with its place in a file.
    pub(crate) fn within(
        &self,
        path: &Arc<Path>,
        first_line: u32,
        resource: Option<&ResourceId>,
    ) -> DocumentError {
        DocumentError {
            kind: self.kind,
            path: path.clone(),
            line: first_line + self.line.max(1) - 1,
            column: self.column.max(1),
            resource: resource.cloned(),
            field: self.field.clone(),
            reason: self.reason.clone(),
            cure: self.cure.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn the_reference_page_has_every_code_kind_and_version() {
        let page = include_str!("../../../docs/reference/resources.md");
        for kind in ErrorKind::ALL {
            assert!(page.contains(&format!("| `{}` |", kind.code())), "{} is not there", kind.code());
        }
        for kind in Kind::ALL {
            let group = if kind.group().is_empty() { String::new() } else { format!("{}/", kind.group()) };
            let line = page.lines().find(|line| line.starts_with(&format!("| [`{kind}`]")));
            let line = line.unwrap_or_else(|| panic!("{kind} is not there"));
            let (first, others) = kind.versions().split_first().unwrap();
            assert!(line.contains(&format!("| `{group}{first}` |")), "{line}");
            assert!(others.iter().all(|version| line.contains(&format!("`{version}`"))), "{line}");
        }
    }
}
