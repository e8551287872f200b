//! What the fuzz target for programs does with an input. A test of weft-route does the same with the corpus and with mutations of it, so
//! that it runs without a nightly compiler as well.
//!
//! The input is a file of resources. It is read, checked and compiled, and then asked with requests that are made of its own words, which
//! is where hosts and paths come from that some match is for.

use std::path::Path;
use std::sync::Arc;

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use weft_route::explain::{Door, Question, explain};
use weft_route::filter::{Filters, Seen};
use weft_route::table::PathRule;
use weft_route::{HttpTable, ListenerKind, Options, Program, RequestView, compile, normalize};

/// Requests of one input: each is asked of every table.
const REQUESTS: usize = 12;
const METHODS: [Method; 4] = [Method::GET, Method::POST, Method::OPTIONS, Method::CONNECT];

/// Compiles a text and asks the program.
pub(crate) fn program(text: &str) {
    let (resources, _) = weft_resource::parse(Path::new("fuzz.yaml"), text);
    let set = resources.into_iter().map(Arc::new).collect();
    let options = Options {
        cluster_domain: "cluster.local".parse().unwrap(),
        gateways: weft_route::Gateways::All,
        client_namespace: None,
    };
    let compiled = compile(&set, &options);
    for note in &compiled.notes {
        assert!(set.get(&note.resource).is_some() && !note.to_string().is_empty(), "{note}");
    }
    let requests = requests(text);
    for request in &requests {
        ask(&compiled.program, request);
    }
}

struct Asked {
    host: String,
    method: Method,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
}

/// Requests of what stands in a text.
fn requests(text: &str) -> Vec<Asked> {
    let words: Vec<&str> = text
        .split([' ', '\n', '"', '\'', ',', '{', '}', '[', ']'])
        .filter(|word| !word.is_empty())
        .take(400)
        .collect();
    let hosts: Vec<String> = words
        .iter()
        .filter_map(|word| {
            let host = normalize::host(word.trim_end_matches(':').trim_start_matches("*.")).ok()?;
            host.name.contains('.').then(|| host.name.into_owned())
        })
        .collect();
    let paths: Vec<&&str> = words.iter().filter(|word| word.starts_with('/')).collect();
    let at = |n: usize, of: usize| if of == 0 { None } else { Some((n * 7919 + 13) % of) };
    (0..REQUESTS)
        .map(|n| {
            let host = at(n, hosts.len()).map_or_else(|| "a.test".to_owned(), |at| hosts[at].clone());
            let path = at(n, paths.len()).map_or("/", |at| paths[at]);
            let raw = format!("{path}{}", ["", "/x", "?q=v", "/../..", "%41;"][n % 5]);
            let (path, query) = normalize::target(&raw).map_or_else(
                |_| ("/".to_owned(), None),
                |target| (target.path.into_owned(), target.query.map(str::to_owned)),
            );
            let mut headers = HeaderMap::new();
            for pair in words.iter().skip(n).step_by(REQUESTS).collect::<Vec<_>>().chunks(2) {
                let name = pair
                    .first()
                    .and_then(|name| HeaderName::from_bytes(name.trim_end_matches(':').as_bytes()).ok());
                let value = pair.get(1).and_then(|value| HeaderValue::from_str(value).ok());
                if let (Some(name), Some(value)) = (name, value) {
                    headers.append(name, value);
                }
            }
            let method = METHODS[n % METHODS.len()].clone();
            if method == Method::OPTIONS {
                headers.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PUT"));
            }
            if let Ok(origin) = HeaderValue::from_str(&format!("https://{host}")) {
                headers.insert(ORIGIN, origin);
            }
            Asked { host, method, path, query, headers }
        })
        .collect()
}

/// Asks all that a program has.
fn ask(program: &Program, asked: &Asked) {
    for sockets in &program.sockets {
        for listener in sockets.listeners.values().chain(sockets.listeners.most_specific(&asked.host)) {
            match &listener.kind {
                ListenerKind::Http(table) | ListenerKind::Https(_, table) | ListenerKind::Mesh(table) => {
                    table_of(table, asked, listener.port);
                }
                ListenerKind::Tls(_, rules) | ListenerKind::Passthrough(rules) => {
                    drop(rules.most_specific(&asked.host).map(|rule| rule.id.to_string()));
                }
                ListenerKind::Tcp(_) => {}
            }
        }
        told(
            program,
            asked,
            Door::AnyGateway,
            &format!("http://{}:{}{}", asked.host, sockets.port, asked.path),
        );
        told(
            program,
            asked,
            Door::AnyGateway,
            &format!("https://{}:{}{}", asked.host, sockets.port, asked.path),
        );
    }
    for (key, table) in &program.services {
        table_of(table, asked, key.port);
        told(program, asked, Door::Service(key.clone()), &asked.path);
    }
}

/// The table finds the first of all matches that hold, and its filters can be carried out or say that they cannot.
fn table_of(table: &HttpTable, asked: &Asked, port: u16) {
    let query = asked.query.as_deref();
    let view = RequestView {
        host: &asked.host,
        method: &asked.method,
        path: &asked.path,
        query,
        headers: &asked.headers,
    };
    let found = table.find(&view);
    let first = table.candidates(view.host).find(|candidate| candidate.matches(&view));
    assert_eq!(found.as_ref().map(|found| &found.rule.id), first.map(|candidate| &candidate.rule.id));
    let Some(found) = found else { return };
    filters(&found.rule.filters, found.path, asked, port);
    for backend in found.rule.backends.iter() {
        filters(&backend.filters, found.path, asked, port);
    }
}

fn filters(filters: &Filters, matched: &PathRule, asked: &Asked, port: u16) {
    let mut headers = asked.headers.clone();
    filters.request.apply(&mut headers);
    filters.response.apply(&mut headers);
    if let Some(cors) = &filters.cors {
        drop(cors.preflight(&asked.method, &asked.headers));
        cors.decorate(asked.headers.get(ORIGIN), &mut headers);
    }
    for tls in [true, false] {
        let seen = Seen { tls, host: &asked.host, port, path: &asked.path, query: asked.query.as_deref() };
        if let Some(redirect) = &filters.redirect {
            drop(redirect.answer(&seen, matched));
        }
    }
    if let Some(to) = filters.rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref()) {
        let path = to.apply(&asked.path, matched);
        assert!(path.starts_with('/'), "{path}");
    }
}

fn told(program: &Program, asked: &Asked, door: Door, url: &str) {
    let question = Question { method: asked.method.clone(), url, headers: asked.headers.clone(), door };
    if let Ok(explanation) = explain(program, &question) {
        assert!(!explanation.to_string().is_empty());
    }
}
