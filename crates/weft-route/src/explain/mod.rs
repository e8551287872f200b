//! What becomes of a request, and why: the path of a request through a [`Program`], told instead of taken.
//!
//! [`explain`] asks the same tables as a request does, so that it cannot say anything else than what happens.

mod describe;
mod misses;
mod question;
#[cfg(test)]
mod tests;
mod text;

use http::{HeaderMap, Method, Uri};
use serde::{Deserialize, Serialize};
use weft_core::ServiceKey;

use crate::filter::Filters;
use crate::normalize;
use crate::program::{Backends, L4Rule, Listener, ListenerKind, Program, Rule, SocketKind, Sockets};
use crate::request::RequestView;
use crate::table::{Found, HttpTable};

pub use misses::{MOST_MISSES, Miss};
pub use question::QuestionText;

/// A request, and where it comes in.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The method.
    pub method: Method,
    /// Scheme, host, port, path and query; for a service the path is enough.
    pub url: &'a str,
    /// The headers.
    pub headers: HeaderMap,
    /// Where it comes in.
    pub door: Door,
}

/// Where a request comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    /// At any gateway that listens on the URL's port.
    AnyGateway,
    /// At this one.
    Gateway {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// From a workload in the mesh, to this service.
    Service(ServiceKey),
}

/// Why there is nothing to explain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unexplained {
    /// The URL is none.
    #[error("`{0}` is no URL such as https://shop.example/cart?x=1")]
    Url(String),
    /// A URL of a gateway has a scheme and a host.
    #[error("`{0}`: a request to a gateway wants scheme and host, such as https://shop.example/cart")]
    Incomplete(String),
    /// The method is none.
    #[error("`{0}` is no method such as GET")]
    Method(String),
    /// Name or value of a header are none.
    #[error("`{0}` is no header that can be sent: a name, and a value without line breaks")]
    Header(String),
    /// The gateway is none.
    #[error("`{0}` is no gateway: write namespace/name")]
    Gateway(String),
    /// The service is none.
    #[error(
        "`{0}` is no service: write its whole name and its port, such as orders.shop.svc.cluster.local:80"
    )]
    Service(String),
    /// A request comes in at one place.
    #[error("gateway and service exclude each other")]
    TwoDoors,
}

/// What becomes of a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The request as routes see it.
    pub request: Asked,
    /// Where it comes in; `None`: nothing takes it.
    pub door: Option<String>,
    /// The answer in a sentence.
    pub outcome: String,
    /// The status that Weft itself answers, where it does not go to a backend.
    pub status: Option<u16>,
    /// The rule that it belongs to.
    pub rule: Option<RuleText>,
    /// Matches of the same host that are not its, and why: those that fail least first.
    pub near_misses: Vec<Miss>,
}

/// A request as routes see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// The method.
    pub method: String,
    /// The host.
    pub host: String,
    /// The path, in its one form.
    pub path: String,
    /// The query.
    pub query: Option<String>,
}

/// A rule in words.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleText {
    /// Which.
    pub rule: String,
    /// What of it matched; empty for a rule of connections.
    pub matched: String,
    /// What is done to the request and its answer, in this order.
    pub filters: Vec<String>,
    /// Where it goes.
    pub backends: Vec<BackendText>,
    /// How long it may take, tries included.
    pub request_timeout: Option<String>,
    /// How long one try may take.
    pub try_timeout: Option<String>,
    /// When it is tried again.
    pub retry: Option<String>,
    /// How a client keeps its endpoint.
    pub session: Option<String>,
}

/// A backend in words.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendText {
    /// Where it is; `None` with `problem`.
    pub to: Option<String>,
    /// What is spoken to it, and over TLS with whom.
    pub speaks: Option<String>,
    /// Its weight.
    pub weight: u32,
    /// Its share of the rule's requests, in percent.
    pub percent: f64,
    /// Why its share is answered with 500.
    pub problem: Option<String>,
    /// What is done to its requests besides.
    pub filters: Vec<String>,
}

/// Tells what becomes of a request.
///
/// # Errors
/// The question is none.
pub fn explain(program: &Program, question: &Question<'_>) -> Result<Explanation, Unexplained> {
    let url = Url::read(question)?;
    let refused = |status, outcome: String| Explanation {
        request: url.asked(question),
        door: None,
        outcome,
        status,
        rule: None,
        near_misses: Vec::new(),
    };
    let target = match normalize::target(url.target) {
        Ok(target) => target,
        Err(why) => return Ok(refused(Some(400), format!("400: {why}"))),
    };
    let host = match normalize::host(&url.host) {
        Ok(host) => host,
        Err(why) => return Ok(refused(Some(400), format!("400: {why}"))),
    };
    let view = RequestView {
        host: &host.name,
        method: &question.method,
        path: &target.path,
        query: target.query,
        headers: &question.headers,
    };
    let asked = Asked {
        method: question.method.to_string(),
        host: host.name.to_string(),
        path: target.path.to_string(),
        query: target.query.map(str::to_owned),
    };
    let port = host.port.unwrap_or(if url.tls { 443 } else { 80 });
    let place = Place { program, door: &question.door, tls: url.tls, port };
    Ok(Explanation { request: asked, ..place.explain(&view) })
}

/// The parts of the URL.
struct Url<'a> {
    tls: bool,
    /// With its port.
    host: String,
    /// Path and query.
    target: &'a str,
}

impl<'a> Url<'a> {
    fn read(question: &Question<'a>) -> Result<Self, Unexplained> {
        let url = question.url;
        let bad = || Unexplained::Url(url.to_owned());
        // What is wrong with the path is to be told, so that only what stands before it is read by a parser of URLs.
        let start = url.find("://").map_or(0, |at| at + 3);
        let rest = url.get(start..).unwrap_or_default();
        let cut = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(cut);
        match (&question.door, start, authority) {
            (Door::Service(service), 0, "") => Ok(Self { tls: false, host: service.to_string(), target }),
            (_, 0, _) | (_, _, "") => Err(Unexplained::Incomplete(url.to_owned())),
            _ => {
                let head = url.get(..start + cut).unwrap_or_default();
                let uri: Uri = head.parse().map_err(|_| bad())?;
                let tls = match uri.scheme_str() {
                    Some("http") => false,
                    Some("https") => true,
                    _ => return Err(bad()),
                };
                Ok(Self { tls, host: authority.to_owned(), target })
            }
        }
    }

    fn asked(&self, question: &Question<'_>) -> Asked {
        let (path, query) = self.target.split_once('?').map_or((self.target, None), |(p, q)| (p, Some(q)));
        Asked {
            method: question.method.to_string(),
            host: self.host.clone(),
            path: path.to_owned(),
            query: query.map(str::to_owned),
        }
    }
}

/// Where a request comes in, as the program has it.
struct Place<'p> {
    program: &'p Program,
    door: &'p Door,
    tls: bool,
    port: u16,
}

impl Place<'_> {
    fn explain(&self, view: &RequestView<'_>) -> Explanation {
        match self.door {
            Door::Service(service) => match self.program.services.get(service) {
                None => nobody(format!("no route hangs on {service}: it goes to the service as it is"), None),
                Some(table) => of_table(format!("service {service}"), table, view),
            },
            Door::AnyGateway | Door::Gateway { .. } => self.at_a_gateway(view),
        }
    }

    fn at_a_gateway(&self, view: &RequestView<'_>) -> Explanation {
        let sockets: Vec<&Sockets> = self.sockets().collect();
        let listener = sockets.iter().find_map(|socket| self.listener(socket, view.host));
        let Some(listener) = listener else { return nobody(self.no_listener(&sockets, view.host), None) };
        let door =
            format!("listener {} (port {}, {})", listener.label, listener.port, describe::host(listener));
        match &listener.kind {
            ListenerKind::Http(table) | ListenerKind::Https(_, table) | ListenerKind::Mesh(table) => {
                of_table(door, table, view)
            }
            ListenerKind::Tls(_, rules) | ListenerKind::Passthrough(rules) => {
                of_connection(door, rules.most_specific(view.host).map(|rule| &**rule), view.host)
            }
            ListenerKind::Tcp(rule) => of_connection(door, rule.as_deref(), view.host),
        }
    }

    fn sockets(&self) -> impl Iterator<Item = &Sockets> {
        self.program.sockets.iter().map(|socket| &**socket).filter(|socket| {
            socket.port == self.port
                && match socket.kind {
                    // Sidecars call it by http://, whatever they make of it.
                    SocketKind::Http | SocketKind::Mesh => !self.tls,
                    SocketKind::Tls => self.tls,
                    SocketKind::Tcp => true,
                }
        })
    }

    fn listener<'s>(&self, socket: &'s Sockets, host: &str) -> Option<&'s Listener> {
        let listener = match socket.kind {
            SocketKind::Tcp => socket.listeners.values().next(),
            SocketKind::Http | SocketKind::Tls | SocketKind::Mesh => socket.listeners.most_specific(host),
        };
        listener.map(|listener| &**listener).filter(|listener| self.is_ours(listener))
    }

    fn is_ours(&self, listener: &Listener) -> bool {
        match self.door {
            Door::Gateway { namespace, name } => {
                *listener.id.namespace == **namespace && *listener.id.gateway == **name
            }
            _ => true,
        }
    }

    fn no_listener(&self, sockets: &[&Sockets], host: &str) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let there = sockets.iter().flat_map(|socket| socket.listeners.values());
        let mut there: Vec<String> = there
            .filter(|listener| self.is_ours(listener))
            .map(|listener| format!("{} ({})", listener.label, describe::host(listener)))
            .collect();
        there.sort();
        match there.is_empty() {
            true => {
                let mut ports: Vec<u16> = self.program.sockets.iter().map(|socket| socket.port).collect();
                ports.sort_unstable();
                ports.dedup();
                format!("nothing listens for {scheme} on port {}; there are ports {ports:?}", self.port)
            }
            false => {
                format!("no listener on port {} is for `{host}`; there are {}", self.port, there.join(", "))
            }
        }
    }
}

fn nobody(outcome: String, door: Option<String>) -> Explanation {
    let request = Asked { method: String::new(), host: String::new(), path: String::new(), query: None };
    Explanation { request, door, outcome, status: None, rule: None, near_misses: Vec::new() }
}

fn of_table(door: String, table: &HttpTable, view: &RequestView<'_>) -> Explanation {
    let found = table.find(view);
    let near_misses = misses::of(table, view, found.as_ref());
    let Some(Found { rule, path }) = found else {
        let outcome = "404: no rule matches".to_owned();
        return Explanation { status: Some(404), near_misses, ..nobody(outcome, Some(door)) };
    };
    let (status, outcome) = outcome(rule, view);
    let chosen = table.candidates(view.host).find(|candidate| candidate.matches(view));
    let matched = chosen.map_or_else(|| describe::path(path), describe::conditions);
    let rule = describe::rule(rule, matched);
    Explanation { status, rule: Some(rule), near_misses, ..nobody(outcome, Some(door)) }
}

/// What the rule does with the request.
fn outcome(rule: &Rule, view: &RequestView<'_>) -> (Option<u16>, String) {
    let serving = rule.backends.iter().filter(|backend| backend.weight > 0);
    let serving: Vec<_> = serving.filter(|backend| backend.upstream.is_ok()).collect();
    // Of several, one is drawn: what its own filters answer is its own.
    let of_backend = match serving.as_slice() {
        [one] if rule.backends.total() == u64::from(one.weight) => answered(&one.filters, view),
        _ => None,
    };
    answered(&rule.filters, view).or(of_backend).unwrap_or_else(|| of_backends(&rule.backends))
}

/// What filters answer themselves.
fn answered(filters: &Filters, view: &RequestView<'_>) -> Option<(Option<u16>, String)> {
    if let Some(cors) = &filters.cors
        && let Some(answer) = cors.preflight(view.method, view.headers)
    {
        let status = answer.status().as_u16();
        return Some((Some(status), format!("{status}: answered as a CORS preflight")));
    }
    let status = filters.redirect.as_ref()?.status.as_u16();
    Some((Some(status), format!("{status}: redirected")))
}

fn of_backends(backends: &Backends) -> (Option<u16>, String) {
    let serving = backends.iter().filter(|backend| backend.weight > 0);
    let (good, bad): (Vec<_>, Vec<_>) = serving.partition(|backend| backend.upstream.is_ok());
    match (good.as_slice(), bad.is_empty()) {
        ([], true) => (Some(500), "500: the rule has no backend with a weight".to_owned()),
        ([], false) => (Some(500), "500: no backend of the rule can serve".to_owned()),
        ([one], true) => match &one.upstream {
            Ok(upstream) => (None, format!("sent to {}", upstream.label)),
            Err(problem) => (Some(500), format!("500: {problem}")),
        },
        (_, true) => (None, "sent to one of its backends, by weight".to_owned()),
        (_, false) => (None, "sent to one of its backends, by weight; some answer 500".to_owned()),
    }
}

fn of_connection(door: String, rule: Option<&L4Rule>, host: &str) -> Explanation {
    match rule {
        None => nobody(format!("no route takes connections for `{host}`: they are closed"), Some(door)),
        Some(rule) => {
            let (_, outcome) = of_backends(&rule.backends);
            let outcome = outcome.replace("500: ", "closed: ").replace("answer 500", "are closed");
            Explanation { rule: Some(describe::connection(rule)), ..nobody(outcome, Some(door)) }
        }
    }
}
