//! A line of a table: what a client does, what a server does, and what is known to differ.

use weft_testbed::scripted::{Message, Script, answer, say, whole};

use crate::view::View;

/// The server, as clients name it.
pub(crate) const APP: &str = "app.shop";

/// An ordinary request.
pub(crate) const GET: &str = "GET / HTTP/1.1\r\nHost: app.shop\r\n\r\n";

/// An ordinary answer.
pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Where the guide tells of fields whose name comes again.
pub(crate) const TOGETHER: &str = "Fields of one name come together at the first one's place";

/// What a conversation is compared by.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expected {
    /// Nothing differs.
    Same,
    /// They differ as the guide says in these words, and then what is seen through the pair is this.
    Documented(&'static str, fn(&View) -> bool),
}

/// What is known to be wrong today.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Known {
    /// Nothing.
    Good,
    /// The fault that has this number in issue 13. A conversation that is as expected has to lose the mark.
    Fault(u8),
}

/// A conversation.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) what: &'static str,
    pub(crate) expected: Expected,
    pub(crate) known: Known,
    pub(crate) client: Script,
    /// One for each request, in turn.
    pub(crate) server: Vec<Script>,
}

/// A conversation that is the same with and without Weft.
pub(crate) fn case(what: &'static str, client: Script, server: Vec<Script>) -> Case {
    Case { what, expected: Expected::Same, known: Known::Good, client, server }
}

impl Case {
    /// Is not as expected, by a fault of issue 13.
    #[expect(dead_code, reason = "there is none at the moment")]
    pub(crate) fn fault(mut self, number: u8) -> Self {
        self.known = Known::Fault(number);
        self
    }

    /// Differs as the guide says in these words; `seen` is what is true of it through the pair.
    pub(crate) fn documented(mut self, words: &'static str, seen: fn(&View) -> bool) -> Self {
        self.expected = Expected::Documented(words, seen);
        self
    }
}

/// The sidecar refuses the request: 400, and nothing of it reaches the application.
pub(crate) fn refused(view: &View) -> bool {
    view.status() == "400" && view.requests.is_empty() && view.odd.is_empty()
}

/// The fields A, B, A, B, A in the order of [`TOGETHER`]; what each hop writes by itself stands before them.
pub(crate) fn by_name(message: &Message) -> bool {
    let fields: Vec<_> =
        message.fields.iter().map(|field| (field.name.as_str(), field.value.as_str())).collect();
    fields.ends_with(&[("A", "1"), ("A", "2"), ("A", "3"), ("B", "x"), ("B", "y")])
}

/// The sidecar answers for the application: 502.
pub(crate) fn bad_gateway(view: &View) -> bool {
    view.status() == "502"
}

/// The client gets the answers to what it asked, whole, and not a byte more.
pub(crate) fn answers_only(view: &View) -> bool {
    let whole = view.answers.iter().filter(|answer| !answer.is_interim() && answer.whole).count();
    whole == view.asked.len() && view.surplus.is_empty()
}

/// Nothing reaches the application, and no answer the client.
pub(crate) fn silent(view: &View) -> bool {
    view.answers.is_empty() && view.requests.is_empty() && view.odd.is_empty()
}

/// Sends this and reads the answer.
pub(crate) fn ask(bytes: impl AsRef<[u8]>) -> Script {
    vec![say(bytes), answer()]
}

/// Sends this, reads the answer, and does an ordinary request on the same connection.
pub(crate) fn ask_and_again(bytes: impl AsRef<[u8]>) -> Script {
    vec![say(bytes), answer(), say(GET), answer()]
}

/// Reads each request to its end and answers with this.
pub(crate) fn reply(bytes: impl AsRef<[u8]>) -> Vec<Script> {
    vec![vec![whole(), say(bytes)]]
}

/// Answers the first request with this, and all others in an ordinary way.
pub(crate) fn first(bytes: impl AsRef<[u8]>) -> Vec<Script> {
    vec![vec![whole(), say(bytes)], vec![whole(), say(OK)]]
}

/// Answers each request with an ordinary answer.
pub(crate) fn ok() -> Vec<Script> {
    reply(OK)
}

/// Does this with the first request, and answers all others in an ordinary way.
pub(crate) fn once(steps: impl Into<Script>) -> Vec<Script> {
    vec![steps.into(), vec![whole(), say(OK)]]
}

/// A GET of this target, with these further lines in its head, each with its line break.
pub(crate) fn get(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {APP}\r\n{lines}\r\n")
}

/// A POST with these further lines in its head, and this behind it.
pub(crate) fn post(lines: &str, body: &str) -> String {
    format!("POST /in HTTP/1.1\r\nHost: {APP}\r\n{lines}\r\n{body}")
}

/// An answer with these further lines in its head and an ordinary body.
pub(crate) fn with(lines: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\nok")
}

/// Text whose characters are bytes.
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|character| u8::try_from(u32::from(character)).unwrap_or(b'?')).collect()
}
