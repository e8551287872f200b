//! What is wrong with a configuration, told so that it can be put right without reading the source.

use std::fmt;
use std::path::PathBuf;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the file; line and column count from 1, the column in characters.
    File {
        /// The line.
        line: u32,
        /// The column.
        column: u32,
    },
    /// In this environment variable.
    Env(String),
    /// In this command-line flag.
    Flag(String),
    /// Nowhere: the built-in default.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { line, column } => write!(f, "line {line}, column {column}"),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// What kind of mistake a [`Problem`] is. Each has a stable code, explained in `docs/reference/configuration.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The file cannot be read.
    Unreadable,
    /// The text is not YAML.
    Syntax,
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
    /// Two values that cannot both hold.
    Conflict,
}

impl ProblemKind {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Unreadable => "config-unreadable",
            Self::Syntax => "config-syntax",
            Self::UnknownField => "config-unknown-field",
            Self::DuplicateField => "config-duplicate-field",
            Self::WrongType => "config-wrong-type",
            Self::InvalidValue => "config-invalid-value",
            Self::Missing => "config-missing",
            Self::Conflict => "config-conflict",
        }
    }

    /// Every kind, for the reference page's test.
    pub const ALL: [Self; 8] = [
        Self::Unreadable,
        Self::Syntax,
        Self::UnknownField,
        Self::DuplicateField,
        Self::WrongType,
        Self::InvalidValue,
        Self::Missing,
        Self::Conflict,
    ];
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The kind of mistake.
    pub kind: ProblemKind,
    /// Where it was written.
    pub origin: Origin,
    /// The field, as a path such as `services[1].endpoints[0]`; empty for the file as a whole.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// How to put it right; empty where the reason says it all.
    pub cure: String,
}

impl Problem {
    fn write(&self, f: &mut fmt::Formatter<'_>, path: &std::path::Path) -> fmt::Result {
        match &self.origin {
            Origin::File { line, column } => write!(f, "{}:{line}:{column}: ", path.display())?,
            Origin::Env(name) | Origin::Flag(name) => write!(f, "{name}: ")?,
            Origin::Default => write!(f, "{}: ", path.display())?,
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

/// Everything that is wrong with one configuration. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    /// The file.
    pub path: PathBuf,
    /// The mistakes, in the order in which they were found.
    pub problems: Vec<Problem>,
}

impl ConfigErrors {
    pub(crate) fn one(path: &std::path::Path, problem: Problem) -> Self {
        Self { path: path.to_owned(), problems: vec![problem] }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.write(f, &self.path)?;
        }
        Ok(())
    }
}
