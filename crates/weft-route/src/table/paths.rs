//! The rules of one host name, by path.

use std::collections::HashMap;

use regex::bytes::RegexSet;
use weft_resource::value::Regex;

use super::Found;
use super::candidate::{Candidate, PathRule, grpc_call};
use crate::request::RequestView;

/// A place in the list of candidates, which is sorted: the lower, the sooner it is asked.
type Rank = u32;

/// The candidates of one host name.
pub(super) struct PathTable {
    /// All of them, in order.
    candidates: Box<[Candidate]>,
    exact: HashMap<Box<str>, Box<[Rank]>>,
    prefixes: Tree,
    regexes: Regexes,
    grpc_methods: HashMap<Box<str>, Box<[Rank]>>,
}

/// Prefixes as a tree of path elements.
#[derive(Default)]
struct Tree {
    /// The root is first.
    nodes: Vec<Node>,
}

#[derive(Default)]
struct Node {
    below: HashMap<Box<str>, usize>,
    ranks: Vec<Rank>,
}

/// Regular expressions, all matched in one pass where there are several.
#[derive(Default)]
struct Regexes {
    ranks: Vec<Rank>,
    /// `None`: each on its own, because there are few, or because together they would be too large.
    set: Option<RegexSet>,
}

/// From so many on, one pass over a path is cheaper than one each.
const SET_FROM: usize = 3;

impl PathTable {
    pub(super) fn new(mut candidates: Vec<Candidate>) -> Self {
        candidates.sort_by(Candidate::order);
        let mut exact: HashMap<Box<str>, Vec<Rank>> = HashMap::new();
        let mut grpc_methods: HashMap<Box<str>, Vec<Rank>> = HashMap::new();
        let (mut prefixes, mut regexes) = (Tree::default(), Vec::new());
        for (candidate, rank) in candidates.iter().zip(0..) {
            match &candidate.path {
                PathRule::Exact(path) => exact.entry(path.clone()).or_default().push(rank),
                PathRule::Prefix(prefix) => prefixes.insert(prefix, rank),
                PathRule::Regex(regex) => regexes.push((rank, regex.anchored().to_owned())),
                PathRule::GrpcRegex { service, method } => {
                    let part = |regex: &Option<_>| regex.as_ref().map_or("[^/]+", Regex::as_str).to_owned();
                    regexes.push((rank, format!("^/(?:{})/(?:{})$", part(service), part(method))));
                }
                PathRule::GrpcMethod(method) => grpc_methods.entry(method.clone()).or_default().push(rank),
            }
        }
        let regexes = Regexes::new(&regexes);
        let boxed = |map: HashMap<Box<str>, Vec<Rank>>| {
            map.into_iter().map(|(key, ranks)| (key, ranks.into_boxed_slice())).collect()
        };
        let (exact, grpc_methods) = (boxed(exact), boxed(grpc_methods));
        Self { candidates: candidates.into_boxed_slice(), exact, prefixes, regexes, grpc_methods }
    }

    pub(super) fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter()
    }

    /// The first candidate, in their order, that a request fulfils.
    pub(super) fn find(&self, request: &RequestView<'_>) -> Option<Found<'_>> {
        let mut best = Best { table: self, request, found: None };
        if !self.exact.is_empty() {
            best.offer(self.exact.get(request.path).map(|ranks| &**ranks));
        }
        self.regexes.offer(&mut best);
        self.prefixes.offer(&mut best);
        if !self.grpc_methods.is_empty() {
            let called = grpc_call(request.path);
            best.offer(called.and_then(|(_, method)| self.grpc_methods.get(method)).map(|ranks| &**ranks));
        }
        let found = self.candidates.get(best.found? as usize)?;
        Some(Found { rule: &found.rule, path: &found.path })
    }
}

/// The lowest rank so far of a candidate that holds.
struct Best<'t, 'r> {
    table: &'t PathTable,
    request: &'r RequestView<'r>,
    found: Option<Rank>,
}

impl Best<'_, '_> {
    /// Whether one of this rank would be better than what was found.
    fn wants(&self, rank: Rank) -> bool {
        self.found.is_none_or(|found| rank < found)
    }

    /// Takes the first of these, in order, that holds, where it is better. Their paths hold.
    fn offer(&mut self, ranks: Option<&[Rank]>) {
        let better = ranks.unwrap_or_default().iter().copied().take_while(|rank| self.wants(*rank));
        let holds = |rank: &Rank| {
            let candidate = self.table.candidates.get(*rank as usize);
            candidate.is_some_and(|candidate| candidate.matches_rest(self.request))
        };
        if let Some(rank) = better.into_iter().find(holds) {
            self.found = Some(rank);
        }
    }
}

impl Regexes {
    fn new(list: &[(Rank, String)]) -> Self {
        let set = (list.len() >= SET_FROM).then(|| {
            regex::bytes::RegexSetBuilder::new(list.iter().map(|(_, pattern)| pattern))
                .unicode(false)
                .build()
                .ok()
        });
        Self { ranks: list.iter().map(|(rank, _)| *rank).collect(), set: set.flatten() }
    }

    fn offer(&self, best: &mut Best<'_, '_>) {
        if self.ranks.first().is_none_or(|first| !best.wants(*first)) {
            return;
        }
        let path = best.request.path;
        match &self.set {
            Some(set) => {
                let matched = set.matches(path.as_bytes());
                // A call has two elements, which its pattern alone does not say.
                let holds = |rank: &Rank| {
                    let candidate = best.table.candidates.get(*rank as usize);
                    candidate.is_some_and(|candidate| match &candidate.path {
                        PathRule::GrpcRegex { .. } => candidate.matches_path(path),
                        _ => true,
                    })
                };
                let ranks = matched.iter().filter_map(|at| self.ranks.get(at).copied()).filter(holds);
                let ranks: Vec<Rank> = ranks.collect();
                best.offer(Some(&ranks));
            }
            None => {
                for rank in &self.ranks {
                    let candidate = best.table.candidates.get(*rank as usize);
                    if best.wants(*rank) && candidate.is_some_and(|candidate| candidate.matches_path(path)) {
                        best.offer(Some(&[*rank]));
                    }
                }
            }
        }
    }
}

impl Tree {
    fn insert(&mut self, prefix: &str, rank: Rank) {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let mut at = 0;
        for element in elements(prefix) {
            let next = self.nodes.len();
            let Some(node) = self.nodes.get_mut(at) else { return };
            at = *node.below.entry(element.into()).or_insert(next);
            if at == next {
                self.nodes.push(Node::default());
            }
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.ranks.push(rank);
        }
    }

    /// Offers the candidates of every prefix of the path, from the shortest on: a longer one has lower ranks.
    fn offer(&self, best: &mut Best<'_, '_>) {
        let Some(mut node) = self.nodes.first() else { return };
        let mut elements = elements(best.request.path);
        loop {
            best.offer(Some(&node.ranks));
            let below = elements.next().and_then(|element| node.below.get(element));
            match below.and_then(|at| self.nodes.get(*at)) {
                Some(deeper) => node = deeper,
                None => return,
            }
        }
    }
}

/// The elements of a path: what stands between slashes.
fn elements(path: &str) -> impl Iterator<Item = &str> {
    let inner = path.strip_prefix('/');
    inner.into_iter().flat_map(|inner| inner.split('/'))
}
