//! Names, as Kubernetes has them.

use std::time::SystemTime;

use super::Finding;
use crate::error::ErrorKind;
use crate::{Kind, ObjectMeta, ResourceId};

/// A DNS subdomain (RFC 1123), which names most resources.
const MAX_NAME: usize = 253;
/// A DNS label, which names namespaces and what becomes a label of a DNS name.
const MAX_LABEL: usize = 63;

/// The rules that `metadata` breaks.
pub(crate) fn meta(id: &ResourceId, meta: &ObjectMeta) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name_is_label = matches!(id.kind, Kind::Service | Kind::Namespace);
    let is_name = if name_is_label { is_label(&id.name) } else { is_subdomain(&id.name) };
    if !is_name {
        let reason = format!("`{}` is no name of a {}", id.name, id.kind);
        findings.push(invalid("metadata.name", reason, rule(name_is_label)));
    }
    if id.kind != Kind::Namespace && !is_label(&id.namespace) {
        let reason = format!("`{}` is no name of a namespace", id.namespace);
        findings.push(invalid("metadata.namespace", reason, rule(true)));
    }
    if let Some(created) = &meta.creation_timestamp
        && humantime::parse_rfc3339(created).map_or(true, |at| at < SystemTime::UNIX_EPOCH)
    {
        let reason = format!("`{created}` is no time as in RFC 3339");
        findings.push(invalid("metadata.creationTimestamp", reason, "write it as in 2026-01-31T12:00:00Z"));
    }
    findings
}

fn invalid(field: &str, reason: String, cure: &str) -> Finding {
    Finding { kind: ErrorKind::InvalidValue, field: field.to_owned(), reason, cure: cure.to_owned() }
}

fn rule(label: bool) -> &'static str {
    match label {
        true => "use lower-case letters, digits and `-`, 63 at most",
        false => "use lower-case letters, digits, `-` and `.`, 253 at most",
    }
}

fn is_label(text: &str) -> bool {
    let chars = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    !text.is_empty() && text.len() <= MAX_LABEL && chars && !text.starts_with('-') && !text.ends_with('-')
}

fn is_subdomain(text: &str) -> bool {
    // Kubernetes limits the whole, not its labels.
    let is_part = |part: &str| {
        let chars = part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        !part.is_empty() && chars && !part.starts_with('-') && !part.ends_with('-')
    };
    text.len() <= MAX_NAME && text.split('.').all(is_part)
}
