//! The table against a naive reading of the specification, and each of its rules alone.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use weft_resource::http::ValueMatch;
use weft_resource::value::{HostPattern, Regex};
use weft_resource::{Kind, ResourceId};

use super::{Candidate, HttpTable, PathRule};
use crate::age::Age;
use crate::filter::Filters;
use crate::program::{Backends, Rule, RuleId};
use crate::request::RequestView;

/// A match as it is written, from which the candidate and the naive reading are made.
#[derive(Clone, Debug)]
struct Written {
    host: Option<&'static str>,
    path: Path,
    method: Option<Method>,
    headers: Vec<(&'static str, Value)>,
    query: Vec<(&'static str, Value)>,
    made: Option<&'static str>,
    namespace: &'static str,
    name: String,
    rule: usize,
    index: usize,
}

#[derive(Clone, Copy, Debug)]
enum Path {
    Exact(&'static str),
    Prefix(&'static str),
    Regex(&'static str),
    GrpcMethod(&'static str),
}

#[derive(Clone, Copy, Debug)]
enum Value {
    Exact(&'static str),
    Regex(&'static str),
}

impl Default for Written {
    fn default() -> Self {
        Self {
            host: None,
            path: Path::Prefix("/"),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
            made: None,
            namespace: "shop",
            name: "r".to_owned(),
            rule: 0,
            index: 0,
        }
    }
}

fn value(value: Value) -> ValueMatch {
    match value {
        Value::Exact(text) => ValueMatch::Exact(text.to_owned()),
        Value::Regex(text) => ValueMatch::Regex(compiled(text)),
    }
}

/// An expression, compiled once for all of the random sets.
fn compiled(text: &'static str) -> Regex {
    thread_local!(static KNOWN: RefCell<HashMap<&'static str, Regex>> = RefCell::default());
    KNOWN.with_borrow_mut(|known| known.entry(text).or_insert_with(|| text.parse().unwrap()).clone())
}

impl Written {
    fn label(&self) -> String {
        format!("{}/{} {}.{}", self.namespace, self.name, self.rule, self.index)
    }

    fn entry(&self) -> (Option<HostPattern>, Candidate) {
        let rule = Rule {
            id: RuleId {
                route: ResourceId::new(Kind::HttpRoute, self.namespace, &self.name),
                index: self.rule,
                name: None,
            },
            label: self.label().into(),
            grpc: false,
            filters: Filters::default(),
            backends: Backends::default(),
            request_timeout: None,
            try_timeout: None,
            retry: None,
            session: None,
        };
        let candidate = Candidate {
            path: match self.path {
                Path::Exact(path) => PathRule::Exact(path.into()),
                Path::Prefix(path) => PathRule::Prefix(path.trim_end_matches('/').into()),
                Path::Regex(regex) => PathRule::Regex(compiled(regex)),
                Path::GrpcMethod(method) => PathRule::GrpcMethod(method.into()),
            },
            method: self.method.clone(),
            headers: self.headers.iter().map(|(name, of)| (name.parse().unwrap(), value(*of))).collect(),
            query: self.query.iter().map(|(name, of)| ((*name).to_owned(), value(*of))).collect(),
            age: self.made.map_or(Age::Unknown, Age::read),
            index: self.index,
            rule: Arc::new(rule),
        };
        (self.host.map(|host| host.parse().unwrap()), candidate)
    }
}

/// A request as it is written.
#[derive(Clone, Debug)]
struct Asked {
    host: &'static str,
    method: Method,
    path: &'static str,
    /// The query, and what a form's decoder reads in it.
    query: (Option<&'static str>, &'static [(&'static str, &'static str)]),
    headers: Vec<(&'static str, &'static str)>,
}

impl Default for Asked {
    fn default() -> Self {
        Self { host: "a.example", method: Method::GET, path: "/", query: (None, &[]), headers: Vec::new() }
    }
}

/// The rule of a request, as its label.
fn found(table: &HttpTable, asked: &Asked) -> Option<String> {
    let mut headers = HeaderMap::new();
    for (name, value) in &asked.headers {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let Asked { host, method, path, query, .. } = asked;
    let request = RequestView { host, method, path, query: query.0, headers: &headers };
    table.find(&request).map(|found| found.rule.label.to_string())
}

fn table(written: &[Written]) -> HttpTable {
    HttpTable::new(written.iter().map(Written::entry))
}

/// The specification, read word by word.
mod naive {
    use super::{Asked, HashMap, Path, RefCell, Reverse, Value, Written};

    fn whole(regex: &'static str, text: &str) -> bool {
        thread_local!(static KNOWN: RefCell<HashMap<&'static str, regex::Regex>> = RefCell::default());
        let compile = || regex::Regex::new(&format!("\\A(?:{regex})\\z")).unwrap();
        KNOWN.with_borrow_mut(|known| known.entry(regex).or_insert_with(compile).is_match(text))
    }

    /// The more specific a host name, the less: an exact one, then by length.
    fn host(pattern: Option<&str>, host: &str) -> Option<(u8, Reverse<usize>)> {
        match pattern {
            None => Some((2, Reverse(0))),
            Some(pattern) => match pattern.strip_prefix('*') {
                None => (pattern == host).then_some((0, Reverse(pattern.len()))),
                Some(tail) => {
                    (host.len() > tail.len() && host.ends_with(tail)).then_some((1, Reverse(pattern.len())))
                }
            },
        }
    }

    fn path(rule: Path, path: &str) -> Option<(u8, Reverse<usize>)> {
        match rule {
            Path::Exact(exact) => (exact == path).then_some((0, Reverse(exact.len()))),
            Path::Regex(regex) => whole(regex, path).then_some((1, Reverse(regex.len()))),
            Path::Prefix(prefix) => {
                let mut theirs = path.split('/').skip(1);
                let mut ours: Vec<&str> = prefix.split('/').skip(1).collect();
                if ours.last() == Some(&"") {
                    ours.pop();
                }
                let length = prefix.trim_end_matches('/').len();
                let rank = if length == 0 { 4 } else { 2 };
                ours.iter().all(|our| theirs.next() == Some(*our)).then_some((rank, Reverse(length)))
            }
            Path::GrpcMethod(method) => {
                let parts: Vec<&str> = path.split('/').collect();
                let is_call = parts.len() == 3 && parts.iter().skip(1).all(|part| !part.is_empty());
                (is_call && parts.last() == Some(&method)).then_some((3, Reverse(method.len())))
            }
        }
    }

    fn value(wanted: Value, text: &str) -> bool {
        match wanted {
            Value::Exact(exact) => exact == text,
            Value::Regex(regex) => whole(regex, text),
        }
    }

    fn rest(written: &Written, asked: &Asked) -> bool {
        let header = |name: &str| {
            let lines: Vec<&str> =
                asked.headers.iter().filter(|(n, _)| *n == name).map(|(_, v)| *v).collect();
            (!lines.is_empty()).then(|| lines.join(","))
        };
        let query = |name: &str| asked.query.1.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        written.method.as_ref().is_none_or(|method| *method == asked.method)
            && written.headers.iter().all(|(name, of)| header(name).is_some_and(|text| value(*of, &text)))
            && written.query.iter().all(|(name, of)| query(name).is_some_and(|text| value(*of, text)))
    }

    pub(super) fn find(all: &[Written], asked: &Asked) -> Option<String> {
        let fits = |written: &&Written| rest(written, asked);
        let each = all.iter().filter(fits).filter_map(|written| {
            let order = (
                host(written.host, asked.host)?,
                path(written.path, asked.path)?,
                written.method.is_none(),
                Reverse(written.headers.len()),
                Reverse(written.query.len()),
                (written.made.is_none(), written.made),
                format!("{}/{}", written.namespace, written.name),
                (written.rule, written.index),
            );
            Some((order, written.label()))
        });
        each.min().map(|(_, label)| label)
    }
}

const HOSTS: [Option<&str>; 7] = [
    None,
    Some("a.example"),
    Some("b.a.example"),
    Some("*.example"),
    Some("*.a.example"),
    Some("*.b.a.example"),
    Some("example"),
];
const PATHS: [Path; 14] = [
    Path::Prefix("/"),
    Path::Prefix("/"),
    Path::Prefix("/a"),
    Path::Prefix("/a/"),
    Path::Prefix("/a/b"),
    Path::Prefix("/a/b/c"),
    Path::Prefix("/ab"),
    Path::Exact("/"),
    Path::Exact("/a"),
    Path::Exact("/a/"),
    Path::Exact("/a/b"),
    Path::GrpcMethod("b"),
    Path::Regex("/a.*"),
    Path::Regex("/[ab]/b"),
];
const ASKED: [&str; 11] =
    ["/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c/d", "/ab", "/abc", "/c/b", "/b/b", "/A"];
type Query = (Option<&'static str>, &'static [(&'static str, &'static str)]);
const QUERIES: [Query; 6] = [
    (None, &[]),
    (Some("q=1"), &[("q", "1")]),
    (Some("q=2&q=1"), &[("q", "2"), ("q", "1")]),
    (Some("%71=1&p=x+y"), &[("q", "1"), ("p", "x y")]),
    (Some("&&p=x%20y&"), &[("p", "x y")]),
    (Some("p"), &[("p", "")]),
];
const HEADERS: [&[(&str, &str)]; 5] =
    [&[], &[("x-a", "1")], &[("x-a", "1"), ("x-b", "2")], &[("x-a", "1"), ("x-a", "2")], &[("x-b", "22")]];

fn one<T: Copy>(rng: &mut fastrand::Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())]
}

fn written(rng: &mut fastrand::Rng, at: usize) -> Written {
    let headers = [("x-a", Value::Exact("1")), ("x-a", Value::Exact("1,2")), ("x-b", Value::Regex("2+"))];
    let query = [("q", Value::Exact("1")), ("p", Value::Exact("x y")), ("p", Value::Regex("x?.*"))];
    let mut some = |from: &[(&'static str, Value)]| match rng.u8(..6) {
        0 | 1 => vec![one(rng, from)],
        2 => vec![from[0], from[2]],
        _ => Vec::new(),
    };
    let (headers, query) = (some(&headers), some(&query));
    Written {
        host: one(rng, &HOSTS),
        path: one(rng, &PATHS),
        method: one(rng, &[None, None, Some(0), Some(1)])
            .map(|at: usize| [Method::GET, Method::POST][at].clone()),
        headers,
        query,
        made: one(rng, &[None, None, Some("2024-01-01T00:00:00Z"), Some("2024-01-02T00:00:00Z")]),
        namespace: one(rng, &["a", "a-b", "b"]),
        name: one(rng, &["r", "s"]).to_owned(),
        // Two matches of one place would have the same order.
        rule: at / 3,
        index: at,
    }
}

fn asked(rng: &mut fastrand::Rng) -> Asked {
    Asked {
        host: one(rng, &["a.example", "b.a.example", "c.b.a.example", "c.example", "example", "other"]),
        method: [Method::GET, Method::POST, Method::PUT][rng.usize(..3)].clone(),
        path: one(rng, &ASKED),
        query: one(rng, &QUERIES),
        headers: one(rng, &HEADERS).to_vec(),
    }
}

#[test]
fn the_table_finds_what_a_naive_reading_finds() {
    let mut hits = 0;
    for seed in 0..10_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let count = rng.usize(1..16);
        let all: Vec<Written> = (0..count).map(|at| written(&mut rng, at)).collect();
        let table = table(&all);
        for _ in 0..8 {
            let asked = asked(&mut rng);
            let expected = naive::find(&all, &asked);
            hits += usize::from(expected.is_some());
            assert_eq!(found(&table, &asked), expected, "seed {seed}: {asked:?} in {all:#?}");
        }
    }
    assert!(hits > 15_000, "the requests hit too seldom: {hits}");
}

/// Each pair: the first wins over the second for a request that both match.
#[test]
fn each_rule_of_precedence_alone() {
    let named = |name: &str, of: Written| Written { name: name.to_owned(), ..of };
    let path = |path: Path| Written { path, ..Written::default() };
    let hosted = |host: Option<&'static str>| Written { host, ..Written::default() };
    let get = Some(Method::GET);
    let header = ("x-a", Value::Exact("1"));
    let query = ("q", Value::Exact("1"));
    let made = |made: Option<&'static str>| Written { made, ..Written::default() };
    let pairs = [
        ("an exact host name", hosted(Some("a.example")), hosted(Some("*.example"))),
        ("a host name at all", hosted(Some("*.example")), hosted(None)),
        (
            "a host name before a path",
            Written { path: Path::Prefix("/"), ..hosted(Some("a.example")) },
            path(Path::Exact("/a/b")),
        ),
        ("an exact path", path(Path::Exact("/a/b")), path(Path::Prefix("/a/b"))),
        ("an exact path before a regular expression", path(Path::Exact("/a/b")), path(Path::Regex("/a/b.*"))),
        ("a regular expression before a prefix", path(Path::Regex("/.*")), path(Path::Prefix("/a/b"))),
        ("the longer expression", path(Path::Regex("/a/.*")), path(Path::Regex("/.*"))),
        ("the longer prefix", path(Path::Prefix("/a/b")), path(Path::Prefix("/a"))),
        ("a prefix before the root", path(Path::Prefix("/a")), path(Path::Prefix("/"))),
        (
            "a path before a method",
            path(Path::Prefix("/a")),
            Written { method: get.clone(), ..Written::default() },
        ),
        (
            "a method",
            Written { method: get, ..Written::default() },
            Written { headers: vec![header], ..Written::default() },
        ),
        (
            "headers",
            Written { headers: vec![header], ..Written::default() },
            Written { query: vec![query], ..Written::default() },
        ),
        ("a query", Written { query: vec![query], ..Written::default() }, Written::default()),
        ("the older", made(Some("2024-01-01T00:00:00Z")), made(Some("2024-01-01T00:00:01Z"))),
        ("one with an age", made(Some("2024-01-01T00:00:00Z")), made(None)),
    ];
    let asked = Asked { path: "/a/b", headers: vec![("x-a", "1")], query: QUERIES[1], ..Asked::default() };
    for (what, first, second) in pairs {
        // The names speak against the first, so that they cannot be what decides.
        let both = [named("a", second), named("z", first)];
        assert_eq!(found(&table(&both), &asked).as_deref(), Some("shop/z 0.0"), "{what}");
    }
}

#[test]
fn ties_are_broken_by_name_rule_and_match() {
    let of = |namespace, name: &str, rule, index| Written {
        namespace,
        name: name.to_owned(),
        rule,
        index,
        ..Written::default()
    };
    let asked = Asked::default();
    for (first, second) in [
        (of("a-b", "z", 9, 9), of("a", "a", 0, 0)),
        (of("a", "a", 9, 9), of("a", "b", 0, 0)),
        (of("a", "a", 0, 9), of("a", "a", 1, 0)),
        (of("a", "a", 0, 0), of("a", "a", 0, 1)),
    ] {
        let expected = first.label();
        assert_eq!(found(&table(&[second, first]), &asked), Some(expected));
    }
}

#[test]
fn prefixes_are_matched_by_element() {
    for (prefix, path, hit) in [
        ("/abc", "/abc", true),
        ("/abc", "/abc/", true),
        ("/abc", "/abc/def", true),
        ("/abc/", "/abc", true),
        ("/abc", "/abcd", false),
        ("/abc", "/ab", false),
        ("/abc", "/ABC", false),
        ("/", "/anything", true),
        ("/a%2Fb", "/a%2Fb/c", true),
        ("/a", "/a%2Fb", false),
    ] {
        let written = Written { path: Path::Prefix(prefix), ..Written::default() };
        assert_eq!(
            found(&table(&[written]), &Asked { path, ..Asked::default() }).is_some(),
            hit,
            "{prefix} {path}"
        );
    }
}

#[test]
fn an_exact_path_is_exact() {
    let written = Written { path: Path::Exact("/a"), ..Written::default() };
    for (path, hit) in [("/a", true), ("/a/", false), ("/A", false), ("/a/b", false), ("/", false)] {
        assert_eq!(
            found(&table(std::slice::from_ref(&written)), &Asked { path, ..Asked::default() }).is_some(),
            hit,
            "{path}"
        );
    }
}

#[test]
fn headers_are_one_value_each() {
    for (wanted, headers, hit) in [
        (Value::Exact("1"), vec![("x-a", "1")], true),
        (Value::Exact("1"), vec![("x-a", "1"), ("x-a", "2")], false),
        (Value::Exact("1,2"), vec![("x-a", "1"), ("x-a", "2")], true),
        (Value::Exact("1"), vec![], false),
        (Value::Exact("a"), vec![("x-a", "A")], false),
        (Value::Exact(""), vec![("x-a", "")], true),
        (Value::Regex("v\\d"), vec![("x-a", "v1")], true),
        (Value::Regex("v\\d"), vec![("x-a", "xv1")], false),
        (Value::Regex("v\\d"), vec![("x-a", "v12")], false),
        (Value::Regex("a|b"), vec![("x-a", "ab")], false),
    ] {
        let written = Written { headers: vec![("X-A", wanted)], ..Written::default() };
        let asked = Asked { headers: headers.clone(), ..Asked::default() };
        assert_eq!(found(&table(&[written]), &asked).is_some(), hit, "{wanted:?} {headers:?}");
    }
}

#[test]
fn queries_are_decoded_and_the_first_counts() {
    for (name, wanted, query, hit) in [
        ("q", "1", Some("q=1"), true),
        ("q", "1", Some("q=2&q=1"), false),
        ("q", "1", Some("Q=1"), false),
        ("q", "a b", Some("q=a+b"), true),
        ("q", "a b", Some("q=a%20b"), true),
        ("q", "a+b", Some("q=a%2Bb"), true),
        ("q", "é", Some("q=%C3%A9"), true),
        ("a b", "1", Some("a+b=1"), true),
        ("q", "", Some("q"), true),
        ("q", "", Some("q="), true),
        ("q", "a=b", Some("q=a=b"), true),
        ("q", "%zz", Some("q=%zz"), true),
        ("q", "1", Some("&&x&q=1"), true),
        ("q", "1", Some(""), false),
        ("q", "1", None, false),
    ] {
        let written = Written { query: vec![(name, Value::Exact(wanted))], ..Written::default() };
        let asked = Asked { query: (query, &[]), ..Asked::default() };
        assert_eq!(found(&table(&[written]), &asked).is_some(), hit, "{name}={wanted} in {query:?}");
    }
}

#[test]
fn a_wildcard_is_for_every_depth_and_not_for_its_own_name() {
    let written = Written { host: Some("*.example"), ..Written::default() };
    for (host, hit) in [
        ("a.example", true),
        ("b.a.example", true),
        ("example", false),
        ("aexample", false),
        ("a.example.org", false),
        (".example", false),
    ] {
        assert_eq!(
            found(&table(std::slice::from_ref(&written)), &Asked { host, ..Asked::default() }).is_some(),
            hit,
            "{host}"
        );
    }
}

#[test]
fn rules_of_a_wider_host_are_asked_where_none_of_the_narrower_matches() {
    let narrow = Written {
        host: Some("a.example"),
        path: Path::Exact("/only"),
        name: "narrow".to_owned(),
        ..Written::default()
    };
    let wide = Written { host: Some("*.example"), name: "wide".to_owned(), ..Written::default() };
    let table = table(&[narrow, wide]);
    let at = |path| found(&table, &Asked { path, ..Asked::default() });
    assert_eq!(at("/only").as_deref(), Some("shop/narrow 0.0"));
    assert_eq!(at("/else").as_deref(), Some("shop/wide 0.0"));
}

#[test]
fn many_expressions_are_matched_together() {
    let patterns = ["/a/[0-9]+", "/b/.*", "/c|/d", "/[a-z]/1", "/a/.*"];
    let all: Vec<Written> = patterns
        .iter()
        .enumerate()
        .map(|(index, regex)| Written { path: Path::Regex(regex), index, ..Written::default() })
        .collect();
    let table = table(&all);
    for path in ["/a/1", "/a/x", "/b/", "/c", "/d", "/z/1", "/z/2", "/a/1/2", "/"] {
        let asked = Asked { path, ..Asked::default() };
        assert_eq!(found(&table, &asked), naive::find(&all, &asked), "{path}");
    }
}
