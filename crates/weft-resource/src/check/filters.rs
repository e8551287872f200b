//! The rules of filters, alone and together.

use super::Findings;
use super::routes::port;
use crate::filter::{Cors, HeaderModifier, HttpFilter, HttpHeader, Mirror, PathModifier};
use crate::http::{HttpMatch, PathMatch};

/// Limits of the CRD.
const MAX_FILTERS: usize = 16;
const MAX_HEADERS: usize = 16;
const MAX_VALUE: usize = 4096;
const MAX_ORIGINS: usize = 64;
const MAX_CORS_METHODS: usize = 9;
const MAX_CORS_HEADERS: usize = 64;

/// The filters of a rule or of a backend. `matches` are those of the rule.
pub(super) fn http(filters: &[HttpFilter], matches: &[HttpMatch], at: &str, findings: &mut Findings) {
    each(filters, at, findings);
    repeated(filters, at, findings);
    let has = |is: fn(&HttpFilter) -> bool| filters.iter().any(is);
    if has(|one| matches!(one, HttpFilter::RequestRedirect(_)))
        && has(|one| matches!(one, HttpFilter::UrlRewrite(_)))
    {
        let reason = "RequestRedirect and URLRewrite exclude each other";
        findings.conflict(at, reason, "a redirect has a path and a host of its own");
    }
    for (index, filter) in filters.iter().enumerate() {
        let (path, name) = match filter {
            HttpFilter::RequestRedirect(redirect) => (&redirect.path, "requestRedirect"),
            HttpFilter::UrlRewrite(rewrite) => (&rewrite.path, "urlRewrite"),
            _ => continue,
        };
        if matches!(path, Some(PathModifier::Prefix(_))) && !is_one_prefix(matches) {
            let reason =
                "`ReplacePrefixMatch` needs a rule with exactly one match, whose path is a PathPrefix";
            findings.conflict(
                format!("{at}[{index}].{name}.path"),
                reason,
                "make a rule of its own for each prefix, or use `ReplaceFullPath`",
            );
        }
    }
}

/// Filters of a gRPC rule or backend.
pub(super) fn grpc(filters: &[HttpFilter], at: &str, findings: &mut Findings) {
    each(filters, at, findings);
    repeated(filters, at, findings);
    for (index, filter) in filters.iter().enumerate() {
        if matches!(filter, HttpFilter::RequestRedirect(_) | HttpFilter::UrlRewrite(_) | HttpFilter::Cors(_))
        {
            let reason = format!("a GRPCRoute has no filter of type {}", type_of(filter));
            findings.invalid(format!("{at}[{index}].type"), reason, "use an HTTPRoute for it");
        }
    }
}

fn type_of(filter: &HttpFilter) -> &'static str {
    match filter {
        HttpFilter::RequestHeaderModifier(_) => "RequestHeaderModifier",
        HttpFilter::ResponseHeaderModifier(_) => "ResponseHeaderModifier",
        HttpFilter::RequestMirror(_) => "RequestMirror",
        HttpFilter::RequestRedirect(_) => "RequestRedirect",
        HttpFilter::UrlRewrite(_) => "URLRewrite",
        HttpFilter::Cors(_) => "CORS",
        HttpFilter::ExtensionRef(_) => "ExtensionRef",
    }
}

/// The match that no match stands for is a PathPrefix too, as is a match without a path.
fn is_one_prefix(matches: &[HttpMatch]) -> bool {
    match matches {
        [] => true,
        [one] => matches!(one.path, None | Some(PathMatch::Prefix(_))),
        _ => false,
    }
}

fn repeated(filters: &[HttpFilter], at: &str, findings: &mut Findings) {
    findings.unique(
        filters,
        |one| match one {
            HttpFilter::RequestMirror(_) | HttpFilter::ExtensionRef(_) => None,
            other => Some(type_of(other)),
        },
        |index| format!("{at}[{index}].type"),
        |one, earlier| {
            format!("{} is the type of filters[{earlier}] already, and may stand once", type_of(one))
        },
    );
}

fn each(filters: &[HttpFilter], at: &str, findings: &mut Findings) {
    findings.count(at, filters.len(), 0, MAX_FILTERS);
    for (index, filter) in filters.iter().enumerate() {
        let at = format!("{at}[{index}]");
        match filter {
            HttpFilter::RequestHeaderModifier(headers) => {
                modifier(headers, &format!("{at}.requestHeaderModifier"), findings);
            }
            HttpFilter::ResponseHeaderModifier(headers) => {
                modifier(headers, &format!("{at}.responseHeaderModifier"), findings);
            }
            HttpFilter::RequestMirror(one) => mirror(one, &format!("{at}.requestMirror"), findings),
            HttpFilter::Cors(one) => cors(one, &format!("{at}.cors"), findings),
            HttpFilter::RequestRedirect(_) | HttpFilter::UrlRewrite(_) | HttpFilter::ExtensionRef(_) => {}
        }
    }
}

/// A name that stands twice in a list is no mistake: the first holds (HTTPHeader, "name"), which is told where routes are compiled.
fn modifier(headers: &HeaderModifier, at: &str, findings: &mut Findings) {
    let mut listed = |list: &[HttpHeader], at: String| {
        findings.count(&at, list.len(), 0, MAX_HEADERS);
        for (index, header) in list.iter().enumerate() {
            let length = header.value.get().len();
            if length == 0 || length > MAX_VALUE {
                let reason = format!("a value has 1 to {MAX_VALUE} octets, and this one {length}");
                findings.invalid(format!("{at}[{index}].value"), reason, "");
            }
        }
    };
    listed(&headers.set, format!("{at}.set"));
    listed(&headers.add, format!("{at}.add"));
    findings.count(format!("{at}.remove"), headers.remove.len(), 0, MAX_HEADERS);
    findings.unique(
        &headers.remove,
        |name| Some(name.clone()),
        |index| format!("{at}.remove[{index}]"),
        |name, _| format!("`{}` is there already (case does not matter)", name.get()),
    );
}

fn mirror(mirror: &Mirror, at: &str, findings: &mut Findings) {
    port(
        mirror.backend_ref.group.as_ref(),
        mirror.backend_ref.kind.as_ref(),
        mirror.backend_ref.port,
        &format!("{at}.backendRef"),
        findings,
    );
    if mirror.percent.is_some() && mirror.fraction.is_some() {
        findings.conflict(at, "`percent` and `fraction` exclude each other", "keep one");
    }
    if let Some(percent) = mirror.percent.filter(|percent| *percent > 100) {
        findings.invalid(format!("{at}.percent"), format!("{percent} is no percentage: from 0 to 100"), "");
    }
    if let Some(fraction) = mirror.fraction {
        if fraction.denominator == 0 {
            findings.invalid(format!("{at}.fraction.denominator"), "the denominator is at least 1", "");
        } else if fraction.numerator > fraction.denominator {
            let reason = "the numerator is not greater than the denominator";
            findings.conflict(format!("{at}.fraction"), reason, "at most all requests can be mirrored");
        }
    }
}

fn cors(cors: &Cors, at: &str, findings: &mut Findings) {
    let origins: Vec<bool> =
        cors.allow_origins.iter().map(|origin| *origin == crate::value::CorsOrigin::Any).collect();
    let stars = |list: &[String]| list.iter().map(|one| one == "*").collect::<Vec<bool>>();
    for (name, list, most) in [
        ("allowOrigins", origins, MAX_ORIGINS),
        ("allowMethods", stars(&cors.allow_methods), MAX_CORS_METHODS),
        ("allowHeaders", stars(&cors.allow_headers), MAX_CORS_HEADERS),
        ("exposeHeaders", stars(&cors.expose_headers), MAX_CORS_HEADERS),
    ] {
        findings.count(format!("{at}.{name}"), list.len(), 0, most);
        if list.len() > 1 && list.contains(&true) {
            findings.conflict(format!("{at}.{name}"), "`*` stands alone", "take the others away");
        }
    }
    let methods = cors.allow_methods.iter().enumerate().map(|(index, name)| ("allowMethods", index, name));
    let headers = cors.allow_headers.iter().enumerate().map(|(index, name)| ("allowHeaders", index, name));
    let exposed = cors.expose_headers.iter().enumerate().map(|(index, name)| ("exposeHeaders", index, name));
    for (field, index, name) in methods.chain(headers).chain(exposed) {
        // Both are tokens (RFC 9110 section 5.6.2), as `*` is.
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            findings.invalid(format!("{at}.{field}[{index}]"), format!("`{name}` is no such name"), "");
        }
    }
    if cors.max_age == 0 {
        findings.invalid(format!("{at}.maxAge"), "0 is less than a second", "write 1 or more");
    }
}
