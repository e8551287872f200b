//! Filters: what is done to a request or an answer on its way.

use serde::Deserialize;

use crate::reference::{BackendRef, ObjectRef};
use crate::value::{CorsOrigin, HeaderName, HeaderValue, Port, PreciseHost};

/// One filter. `type` says which, and exactly the field of that type is there.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "RawFilter")]
pub enum HttpFilter {
    /// Changes request headers.
    RequestHeaderModifier(HeaderModifier),
    /// Changes answer headers.
    ResponseHeaderModifier(HeaderModifier),
    /// Sends a copy of the request elsewhere.
    RequestMirror(Mirror),
    /// Answers with a redirect.
    RequestRedirect(Redirect),
    /// Changes host or path.
    UrlRewrite(UrlRewrite),
    /// Answers what browsers ask before they let a page call.
    Cors(Cors),
    /// A resource that is a filter; there are none yet, and the rule answers 500.
    ExtensionRef(ObjectRef),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawFilter {
    #[serde(rename = "type")]
    kind: FilterType,
    request_header_modifier: Option<HeaderModifier>,
    response_header_modifier: Option<HeaderModifier>,
    request_mirror: Option<Mirror>,
    request_redirect: Option<Redirect>,
    url_rewrite: Option<UrlRewrite>,
    cors: Option<Cors>,
    extension_ref: Option<ObjectRef>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum FilterType {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestMirror,
    RequestRedirect,
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    #[serde(rename = "CORS")]
    Cors,
    ExtensionRef,
}

impl TryFrom<RawFilter> for HttpFilter {
    type Error = String;

    fn try_from(raw: RawFilter) -> Result<Self, String> {
        let RawFilter { kind, .. } = raw;
        let given = [
            (
                FilterType::RequestHeaderModifier,
                raw.request_header_modifier.is_some(),
                "requestHeaderModifier",
            ),
            (
                FilterType::ResponseHeaderModifier,
                raw.response_header_modifier.is_some(),
                "responseHeaderModifier",
            ),
            (FilterType::RequestMirror, raw.request_mirror.is_some(), "requestMirror"),
            (FilterType::RequestRedirect, raw.request_redirect.is_some(), "requestRedirect"),
            (FilterType::UrlRewrite, raw.url_rewrite.is_some(), "urlRewrite"),
            (FilterType::Cors, raw.cors.is_some(), "cors"),
            (FilterType::ExtensionRef, raw.extension_ref.is_some(), "extensionRef"),
        ];
        if let Some((.., field)) = given.iter().find(|(of, there, _)| *there && *of != kind) {
            return Err(format!("a filter of another `type` must not have `{field}`"));
        }
        let filter = match kind {
            FilterType::RequestHeaderModifier => raw.request_header_modifier.map(Self::RequestHeaderModifier),
            FilterType::ResponseHeaderModifier => {
                raw.response_header_modifier.map(Self::ResponseHeaderModifier)
            }
            FilterType::RequestMirror => raw.request_mirror.map(Self::RequestMirror),
            FilterType::RequestRedirect => raw.request_redirect.map(Self::RequestRedirect),
            FilterType::UrlRewrite => raw.url_rewrite.map(Self::UrlRewrite),
            FilterType::Cors => raw.cors.map(Self::Cors),
            FilterType::ExtensionRef => raw.extension_ref.map(Self::ExtensionRef),
        };
        let field = given.iter().find(|(of, ..)| *of == kind).map_or("", |(.., field)| field);
        filter.ok_or_else(|| format!("a filter of this `type` must have `{field}`"))
    }
}

/// `requestHeaderModifier`, `responseHeaderModifier`: first `set`, then `add`, then `remove`; a name stands in one of them, and of one that
/// stands twice in a list the first holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderModifier {
    /// Takes the place of what there is.
    #[serde(default)]
    pub set: Vec<HttpHeader>,
    /// Is added to what there is.
    #[serde(default)]
    pub add: Vec<HttpHeader>,
    /// Is taken out.
    #[serde(default)]
    pub remove: Vec<HeaderName>,
}

/// A header with its value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpHeader {
    /// The name.
    pub name: HeaderName,
    /// The value.
    pub value: HeaderValue,
}

/// `requestMirror`. Without `percent` and `fraction` every request is mirrored.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mirror {
    /// Where the copy goes.
    pub backend_ref: BackendRef,
    /// The share of requests, from 0 to 100.
    pub percent: Option<u8>,
    /// The share of requests; not together with `percent`.
    pub fraction: Option<Fraction>,
}

/// `fraction`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fraction {
    /// So many.
    pub numerator: u32,
    /// Of so many.
    #[serde(default = "hundred")]
    pub denominator: u32,
}

fn hundred() -> u32 {
    100
}

/// `requestRedirect`. What is not set is taken from the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Scheme>,
    /// The host.
    pub hostname: Option<PreciseHost>,
    /// The path.
    pub path: Option<PathModifier>,
    /// The port.
    pub port: Option<Port>,
    /// 302 by default.
    #[serde(default)]
    pub status_code: RedirectStatus,
}

/// `requestRedirect.scheme`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Plaintext.
    Http,
    /// TLS.
    Https,
}

/// `requestRedirect.statusCode`: 301, 302, 303, 307 or 308.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u16")]
pub struct RedirectStatus(u16);

impl RedirectStatus {
    /// The status.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl Default for RedirectStatus {
    fn default() -> Self {
        Self(302)
    }
}

impl TryFrom<u16> for RedirectStatus {
    type Error = String;

    fn try_from(code: u16) -> Result<Self, String> {
        match code {
            301 | 302 | 303 | 307 | 308 => Ok(Self(code)),
            _ => Err(format!("{code} is no status of a redirect; use 301, 302, 303, 307 or 308")),
        }
    }
}

/// `path` of a redirect or a rewrite.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawPathModifier")]
pub enum PathModifier {
    /// This path, whatever was asked for.
    Full(String),
    /// This in place of the prefix that was matched.
    Prefix(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawPathModifier {
    #[serde(rename = "type")]
    kind: PathModifierType,
    replace_full_path: Option<String>,
    replace_prefix_match: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
enum PathModifierType {
    ReplaceFullPath,
    ReplacePrefixMatch,
}

impl TryFrom<RawPathModifier> for PathModifier {
    type Error = String;

    fn try_from(raw: RawPathModifier) -> Result<Self, String> {
        let path = match (raw.kind, raw.replace_full_path, raw.replace_prefix_match) {
            (PathModifierType::ReplaceFullPath, Some(path), None) => Self::Full(path),
            (PathModifierType::ReplacePrefixMatch, None, Some(path)) => Self::Prefix(path),
            (PathModifierType::ReplaceFullPath, ..) => {
                return Err("`type: ReplaceFullPath` wants `replaceFullPath`, and nothing else".to_owned());
            }
            (PathModifierType::ReplacePrefixMatch, ..) => {
                return Err(
                    "`type: ReplacePrefixMatch` wants `replacePrefixMatch`, and nothing else".to_owned()
                );
            }
        };
        let (Self::Full(text) | Self::Prefix(text)) = &path;
        // It becomes part of a target or a Location: what could end it early is refused (RFC 3986 section 3.3).
        if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'?' && b != b'#') {
            return Err("a path has no spaces, no `?`, no `#`; percent-encode what is not ASCII".to_owned());
        }
        Ok(path)
    }
}

/// `urlRewrite`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UrlRewrite {
    /// The Host that the backend sees.
    pub hostname: Option<PreciseHost>,
    /// The path that the backend sees.
    pub path: Option<PathModifier>,
}

/// `cors` (the Fetch standard, "CORS protocol").
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cors {
    /// Origins that may call; `*` for all, and `*.` as first label of a host.
    #[serde(default)]
    pub allow_origins: Vec<CorsOrigin>,
    /// Whether cookies may be sent along.
    #[serde(default)]
    pub allow_credentials: bool,
    /// Methods that may be used, or `*`.
    #[serde(default)]
    pub allow_methods: Vec<String>,
    /// Headers that may be sent, or `*`.
    #[serde(default)]
    pub allow_headers: Vec<String>,
    /// Headers that pages may read, or `*`.
    #[serde(default)]
    pub expose_headers: Vec<String>,
    /// How long the answer may be kept, in seconds.
    #[serde(default = "five")]
    pub max_age: u32,
}

/// The Fetch standard's default, which is that of the Gateway API as well.
fn five() -> u32 {
    5
}
