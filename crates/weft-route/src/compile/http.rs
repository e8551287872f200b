//! Rules of HTTPRoutes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use weft_resource::filter::HttpFilter;
use weft_resource::http::{
    CookieLifetime, HttpBackendRef, HttpMatch, HttpRouteSpec, HttpRule, PathMatch, Retry, SessionPersistence,
    SessionType, Timeouts, ValueMatch,
};
use weft_resource::value::{HeaderName, HostPattern, PathValue};
use weft_resource::{Kind, Spec};

use super::attach::Attached;
use super::backends::Layer;
use super::filters::Place;
use super::{Context, Route, Side};
use crate::age::Age;
use crate::filter::Filters;
use crate::normalize;
use crate::program::{Backend, BackendProblem, Backends, RetryPolicy, Rule, RuleId};
use crate::table::{Candidate, HttpTable, PathRule};

/// A rule with what it matches.
pub(super) struct Built {
    pub(super) rule: Arc<Rule>,
    pub(super) matches: Vec<Conditions>,
}

/// What must hold for one match.
#[derive(Clone)]
pub(super) struct Conditions {
    pub(super) path: PathRule,
    pub(super) method: Option<Method>,
    pub(super) headers: Vec<(HeaderName, ValueMatch)>,
    pub(super) query: Vec<(String, ValueMatch)>,
}

impl Built {
    /// The candidates for each of these hosts.
    pub(super) fn candidates<'b>(
        &'b self,
        age: Age,
        hosts: &'b [Option<HostPattern>],
    ) -> impl Iterator<Item = (Option<HostPattern>, Candidate)> + 'b {
        hosts.iter().flat_map(move |host| {
            self.matches.iter().enumerate().map(move |(index, conditions)| {
                let Conditions { path, method, headers, query } = conditions.clone();
                let rule = Arc::clone(&self.rule);
                (host.clone(), Candidate { path, method, headers, query, age, index, rule })
            })
        })
    }
}

/// What both kinds of routes say of a rule.
pub(super) struct RuleParts<'a> {
    pub(super) index: usize,
    pub(super) name: Option<&'a str>,
    pub(super) layer: Layer,
    pub(super) filters: &'a [HttpFilter],
    pub(super) backends: &'a [HttpBackendRef],
    pub(super) timeouts: Option<Timeouts>,
    pub(super) retry: Option<&'a Retry>,
    pub(super) session: Option<&'a SessionPersistence>,
}

impl Context<'_> {
    /// The table of a listener or service.
    pub(super) fn http_table(&mut self, side: &Side, attached: &[Attached<'_>]) -> Arc<HttpTable> {
        let mut entries = Vec::new();
        for Attached { route, hosts, .. } in self.of_one_kind(attached) {
            let built = self.rules_of(Route { resource: route, side });
            let age = Age::of(route);
            entries.extend(built.iter().flat_map(|built| built.candidates(age, hosts)));
        }
        Arc::new(HttpTable::new(entries))
    }

    /// The rules of a route, made once for each certificate that is shown to its backends.
    fn rules_of(&mut self, route: Route<'_>) -> Rc<[Built]> {
        let client = route.side.client.as_ref().map(|certificate| certificate.id.clone());
        let key = (route.resource.id.clone(), route.side.mesh, client);
        if let Some(known) = self.built.get(&key) {
            return Rc::clone(known);
        }
        let made: Rc<[Built]> = match &route.resource.spec {
            Spec::HttpRoute(spec) => self.http_rules(route, spec).into(),
            Spec::GrpcRoute(spec) => self.grpc_rules(route, spec).into(),
            _ => Rc::default(),
        };
        self.built.insert(key, Rc::clone(&made));
        made
    }

    /// Without the routes that share a host name with a route of the other kind that has precedence (GRPCRoute, "hostnames").
    fn of_one_kind<'l, 'r>(&mut self, attached: &'l [Attached<'r>]) -> Vec<&'l Attached<'r>> {
        let mut taken: [Vec<&Attached<'_>>; 2] = [Vec::new(), Vec::new()];
        let mixed = |kind: Kind| attached.iter().any(|attached| attached.route.id.kind == kind);
        if !(mixed(Kind::HttpRoute) && mixed(Kind::GrpcRoute)) {
            return attached.iter().collect();
        }
        let mut kept = Vec::new();
        for route in attached {
            let [http, grpc] = &mut taken;
            let (own, other) = match route.route.id.kind {
                Kind::GrpcRoute => (grpc, http),
                _ => (http, grpc),
            };
            match other.iter().find(|other| intersect(&route.hosts, &other.hosts)) {
                None => {
                    own.push(route);
                    kept.push(route);
                }
                Some(other) => {
                    let message = format!(
                        "{} has a host name in common with it on this listener, and is older or the first by name",
                        other.route.id
                    );
                    let cure = "a host name is for one kind of routes; give one of them another name";
                    self.notes.error(route.route, route.field.clone(), "Conflicted", message, cure);
                }
            }
        }
        kept
    }

    /// The rules of an HTTPRoute.
    pub(super) fn http_rules(&mut self, route: Route<'_>, spec: &HttpRouteSpec) -> Vec<Built> {
        // The specification's default: one rule that takes everything.
        let default = [HttpRule::default()];
        let rules = spec.rules.as_deref().unwrap_or(&default);
        let each = rules.iter().enumerate().map(|(index, rule)| {
            let matches = self.http_matches(route, index, &rule.matches);
            let parts = RuleParts {
                index,
                name: rule.name.as_ref().map(|name| name.as_str()),
                layer: Layer::Http,
                filters: &rule.filters,
                backends: &rule.backend_refs,
                timeouts: rule.timeouts,
                retry: rule.retry.as_ref(),
                session: rule.session_persistence.as_ref(),
            };
            self.rule(route, &parts, matches)
        });
        each.collect()
    }

    fn http_matches(&mut self, route: Route<'_>, rule: usize, list: &[HttpMatch]) -> Vec<Conditions> {
        let everything = [HttpMatch::default()];
        let list = if list.is_empty() { everything.as_slice() } else { list };
        let each = list.iter().enumerate().map(|(at, spec)| {
            let field = format!("spec.rules[{rule}].matches[{at}]");
            let headers = spec.headers.iter().map(|header| (header.name.clone(), header.value.clone()));
            let query = spec.query_params.iter().map(|query| (query.name.clone(), query.value.clone()));
            Conditions {
                path: self.path_rule(route, &format!("{field}.path.value"), spec.path.as_ref()),
                method: spec.method.as_ref().map(|method| method.get().clone()),
                headers: self.first_of_each(route, &format!("{field}.headers"), headers),
                query: self.first_of_each(route, &format!("{field}.queryParams"), query),
            }
        });
        each.collect()
    }

    fn path_rule(&mut self, route: Route<'_>, field: &str, path: Option<&PathMatch>) -> PathRule {
        match path {
            None => PathRule::Prefix("".into()),
            Some(PathMatch::Exact(path)) => PathRule::Exact(self.one_form(route, field, path)),
            Some(PathMatch::Prefix(path)) => {
                // `/abc` and `/abc/` are the same prefix (HTTPPathMatch, "PathPrefix").
                PathRule::Prefix(self.one_form(route, field, path).trim_end_matches('/').into())
            }
            Some(PathMatch::Regex(regex)) => PathRule::Regex(regex.clone()),
        }
    }

    /// A path in the form in which requests have theirs: `/caf%c3%a9` is meant for those to `/caf%C3%A9`.
    fn one_form(&mut self, route: Route<'_>, field: &str, path: &PathValue) -> Box<str> {
        match normalize::path(path.as_str()) {
            Ok(form) => form.into(),
            Err(why) => {
                let message = format!("no request has this path: {why}");
                self.notes.warning(route.resource, field, "UnsupportedValue", message, "correct the path");
                path.as_str().into()
            }
        }
    }

    /// Where a name comes twice, the first holds (HTTPHeaderMatch, "name").
    pub(super) fn first_of_each<N: PartialEq>(
        &mut self,
        route: Route<'_>,
        field: &str,
        all: impl Iterator<Item = (N, ValueMatch)>,
    ) -> Vec<(N, ValueMatch)> {
        let mut kept: Vec<(N, ValueMatch)> = Vec::new();
        for (at, (name, value)) in all.enumerate() {
            if kept.iter().any(|(known, _)| *known == name) {
                let message = "this name stands there before, and the first holds";
                let field = format!("{field}[{at}]");
                self.notes.warning(
                    route.resource,
                    field,
                    "UnsupportedValue",
                    message,
                    "take one of them out",
                );
            } else {
                kept.push((name, value));
            }
        }
        kept
    }

    /// One rule.
    pub(super) fn rule(
        &mut self,
        route: Route<'_>,
        parts: &RuleParts<'_>,
        matches: Vec<Conditions>,
    ) -> Built {
        let field = format!("spec.rules[{}]", parts.index);
        let paths: Vec<&PathRule> = matches.iter().map(|conditions| &conditions.path).collect();
        let filters_field = format!("{field}.filters");
        let place = Place { field: &filters_field, layer: parts.layer, paths: &paths };
        let (filters, backends) = match self.filters(route, parts.filters, place) {
            Ok(filters) => {
                let backends = self.backends(route, parts, &field, &paths);
                self.say_unanswered(route, &field, &filters, &backends);
                (filters, backends)
            }
            Err(message) => (Filters::default(), failing(message)),
        };
        let (request_timeout, try_timeout) = self.timeouts(route, &field, parts.timeouts);
        let id = &route.resource.id;
        let rule = Rule {
            id: RuleId { route: id.clone(), index: parts.index, name: parts.name.map(Arc::from) },
            label: format!("{}/{}", id.namespace, id.name).into(),
            grpc: parts.layer == Layer::Grpc,
            filters,
            backends,
            request_timeout,
            try_timeout,
            retry: self.retry(route, &field, parts.retry),
            session: self.session(route, &field, parts.session),
        };
        Built { rule: Arc::new(rule), matches }
    }

    fn backends(
        &mut self,
        route: Route<'_>,
        parts: &RuleParts<'_>,
        field: &str,
        paths: &[&PathRule],
    ) -> Backends {
        let each = parts.backends.iter().enumerate().map(|(at, spec)| {
            let field = format!("{field}.backendRefs[{at}]");
            let upstream = self.upstream(route, &spec.backend(), parts.layer, &field);
            let filters_field = format!("{field}.filters");
            let place = Place { field: &filters_field, layer: parts.layer, paths };
            let weight = spec.weight.get();
            match self.filters(route, &spec.filters, place) {
                Ok(filters) => Backend { weight, upstream, filters },
                Err(message) => Backend {
                    weight,
                    upstream: Err(BackendProblem::InvalidFilter(message)),
                    filters: Filters::default(),
                },
            }
        });
        Backends::new(each.collect())
    }

    /// A rule without anything that would answer answers 500 (HTTPRoute, "backendRefs"): legal, and seldom meant.
    fn say_unanswered(&mut self, route: Route<'_>, field: &str, filters: &Filters, backends: &Backends) {
        let field = format!("{field}.backendRefs");
        if filters.redirect.is_some() {
            if !backends.is_empty() {
                let message = "the rule redirects, so that no request reaches its backends";
                self.notes.warning(
                    route.resource,
                    field,
                    "IncompatibleFilters",
                    message,
                    "take one of them out",
                );
            }
        } else if backends.total() == 0 {
            let message = match backends.is_empty() {
                true => "the rule has no backend and no redirect: its requests are answered with 500",
                false => "every backend has weight 0: the rule's requests are answered with 500",
            };
            self.notes.warning(
                route.resource,
                field,
                "NoBackends",
                message,
                "give it a backend with a weight",
            );
        }
    }

    fn timeouts(
        &mut self,
        route: Route<'_>,
        field: &str,
        timeouts: Option<Timeouts>,
    ) -> (Option<Option<Duration>>, Option<Duration>) {
        let Timeouts { request, backend_request } = timeouts.unwrap_or_default();
        let total = request.map(|timeout| timeout.limit());
        let one_try = backend_request.and_then(|timeout| timeout.limit());
        if let (Some(Some(total)), Some(one)) = (total, one_try)
            && one > total
        {
            let message = "one try may not take longer than the request; it ends with the request";
            let field = format!("{field}.timeouts.backendRequest");
            let cure = "make it at most `timeouts.request`";
            self.notes.warning(route.resource, field, "UnsupportedValue", message, cure);
        }
        (total, one_try)
    }

    fn retry(&mut self, route: Route<'_>, field: &str, retry: Option<&Retry>) -> Option<RetryPolicy> {
        let retry = retry?;
        let attempts = retry.attempts.unwrap_or(DEFAULT_ATTEMPTS);
        let (codes, refused): (Vec<u16>, Vec<u16>) =
            retry.codes.iter().partition(|code| (400..600).contains(*code));
        if !refused.is_empty() {
            let message = format!("{refused:?}: a status that is tried again is from 400 to 599");
            let field = format!("{field}.retry.codes");
            self.notes.error(route.resource, field, "UnsupportedValue", message, "take them out");
        }
        let backoff = retry.backoff.map_or(DEFAULT_BACKOFF, |backoff| backoff.get());
        (attempts > 0).then_some(RetryPolicy { codes, attempts, backoff })
    }

    fn session(
        &mut self,
        route: Route<'_>,
        field: &str,
        session: Option<&SessionPersistence>,
    ) -> Option<SessionPersistence> {
        let session = session?;
        let field = format!("{field}.sessionPersistence");
        let permanent = session.cookie_config.lifetime_type == CookieLifetime::Permanent;
        if permanent && session.kind == SessionType::Cookie && session.absolute_timeout.is_none() {
            let message = "a permanent cookie wants `absoluteTimeout`; clients keep no endpoint";
            self.notes.error(route.resource, field, "UnsupportedValue", message, "set `absoluteTimeout`");
            return None;
        }
        Some(session.clone())
    }
}

/// Further tries where a `retry` does not say how many (the specification leaves it open): one finds another endpoint, more would
/// multiply the load on a backend that is down.
const DEFAULT_ATTEMPTS: u32 = 1;
/// The wait before a further try where none is said.
const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);

/// The backends of a rule that cannot be carried out: all its requests are answered with 500.
fn failing(message: String) -> Backends {
    let upstream = Err(BackendProblem::InvalidFilter(message));
    Backends::new(vec![Backend { weight: 1, upstream, filters: Filters::default() }])
}

fn intersect(ours: &[Option<HostPattern>], theirs: &[Option<HostPattern>]) -> bool {
    ours.iter().any(|our| {
        theirs.iter().any(|their| match (our, their) {
            (Some(our), Some(their)) => our.intersection(their).is_some(),
            _ => true,
        })
    })
}
