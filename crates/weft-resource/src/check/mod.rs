//! What a document alone can be wrong in although each of its values is right: the rules of the Gateway API's own validation (the
//! limits and the CEL rules of its CRDs, v1.5), and ours for our kinds.

mod filters;
mod gateway;
mod meta;
mod other;
mod routes;

use std::fmt::Display;

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

/// The rules that the content of a resource breaks. `version` is that of its API, such as `v1`: some rules came with one.
pub fn spec(spec: &Spec, version: &str) -> Vec<Finding> {
    let mut findings = Findings::default();
    match spec {
        Spec::Gateway(spec) => gateway::gateway(spec, &mut findings),
        Spec::HttpRoute(spec) => routes::http(spec, &mut findings),
        Spec::GrpcRoute(spec) => routes::grpc(spec, &mut findings),
        Spec::TlsRoute(spec) => routes::tls(spec, version, &mut findings),
        Spec::TcpRoute(spec) => routes::tcp(spec, &mut findings),
        Spec::ReferenceGrant(spec) => other::grant(spec, &mut findings),
        Spec::BackendTlsPolicy(spec) => other::backend_tls(spec, &mut findings),
        Spec::Service(spec) => other::service(spec, &mut findings),
        Spec::Secret(secret) => other::secret(secret, &mut findings),
        Spec::Backend(spec) => other::backend(spec, &mut findings),
        Spec::Certificate(spec) => other::certificate(spec, &mut findings),
        Spec::ConfigMap(_) | Spec::Namespace(_) => {}
    }
    findings.0
}

/// The findings as they are made.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        kind: ErrorKind,
        field: impl Display,
        reason: impl Into<String>,
        cure: impl Into<String>,
    ) {
        self.0.push(Finding { kind, field: field.to_string(), reason: reason.into(), cure: cure.into() });
    }

    fn conflict(&mut self, field: impl Display, reason: impl Into<String>, cure: impl Into<String>) {
        self.add(ErrorKind::Conflict, field, reason, cure);
    }

    fn missing(&mut self, field: impl Display, reason: impl Into<String>, cure: impl Into<String>) {
        self.add(ErrorKind::Missing, field, reason, cure);
    }

    fn invalid(&mut self, field: impl Display, reason: impl Into<String>, cure: impl Into<String>) {
        self.add(ErrorKind::InvalidValue, field, reason, cure);
    }

    /// A list's limits.
    fn count(&mut self, field: impl Display, count: usize, least: usize, most: usize) {
        if count < least {
            self.add(
                ErrorKind::Count,
                field,
                format!("there are {count} items, and {least} is the least"),
                "",
            );
        } else if count > most {
            self.add(
                ErrorKind::Count,
                field,
                format!("there are {count} items, and {most} are the most"),
                "",
            );
        }
    }

    /// A text's limit, octets.
    fn length(&mut self, field: impl Display, text: &str, least: usize, most: usize) {
        if text.len() < least {
            self.invalid(field, "this text is empty", "write something");
        } else if text.len() > most {
            self.invalid(field, format!("this text has {} octets, and {most} are the most", text.len()), "");
        }
    }

    /// Items that must differ in something: the later of two is told.
    fn unique<T, K: PartialEq>(
        &mut self,
        items: &[T],
        key: impl Fn(&T) -> Option<K>,
        field: impl Fn(usize) -> String,
        reason: impl Fn(&T, usize) -> String,
    ) {
        let keys: Vec<Option<K>> = items.iter().map(key).collect();
        for (index, (item, one)) in items.iter().zip(&keys).enumerate() {
            let earlier = keys.iter().take(index).position(|other| one.is_some() && other == one);
            if let Some(earlier) = earlier {
                self.conflict(field(index), reason(item, earlier), "keep one");
            }
        }
    }
}

#[cfg(test)]
mod tests;
