//! Matches that are not a request's, and why.

use serde::{Deserialize, Serialize};

use super::describe;
use crate::request::RequestView;
use crate::table::{Candidate, Found, HttpTable, matches_header, matches_query};

/// So many are told at most.
pub const MOST_MISSES: usize = 10;

/// A match of the same host that is not the request's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Miss {
    /// The rule.
    pub rule: String,
    /// What it wants.
    pub wants: String,
    /// What of it does not hold; empty where all holds.
    pub failed: Vec<String>,
    /// Whether all of it holds, and another comes first.
    pub matches: bool,
}

pub(super) fn of(table: &HttpTable, view: &RequestView<'_>, found: Option<&Found<'_>>) -> Vec<Miss> {
    let mut chosen = found.is_some();
    let mut all: Vec<(usize, &Candidate, Vec<String>)> = Vec::new();
    for candidate in table.candidates(view.host) {
        let failed = failed(candidate, view);
        // The first that holds is the request's own.
        if failed.is_empty() && std::mem::take(&mut chosen) {
            continue;
        }
        all.push((failed.len(), candidate, failed));
    }
    // Stable: those that fail in as much stay in their order.
    all.sort_by_key(|(count, ..)| *count);
    let told = all.into_iter().take(MOST_MISSES).map(|(count, candidate, failed)| Miss {
        rule: candidate.rule.id.to_string(),
        wants: describe::conditions(candidate),
        failed,
        matches: count == 0,
    });
    told.collect()
}

/// The conditions that do not hold.
fn failed(candidate: &Candidate, view: &RequestView<'_>) -> Vec<String> {
    let mut failed = Vec::new();
    if !candidate.matches_path(view.path) {
        failed.push(format!("path is `{}`", view.path));
    }
    if candidate.method.as_ref().is_some_and(|method| method != view.method) {
        failed.push(format!("method is {}", view.method));
    }
    for (name, wanted) in &candidate.headers {
        if !matches_header(view, name, wanted) {
            let name = name.get();
            failed.push(match view.headers.get(name) {
                None => format!("there is no header `{name}`"),
                Some(value) => format!("header `{name}` is `{}`", String::from_utf8_lossy(value.as_bytes())),
            });
        }
    }
    for (name, wanted) in &candidate.query {
        if !matches_query(view.query, name, wanted) {
            failed.push(match view.query {
                None => format!("there is no query, so no `{name}`"),
                Some(query) => format!("query is `{query}`, and `{name}` not what is wanted"),
            });
        }
    }
    failed
}
