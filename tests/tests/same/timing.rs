//! When each side speaks, and how it ends: early, late, never; closed and reset at any byte.

use weft_testbed::scripted::{answer, close, finish, gone, head, reset, rest, say, until, wait, whole};

use crate::case::{
    APP, Case, GET, OK, answers_only, ask, ask_and_again, bad_gateway, case, ok, once, post, silent,
};
use crate::scene::run_table;
use crate::view::View;

/// Where the guide tells of what a connection's end is for.
const UNASKED: &str = "Bytes that arrive while nobody has asked";

/// Where the guide tells of a client's connection behind an early answer of an application that closes.
const KEPT: &str = "What a client still sends is thrown away then, and its connection goes on";

/// Where the guide tells of an application that closes or half-closes behind its early answer.
const UNWANTED: &str = "an application that closes, or half-closes, wants no more of the body";

/// Where the guide tells of a client that ends its connection by a close, which begins as a half-close does.
const LEAVES: &str = "One that is really gone answers the first bytes with a reset";

/// The application has not heard of the client's end, and has the request.
fn nobody_left(view: &View) -> bool {
    view.requests.len() == 1 && view.requests.iter().all(|seen| !seen.left && seen.message.whole)
}

#[test]
fn early() {
    run_table("early", &early_table());
}

#[test]
fn endings() {
    run_table("endings", &endings_table());
}

/// More than any socket's buffers hold.
const LARGE: usize = 15 << 20;

#[expect(clippy::too_many_lines, reason = "a table")]
fn early_table() -> Vec<Case> {
    let refusal = "HTTP/1.1 413 Payload Too Large\r\nContent-Length: 3\r\n\r\nno\n";
    let closing = "HTTP/1.1 413 Payload Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno\n";
    let half = post("Content-Length: 8\r\n", "some");
    let large = post(&format!("Content-Length: {LARGE}\r\n"), &"x".repeat(LARGE));
    let pieces = post("Transfer-Encoding: chunked\r\n", "4\r\nsome\r\n");
    vec![
        case(
            "before the body is read",
            ask_and_again(post("Content-Length: 8\r\n", "somemore")),
            once(vec![head(), say(refusal), whole()]),
        ),
        case(
            "before the body is sent",
            vec![say(&half), answer(), say("more"), wait(50), say(GET), answer()],
            once(vec![head(), say(refusal), whole()]),
        ),
        case(
            "and a pause of the client",
            vec![say(&half), answer(), wait(2500), say("more"), wait(50), say(GET), answer()],
            once(vec![head(), say(refusal), whole()]),
        ),
        case(
            "chunked, and a pause of the client",
            vec![
                say(&pieces),
                answer(),
                wait(2500),
                say("4\r\nmore\r\n0\r\n\r\n"),
                wait(50),
                say(GET),
                answer(),
            ],
            once(vec![head(), say(refusal), whole()]),
        ),
        case(
            "in the middle of the body",
            vec![say(&half), answer(), say("more"), wait(50), say(GET), answer()],
            once(vec![until("so"), say(OK), whole()]),
        ),
        case(
            "head early, body late",
            vec![say(&half), head(), say("more"), answer(), say(GET), answer()],
            once(vec![head(), say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"), whole(), say("ok")]),
        ),
        case(
            "both at once",
            vec![say(&pieces), until("some"), say("4\r\nmore\r\n0\r\n\r\n"), answer(), say(GET), answer()],
            once(vec![
                until("some"),
                say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n"),
                whole(),
                say("4\r\nmore\r\n0\r\n\r\n"),
            ]),
        ),
        case(
            "413, closed without reading",
            vec![say(&half), answer(), rest()],
            once(vec![head(), say(closing), close()]),
        )
        .documented(KEPT, |view| view.status() == "413" && answers_only(view)),
        case(
            "413 to a large upload, read to its end",
            vec![say(&large), answer()],
            once(vec![head(), say(closing), whole(), close()]),
        ),
        case(
            "413 to a large upload, half-closed, then read",
            vec![say(&large), answer()],
            once(vec![head(), say(closing), finish(), gone()]),
        )
        .documented(UNWANTED, |view| {
            view.status() == "413" && answers_only(view) && view.requests.iter().all(|seen| seen.left)
        }),
        case(
            "413 that keeps alive, to a large upload",
            ask_and_again(&large),
            once(vec![head(), say(refusal), whole()]),
        ),
        case(
            "401, then the same again",
            vec![say(&half), answer(), say("more"), say(post("Content-Length: 4\r\n", "body")), answer()],
            once(vec![
                head(),
                say("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"),
                whole(),
            ]),
        ),
        case(
            "while the client waits for 100",
            vec![say(post("Expect: 100-continue\r\nContent-Length: 4\r\n", "")), answer(), close()],
            once(vec![head(), say(refusal), gone()]),
        ),
        case(
            "before the head has ended",
            vec![say("GET / HTTP/1.1\r\nHost: app.shop\r\nX-A:"), answer()],
            once(vec![until("X-A:"), say(closing), close()]),
        )
        .documented("A request is sent on when its head is whole", silent),
        case("twice", ask(GET), once(vec![whole(), say(OK), say(OK)])).documented(UNASKED, answers_only),
        case(
            "twice, the second late",
            vec![say(GET), answer(), wait(200), say(GET), answer()],
            once(vec![whole(), say(OK), wait(100), say(OK)]),
        )
        .documented(UNASKED, answers_only),
        case("late", ask_and_again(GET), once(vec![whole(), wait(1000), say(OK)])),
        case(
            "408 on an idle connection",
            vec![say(GET), answer(), wait(300)],
            once(vec![
                whole(),
                say(OK),
                wait(100),
                say("HTTP/1.1 408 Slow\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"),
                close(),
            ]),
        )
        .documented(UNASKED, answers_only),
        case(
            "closed while idle, then asked again",
            vec![say(GET), answer(), wait(200), say(GET), answer()],
            once(vec![whole(), say(OK), close()]),
        )
        .documented("one that closes does not close the other", answers_only),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn endings_table() -> Vec<Case> {
    let gateway = "An application that ends the connection before it has answered";
    let broken = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome";
    let broken_chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n";
    let half = post("Content-Length: 8\r\n", "some");
    let pieces = post("Transfer-Encoding: chunked\r\n", "4\r\nsome\r\n");
    let leaving = [until("some"), gone()].to_vec();
    vec![
        case("closed without an answer", ask(GET), vec![vec![whole(), close()]])
            .documented(gateway, bad_gateway),
        case("reset without an answer", ask(GET), vec![vec![whole(), reset()]])
            .documented(gateway, bad_gateway),
        case(
            "closed in the head",
            ask(GET),
            vec![vec![whole(), say("HTTP/1.1 200 OK\r\nContent-Le"), close()]],
        )
        .documented(gateway, bad_gateway),
        case(
            "reset in the head",
            ask(GET),
            vec![vec![whole(), say("HTTP/1.1 200 OK\r\nContent-Le"), wait(50), reset()]],
        )
        .documented(gateway, bad_gateway),
        case(
            "closed behind 103",
            ask(GET),
            vec![vec![whole(), say("HTTP/1.1 103 Early Hints\r\n\r\n"), close()]],
        )
        .documented(gateway, bad_gateway),
        case("closed in the body", vec![say(GET), rest()], vec![vec![whole(), say(broken), close()]]),
        case(
            "reset in the body",
            vec![say(GET), rest()],
            vec![vec![whole(), say(broken), wait(50), reset()]],
        ),
        case(
            "closed in a chunk",
            vec![say(GET), rest()],
            vec![vec![
                whole(),
                say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nsome"),
                close(),
            ]],
        ),
        case(
            "closed between chunks",
            vec![say(GET), rest()],
            vec![vec![whole(), say(broken_chunks), close()]],
        ),
        case(
            "reset between chunks",
            vec![say(GET), rest()],
            vec![vec![whole(), say(broken_chunks), wait(50), reset()]],
        ),
        case(
            "closed in the trailers",
            vec![say(GET), rest()],
            vec![vec![whole(), say(broken_chunks), say("0\r\nX-Su"), close()]],
        ),
        case(
            "reset in an answer to the end",
            vec![say(GET), rest()],
            vec![vec![whole(), say("HTTP/1.1 200 OK\r\n\r\nsome"), wait(50), reset()]],
        ),
        case(
            "closed in an answer to the end, for HTTP/1.0",
            vec![say("GET / HTTP/1.0\r\n\r\n"), rest()],
            vec![vec![whole(), say("HTTP/1.0 200 OK\r\n\r\nsome"), close()]],
        ),
        case(
            "reset in an answer to the end, for HTTP/1.0",
            vec![say("GET / HTTP/1.0\r\n\r\n"), rest()],
            vec![vec![whole(), say("HTTP/1.0 200 OK\r\n\r\nsome"), wait(50), reset()]],
        ),
        case(
            "a chunk size that is none",
            vec![say(GET), rest()],
            vec![vec![whole(), say(broken_chunks), say("zz\r\n"), close()]],
        ),
        case(
            "closed in a large upload",
            vec![say(post(&format!("Content-Length: {LARGE}\r\n"), &"x".repeat(1 << 20))), rest()],
            vec![vec![head(), wait(50), close()]],
        )
        .documented(gateway, bad_gateway),
        case(
            "the client closes before an answer",
            vec![say(GET), wait(100), close()],
            vec![vec![whole(), gone()]],
        )
        .documented(LEAVES, nobody_left),
        case(
            "the client resets before an answer",
            vec![say(GET), wait(100), reset()],
            vec![vec![whole(), gone()]],
        ),
        case(
            "the client closes in its head",
            vec![say("GET / HTTP/1.1\r\nHost: ap"), wait(100), close()],
            vec![vec![gone()]],
        )
        .documented("A request is sent on when its head is whole", silent),
        case("the client closes in its body", vec![say(&half), wait(100), close()], vec![leaving.clone()]),
        case("the client resets in its body", vec![say(&half), wait(100), reset()], vec![leaving.clone()]),
        case(
            "the client half-closes in its body",
            vec![say(&half), wait(100), finish(), rest()],
            vec![vec![until("some"), gone(), close()]],
        ),
        case("the client closes between chunks", vec![say(&pieces), wait(100), close()], vec![leaving]),
        case(
            "the client closes in the answer",
            vec![say(GET), until("some"), close()],
            vec![vec![whole(), say(broken), gone()]],
        )
        .documented(LEAVES, nobody_left),
        case(
            "the client resets in the answer",
            vec![say(GET), until("some"), reset()],
            vec![vec![whole(), say(broken_chunks), gone()]],
        ),
        case(
            "an answer for a client that asked for the end",
            vec![say(format!("GET / HTTP/1.1\r\nHost: {APP}\r\nConnection: close\r\n\r\n")), rest()],
            ok().into_iter()
                .map(|mut script| {
                    script.push(close());
                    script
                })
                .collect(),
        ),
    ]
}
