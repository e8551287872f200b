//! A second reader of requests, written as plainly as RFC 9112 reads, to compare with. It works on all of the bytes at
//! once and shares nothing with what it judges.

/// A request as an application sees it: without what concerns one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: Vec<u8>,
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, Vec<u8>)>,
}

enum Part<T> {
    Whole(T, usize),
    /// More bytes could make it whole.
    Incomplete,
    Refused,
}

/// What a connection carried.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// All requests up to the first that is incomplete or none.
    pub(crate) requests: Vec<Seen>,
    /// Where each begins, and what is behind them.
    pub(crate) begins: Vec<usize>,
    /// What is behind them is no request.
    pub(crate) refused: bool,
}

/// Reads all that a connection has carried so far.
pub(crate) fn requests(bytes: &[u8]) -> Carried {
    let mut carried = Carried::default();
    let mut at = 0;
    loop {
        while let Some(rest) = bytes[at..].strip_prefix(b"\r\n").or_else(|| bytes[at..].strip_prefix(b"\n")) {
            at = bytes.len() - rest.len();
        }
        carried.begins.push(at);
        match request(&bytes[at..]) {
            Part::Whole(request, used) => {
                carried.requests.push(request);
                at += used;
            }
            Part::Incomplete => return carried,
            Part::Refused => return Carried { refused: true, ..carried },
        }
    }
}

/// A line without its end, and how long it is with it.
fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = &bytes[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn trimmed(text: &[u8]) -> &[u8] {
    let text = &text[text.iter().take_while(|byte| b" \t".contains(byte)).count()..];
    &text[..text.len() - text.iter().rev().take_while(|byte| b" \t".contains(byte)).count()]
}

pub(crate) type FieldLines = Vec<(String, Vec<u8>)>;

/// Field lines up to the empty one.
fn fields(mut bytes: &[u8]) -> Part<FieldLines> {
    let (mut fields, mut used) = (Vec::new(), 0);
    loop {
        let Some((text, length)) = line(bytes) else { return Part::Incomplete };
        (bytes, used) = (&bytes[length..], used + length);
        if text.is_empty() {
            return Part::Whole(fields, used);
        }
        let Some(colon) = text.iter().position(|byte| *byte == b':') else { return Part::Refused };
        let (name, value) = (&text[..colon], trimmed(&text[colon + 1..]));
        let legal = value.iter().all(|byte| *byte == b'\t' || *byte >= b' ' && *byte != 0x7f);
        if !is_token(name) || !legal {
            return Part::Refused;
        }
        fields.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()));
    }
}

fn request(bytes: &[u8]) -> Part<Seen> {
    let Some((text, used)) = line(bytes) else { return Part::Incomplete };
    let words: Vec<&[u8]> = text.split(|byte| *byte == b' ').collect();
    let [method, target, version @ (b"HTTP/1.1" | b"HTTP/1.0")] = words[..] else { return Part::Refused };
    let legal = !target.is_empty() && target.iter().all(|byte| *byte > b' ' && *byte != 0x7f);
    if !is_token(method) || !legal {
        return Part::Refused;
    }
    let (head, length) = match fields(&bytes[used..]) {
        Part::Whole(head, length) => (head, length),
        Part::Incomplete => return Part::Incomplete,
        Part::Refused => return Part::Refused,
    };
    let mut used = used + length;
    let all = |name: &str| -> Vec<&[u8]> {
        head.iter().filter(|(is, _)| is == name).map(|(_, value)| value.as_slice()).collect()
    };
    let (hosts, lengths, codings) = (all("host"), all("content-length"), all("transfer-encoding"));
    let one_host = hosts.len() == 1 || hosts.is_empty() && version == b"HTTP/1.0";
    let (mut body, mut trailers) = (Vec::new(), Vec::new());
    match (&lengths[..], &codings[..]) {
        _ if !one_host => return Part::Refused,
        ([], []) => {}
        ([number], []) if !number.is_empty() && number.iter().all(u8::is_ascii_digit) => {
            let Ok(number) = std::str::from_utf8(number).unwrap().parse::<u64>() else {
                return Part::Refused;
            };
            let Some(content) = bytes.get(used..used.saturating_add(usize::try_from(number).unwrap())) else {
                return Part::Incomplete;
            };
            body = content.to_vec();
            used += content.len();
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") && version == b"HTTP/1.1" => {
            match chunks(&bytes[used..]) {
                Part::Whole(content, length) => ((body, trailers), used) = (content, used + length),
                Part::Incomplete => return Part::Incomplete,
                Part::Refused => return Part::Refused,
            }
        }
        _ => return Part::Refused,
    }
    let seen = Seen {
        method: String::from_utf8_lossy(method).into_owned(),
        target: target.to_vec(),
        fields: end_to_end(head),
        body,
        trailers: end_to_end(trailers),
    };
    Part::Whole(seen, used)
}

fn chunks(mut bytes: &[u8]) -> Part<(Vec<u8>, FieldLines)> {
    let (mut data, mut used) = (Vec::new(), 0);
    loop {
        // Chunks end with CRLF, whatever other lines may end with.
        let Some(end) = bytes.windows(2).position(|end| end == b"\r\n") else {
            return if bytes.contains(&b'\n') { Part::Refused } else { Part::Incomplete };
        };
        let text = &bytes[..end];
        let size = text.split(|byte| b"; \t".contains(byte)).next().unwrap();
        let hex = !size.is_empty() && size.iter().all(u8::is_ascii_hexdigit);
        let legal = text.iter().all(|byte| *byte == b'\t' || *byte >= b' ' && *byte != 0x7f);
        let Some(size) = std::str::from_utf8(size).ok().and_then(|size| usize::from_str_radix(size, 16).ok())
        else {
            return Part::Refused;
        };
        if !hex || !legal {
            return Part::Refused;
        }
        (bytes, used) = (&bytes[end + 2..], used + end + 2);
        if size == 0 {
            return match fields(bytes) {
                Part::Whole(trailers, length) => Part::Whole((data, trailers), used + length),
                Part::Incomplete => Part::Incomplete,
                Part::Refused => Part::Refused,
            };
        }
        let Some(piece) = bytes.get(..size) else { return Part::Incomplete };
        data.extend_from_slice(piece);
        match bytes.get(size..size + 2) {
            Some(b"\r\n") => (bytes, used) = (&bytes[size + 2..], used + size + 2),
            Some(_) => return Part::Refused,
            None => return Part::Incomplete,
        }
    }
}

/// What goes on to the next hop. The length is compared by the body.
pub(crate) fn end_to_end(fields: FieldLines) -> FieldLines {
    const OF_A_HOP: &[&str] = &[
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "te",
        "content-length",
    ];
    let listed: Vec<String> = fields
        .iter()
        .filter(|(name, _)| name == "connection")
        .flat_map(|(_, value)| {
            String::from_utf8_lossy(value)
                .to_ascii_lowercase()
                .split(',')
                .map(|name| name.trim().to_owned())
                .collect::<Vec<_>>()
        })
        .filter(|name| name != "host")
        .collect();
    fields
        .into_iter()
        .filter(|(name, _)| {
            !OF_A_HOP.contains(&name.as_str())
                && !listed.contains(name)
                && !name.starts_with("weft-")
                && name.replace('_', "-") != "x-forwarded-client-cert"
        })
        .collect()
}
