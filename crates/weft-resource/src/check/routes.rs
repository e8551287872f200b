//! The rules of routes.

use super::{Findings, filters};
use crate::grpc::{GrpcRouteSpec, GrpcRule};
use crate::http::{
    CookieLifetime, HeaderMatch, HttpBackendRef, HttpMatch, HttpRouteSpec, HttpRule, SessionPersistence,
    SessionType, ValueMatch,
};
use crate::l4::{L4Rule, TcpRouteSpec, TlsRouteSpec};
use crate::reference::ParentRef;
use crate::value::{HostPattern, Port, SectionName};

/// Limits of the CRDs.
const MAX_PARENTS: usize = 32;
const MAX_HOSTNAMES: usize = 16;
const MAX_RULES: usize = 16;
const MAX_MATCHES: usize = 64;
const MAX_ALL_MATCHES: usize = 128;
const MAX_BACKENDS: usize = 16;
const MAX_HEADERS: usize = 16;
const MAX_QUERY_PARAMS: usize = 16;
const MAX_HEADER_VALUE: usize = 4096;
const MAX_QUERY_NAME: usize = 256;
const MAX_QUERY_VALUE: usize = 1024;
const MAX_SESSION_NAME: usize = 128;

pub(super) fn http(spec: &HttpRouteSpec, findings: &mut Findings) {
    common(&spec.parent_refs, &spec.hostnames, findings);
    let Some(rules) = &spec.rules else { return };
    findings.count("spec.rules", rules.len(), 1, MAX_RULES);
    names(rules, |rule| rule.name.clone(), findings);
    total(rules.iter().map(|rule| rule.matches.len()).sum(), findings);
    for (index, rule) in rules.iter().enumerate() {
        http_rule(rule, &format!("spec.rules[{index}]"), findings);
    }
}

fn http_rule(rule: &HttpRule, at: &str, findings: &mut Findings) {
    findings.count(format!("{at}.matches"), rule.matches.len(), 0, MAX_MATCHES);
    for (index, one) in rule.matches.iter().enumerate() {
        http_match(one, &format!("{at}.matches[{index}]"), findings);
    }
    filters::http(&rule.filters, &rule.matches, &format!("{at}.filters"), findings);
    let is_redirect =
        rule.filters.iter().any(|one| matches!(one, crate::filter::HttpFilter::RequestRedirect(_)));
    if is_redirect && !rule.backend_refs.is_empty() {
        let reason = "a rule that redirects sends nothing to a backend";
        findings.conflict(format!("{at}.backendRefs"), reason, "take them or the RequestRedirect away");
    }
    backends(&rule.backend_refs, at, findings);
    for (index, backend) in rule.backend_refs.iter().enumerate() {
        filters::http(
            &backend.filters,
            &rule.matches,
            &format!("{at}.backendRefs[{index}].filters"),
            findings,
        );
    }
    if let Some(timeouts) = &rule.timeouts
        && let (Some(request), Some(backend)) = (timeouts.request, timeouts.backend_request)
        && request.limit().is_some_and(|request| backend.get() > request)
    {
        let reason = "one try may not take longer than the request";
        findings.conflict(format!("{at}.timeouts.backendRequest"), reason, "make it at most `request`");
    }
    if let Some(retry) = &rule.retry {
        for (index, code) in retry.codes.iter().enumerate().filter(|(_, code)| !(400..=599).contains(*code)) {
            let reason = format!("{code} is no status of a failure: from 400 to 599");
            findings.invalid(format!("{at}.retry.codes[{index}]"), reason, "");
        }
    }
    session(rule.session_persistence.as_ref(), at, findings);
}

fn http_match(one: &HttpMatch, at: &str, findings: &mut Findings) {
    headers(&one.headers, at, findings);
    findings.count(format!("{at}.queryParams"), one.query_params.len(), 0, MAX_QUERY_PARAMS);
    for (index, query) in one.query_params.iter().enumerate() {
        let at = format!("{at}.queryParams[{index}]");
        findings.length(format!("{at}.name"), &query.name, 1, MAX_QUERY_NAME);
        findings.length(format!("{at}.value"), text(&query.value), 1, MAX_QUERY_VALUE);
    }
    findings.unique(
        &one.query_params,
        |query| Some(query.name.clone()),
        |index| format!("{at}.queryParams[{index}].name"),
        |query, _| format!("`{}` is there already", query.name),
    );
}

/// A name that stands twice is no mistake: the first holds (HTTPHeaderMatch, "name"), which is told where routes are compiled.
fn headers(list: &[HeaderMatch], at: &str, findings: &mut Findings) {
    findings.count(format!("{at}.headers"), list.len(), 0, MAX_HEADERS);
    for (index, header) in list.iter().enumerate() {
        findings.length(format!("{at}.headers[{index}].value"), text(&header.value), 1, MAX_HEADER_VALUE);
    }
}

fn text(value: &ValueMatch) -> &str {
    match value {
        ValueMatch::Exact(text) => text,
        ValueMatch::Regex(regex) => regex.as_str(),
    }
}

pub(super) fn grpc(spec: &GrpcRouteSpec, findings: &mut Findings) {
    common(&spec.parent_refs, &spec.hostnames, findings);
    let Some(rules) = &spec.rules else { return };
    findings.count("spec.rules", rules.len(), 1, MAX_RULES);
    names(rules, |rule| rule.name.clone(), findings);
    total(rules.iter().map(|rule| rule.matches.len()).sum(), findings);
    for (index, rule) in rules.iter().enumerate() {
        grpc_rule(rule, &format!("spec.rules[{index}]"), findings);
    }
}

fn grpc_rule(rule: &GrpcRule, at: &str, findings: &mut Findings) {
    findings.count(format!("{at}.matches"), rule.matches.len(), 0, MAX_MATCHES);
    for (index, one) in rule.matches.iter().enumerate() {
        headers(&one.headers, &format!("{at}.matches[{index}]"), findings);
    }
    filters::grpc(&rule.filters, &format!("{at}.filters"), findings);
    backends(&rule.backend_refs, at, findings);
    for (index, backend) in rule.backend_refs.iter().enumerate() {
        filters::grpc(&backend.filters, &format!("{at}.backendRefs[{index}].filters"), findings);
    }
    session(rule.session_persistence.as_ref(), at, findings);
}

pub(super) fn tls(spec: &TlsRouteSpec, version: &str, findings: &mut Findings) {
    common(&spec.parent_refs, &spec.hostnames, findings);
    if version == "v1" && spec.hostnames.is_empty() {
        let reason = "a TLSRoute names the server names that it is for";
        findings.missing("spec.hostnames", reason, "add one, such as `\"*.example.com\"`");
    }
    l4(&spec.rules, findings);
}

pub(super) fn tcp(spec: &TcpRouteSpec, findings: &mut Findings) {
    common(&spec.parent_refs, &[], findings);
    l4(&spec.rules, findings);
}

/// A connection has nothing that could choose among rules: there is one. (Older versions of the CRDs let more be written.)
fn l4(rules: &[L4Rule], findings: &mut Findings) {
    findings.count("spec.rules", rules.len(), 1, 1);
    for (index, rule) in rules.iter().enumerate() {
        let at = format!("spec.rules[{index}]");
        findings.count(format!("{at}.backendRefs"), rule.backend_refs.len(), 1, MAX_BACKENDS);
        for (index, backend) in rule.backend_refs.iter().enumerate() {
            let at = format!("{at}.backendRefs[{index}]");
            port(backend.group.as_ref(), backend.kind.as_ref(), backend.port, &at, findings);
        }
    }
}

fn common(parents: &[ParentRef], hostnames: &[HostPattern], findings: &mut Findings) {
    findings.count("spec.hostnames", hostnames.len(), 0, MAX_HOSTNAMES);
    findings.count("spec.parentRefs", parents.len(), 0, MAX_PARENTS);
    for (index, parent) in parents.iter().enumerate() {
        let same = |earlier: &&ParentRef| object(earlier) == object(parent);
        let field = format!("spec.parentRefs[{index}]");
        for earlier in parents.iter().take(index).filter(same) {
            let set = |one: &ParentRef| (one.section_name.is_some(), one.port.is_some());
            if (&earlier.section_name, earlier.port) == (&parent.section_name, parent.port) {
                let reason =
                    format!("`{}` is referred to twice, and nothing tells the two apart", parent.name);
                findings.conflict(field, reason, "keep one, or give them `sectionName` or `port`");
                break;
            }
            if set(earlier) != set(parent) {
                let reason = "references to the same parent set the same of `sectionName` and `port`";
                findings.conflict(field, reason, "set it in all of them");
                break;
            }
        }
    }
}

fn object(parent: &ParentRef) -> (&str, &str, &str, &str) {
    (
        parent.group.as_deref().unwrap_or("gateway.networking.k8s.io"),
        parent.kind.as_deref().unwrap_or("Gateway"),
        parent.namespace.as_deref().unwrap_or(""),
        &parent.name,
    )
}

fn names<T>(rules: &[T], name: impl Fn(&T) -> Option<SectionName>, findings: &mut Findings) {
    findings.unique(
        rules,
        &name,
        |index| format!("spec.rules[{index}].name"),
        |_, earlier| format!("this is the name of rules[{earlier}] already"),
    );
}

fn total(matches: usize, findings: &mut Findings) {
    if matches > MAX_ALL_MATCHES {
        let reason = format!("the rules have {matches} matches together, and {MAX_ALL_MATCHES} are the most");
        findings.add(crate::ErrorKind::Count, "spec.rules", reason, "make several routes of it");
    }
}

fn backends(list: &[HttpBackendRef], at: &str, findings: &mut Findings) {
    findings.count(format!("{at}.backendRefs"), list.len(), 0, MAX_BACKENDS);
    for (index, backend) in list.iter().enumerate() {
        let at = format!("{at}.backendRefs[{index}]");
        port(backend.group.as_ref(), backend.kind.as_ref(), backend.port, &at, findings);
    }
}

/// A Service has many ports.
pub(super) fn port(
    group: Option<&String>,
    kind: Option<&String>,
    port: Option<Port>,
    at: &str,
    findings: &mut Findings,
) {
    let is_service = group.is_none_or(String::is_empty) && kind.is_none_or(|kind| kind == "Service");
    if is_service && port.is_none() {
        findings.missing(format!("{at}.port"), "a reference to a Service needs a port", "add it");
    }
}

fn session(session: Option<&SessionPersistence>, at: &str, findings: &mut Findings) {
    let Some(session) = session else { return };
    let at = format!("{at}.sessionPersistence");
    if let Some(name) = &session.session_name {
        findings.length(format!("{at}.sessionName"), name, 1, MAX_SESSION_NAME);
        // A cookie's name is a token (RFC 6265 section 4.1.1), as a header's is.
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            findings.invalid(
                format!("{at}.sessionName"),
                "this is no name of a cookie or header",
                "use a token",
            );
        }
    }
    let permanent = session.cookie_config.lifetime_type == CookieLifetime::Permanent;
    if permanent && session.kind == SessionType::Header {
        let reason = "a header has no lifetime";
        findings.conflict(format!("{at}.cookieConfig"), reason, "take it away, or write `type: Cookie`");
    } else if permanent && session.absolute_timeout.is_none() {
        let reason = "a permanent cookie needs `absoluteTimeout`, which is its lifetime";
        findings.missing(format!("{at}.absoluteTimeout"), reason, "add it");
    }
}
