//! Requests, ordinary and odd.

use weft_testbed::scripted::{answer, close, drip, finish, head, rest, say, until, wait, whole};

use crate::case::{
    Case, GET, OK, TOGETHER, ask, ask_and_again, by_name, bytes, case, first, get, ok, once, post, refused,
};
use crate::scene::run_table;
use crate::view::View;

/// The first request says that its body is empty.
fn length_of_nothing(view: &View) -> bool {
    view.requests.first().is_some_and(|seen| seen.message.values("content-length").eq(["0"]))
}

#[test]
fn targets() {
    run_table("request-targets", &targets_table());
}

#[test]
fn heads() {
    run_table("request-heads", &heads_table());
}

#[test]
fn bodies() {
    run_table("request-bodies", &bodies_table());
}

fn targets_table() -> Vec<Case> {
    let to = |target: &str| ask_and_again(bytes(&get(target, "")));
    vec![
        case("a query", to("/a?b=c&d=%20+e"), ok()),
        case("an empty query", to("/a?"), ok()),
        case("dots and slashes", to("//a/../b/./c//"), ok()),
        case("percent-encoded", to("/%2f%2E%2e/%00%ff%zz"), ok()),
        case("<>", to("/a<b>c"), ok()),
        case("a double quote", to("/a\"b"), ok()),
        case("a caret", to("/a^b"), ok()),
        case("braces", to("/{a}"), ok()),
        case("a bar", to("/a|b"), ok()),
        case("a backtick", to("/a`b"), ok()),
        case("a backslash", to("/a\\b"), ok()),
        case("brackets", to("/a[0]?b[]=1"), ok()),
        case("odd characters in a query", to("/?q=<a>\"b\"^{c}|`d`\\"), ok()),
        case("Latin-1", to("/caf\u{e9}?q=\u{ff}"), ok()),
        case("UTF-8", ask_and_again(get("/žluťoučký", "")), ok()),
        case("?x=1", to("?x=1"), ok()),
        case("a fragment", to("/a#f"), ok()),
        case("* of OPTIONS", ask_and_again("OPTIONS * HTTP/1.1\r\nHost: app.shop\r\n\r\n"), ok()),
        case("* of GET", to("*"), ok()),
        case("absolute-form", to("http://app.shop/a?b"), ok()),
        case("absolute-form of another name", to("http://other.shop/a"), ok()),
        case("absolute-form without a path", to("http://app.shop"), ok()),
        case("absolute-form with a query only", to("http://app.shop?x=1"), ok()),
        case("absolute-form of https", to("https://app.shop/a"), ok()),
        case("a word", to("word"), ok()).documented("a target that is neither a path nor a URL", refused),
        case("a long target", to(&format!("/{}", "a".repeat(20_000))), ok()),
        case("a method of its own", ask_and_again("PURGE /x HTTP/1.1\r\nHost: app.shop\r\n\r\n"), ok()),
        case("a method in lower case", ask_and_again("get /x HTTP/1.1\r\nHost: app.shop\r\n\r\n"), ok()),
        case(
            "a method of odd characters",
            ask_and_again("M-SEARCH!#$ /x HTTP/1.1\r\nHost: app.shop\r\n\r\n"),
            ok(),
        ),
        case(
            "CONNECT",
            ask("CONNECT app.shop:8000 HTTP/1.1\r\nHost: app.shop:8000\r\n\r\n"),
            first("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n"),
        )
        .documented("`405 method-not-allowed`, unless", |view| {
            view.status() == "405" && view.requests.is_empty()
        }),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn heads_table() -> Vec<Case> {
    let line = |lines: &str| ask_and_again(bytes(&get("/", lines)));
    let no_host = "HTTP/1.1 without `Host`, or with two";
    let malformed = "space before a header's colon, a folded header";
    let raw = |head: &str| ask(bytes(head));
    vec![
        case("Train-Case", line("User-Agent: x\r\nX-Request-Cost: 1\r\nDNT: 1\r\nAccept: */*\r\n"), ok()),
        case(
            "lower case",
            ask_and_again("GET / HTTP/1.1\r\nhost: app.shop\r\nuser-agent: x\r\nx-one: 1\r\n\r\n"),
            ok(),
        ),
        case("mixed case", line("x-one: 1\r\nX-TWO: 2\r\nx-Three: 3\r\nSOAPAction: \"x\"\r\n"), ok()),
        case("order across names", line("Z: 1\r\nA: 2\r\nM: 3\r\nB: 4\r\n"), ok()),
        case("order within a name", line("A: 1\r\nB: x\r\nA: 2\r\nB: y\r\nA: 3\r\n"), ok())
            .documented(TOGETHER, |view| view.requests.first().is_some_and(|seen| by_name(&seen.message))),
        case(
            "Host at the end",
            ask_and_again("GET / HTTP/1.1\r\nX-A: b\r\nAccept: */*\r\nHost: app.shop\r\n\r\n"),
            ok(),
        ),
        case("Host with a port", ask_and_again("GET / HTTP/1.1\r\nHost: app.shop:8080\r\n\r\n"), ok()),
        case("Host in capitals", ask_and_again("GET / HTTP/1.1\r\nHost: APP.Shop\r\n\r\n"), ok()),
        case("Host of another name", ask_and_again("GET / HTTP/1.1\r\nHost: other.example\r\n\r\n"), ok()),
        case("an empty Host", ask("GET / HTTP/1.1\r\nHost:\r\n\r\n"), ok()),
        case("no Host", ask("GET / HTTP/1.1\r\nX-A: b\r\n\r\n"), ok()).documented(no_host, refused),
        case("two Hosts", ask("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), ok())
            .documented(no_host, refused),
        case("an empty value", line("X-Empty:\r\nX-Blank:  \r\n"), ok()),
        case("a value of Latin-1", line("X-Name: caf\u{e9} \u{ff}\r\n"), ok()),
        case("a value of UTF-8", ask_and_again(get("/", "X-Name: žluťoučký\r\n")), ok()),
        case("a value with a tab", line("X-Tab: a\tb\r\n"), ok()),
        case("no space behind the colon", line("X-Tight:1\r\nX-Wide:   2   \r\n"), ok()),
        case("several cookies", line("Cookie: a=1\r\nCookie: b=2\r\n"), ok()),
        case("one cookie of several", line("Cookie: a=1; b=2;c=3\r\n"), ok()),
        case("an empty line before", ask_and_again(format!("\r\n{GET}")), ok()),
        case(
            "empty lines before the second",
            vec![say(GET), answer(), say(format!("\r\n\r\n{GET}")), answer()],
            ok(),
        ),
        case("what proxies write", line("Via: 1.1 x\r\nForwarded: for=a\r\nMax-Forwards: 3\r\n"), ok()),
        case("credentials", line("Authorization: Basic eA==\r\nProxy-Authorization: Basic eA==\r\n"), ok()),
        case("what Connection lists", line("Connection: X-Hop\r\nX-Hop: 1\r\nX-Stays: 2\r\n"), ok()),
        case("TE: trailers", line("TE: trailers\r\nConnection: TE\r\n"), ok()),
        case(
            "an old version",
            raw("GET / HTTP/1.0\r\n\r\n"),
            once(vec![whole(), say("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"), close()]),
        ),
        case(
            "an old version that stays",
            vec![
                say("GET / HTTP/1.0\r\nHost: app.shop\r\nConnection: keep-alive\r\n\r\n"),
                answer(),
                say("GET / HTTP/1.0\r\nHost: app.shop\r\nConnection: keep-alive\r\n\r\n"),
                answer(),
            ],
            vec![vec![
                whole(),
                say("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"),
            ]],
        ),
        case(
            "Connection: close",
            ask("GET / HTTP/1.1\r\nHost: app.shop\r\nConnection: close\r\n\r\n"),
            once(vec![
                whole(),
                say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
                close(),
            ]),
        ),
        case(
            "bare line feeds",
            raw("GET / HTTP/1.1\nHost: app.shop\n\n"),
            once(vec![until("app.shop"), say(OK)]),
        )
        .documented("A line feed alone ends a line as well", |view| view.status() == "200"),
        case("a space before the colon", raw(&get("/", "X-A : b\r\n")), ok()).documented(malformed, refused),
        case("a folded line", raw(&get("/", "X-Fold: a\r\n b\r\n")), ok()).documented(malformed, refused),
        case("byte by byte", vec![drip(get("/", "X-A: b\r\n")), answer(), say(GET), answer()], ok()),
        case("a long value", line(&format!("X-Long: {}\r\n", "v".repeat(20_000))), ok()),
        case("eighty fields", line(&(0..80).map(|n| format!("X-{n}: {n}\r\n")).collect::<String>()), ok()),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn bodies_table() -> Vec<Case> {
    let chunked = "Transfer-Encoding: chunked\r\n";
    let chunks = "4\r\nsome\r\n4;x=y\r\nmore\r\n0\r\n\r\n";
    let trailing = "4\r\nsome\r\n0\r\nX-Sum: 1\r\n\r\n";
    let of = |method: &str, lines: &str, body: &str| {
        format!("{method} /in HTTP/1.1\r\nHost: app.shop\r\n{lines}\r\n{body}")
    };
    let expect = post("Expect: 100-continue\r\nContent-Length: 4\r\n", "");
    let go = "HTTP/1.1 100 Continue\r\n\r\n";
    let malformed = "Two lengths, equal or not, or one that is no number; a length and a transfer coding";
    let no_body = "without a body, or with an empty chunked one, says `Content-Length: 0`";
    let twice = format!("{GET}{}{GET}", post("Content-Length: 4\r\n", "body"));
    vec![
        case("a length", ask_and_again(post("Content-Length: 4\r\n", "body")), ok()),
        case("no body", ask_and_again(post("", "")), ok()).documented(no_body, length_of_nothing),
        case("an empty body", ask_and_again(post("Content-Length: 0\r\n", "")), ok()),
        case("an empty chunked body", ask_and_again(post(chunked, "0\r\n\r\n")), ok())
            .documented(no_body, length_of_nothing),
        case("chunked, with extensions", ask_and_again(post(chunked, chunks)), ok()),
        case(
            "trailers that were announced",
            ask_and_again(post(&format!("{chunked}Trailer: X-Sum\r\n"), trailing)),
            ok(),
        ),
        case("trailers", ask_and_again(post(chunked, trailing)), ok()),
        case("GET with a length", ask_and_again(of("GET", "Content-Length: 4\r\n", "body")), ok()),
        case("GET, chunked", ask_and_again(of("GET", chunked, chunks)), ok()),
        case("GET, chunked with trailers", ask_and_again(of("GET", chunked, trailing)), ok()),
        case(
            "HEAD, chunked",
            ask_and_again(of("HEAD", chunked, chunks)),
            first("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
        ),
        case("DELETE, chunked", ask_and_again(of("DELETE", chunked, chunks)), ok()),
        case("OPTIONS with a length", ask_and_again(of("OPTIONS", "Content-Length: 4\r\n", "body")), ok()),
        case("chunked in capitals", ask_and_again(post("Transfer-Encoding: Chunked\r\n", chunks)), ok()),
        case("300,000 bytes", ask_and_again(post("Content-Length: 300000\r\n", &"x".repeat(300_000))), ok()),
        case(
            "a pause in the body",
            vec![
                say(post("Content-Length: 8\r\n", "some")),
                wait(200),
                say("more"),
                answer(),
                say(GET),
                answer(),
            ],
            ok(),
        ),
        case(
            "a pause in a chunk",
            vec![
                say(post(chunked, "8\r\nsome")),
                wait(200),
                say("more\r\n0\r\n\r\n"),
                answer(),
                say(GET),
                answer(),
            ],
            ok(),
        ),
        case("byte by byte", vec![drip(post(chunked, trailing)), answer(), say(GET), answer()], ok()),
        case("pipelined", vec![say(twice), answer(), answer(), answer()], ok()),
        case(
            "pipelined behind HEAD",
            vec![say(format!("{}{GET}", of("HEAD", "", ""))), answer(), answer()],
            first("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
        ),
        case(
            "100-continue",
            vec![say(&expect), until("\r\n\r\n"), say("body"), answer(), say(GET), answer()],
            once(vec![head(), say(go), whole(), say(OK)]),
        ),
        case(
            "100-continue and the answer at once",
            vec![say(&expect), until("100 Continue\r\n\r\n"), say("body"), answer(), say(GET), answer()],
            once(vec![head(), say(format!("{go}{OK}")), whole()]),
        ),
        case(
            "100-continue that is refused",
            vec![say(&expect), answer(), rest()],
            once(vec![
                head(),
                say("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
                close(),
            ]),
        ),
        case(
            "100-continue, the body at once",
            ask_and_again(post("Expect: 100-continue\r\nContent-Length: 4\r\n", "body")),
            once(vec![head(), say(go), whole(), say(OK)]),
        ),
        case(
            "100-continue that is passed over",
            vec![say(&expect), wait(200), say("body"), answer(), say(GET), answer()],
            ok(),
        ),
        case(
            "another expectation",
            ask_and_again(post("Expect: else\r\nContent-Length: 4\r\n", "body")),
            ok(),
        ),
        case(
            "half-close after a request",
            vec![say(GET), finish(), answer(), rest()],
            once(vec![whole(), wait(100), say(OK), close()]),
        ),
        case(
            "half-close after a body",
            vec![say(post("Content-Length: 4\r\n", "body")), finish(), answer(), rest()],
            once(vec![whole(), wait(100), say(OK), close()]),
        ),
        case(
            "half-close after pipelined requests",
            vec![say(format!("{GET}{GET}")), finish(), answer(), answer(), rest()],
            vec![vec![whole(), wait(50), say(OK)], vec![whole(), wait(50), say(OK), close()]],
        ),
        case("equal lengths twice", ask(post("Content-Length: 4\r\nContent-Length: 4\r\n", "body")), ok())
            .documented(malformed, refused),
        case("different lengths", ask(post("Content-Length: 4\r\nContent-Length: 5\r\n", "body")), ok())
            .documented(malformed, refused),
        case("both lengths", ask(post(&format!("Content-Length: 4\r\n{chunked}"), trailing)), ok())
            .documented(malformed, refused),
        case("an unknown coding", ask(post("Transfer-Encoding: gzip\r\n", "")), ok())
            .documented(malformed, refused),
        case(
            "chunked for HTTP/1.0",
            ask("POST /in HTTP/1.0\r\nHost: app.shop\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            ok(),
        )
        .documented(malformed, refused),
    ]
}
