//! The differences that `docs/guide/protocols.md` tells of: each with words of that page, and what it does to a view so
//! that the two ways become the same.

use weft_testbed::scripted::{Ending, Field, Framing, Message};

use crate::view::View;

const PAGE: &str = include_str!("../../../docs/guide/protocols.md");

/// What a sidecar adds to a request for the application.
const ADDED: [&str; 7] = [
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-request-id",
    "traceparent",
    "tracestate",
    "b3",
];

/// What concerns one connection only.
const HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "http2-settings", "upgrade"];

/// What each hop writes by itself, wherever it stands in the head.
const OWN: [&str; 3] = ["host", "content-length", "trailer"];

/// A difference that the guide tells of.
pub(crate) struct Documented {
    /// Words of the page.
    pub(crate) words: &'static str,
    /// Takes the difference out of a view.
    apply: fn(&mut View),
}

/// All of them.
pub(crate) const DOCUMENTED: [Documented; 10] = [
    Documented { words: "| header | what the application gets |", apply: added },
    Documented { words: "Removed at each hop, both ways: `Connection` and what it lists", apply: hop_by_hop },
    Documented { words: "each side frames its own", apply: framing },
    Documented { words: "Fields that each hop writes by itself", apply: own_place },
    Documented {
        words: "The client's connection and the application's are kept alive independently",
        apply: apart,
    },
    Documented { words: "`Host` is replaced by the target's name", apply: host_of_target },
    Documented { words: "The version in a status line is the client's", apply: version },
    Documented { words: "folded lines are joined by a space", apply: unfold },
    Documented { words: "A reset by the application reaches a client of HTTP/1.1 as a close", apply: reset },
    Documented { words: "1xx and 204 lose a `content-length`", apply: lengthless },
];

/// Takes all documented differences out of a view.
pub(crate) fn settle(view: &mut View) {
    // `apart` looks at what `hop_by_hop` takes away.
    let order = [8, 4, 1, 0, 2, 3, 5, 6, 7, 9];
    for index in order {
        (DOCUMENTED[index].apply)(view);
    }
}

/// Whether the page has these words, however its lines are broken.
pub(crate) fn page_has(words: &str) -> bool {
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    squeeze(PAGE).contains(&squeeze(words))
}

fn messages(view: &mut View) -> impl Iterator<Item = &mut Message> {
    view.answers.iter_mut().chain(view.requests.iter_mut().map(|seen| &mut seen.message))
}

fn without(message: &mut Message, names: &[&str]) {
    message.fields.retain(|field| !names.iter().any(|name| field.is(name)));
}

fn added(view: &mut View) {
    for seen in &mut view.requests {
        without(&mut seen.message, &ADDED);
    }
}

fn hop_by_hop(view: &mut View) {
    for message in messages(view) {
        let switching =
            message.status() == "101" || message.values("upgrade").any(|value| !value.contains("h2c"));
        let listed: Vec<String> = message
            .values("connection")
            .flat_map(|value| value.split(','))
            .map(|name| name.trim().to_owned())
            .filter(|name| !(switching && name.eq_ignore_ascii_case("upgrade")))
            .collect();
        message.fields.retain(|field| !listed.iter().any(|name| field.is(name)));
        message
            .fields
            .retain(|field| !HOP.iter().any(|name| field.is(name)) || (switching && field.is("upgrade")));
    }
}

/// An answer that the connection's end would frame is chunked for a client of HTTP/1.1.
fn framing(view: &mut View) {
    for answer in &mut view.answers {
        if answer.framing == Framing::End {
            answer.framing = Framing::Chunked;
        }
    }
}

fn own_place(view: &mut View) {
    for message in messages(view) {
        let own = |field: &Field| OWN.iter().position(|name| field.is(name)).unwrap_or(OWN.len());
        message.fields.sort_by_key(own);
    }
}

/// Where every answer is whole and the client did not ask for the end, its connection may stay or go.
fn apart(view: &mut View) {
    let asked = view.asked.iter().any(|request| {
        request.values("connection").any(|value| value.eq_ignore_ascii_case("close"))
            || (request.start.ends_with("HTTP/1.0") && request.values("connection").next().is_none())
    });
    let whole = view.answers.iter().all(|answer| answer.whole) && !view.answers.is_empty();
    if whole && !asked && view.ending == Ending::Closed {
        view.ending = Ending::Open;
    }
}

/// The target's name rules (RFC 9112 section 3.2.2).
fn host_of_target(view: &mut View) {
    for seen in &mut view.requests {
        if seen.message.start.contains(" http://") {
            without(&mut seen.message, &["host"]);
        }
    }
}

fn version(view: &mut View) {
    for answer in &mut view.answers {
        if let Some((_, rest)) = answer.start.split_once(' ') {
            answer.start = format!("HTTP/1.x {rest}");
        }
    }
}

fn unfold(view: &mut View) {
    for field in view.answers.iter_mut().flat_map(|answer| &mut answer.fields) {
        let lines: Vec<&str> = field.value.split("\r\n").map(|line| line.trim_matches([' ', '\t'])).collect();
        field.value = lines.join(" ").trim().to_owned();
        field.name.truncate(field.name.trim_end().len());
    }
}

/// Its answers say by themselves whether they are whole; for HTTP/1.0 only the connection's end may say it.
fn reset(view: &mut View) {
    let new = view.asked.iter().all(|request| request.start.ends_with("HTTP/1.1"));
    let upgraded = view.answers.iter().any(|answer| answer.start.contains(" 101 "));
    if new && !upgraded && !view.answers.is_empty() && view.ending == Ending::Reset {
        view.ending = Ending::Closed;
    }
}

/// RFC 9110 section 8.6.
fn lengthless(view: &mut View) {
    for answer in &mut view.answers {
        if answer.status().starts_with('1') || answer.status() == "204" {
            without(answer, &["content-length"]);
        }
    }
}

/// The same for what real programs print: fields are lines that begin with `> `, in the order in which they came.
pub(crate) fn settle_text(lines: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut fields: Vec<String> = Vec::new();
    for line in lines {
        let Some(field) = line.strip_prefix("> ") else {
            fields.sort();
            out.append(&mut fields);
            out.push(line.clone());
            continue;
        };
        let (name, value) = field.split_once(':').unwrap_or((field, ""));
        let name = name.to_ascii_lowercase();
        // Dates are of the moment.
        let value = if name == "date" { " (now)" } else { value };
        if ADDED.iter().chain(&HOP).all(|one| *one != name) {
            fields.push(format!("> {name}:{value}"));
        }
    }
    fields.sort();
    out.append(&mut fields);
    out
}

#[test]
fn every_documented_difference_is_in_the_guide() {
    let missing: Vec<_> = DOCUMENTED.iter().map(|one| one.words).filter(|words| !page_has(words)).collect();
    assert!(missing.is_empty(), "not in docs/guide/protocols.md: {missing:#?}");
}
