//! Which rule a request belongs to.
//!
//! A listener's rules are laid out once, when they are compiled: by host name ([`HostTable`]), then by path (`paths`). What a
//! lookup costs follows from the request's own labels and path elements, and not from how many routes there are.
//!
//! The order of the Gateway API (HTTPRoute, "rules[].matches") is written down in one place, [`Candidate::order`]: all candidates of a host
//! are sorted by it, and each gets its rank. A lookup may then look where it likes first; what counts is the lowest rank.

mod candidate;
mod hosts;
mod paths;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use weft_resource::value::HostPattern;

use crate::program::Rule;
use crate::request::RequestView;

pub use candidate::{Candidate, PathRule};
pub(crate) use candidate::{matches_header, matches_query};
pub use hosts::HostTable;

use paths::PathTable;

/// The rules of one listener or service.
#[derive(Default)]
pub struct HttpTable {
    hosts: HostTable<PathTable>,
    rules: usize,
}

/// The rule that a request belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The rule.
    pub rule: &'a Arc<Rule>,
    /// What its match says of the path; a rewrite of the prefix wants to know.
    pub path: &'a PathRule,
}

impl HttpTable {
    /// Lays rules out. Each comes with the host names it is for, already cut to those of its listener; `None`: every name.
    pub fn new(entries: impl IntoIterator<Item = (Option<HostPattern>, Candidate)>) -> Self {
        let mut by_host: Vec<(Option<HostPattern>, Vec<Candidate>)> = Vec::new();
        let mut places = std::collections::HashMap::new();
        let mut rules = 0;
        for (host, candidate) in entries {
            rules += 1;
            let place = *places.entry(host.clone()).or_insert_with(|| {
                by_host.push((host, Vec::new()));
                by_host.len() - 1
            });
            if let Some((_, candidates)) = by_host.get_mut(place) {
                candidates.push(candidate);
            }
        }
        let tables = by_host.into_iter().map(|(host, candidates)| (host, PathTable::new(candidates)));
        Self { hosts: HostTable::new(tables), rules }
    }

    /// The rule of a request. A host name that is more specific comes first; where none of its rules matches, less specific
    /// ones are asked: routes of one listener are one list.
    pub fn find(&self, request: &RequestView<'_>) -> Option<Found<'_>> {
        self.hosts.matching(request.host).find_map(|table| table.find(request))
    }

    /// Every candidate that is for this host, in the order in which they are asked: for an explanation.
    pub fn candidates(&self, host: &str) -> impl Iterator<Item = &Candidate> {
        self.hosts.matching(host).flat_map(PathTable::candidates)
    }

    /// Matches in it.
    pub fn len(&self) -> usize {
        self.rules
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rules == 0
    }
}

impl fmt::Debug for HttpTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTable").field("rules", &self.rules).finish_non_exhaustive()
    }
}
