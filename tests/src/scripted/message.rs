//! HTTP/1 messages out of recorded bytes, for comparison: tolerant of everything, and hiding nothing.

/// Bytes as text, one character each, so that nothing is lost.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// A header or trailer field as it came: the name up to the colon, the value without the whitespace around it. A line
/// without a colon is a name alone; a folded line is part of the value, with its line break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The name in its own case.
    pub name: String,
    /// The value.
    pub value: String,
}

impl Field {
    /// Whether it has this name, in whatever case.
    pub fn is(&self, name: &str) -> bool {
        self.name.trim().eq_ignore_ascii_case(name)
    }
}

/// What says where a body ends (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Nothing,
    /// `Content-Length`.
    Length,
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The connection's end.
    End,
}

/// A request or an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The request line or status line.
    pub start: String,
    /// The fields in their order.
    pub fields: Vec<Field>,
    /// How the body is framed.
    pub framing: Framing,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// The fields behind a chunked body.
    pub trailers: Vec<Field>,
    /// Whether all of it has come.
    pub whole: bool,
}

impl Message {
    /// The values of a field.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |field| field.is(name)).map(|field| field.value.as_str())
    }

    /// The status code of an answer, as text.
    pub fn status(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// An answer that another one follows.
    pub fn is_interim(&self) -> bool {
        self.status().starts_with('1') && self.status() != "101"
    }
}

/// The requests in `bytes`, and what is left: bytes that are no message. Behind a `tunnel`'s request everything is left.
pub fn requests(bytes: &[u8], tunnel: bool) -> (Vec<Message>, Vec<u8>) {
    let mut found = Vec::new();
    let mut at = skip_lines(bytes, 0);
    while at < bytes.len() {
        let Some((message, end)) = message(bytes, at, request_framing) else { break };
        let whole = message.whole;
        let switches = tunnel && message.values("upgrade").next().is_some();
        found.push(message);
        at = end;
        if !whole || switches {
            break;
        }
        at = skip_lines(bytes, at);
    }
    (found, bytes.get(at..).unwrap_or_default().to_vec())
}

/// The answers in `bytes` to requests of these methods, and what is left. `ended`: no more will come.
pub fn answers(bytes: &[u8], methods: &[String], ended: bool) -> (Vec<Message>, Vec<u8>) {
    let mut found: Vec<Message> = Vec::new();
    let mut methods = methods.iter();
    let mut method = methods.next().map_or("GET", String::as_str);
    let mut at = 0;
    while at < bytes.len() {
        let Some((mut message, end)) = message(bytes, at, |message| answer_framing(message, method)) else {
            break;
        };
        if message.framing == Framing::End {
            message.whole = ended;
        }
        let tunnel = message.status() == "101" || (method == "CONNECT" && message.status().starts_with('2'));
        let (whole, interim) = (message.whole, message.is_interim());
        found.push(message);
        at = end;
        if !whole || (tunnel && found.last().is_some_and(|last| last.framing == Framing::Nothing)) {
            break;
        }
        if !interim {
            method = methods.next().map_or("GET", String::as_str);
        }
    }
    (found, bytes.get(at..).unwrap_or_default().to_vec())
}

/// Where the head ends that begins at `start`.
pub(super) fn head_end(bytes: &[u8], start: usize) -> Option<usize> {
    let start = skip_lines(bytes, start);
    let rest = bytes.get(start..)?;
    Some(start + rest.windows(4).position(|window| window == b"\r\n\r\n")? + 4)
}

/// Where the request ends that begins at `start`.
pub(super) fn whole_request(bytes: &[u8], start: usize) -> Option<usize> {
    let (message, end) = message(bytes, skip_lines(bytes, start), request_framing)?;
    message.whole.then_some(end)
}

/// Empty lines before a request line (RFC 9112 section 2.2).
fn skip_lines(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at..).is_some_and(|rest| rest.starts_with(b"\r\n")) {
        at += 2;
    }
    at
}

fn request_framing(message: &Message) -> Framing {
    declared(message).unwrap_or(Framing::Nothing)
}

fn answer_framing(message: &Message, method: &str) -> Framing {
    let status = message.status();
    let bodiless = status.starts_with('1') || ["204", "304"].contains(&status) || method == "HEAD";
    if bodiless { Framing::Nothing } else { declared(message).unwrap_or(Framing::End) }
}

fn declared(message: &Message) -> Option<Framing> {
    let chunked =
        message.values("transfer-encoding").any(|value| value.to_ascii_lowercase().ends_with("chunked"));
    if chunked {
        return Some(Framing::Chunked);
    }
    message.values("content-length").next().map(|_| Framing::Length)
}

/// The message that begins at `at`, and where it ends; `None` where there is no whole head.
fn message(bytes: &[u8], at: usize, framing: impl Fn(&Message) -> Framing) -> Option<(Message, usize)> {
    let head = bytes.get(at..)?;
    let end = head.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (start, fields) = lines(&head[..end]);
    let mut message = Message {
        start,
        fields,
        framing: Framing::Nothing,
        body: Vec::new(),
        trailers: Vec::new(),
        whole: true,
    };
    message.framing = framing(&message);
    let at = at + end + 4;
    let rest = bytes.get(at..).unwrap_or_default();
    let used = match message.framing {
        Framing::Nothing => 0,
        Framing::End => {
            message.body = rest.to_vec();
            rest.len()
        }
        Framing::Length => {
            let length =
                message.values("content-length").next().and_then(|value| value.parse().ok()).unwrap_or(0);
            let here = rest.len().min(length);
            message.whole = here == length;
            message.body = rest[..here].to_vec();
            here
        }
        Framing::Chunked => chunks(&mut message, rest),
    };
    Some((message, at + used))
}

fn lines(head: &[u8]) -> (String, Vec<Field>) {
    let text = latin1(head);
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    (start, fields(lines))
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Field> {
    let mut found: Vec<Field> = Vec::new();
    for line in lines {
        if line.starts_with([' ', '\t'])
            && let Some(last) = found.last_mut()
        {
            last.value.push_str("\r\n");
            last.value.push_str(line);
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        found.push(Field { name: name.to_owned(), value: value.trim_matches([' ', '\t']).to_owned() });
    }
    found
}

/// Reads a chunked body and its trailers; how many bytes they are.
fn chunks(message: &mut Message, bytes: &[u8]) -> usize {
    let mut at = 0;
    message.whole = false;
    let line = |at: usize| {
        let rest = bytes.get(at..)?;
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        Some((latin1(&rest[..end]), at + end + 2))
    };
    while let Some((size, next)) = line(at) {
        let Ok(size) = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16) else {
            break;
        };
        if size == 0 {
            let rest = bytes.get(next..).unwrap_or_default();
            if rest.starts_with(b"\r\n") {
                message.whole = true;
                return next + 2;
            }
            let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") else { break };
            message.trailers = fields(latin1(&rest[..end]).split("\r\n"));
            message.whole = true;
            return next + end + 4;
        }
        let end = next + size;
        message.body.extend_from_slice(bytes.get(next..end.min(bytes.len())).unwrap_or_default());
        if bytes.len() < end + 2 {
            return bytes.len();
        }
        at = end + 2;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_by_their_framing() {
        let bytes = b"\r\nPOST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcPOST /b HTTP/1.1\r\n\
            transfer-encoding: chunked\r\n\r\n2;x=y\r\nde\r\n0\r\nX-T: 1\r\n\r\nGET /c HTTP/1.1\r\n\r\nGET";
        let (found, rest) = requests(bytes, false);
        let bodies: Vec<_> = found.iter().map(|message| latin1(&message.body)).collect();
        assert_eq!(bodies, ["abc", "de", ""]);
        assert_eq!(found[1].trailers, [Field { name: "X-T".into(), value: "1".into() }]);
        assert_eq!(rest, b"GET");
        assert!(found.iter().all(|message| message.whole));
    }

    #[test]
    fn answers_depend_on_what_was_asked() {
        let methods = ["HEAD", "GET", "GET"].map(str::to_owned);
        let bytes =
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 103 Early\r\n\r\nHTTP/1.1 204 \r\n\r\n\
            HTTP/1.0 200 \xe9\r\n\r\nto the end";
        let (found, rest) = answers(bytes, &methods, true);
        let starts: Vec<_> = found.iter().map(|message| message.start.as_str()).collect();
        assert_eq!(starts, ["HTTP/1.1 200 OK", "HTTP/1.1 103 Early", "HTTP/1.1 204 ", "HTTP/1.0 200 \u{e9}"]);
        assert_eq!((found[3].framing, found[3].whole, rest.len()), (Framing::End, true, 0));
    }

    #[test]
    fn what_is_cut_off_is_not_whole() {
        let cut = b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nab";
        let (found, rest) = requests(cut, false);
        assert_eq!((found[0].whole, found[0].body.as_slice(), rest.len()), (false, &b"ab"[..], 0));
        let cut = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n5\r\ncd";
        let (found, _) = requests(cut, false);
        assert_eq!((found[0].whole, found[0].body.as_slice()), (false, &b"abcd"[..]));
    }
}
