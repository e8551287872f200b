//! Filters, and those that must not be.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use weft_resource::filter::{
    Cors as CorsSpec, HeaderModifier, HttpFilter, HttpHeader, Mirror as MirrorSpec, PathModifier,
    Redirect as RedirectSpec, UrlRewrite,
};

use super::backends::Layer;
use super::{Context, Route};
use crate::filter::{Cors, Filters, HeaderChanges, Mirror, PathRewrite, Redirect, Rewrite, Share};
use crate::table::PathRule;

/// Where filters stand.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// The field, such as `spec.rules[0].filters`.
    pub(super) field: &'a str,
    /// What the route carries.
    pub(super) layer: Layer,
    /// The paths that the rule matches.
    pub(super) paths: &'a [&'a PathRule],
}

/// A filter that cannot be carried out. It is not skipped: what it was to do may be what keeps a request safe, so that the
/// requests that it is for are answered with 500 (HTTPRoute, "filters").
struct Refused {
    reason: &'static str,
    message: String,
    cure: &'static str,
}

fn refused<T>(reason: &'static str, message: impl Into<String>, cure: &'static str) -> Result<T, Refused> {
    Err(Refused { reason, message: message.into(), cure })
}

impl Context<'_> {
    /// The filters of a rule or backend; why one of them cannot be carried out, which is told in a note as well.
    pub(super) fn filters(
        &mut self,
        route: Route<'_>,
        list: &[HttpFilter],
        place: Place<'_>,
    ) -> Result<Filters, String> {
        let mut filters = Filters::default();
        let mut failed = None;
        for (at, filter) in list.iter().enumerate() {
            let field = format!("{}[{at}]", place.field);
            if let Err(why) = self.filter(route, filter, &field, place, &mut filters) {
                self.notes.error(route.resource, field, why.reason, why.message.clone(), why.cure);
                failed.get_or_insert(why.message);
            }
        }
        if filters.redirect.is_some() && filters.rewrite.is_some() {
            let message = "a URLRewrite and a RequestRedirect exclude each other";
            self.notes.error(
                route.resource,
                place.field,
                "IncompatibleFilters",
                message,
                "take one of them out",
            );
            failed.get_or_insert(message.to_owned());
        }
        match failed {
            None => Ok(filters),
            Some(message) => Err(message),
        }
    }

    fn filter(
        &mut self,
        route: Route<'_>,
        filter: &HttpFilter,
        field: &str,
        place: Place<'_>,
        filters: &mut Filters,
    ) -> Result<(), Refused> {
        match filter {
            HttpFilter::RequestHeaderModifier(spec) => {
                once(filters.request.is_empty())?;
                self.tell_repeated(route, &format!("{field}.requestHeaderModifier"), spec);
                filters.request = changes(spec, Direction::Request)?;
            }
            HttpFilter::ResponseHeaderModifier(spec) => {
                once(filters.response.is_empty())?;
                self.tell_repeated(route, &format!("{field}.responseHeaderModifier"), spec);
                filters.response = changes(spec, Direction::Response)?;
            }
            HttpFilter::RequestMirror(spec) => self.mirror(route, spec, field, place, filters)?,
            HttpFilter::RequestRedirect(_) | HttpFilter::UrlRewrite(_) | HttpFilter::Cors(_)
                if place.layer == Layer::Grpc =>
            {
                return refused(
                    "UnsupportedValue",
                    "a GRPCRoute has no redirect, no rewrite and no CORS",
                    "take the filter out, or use an HTTPRoute",
                );
            }
            HttpFilter::RequestRedirect(spec) => {
                once(filters.redirect.is_none())?;
                filters.redirect = Some(Box::new(redirect(spec, place)?));
            }
            HttpFilter::UrlRewrite(spec) => {
                once(filters.rewrite.is_none())?;
                filters.rewrite = Some(Box::new(rewrite(spec, place)?));
            }
            HttpFilter::Cors(spec) => {
                once(filters.cors.is_none())?;
                filters.cors = Some(Arc::new(cors(spec)?));
            }
            HttpFilter::ExtensionRef(reference) => {
                let group = reference.group.as_deref().unwrap_or_default();
                let kind = reference.kind.as_deref().unwrap_or_default();
                return refused(
                    "BackendNotFound",
                    format!("`{kind}` of group `{group}` is no filter that Weft has"),
                    "take the filter out; until then the rule's requests are answered with 500",
                );
            }
        }
        Ok(())
    }

    /// Says which headers of a list come too late: the first of a name holds.
    fn tell_repeated(&mut self, route: Route<'_>, field: &str, spec: &HeaderModifier) {
        for (list, headers) in [("set", &spec.set), ("add", &spec.add)] {
            for (at, header) in headers.iter().enumerate() {
                if headers.iter().take(at).any(|earlier| earlier.name == header.name) {
                    let message = "this name stands there before, and the first holds";
                    let field = format!("{field}.{list}[{at}]");
                    let cure = "take one of them out";
                    self.notes.warning(route.resource, field, "UnsupportedValue", message, cure);
                }
            }
        }
    }

    /// A mirror whose upstream is not there is left out: it never fails the request (HTTPRequestMirrorFilter, "backendRef").
    fn mirror(
        &mut self,
        route: Route<'_>,
        spec: &MirrorSpec,
        field: &str,
        place: Place<'_>,
        filters: &mut Filters,
    ) -> Result<(), Refused> {
        let share = match (spec.percent, spec.fraction) {
            (None, None) => Some(Share::ALL),
            (Some(percent), None) => Share::of(u32::from(percent), 100),
            (None, Some(fraction)) => Share::of(fraction.numerator, fraction.denominator),
            (Some(_), Some(_)) => {
                return refused(
                    "UnsupportedValue",
                    "`percent` and `fraction` exclude each other",
                    "set one of them",
                );
            }
        };
        let Some(share) = share else {
            return refused(
                "UnsupportedValue",
                "the share is more than the whole",
                "`percent` is from 0 to 100, a `numerator` at most its `denominator`, and that is not 0",
            );
        };
        let field = format!("{field}.requestMirror.backendRef");
        if let Ok(upstream) = self.upstream(route, &spec.backend_ref, place.layer, &field) {
            filters.mirrors.push(Mirror { upstream, share });
        }
        Ok(())
    }
}

fn once(first: bool) -> Result<(), Refused> {
    match first {
        true => Ok(()),
        false => refused(
            "IncompatibleFilters",
            "a filter of this type stands there already",
            "make one of the two",
        ),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}

/// Headers that frame a message or belong to one connection (RFC 9110 section 7.6.1, RFC 9113 section 8.2.2). Who writes the head to a
/// connection makes them; a filter that sets them could end a message early.
const FRAMING: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

fn changes(spec: &HeaderModifier, direction: Direction) -> Result<HeaderChanges, Refused> {
    let (set, add) = (first_of_each(&spec.set), first_of_each(&spec.add));
    let named = set.iter().chain(&add).map(|(name, _)| name.clone());
    let removed = spec.remove.iter().map(|name| name.get().clone());
    let mut seen = std::collections::HashSet::new();
    for name in named.chain(removed) {
        allowed(&name, direction)?;
        if !seen.insert(name.clone()) {
            return refused(
                "UnsupportedValue",
                format!("`{name}` stands more than once among `set`, `add` and `remove`"),
                "name each header once",
            );
        }
    }
    Ok(HeaderChanges::new(set, add, spec.remove.iter().map(|name| name.get().clone())))
}

/// Where a name comes twice in a list, the first holds (HTTPHeader, "name").
fn first_of_each(list: &[HttpHeader]) -> Vec<(HeaderName, HeaderValue)> {
    let mut kept: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for header in list {
        if !kept.iter().any(|(name, _)| name == header.name.get()) {
            kept.push((header.name.get().clone(), header.value.get().clone()));
        }
    }
    kept
}

fn allowed(name: &HeaderName, direction: Direction) -> Result<(), Refused> {
    let text = name.as_str();
    if FRAMING.contains(&text) || text.starts_with("proxy-") {
        return refused(
            "UnsupportedValue",
            format!("`{text}` belongs to a connection or frames a message, and is Weft's to write"),
            "take it out",
        );
    }
    if text.starts_with("weft-") {
        return refused(
            "UnsupportedValue",
            format!("`{text}` is a header that Weft keeps for itself"),
            "take it out",
        );
    }
    if direction == Direction::Request && text == "host" {
        return refused(
            "UnsupportedValue",
            "`host` is not changed by a header filter",
            "use URLRewrite with `hostname`",
        );
    }
    Ok(())
}

/// A prefix can be replaced where every match has one.
fn path_rewrite(path: &PathModifier, place: Place<'_>) -> Result<PathRewrite, Refused> {
    let rooted = |text: &str| match text.starts_with('/') {
        true => text.to_owned(),
        false => format!("/{text}"),
    };
    match path {
        PathModifier::Full(full) => Ok(PathRewrite::Full(rooted(full).into())),
        PathModifier::Prefix(prefix) => {
            if !place.paths.iter().all(|path| matches!(path, PathRule::Prefix(_))) {
                return refused(
                    "UnsupportedValue",
                    "`replacePrefixMatch` wants a prefix in each match of the rule",
                    "match `type: PathPrefix` alone, or use `replaceFullPath`",
                );
            }
            let rooted = rooted(prefix);
            Ok(PathRewrite::Prefix(rooted.trim_end_matches('/').into()))
        }
    }
}

fn redirect(spec: &RedirectSpec, place: Place<'_>) -> Result<Redirect, Refused> {
    let path = spec.path.as_ref().map(|path| path_rewrite(path, place)).transpose()?;
    Ok(Redirect {
        scheme: spec.scheme,
        host: spec.hostname.as_ref().map(|host| host.as_str().into()),
        port: spec.port.map(|port| port.get()),
        path,
        status: StatusCode::from_u16(spec.status_code.get()).unwrap_or(StatusCode::FOUND),
    })
}

fn rewrite(spec: &UrlRewrite, place: Place<'_>) -> Result<Rewrite, Refused> {
    let path = spec.path.as_ref().map(|path| path_rewrite(path, place)).transpose()?;
    let host = spec.hostname.as_ref().map(|host| HeaderValue::from_str(host.as_str())).transpose();
    match host {
        Ok(host) => Ok(Rewrite { host, path }),
        Err(_) => refused("UnsupportedValue", "`hostname` is no host", "write a host name"),
    }
}

fn cors(spec: &CorsSpec) -> Result<Cors, Refused> {
    let no_method = |text: &&String| *text != "*" && Method::from_bytes(text.as_bytes()).is_err();
    let no_name = |text: &&String| *text != "*" && HeaderName::from_bytes(text.as_bytes()).is_err();
    let headers = spec.allow_headers.iter().chain(&spec.expose_headers);
    if let Some(bad) = spec.allow_methods.iter().find(no_method) {
        return refused(
            "UnsupportedValue",
            format!("`{bad}` is no method"),
            "write a method, or `*` for all",
        );
    }
    if let Some(bad) = headers.into_iter().find(no_name) {
        return refused(
            "UnsupportedValue",
            format!("`{bad}` is no header name"),
            "write a header's name, or `*` for all",
        );
    }
    Ok(Cors {
        origins: spec.allow_origins.clone(),
        credentials: spec.allow_credentials,
        methods: spec.allow_methods.clone(),
        headers: spec.allow_headers.clone(),
        expose: spec.expose_headers.clone(),
        max_age: spec.max_age,
    })
}
