//! Resources in, programs and notes out: sentence by sentence of the Gateway API's reference.

#![allow(clippy::needless_pass_by_value, reason = "what `json!` makes is handed over")]

mod attach;
mod backends;
mod filters;
mod l4;
mod listeners;
mod mesh;
mod rules;
mod tls;

use http::{HeaderMap, Method};

use crate::program::{Listener, ListenerKind, Program, Rule};
use crate::request::RequestView;
use crate::table::HttpTable;

/// The listener that a port and a name lead to.
fn listener<'p>(program: &'p Program, port: u16, host: &str) -> Option<&'p Listener> {
    let socket = program.sockets.iter().find(|socket| socket.port == port)?;
    socket.listeners.most_specific(host).map(|listener| &**listener)
}

fn table(listener: &Listener) -> &HttpTable {
    match &listener.kind {
        ListenerKind::Http(table) | ListenerKind::Https(_, table) | ListenerKind::Mesh(table) => table,
        other => panic!("{other:?} has no requests"),
    }
}

/// The rule of a GET on port 80.
fn rule<'p>(program: &'p Program, host: &str, path: &str) -> Option<&'p Rule> {
    rule_at(program, 80, host, path)
}

fn rule_at<'p>(program: &'p Program, port: u16, host: &str, path: &str) -> Option<&'p Rule> {
    find(table(listener(program, port, host)?), host, path)
}

fn find<'t>(table: &'t HttpTable, host: &str, path: &str) -> Option<&'t Rule> {
    let request = RequestView { host, method: &Method::GET, path, query: None, headers: &HeaderMap::new() };
    table.find(&request).map(|found| &**found.rule)
}

/// `name` of the route, or `-` for none.
fn route_of(rule: Option<&Rule>) -> String {
    rule.map_or_else(|| "-".to_owned(), |rule| rule.id.route.name.to_string())
}

/// The backends of a rule, each with weight and upstream, or what is wrong.
fn backends(rule: Option<&Rule>) -> Vec<String> {
    let each = rule.expect("a rule").backends.iter().map(|backend| match &backend.upstream {
        Ok(upstream) => format!("{} {} {:?}", backend.weight, upstream.label, upstream.protocol),
        Err(problem) => format!("{} {problem}", backend.weight),
    });
    each.collect()
}
