//! `HTTPRoute`.

use serde::Deserialize;

use crate::filter::HttpFilter;
use crate::reference::{BackendRef, ParentRef};
use crate::value::{GatewayDuration, HeaderName, HostPattern, Method, PathValue, Regex, SectionName, Weight};

/// `spec` of an `HTTPRoute`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteSpec {
    /// What it hangs on.
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// The host names it is for; empty: those of the listener.
    #[serde(default)]
    pub hostnames: Vec<HostPattern>,
    /// Its rules; `None`: one that takes everything.
    pub rules: Option<Vec<HttpRule>>,
}

/// `rules[]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRule {
    /// Its name.
    pub name: Option<SectionName>,
    /// Which requests; empty: all (`PathPrefix` `/`).
    #[serde(default)]
    pub matches: Vec<HttpMatch>,
    /// What is done to them.
    #[serde(default)]
    pub filters: Vec<HttpFilter>,
    /// Where they go.
    #[serde(default)]
    pub backend_refs: Vec<HttpBackendRef>,
    /// How long it may take.
    pub timeouts: Option<Timeouts>,
    /// When it is tried again.
    pub retry: Option<Retry>,
    /// Whether a client keeps its endpoint.
    pub session_persistence: Option<SessionPersistence>,
}

/// `backendRefs[]` with a share and filters of its own. (Written out, because serde cannot deny unknown fields of a flattened struct.)
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpBackendRef {
    /// `None` or empty: the core group.
    pub group: Option<String>,
    /// `None`: `Service`.
    pub kind: Option<String>,
    /// `None`: the route's own.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its port; a service must have one.
    pub port: Option<crate::value::Port>,
    /// Its share among the rule's backends.
    #[serde(default)]
    pub weight: Weight,
    /// What is done to requests that go there.
    #[serde(default)]
    pub filters: Vec<HttpFilter>,
}

impl HttpBackendRef {
    /// Which backend.
    pub fn backend(&self) -> BackendRef {
        BackendRef {
            group: self.group.clone(),
            kind: self.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            port: self.port,
        }
    }
}

/// `matches[]`: all of it must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpMatch {
    /// The path; `None`: `PathPrefix` `/`.
    pub path: Option<PathMatch>,
    /// Headers, all of them.
    #[serde(default)]
    pub headers: Vec<HeaderMatch>,
    /// Query parameters, all of them.
    #[serde(default)]
    pub query_params: Vec<QueryMatch>,
    /// The method.
    pub method: Option<Method>,
}

/// `matches[].path`: a type and a value. An exact or prefix value is a path, a regular expression compiles.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "RawPathMatch")]
pub enum PathMatch {
    /// The path as a whole.
    Exact(PathValue),
    /// The path, or one below it, element by element.
    Prefix(PathValue),
    /// A regular expression that must match the whole path.
    Regex(Regex),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawPathMatch {
    #[serde(rename = "type", default)]
    kind: PathMatchType,
    value: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
enum PathMatchType {
    Exact,
    #[default]
    PathPrefix,
    RegularExpression,
}

impl TryFrom<RawPathMatch> for PathMatch {
    type Error = String;

    fn try_from(raw: RawPathMatch) -> Result<Self, String> {
        let value = raw.value.unwrap_or_else(|| "/".to_owned());
        let value = match raw.kind {
            PathMatchType::Exact => value.parse().map(Self::Exact),
            PathMatchType::PathPrefix => value.parse().map(Self::Prefix),
            PathMatchType::RegularExpression => value.parse().map(Self::Regex),
        };
        value.map_err(|reason| format!("value: {reason}"))
    }
}

/// How a value is compared: `type` and `value` of header and query matches.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueMatch {
    /// Equal, octet by octet.
    Exact(String),
    /// A regular expression that must match the whole value.
    Regex(Regex),
}

#[derive(Clone, Copy, Default, Deserialize)]
enum ValueMatchType {
    #[default]
    Exact,
    RegularExpression,
}

/// `matches[].headers[]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "RawNamedMatch")]
pub struct HeaderMatch {
    /// The header's name.
    pub name: HeaderName,
    /// What its value must be.
    pub value: ValueMatch,
}

/// `matches[].queryParams[]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "RawNamedMatch")]
pub struct QueryMatch {
    /// The parameter's name, compared octet by octet.
    pub name: String,
    /// What its value must be.
    pub value: ValueMatch,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawNamedMatch {
    #[serde(rename = "type", default)]
    kind: ValueMatchType,
    name: String,
    value: String,
}

impl RawNamedMatch {
    fn value(kind: ValueMatchType, value: String) -> Result<ValueMatch, String> {
        Ok(match kind {
            ValueMatchType::Exact => ValueMatch::Exact(value),
            ValueMatchType::RegularExpression => {
                ValueMatch::Regex(value.parse().map_err(|reason: String| format!("value: {reason}"))?)
            }
        })
    }
}

impl TryFrom<RawNamedMatch> for HeaderMatch {
    type Error = String;

    fn try_from(raw: RawNamedMatch) -> Result<Self, String> {
        let name = raw.name.parse().map_err(|reason: String| format!("name: {reason}"))?;
        Ok(Self { name, value: RawNamedMatch::value(raw.kind, raw.value)? })
    }
}

impl TryFrom<RawNamedMatch> for QueryMatch {
    type Error = String;

    fn try_from(raw: RawNamedMatch) -> Result<Self, String> {
        Ok(Self { name: raw.name, value: RawNamedMatch::value(raw.kind, raw.value)? })
    }
}

/// `rules[].timeouts`; zero: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// From the request's head to the end of the answer, all tries included.
    pub request: Option<GatewayDuration>,
    /// One try.
    pub backend_request: Option<GatewayDuration>,
}

/// `rules[].retry`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// Statuses that are tried again, besides failures to connect.
    #[serde(default)]
    pub codes: Vec<u16>,
    /// Further tries at most.
    pub attempts: Option<u32>,
    /// How long to wait before a further try at least.
    pub backoff: Option<GatewayDuration>,
}

/// `rules[].sessionPersistence`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionPersistence {
    /// The name of the cookie or header.
    pub session_name: Option<String>,
    /// It ends after this, whatever is done.
    pub absolute_timeout: Option<GatewayDuration>,
    /// It ends when it was not used for this long.
    pub idle_timeout: Option<GatewayDuration>,
    /// `Cookie` by default.
    #[serde(rename = "type", default)]
    pub kind: SessionType,
    /// For cookies.
    #[serde(default)]
    pub cookie_config: CookieConfig,
}

/// `sessionPersistence.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum SessionType {
    /// By a cookie.
    #[default]
    Cookie,
    /// By a header.
    Header,
}

/// `sessionPersistence.cookieConfig`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CookieConfig {
    /// `Session` by default.
    #[serde(default)]
    pub lifetime_type: CookieLifetime,
}

/// `cookieConfig.lifetimeType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum CookieLifetime {
    /// Until the browser is closed.
    #[default]
    Session,
    /// With Max-Age, which is `absoluteTimeout`.
    Permanent,
}
