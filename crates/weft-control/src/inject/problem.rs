//! Why a pod is refused, worded for the person who wrote it.

use std::fmt;

/// One reason, with its cure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong: an annotation with its value, a container, a port.
    pub what: String,
    /// Why it cannot be.
    pub reason: String,
    /// What to do.
    pub cure: String,
}

impl Problem {
    pub(crate) fn new(what: impl Into<String>, reason: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { what: what.into(), reason: reason.into(), cure: cure.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.reason)?;
        if !self.cure.is_empty() {
            write!(f, "; {}", self.cure)?;
        }
        Ok(())
    }
}
