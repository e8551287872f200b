//! `GRPCRoute`.

use serde::Deserialize;

use crate::filter::HttpFilter;
use crate::http::{HeaderMatch, HttpBackendRef, SessionPersistence};
use crate::reference::ParentRef;
use crate::value::{HostPattern, Regex, SectionName};

/// `spec` of a `GRPCRoute`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteSpec {
    /// What it hangs on.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// The host names it is for; empty: those of the listener.
    #[serde(default)]
    pub hostnames: Vec<HostPattern>,
    /// Its rules; `None`: one that takes everything.
    pub rules: Option<Vec<GrpcRule>>,
}

/// `rules[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRule {
    /// Its name.
    pub name: Option<SectionName>,
    /// Which calls; empty: all.
    #[serde(default)]
    pub matches: Vec<GrpcMatch>,
    /// What is done to them: no redirect, no rewrite, no CORS.
    #[serde(default)]
    pub filters: Vec<HttpFilter>,
    /// Where they go.
    #[serde(default)]
    pub backend_refs: Vec<HttpBackendRef>,
    /// Whether a client keeps its endpoint.
    pub session_persistence: Option<SessionPersistence>,
}

/// `matches[]`: all of it must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcMatch {
    /// Service and method.
    pub method: Option<GrpcMethodMatch>,
    /// Metadata, all of it.
    #[serde(default)]
    pub headers: Vec<HeaderMatch>,
}

/// `matches[].method`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "RawMethodMatch")]
pub enum GrpcMethodMatch {
    /// Exactly these; at least one is there.
    Exact {
        /// `package.Service`; `None`: any.
        service: Option<String>,
        /// `Method`; `None`: any.
        method: Option<String>,
    },
    /// Regular expressions that must match the whole of each.
    Regex {
        /// Of the service; `None`: any.
        service: Option<Regex>,
        /// Of the method; `None`: any.
        method: Option<Regex>,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawMethodMatch {
    #[serde(rename = "type", default)]
    kind: MethodMatchType,
    service: Option<String>,
    method: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
enum MethodMatchType {
    #[default]
    Exact,
    RegularExpression,
}

impl TryFrom<RawMethodMatch> for GrpcMethodMatch {
    type Error = String;

    fn try_from(raw: RawMethodMatch) -> Result<Self, String> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let (service, method) = (given(raw.service), given(raw.method));
        if service.is_none() && method.is_none() {
            return Err("one of `service` and `method` must be set".to_owned());
        }
        match raw.kind {
            MethodMatchType::RegularExpression => {
                let regex = |field: &str, text: Option<String>| {
                    let refused = |reason: String| format!("{field}: {reason}");
                    text.map(|text| text.parse().map_err(refused)).transpose()
                };
                Ok(Self::Regex { service: regex("service", service)?, method: regex("method", method)? })
            }
            MethodMatchType::Exact => {
                for (field, text) in [("service", &service), ("method", &method)] {
                    if let Some(text) = text.as_ref().filter(|text| !is_name(text, field == "service")) {
                        return Err(format!("{field}: `{text}` is no name of a gRPC {field}"));
                    }
                }
                Ok(Self::Exact { service, method })
            }
        }
    }
}

/// The Gateway API's pattern for an exact service (with dots) or method (without): an identifier of Protocol Buffers.
fn is_name(text: &str, dots: bool) -> bool {
    /// The Gateway API's limit.
    const MAX: usize = 1024;
    let is_identifier = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    text.len() <= MAX && if dots { text.split('.').all(is_identifier) } else { is_identifier(text) }
}
