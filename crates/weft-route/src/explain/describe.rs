//! Parts of a program in words.

use std::fmt::Write as _;
use std::time::Duration;

use weft_resource::filter::Scheme;
use weft_resource::http::{SessionType, ValueMatch};

use super::{BackendText, RuleText};
use crate::filter::{Filters, HeaderChanges, PathRewrite};
use crate::program::{Backend, Backends, L4Rule, Listener, Rule, UpstreamEndpoint, UpstreamProtocol};
use crate::table::{Candidate, PathRule};

pub(super) fn host(listener: &Listener) -> String {
    listener.hostname.as_ref().map_or_else(|| "every host".to_owned(), ToString::to_string)
}

pub(super) fn path(rule: &PathRule) -> String {
    let part = |regex: &Option<weft_resource::value::Regex>| {
        regex.as_ref().map_or_else(|| "any".to_owned(), |regex| format!("~ `{}`", regex.as_str()))
    };
    match rule {
        PathRule::Exact(path) => format!("path = `{path}`"),
        PathRule::Prefix(prefix) if prefix.is_empty() => "every path".to_owned(),
        PathRule::Prefix(prefix) => format!("path below `{prefix}`"),
        PathRule::Regex(regex) => format!("path ~ `{}`", regex.as_str()),
        PathRule::GrpcMethod(method) => format!("gRPC method = `{method}`"),
        PathRule::GrpcRegex { service, method } => {
            format!("gRPC service {}, method {}", part(service), part(method))
        }
    }
}

pub(super) fn conditions(candidate: &Candidate) -> String {
    let mut text = path(&candidate.path);
    let value = |wanted: &ValueMatch| match wanted {
        ValueMatch::Exact(value) => format!("= `{value}`"),
        ValueMatch::Regex(regex) => format!("~ `{}`", regex.as_str()),
    };
    // Writing to a text cannot fail.
    if let Some(method) = &candidate.method {
        let _ = write!(text, ", method {method}");
    }
    for (name, wanted) in &candidate.headers {
        let _ = write!(text, ", header `{}` {}", name.get(), value(wanted));
    }
    for (name, wanted) in &candidate.query {
        let _ = write!(text, ", query `{name}` {}", value(wanted));
    }
    text
}

pub(super) fn rule(rule: &Rule, matched: String) -> RuleText {
    let retry = rule.retry.as_ref().map(|retry| {
        let codes: Vec<String> = retry.codes.iter().map(u16::to_string).collect();
        let codes = if codes.is_empty() { String::new() } else { format!(" or status {}", codes.join(", ")) };
        let wait = duration(retry.backoff);
        format!("at most {} more, after a failure to connect{codes}, {wait} apart at least", retry.attempts)
    });
    let session = rule.session.as_ref().map(|session| {
        let kind = match session.kind {
            SessionType::Cookie => "cookie",
            SessionType::Header => "header",
        };
        match &session.session_name {
            Some(name) => format!("by {kind} `{name}`"),
            None => format!("by a {kind}"),
        }
    });
    RuleText {
        rule: rule.id.to_string(),
        matched,
        filters: filters(&rule.filters),
        backends: backends(&rule.backends),
        request_timeout: rule.request_timeout.map(|limit| limit.map_or_else(|| "none".to_owned(), duration)),
        try_timeout: rule.try_timeout.map(duration),
        retry,
        session,
    }
}

pub(super) fn connection(rule: &L4Rule) -> RuleText {
    RuleText { rule: rule.id.to_string(), backends: backends(&rule.backends), ..RuleText::default() }
}

fn duration(of: Duration) -> String {
    format!("{of:?}")
}

fn backends(backends: &Backends) -> Vec<BackendText> {
    let total = backends.total().max(1);
    // Weights are at most a million, which is far below 2^53.
    let percent = |weight: u32| (f64::from(weight) * 10_000.0 / total as f64).round() / 100.0;
    backends.iter().map(|backend| of_backend(backend, percent(backend.weight))).collect()
}

fn of_backend(backend: &Backend, percent: f64) -> BackendText {
    let upstream = backend.upstream.as_ref();
    let to = upstream.ok().map(|upstream| match &upstream.endpoint {
        UpstreamEndpoint::Service(_) => upstream.label.to_string(),
        UpstreamEndpoint::Listed(hosts) => {
            let hosts: Vec<String> = hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
            format!("{} ({})", upstream.label, hosts.join(", "))
        }
    });
    let speaks = upstream.ok().map(|upstream| {
        let protocol = match upstream.protocol {
            UpstreamProtocol::Any => "HTTP as the client or ALPN says",
            UpstreamProtocol::Http1 => "HTTP/1.1",
            UpstreamProtocol::Http2 => "HTTP/2",
            UpstreamProtocol::Grpc => "gRPC",
            UpstreamProtocol::Tcp => "bytes",
        };
        let secured = match &upstream.tls {
            None => protocol.to_owned(),
            Some(tls) => {
                let name = tls.server_name.as_ref().map_or("its host", |name| name.as_str());
                format!("{protocol} over TLS, as {name}")
            }
        };
        match upstream.proxy_protocol {
            None => secured,
            Some(version) => format!("{secured}, behind a header of the PROXY protocol {version}"),
        }
    });
    BackendText {
        to,
        speaks,
        weight: backend.weight,
        percent,
        problem: upstream.err().map(ToString::to_string),
        filters: filters(&backend.filters),
    }
}

/// In the order in which they act.
fn filters(filters: &Filters) -> Vec<String> {
    let mut all = Vec::new();
    if filters.cors.is_some() {
        all.push("CORS: preflights are answered here".to_owned());
    }
    if let Some(redirect) = &filters.redirect {
        let mut text = format!("redirect {}", redirect.status.as_u16());
        match redirect.scheme {
            Some(Scheme::Http) => text.push_str(", scheme http"),
            Some(Scheme::Https) => text.push_str(", scheme https"),
            None => {}
        }
        // Writing to a text cannot fail.
        if let Some(host) = &redirect.host {
            let _ = write!(text, ", host {host}");
        }
        if let Some(port) = redirect.port {
            let _ = write!(text, ", port {port}");
        }
        if let Some(path) = &redirect.path {
            let _ = write!(text, ", {}", rewritten(path));
        }
        all.push(text);
    }
    for mirror in &filters.mirrors {
        all.push(format!("mirror {} to {}", mirror.share, mirror.upstream.label));
    }
    changes("request", &filters.request, &mut all);
    if let Some(rewrite) = &filters.rewrite {
        let host =
            rewrite.host.as_ref().map(|host| format!("host {}", String::from_utf8_lossy(host.as_bytes())));
        let parts: Vec<String> = host.into_iter().chain(rewrite.path.as_ref().map(rewritten)).collect();
        all.push(format!("rewrite {}", parts.join(", ")));
    }
    changes("response", &filters.response, &mut all);
    all
}

fn rewritten(path: &PathRewrite) -> String {
    match path {
        PathRewrite::Full(full) => format!("path {full}"),
        PathRewrite::Prefix(prefix) if prefix.is_empty() => "prefix taken off".to_owned(),
        PathRewrite::Prefix(prefix) => format!("prefix {prefix}"),
    }
}

fn changes(what: &str, changes: &HeaderChanges, all: &mut Vec<String>) {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    for (name, value) in changes.set() {
        all.push(format!("{what} header `{name}` set to `{}`", text(value)));
    }
    for (name, value) in changes.add() {
        all.push(format!("{what} header `{name}` added: `{}`", text(value)));
    }
    for name in changes.remove() {
        all.push(format!("{what} header `{name}` taken out"));
    }
}
