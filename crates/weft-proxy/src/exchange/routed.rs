//! A request that has found its rule: what the rule answers itself, which backend it goes to, and what its filters do to it and
//! to its answer. A gateway and a sidecar do this alike; how they find the rule, and what else they do to a request, is theirs.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::ORIGIN;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version};
use weft_http::wire::{self, Original};
use weft_http::{Body, ErrorCode, judge};
use weft_route::filter::{Filters, Seen};
use weft_route::table::PathRule;
use weft_route::{Backend, Rule, Upstream};

use super::Verdict;
use super::attempt::{Client, Sender, Tries};
use crate::cluster::Cluster;
use crate::pools::Behind;
use crate::record::RequestRecord;
use crate::routing::session::{self, Session};
use crate::routing::target::Target;
use crate::routing::{Routing, convert};

/// Where one request goes.
pub(crate) struct Routed {
    pub(super) rule: Arc<Rule>,
    /// The place of its backend in the rule.
    pub(super) backend: usize,
    pub(super) upstream: Arc<Upstream>,
    pub(super) cluster: Rc<Cluster>,
    /// Whether the client speaks HTTP/2, whatever the backend does.
    http2: bool,
    /// What the backend must say to a WebSocket whose client does not look, being one of HTTP/2.
    pub(super) accept: Option<HeaderValue>,
    /// Of a page that called, where the rule has an answer for its browser.
    origin: Option<HeaderValue>,
    /// The endpoint that the client has had, where the rule has it keep that.
    session: Option<Session>,
}

/// Why a request goes nowhere.
pub(super) enum Stop {
    Refuse(ErrorCode),
    Answer(Box<Response<Body>>),
}

impl From<ErrorCode> for Stop {
    fn from(code: ErrorCode) -> Self {
        Self::Refuse(code)
    }
}

impl<R> From<Stop> for Verdict<R> {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refuse(code) => Self::Refuse(code),
            Stop::Answer(response) => Self::Answer(response),
        }
    }
}

/// What a rule answers without a backend. `tls` and `port` are those that the client has asked.
pub(super) fn answer_at_once(
    rule: &Rule,
    matched: &PathRule,
    request: &Request<Body>,
    target: &Target,
    door: (bool, u16),
) -> Result<(), Stop> {
    match answer(&rule.filters, matched, request, target, door)? {
        Some(answer) => Err(Stop::Answer(Box::new(answer.map(|()| Body::Empty)))),
        None => Ok(()),
    }
}

/// What filters answer themselves.
fn answer(
    filters: &Filters,
    matched: &PathRule,
    request: &Request<Body>,
    target: &Target,
    (tls, port): (bool, u16),
) -> Result<Option<Response<()>>, ErrorCode> {
    let preflight =
        filters.cors.as_ref().and_then(|cors| cors.preflight(request.method(), request.headers()));
    if preflight.is_some() {
        return Ok(preflight);
    }
    let Some(redirect) = &filters.redirect else { return Ok(None) };
    // Without a host the first element of the path would be read as one.
    if redirect.host.is_none() && target.host.is_empty() {
        return Err(ErrorCode::BadRequest);
    }
    let seen = Seen { tls, host: &target.host, port, path: &target.path, query: target.query.as_deref() };
    let mut response = redirect.answer(&seen, matched).ok_or(ErrorCode::BadRequest)?;
    finish(filters, request.headers().get(ORIGIN), response.headers_mut());
    Ok(Some(response))
}

/// What filters do to an answer that is no backend's. A browser follows a redirect to another origin only where it may read it (the Fetch
/// standard, "HTTP fetch").
fn finish(filters: &Filters, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    filters.response.apply(headers);
    if let Some(cors) = &filters.cors {
        cors.decorate(origin, headers);
    }
}

/// The backend whose turn it is; a client that keeps its endpoint keeps the backend that has it.
fn pick<'r>(
    routing: &Routing,
    rule: &'r Rule,
    session: Option<Session>,
) -> Result<(&'r Backend, usize), ErrorCode> {
    let kept = session.and_then(|session| {
        rule.backends.iter().zip(0..).find(|(backend, _)| {
            let upstream = backend.upstream.as_ref().ok().filter(|_| backend.weight > 0);
            upstream.is_some_and(|upstream| {
                routing.cluster(upstream).has(|addr| session::mark(addr) == session.mark())
            })
        })
    });
    if let Some(kept) = kept {
        return Ok(kept);
    }
    let place = rule.backends.place(&mut routing.rng.borrow_mut()).ok_or(ErrorCode::BackendInvalid)?;
    let backend = rule.backends.get(place).ok_or(ErrorCode::BackendInvalid)?;
    Ok((backend, place))
}

/// The request has found its rule. What is said of it from here on is for whoever may read answers of that rule.
pub(super) fn note(rule: &Rule, request: &Request<Body>, record: &mut RequestRecord) {
    record.routed(&rule.label, rule.request_timeout);
    if let Some(cors) = &rule.filters.cors {
        record.decided_by(cors, request.headers());
    }
}

impl Routed {
    /// Chooses among the backends of a rule.
    pub(super) fn choose<B>(
        routing: &Routing,
        rule: &Arc<Rule>,
        request: &Request<B>,
    ) -> Result<Self, ErrorCode> {
        let headers = request.headers();
        let session = rule.session.as_ref();
        let session = session.and_then(|policy| Session::of(policy, headers, SystemTime::now()));
        let (backend, place) = pick(routing, rule, session)?;
        let upstream = backend.upstream.as_ref().map_err(|problem| {
            tracing::debug!(rule = %rule.id, %problem, "a request for a backend that cannot be used");
            ErrorCode::BackendInvalid
        })?;
        let origin = rule.filters.cors.as_ref().or(backend.filters.cors.as_ref());
        let origin = origin.and_then(|_| headers.get(ORIGIN).cloned());
        Ok(Self {
            cluster: routing.cluster(upstream),
            upstream: Arc::clone(upstream),
            backend: place,
            http2: request.version() == Version::HTTP_2,
            accept: None,
            origin,
            session,
            rule: Arc::clone(rule),
        })
    }

    /// What the filters of the chosen backend answer in its place. `door` as of the function of this name.
    pub(super) fn answer_at_once(
        &self,
        matched: &PathRule,
        request: &Request<Body>,
        target: &Target,
        door: (bool, u16),
        record: &mut RequestRecord,
    ) -> Result<(), Stop> {
        let Some(backend) = self.rule.backends.get(self.backend) else { return Ok(()) };
        if let Some(cors) = &backend.filters.cors {
            record.decided_by(cors, request.headers());
        }
        let Some(mut answer) = answer(&backend.filters, matched, request, target, door)? else {
            return Ok(());
        };
        finish(&self.rule.filters, request.headers().get(ORIGIN), answer.headers_mut());
        Err(Stop::Answer(Box::new(answer.map(|()| Body::Empty))))
    }

    /// Does to a request what the filters of rule and backend say, and gives the host and the path with query that it is for
    /// thereafter.
    pub(super) fn change<'t>(
        &'t self,
        headers: &mut HeaderMap,
        target: &'t Target,
        matched: &PathRule,
    ) -> Result<(&'t HeaderValue, Uri), ErrorCode> {
        let backend = self.rule.backends.get(self.backend).map(|backend| &backend.filters);
        let filters = [Some(&self.rule.filters), backend];
        let (mut host, mut path) = (&target.authority, None);
        for filters in filters.into_iter().flatten() {
            filters.request.apply(headers);
            if let Some(rewrite) = &filters.rewrite {
                host = rewrite.host.as_ref().unwrap_or(host);
                path = rewrite.path.as_ref().map(|to| to.apply(&target.path, matched)).or(path);
            }
        }
        Ok((host, target.uri(path.as_deref().unwrap_or(&target.path))?))
    }

    /// What the client is told, after what the route does to answers.
    pub(super) fn filtered<B>(
        &self,
        mut response: Response<B>,
        record: &RequestRecord,
        tls: bool,
    ) -> Response<B> {
        if self.http2 {
            convert::answer(&mut response);
        }
        let backend = self.rule.backends.get(self.backend);
        let of_backend = backend.map(|backend| &backend.filters);
        let headers = response.headers_mut();
        if let Some(filters) = of_backend {
            filters.response.apply(headers);
        }
        self.rule.filters.response.apply(headers);
        let cors = self.rule.filters.cors.as_ref().or(of_backend.and_then(|filters| filters.cors.as_ref()));
        if let Some(cors) = cors {
            cors.decorate(self.origin.as_ref(), headers);
        }
        if let (Some(policy), Some(endpoint)) = (&self.rule.session, record.upstream()) {
            session::tell(policy, self.session, endpoint, tls, SystemTime::now(), headers);
        }
        response
    }

    /// Looks at the answer to a WebSocket in the place of a client that cannot.
    ///
    /// # Errors
    /// The backend has opened it, and has not understood it.
    pub(super) fn check(&self, response: &Response<Behind>) -> Result<(), ErrorCode> {
        let opened = matches!(response.body(), Behind::Tunnel(_));
        let accepted = |expected| convert::has_accepted(expected, response.headers());
        match opened && !self.accept.as_ref().is_none_or(accepted) {
            true => Err(ErrorCode::UpstreamProtocol),
            false => Ok(()),
        }
    }

    /// Which version a request goes in: the one that the upstream has agreed to over TLS, where neither the routes nor the request
    /// ask for another.
    pub(super) fn version<B>(&self, request: &Request<B>, original: &Original, asked: Version) -> Version {
        let Some(settled) = self.cluster.settled() else { return asked };
        // What HTTP/2 has another way for, or none.
        let kept =
            original.upgrade.is_some() || judge::asks_for_protocol(request) || wire::has_own_login(request);
        if asked == Version::HTTP_11 && !kept { settled } else { asked }
    }

    /// Has the requests of one rule sent.
    pub(super) fn sender<'a>(&'a self, client: &'a Client) -> Sender<'a> {
        let usual = self.cluster.ways.retries.connect_attempts;
        let each = self.rule.try_timeout;
        let tries = match &self.rule.retry {
            None => Tries { each, ..Tries::harmless(usual) },
            Some(retry) => Tries {
                most: retry.attempts.saturating_add(1).max(usual),
                codes: &retry.codes,
                backoff: retry.backoff.max(Duration::from_millis(1)),
                each,
            },
        };
        Sender { cluster: &self.cluster, client, tries, session: self.session.map(Session::mark) }
    }
}
