//! Answers, ordinary and odd.

use weft_testbed::scripted::{
    Framing, Message, Script, answer, close, drip, finish, gone, head, reset, rest, say, until, wait, whole,
};

use crate::case::{
    Case, GET, OK, TOGETHER, answers_only, ask, ask_and_again, bad_gateway, by_name, bytes, case, first, get,
    once, reply, with,
};
use crate::scene::run_table;
use crate::view::View;

/// Where the guide tells of what a connection's end is for.
const UNASKED: &str = "Bytes that arrive while nobody has asked";

/// The answer has one length.
fn one_length(view: &View) -> bool {
    view.answers.iter().all(|answer| answer.values("content-length").eq(["2"]))
}

/// The answer is framed by its chunks, and has no length.
fn chunks_count(view: &View) -> bool {
    let chunked = |answer: &Message| {
        answer.framing == Framing::Chunked && answer.whole && answer.values("content-length").next().is_none()
    };
    view.answers.iter().all(chunked)
}

#[test]
fn heads() {
    run_table("answer-heads", &heads_table());
}

#[test]
fn bodies() {
    run_table("answer-bodies", &bodies_table());
}

#[test]
fn interim() {
    run_table("answer-interim", &interim_table());
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn heads_table() -> Vec<Case> {
    let status = |line: &str| format!("HTTP/1.1 {line}\r\nContent-Length: 2\r\n\r\nok");
    vec![
        case("an ordinary answer", ask_and_again(GET), first(OK)),
        case("a reason phrase", ask_and_again(GET), first(status("200 Very Fine"))),
        case("no reason phrase", ask_and_again(GET), first(status("200 "))),
        case("no reason phrase, nor its space", ask_and_again(GET), first(status("200")))
            .documented("A status line without a space behind its status gets one", |view| {
                view.answers.first().is_some_and(|answer| answer.start == "HTTP/1.x 200 ")
            }),
        case("a reason phrase of Latin-1", ask_and_again(GET), first(bytes(&status("404 Pas trouvé")))),
        case("a status nobody knows", ask_and_again(GET), first(status("299 Odd"))),
        case("603 <none>", ask_and_again(GET), first(status("603 <none>"))),
        case("999", ask_and_again(GET), first(status("999 Request denied"))),
        case(
            "Train-Case",
            ask(GET),
            reply(with("X-Request-Cost: 1\r\nETag: \"a\"\r\nWWW-Authenticate: Basic\r\n")),
        ),
        case(
            "lower case",
            ask(GET),
            reply("HTTP/1.1 200 OK\r\nx-one: 1\r\netag: \"a\"\r\ncontent-length: 2\r\n\r\nok"),
        ),
        case("mixed case", ask(GET), reply(with("x-one: 1\r\nX-TWO: 2\r\nx-Three: 3\r\n"))),
        case("order across names", ask(GET), reply(with("Z: 1\r\nA: 2\r\nM: 3\r\nB: 4\r\n"))),
        case("order within a name", ask(GET), reply(with("A: 1\r\nB: x\r\nA: 2\r\nB: y\r\nA: 3\r\n")))
            .documented(TOGETHER, |view| view.answers.iter().all(by_name)),
        case(
            "several cookies",
            ask(GET),
            reply(with("Set-Cookie: a=1\r\nX: y\r\nSet-Cookie: b=2; Path=/\r\n")),
        )
        .documented(TOGETHER, |view| {
            let names =
                |answer: &Message| answer.fields.iter().map(|field| field.name.clone()).collect::<Vec<_>>();
            view.answers
                .iter()
                .all(|answer| names(answer).ends_with(&["Set-Cookie", "Set-Cookie", "X"].map(String::from)))
        }),
        case("an empty value", ask(GET), reply(with("X-Empty:\r\nX-Blank:  \r\n"))),
        case("a value of Latin-1", ask(GET), reply(bytes(&with("X-Name: café ÿ\r\n")))),
        case("a value of UTF-8", ask(GET), reply(with("X-Name: žluťoučký\r\n"))),
        case("a value with a tab", ask(GET), reply(with("X-Tab: a\tb\r\n"))),
        case("a value with inner spaces", ask(GET), reply(with("X-Space: a  b   c\r\n"))),
        case("no space behind the colon", ask(GET), reply(with("X-Tight:1\r\nX-Wide:   2   \r\n"))),
        case("a space before the colon", ask_and_again(GET), first(with("X-A : b\r\n"))),
        case("a folded line", ask_and_again(GET), first(with("X-Fold: one\r\n two\r\n\tthree\r\n"))),
        case("a name with odd characters", ask(GET), reply(with("X-!#$%&'*+.^_`|~: 1\r\n"))),
        case(
            "a date and a server of its own",
            ask(GET),
            reply(with("Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: x\r\n")),
        ),
        case(
            "bare line feeds",
            vec![say(GET), until("ok")],
            once(vec![whole(), say("HTTP/1.1 200 OK\nX-A: b\nContent-Length: 2\n\nok")]),
        )
        .documented("A line feed alone ends a line as well", |view| view.status() == "200"),
        case("a long value", ask(GET), reply(with(&format!("X-Long: {}\r\n", "v".repeat(20_000))))),
        case(
            "ninety fields",
            ask(GET),
            reply(with(&(0..90).map(|n| format!("X-{n}: {n}\r\n")).collect::<String>())),
        ),
        case("HTTP/1.0", ask(GET), reply("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")),
        case(
            "what a proxy writes",
            ask(GET),
            reply(with("Via: 1.1 x\r\nAge: 1\r\nX-Forwarded-For: 192.0.2.1\r\n")),
        ),
        case("no status line", ask(GET), once(vec![whole(), say("SSH-2.0-x\r\n\r\n"), close()]))
            .documented("An answer that is no HTTP", bad_gateway),
        case("HTTP/0.9", ask(GET), once(vec![whole(), say("<html>old</html>"), close()]))
            .documented("An answer that is no HTTP", bad_gateway),
    ]
}

fn bodies_table() -> Vec<Case> {
    let only = |method: &str| format!("{method} / HTTP/1.1\r\nHost: app.shop\r\n\r\n");
    let chunked = |head: &str, rest: &str| {
        format!("HTTP/1.1 200 OK\r\n{head}Transfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n0\r\n{rest}\r\n")
    };
    let trailing = chunked("Trailer: X-Sum\r\n", "X-Sum: 1\r\n");
    let big = format!("HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n{}", "x".repeat(300_000));
    let tell = "TE: trailers\r\nConnection: TE\r\n";
    vec![
        case("an empty body", ask_and_again(GET), first("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")),
        case("300,000 bytes", ask_and_again(GET), first(big)),
        case("HEAD with a length", ask_and_again(only("HEAD")), first("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")),
        case("HEAD without a length", ask_and_again(only("HEAD")), first("HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n")),
        case("HEAD, chunked", ask_and_again(only("HEAD")), first("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")),
        case("204", ask_and_again(GET), first("HTTP/1.1 204 No Content\r\n\r\n")),
        case("204 with a length", ask_and_again(GET), first("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")),
        case("204 with a length of a body", ask_and_again(GET), first("HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n")),
        case("304", ask_and_again(GET), first("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n")),
        case("304 with a length", ask_and_again(GET), first("HTTP/1.1 304 Not Modified\r\nContent-Length: 700\r\n\r\n")),
        case("205", ask_and_again(GET), first("HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n")),
        case("chunked", ask_and_again(GET), first(chunked("", ""))),
        case("chunk extensions", ask_and_again(GET), first("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;a=b;c=\"d\"\r\nsome\r\n0;last\r\n\r\n")),
        case("trailers that were asked for", ask_and_again(get("/", tell)), first(&trailing)),
        case("trailers that nobody announced", ask_and_again(get("/", tell)), first(chunked("", "X-Sum: 1\r\nX-More: 2\r\n"))),
        case("trailers that nobody asked for", ask_and_again(GET), first(&trailing)),
        case("to the end of the connection", ask(GET), once(vec![whole(), say("HTTP/1.1 200 OK\r\nX-A: b\r\n\r\nto the end"), close()])),
        case("to the end, of HTTP/1.0", ask(GET), once(vec![whole(), say("HTTP/1.0 200 OK\r\n\r\nto the end"), close()])),
        case("to the end, half-closed", ask(GET), once(vec![whole(), say("HTTP/1.1 200 OK\r\n\r\nto the end"), finish()])),
        case("to the end, for HTTP/1.0", ask("GET / HTTP/1.0\r\nHost: app.shop\r\n\r\n"), once(vec![whole(), say("HTTP/1.0 200 OK\r\n\r\nto the end"), close()])),
        case("Connection: close", ask(GET), once(vec![whole(), say(with("Connection: close\r\n")), close()])),
        case("Connection: close that does not close", ask(GET), once(vec![whole(), say(with("Connection: close\r\n"))])),
        case("Connection: close and no end of it", ask(GET), once(vec![whole(), say("HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")])),
        case("equal lengths twice", ask_and_again(GET), first("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"))
            .documented("Equal lengths are one", one_length),
        case("an equal length in a list", ask_and_again(GET), first("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok"))
            .documented("Equal lengths are one", one_length),
        case("different lengths", ask(GET), once(vec![whole(), say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!"), close()]))
            .documented("An answer that is no HTTP", bad_gateway),
        case("a length that is none", ask(GET), once(vec![whole(), say("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok"), close()]))
            .documented("An answer that is no HTTP", bad_gateway),
        case("both lengths", ask(GET), once(vec![whole(), say("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nlonger\r\n0\r\n\r\n"), close()]))
            .documented("An answer with both", chunks_count),
        case("another coding before chunked", ask(GET), once(vec![whole(), say("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nzz\r\n0\r\n\r\n"), close()]))
            .documented("A transfer coding other than `chunked` in an answer", bad_gateway),
        case("another coding alone", vec![say(GET), rest()], once(vec![whole(), say("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nzz"), close()]))
            .documented("A transfer coding other than `chunked` in an answer", bad_gateway),
        case("identity", ask(GET), once(vec![whole(), say("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok"), close()])),
        case("byte by byte", ask_and_again(GET), once(vec![whole(), drip(OK)])),
        case("chunked, byte by byte", ask_and_again(get("/", tell)), once(vec![whole(), drip(&trailing)])),
        case("with a pause", ask_and_again(GET), once(vec![whole(), say("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsome"), wait(200), say("more")])),
        case("surplus behind the body", ask(GET), once(vec![whole(), say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokXX"), close()]))
            .documented(UNASKED, answers_only),
        case("a body behind HEAD's answer", ask(only("HEAD")), once(vec![whole(), say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), close()]))
            .documented(UNASKED, answers_only),
        case("a body behind 204", ask(GET), once(vec![whole(), say("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok"), close()]))
            .documented(UNASKED, answers_only),
    ]
}

fn interim_table() -> Vec<Case> {
    let after = |lines: &str| first(format!("{lines}{OK}"));
    let switched = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n";
    let upgrade = get("/", "Upgrade: other\r\nConnection: Upgrade\r\n");
    let tunnel: Script = vec![whole(), say(switched), until("ping"), say("pong"), close()];
    vec![
        case("100 that nobody asked for", ask_and_again(GET), after("HTTP/1.1 100 Continue\r\n\r\n")),
        case("102", ask_and_again(GET), after("HTTP/1.1 102 Processing\r\n\r\n")),
        case(
            "103",
            ask_and_again(GET),
            after("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nLink: </b.css>\r\n\r\n"),
        ),
        case(
            "several",
            ask_and_again(GET),
            after(
                "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n",
            ),
        ),
        case("199", ask_and_again(GET), after("HTTP/1.1 199 Odd\r\nX-A: b\r\n\r\n"))
            .documented("a 1xx has the usual phrase", |view| {
                view.answers.first().is_some_and(|answer| answer.start == "HTTP/1.x 199 ")
            }),
        case(
            "103, then a pause",
            ask_and_again(GET),
            once(vec![whole(), say("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"), wait(200), say(OK)]),
        ),
        case(
            "103 for HTTP/1.0",
            ask("GET / HTTP/1.0\r\nHost: app.shop\r\n\r\n"),
            once(vec![whole(), say(format!("HTTP/1.1 103 Early Hints\r\n\r\n{OK}")), close()]),
        )
        .documented("An HTTP/1.0 client gets no 1xx", answers_only),
        case("101", vec![say(&upgrade), head(), say("ping"), rest()], once(tunnel.clone())),
        case(
            "101, and the server resets",
            vec![say(&upgrade), head(), say("ping"), rest()],
            once(vec![whole(), say(switched), until("ping"), say("half of a po"), wait(50), reset()]),
        ),
        case(
            "101, and the client resets",
            vec![say(&upgrade), head(), say("half of a pi"), wait(50), reset()],
            once(vec![whole(), say(switched), gone()]),
        ),
        case("101 and bytes at once", vec![say(format!("{upgrade}ping")), rest()], once(tunnel)),
        case(
            "101 with Content-Length: 0",
            vec![say(&upgrade), head(), say("ping"), rest()],
            once(vec![
                whole(),
                say(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
                ),
                until("ping"),
                say("pong"),
                close(),
            ]),
        ),
        case("an upgrade that is refused", vec![say(&upgrade), answer(), say(GET), answer()], first(OK)),
        case(
            "426",
            ask_and_again(GET),
            first(
                "HTTP/1.1 426 Upgrade Required\r\nUpgrade: other\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
            ),
        ),
    ]
}
