//! The functions that write heads to HTTP/1 connections; nothing else does.
//!
//! Length, coding, connection and upgrade are derived from the message that is sent, never from fields that came in:
//! those are left out, whatever they say.

use http::header::{CONTENT_LENGTH, HeaderName};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::SizeHint;

use super::login;
use super::names::{NameCase, Reason, write_name};
use super::parse::Upgrade;
use super::target::RawTarget;

/// How the body of an outgoing message is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// By the end of the connection; answers to HTTP/1.0 clients only.
    UntilClose,
}

impl Outgoing {
    /// For a request to an application. `ended`: it has no body.
    pub(crate) fn of_request(ended: bool, size: &SizeHint) -> Self {
        match size.exact() {
            _ if ended => Self::None,
            Some(length) => Self::Length(length),
            None => Self::Chunked,
        }
    }

    /// For an answer to a client.
    pub(crate) fn of_answer(method: &Method, version: Version, head: &Response<()>, size: &SizeHint) -> Self {
        if is_bodyless(method, head.status()) {
            return Self::None;
        }
        match size.exact() {
            Some(length) => Self::Length(length),
            None if version == Version::HTTP_10 => Self::UntilClose,
            None => Self::Chunked,
        }
    }
}

/// Answers that have no body whatever they declare.
pub(crate) fn is_bodyless(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Whether the bytes behind a request's head are another protocol's.
pub(super) fn takes_over(request: &Request<()>) -> bool {
    request.method() == Method::CONNECT || request.extensions().get::<Upgrade>().is_some()
}

/// Writes the head of a request to an application. Whether it logs in by a scheme whose logins belong to their connection.
pub(crate) fn request(out: &mut Vec<u8>, request: &Request<()>, framing: Outgoing) -> bool {
    let extensions = request.extensions();
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    match extensions.get::<RawTarget>() {
        Some(target) => out.extend_from_slice(target.as_bytes()),
        None => target(out, request),
    }
    // HTTP/1.0 knows of no coding.
    let old = request.version() == Version::HTTP_10 && framing != Outgoing::Chunked;
    out.extend_from_slice(if old { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" });
    let case = extensions.get::<NameCase>();
    let takes_over = takes_over(request);
    let length = match framing {
        _ if takes_over => Length::Absent,
        Outgoing::Length(length) => Length::Is(length),
        // RFC 9110 section 8.6: some servers answer 411 to one that says nothing.
        Outgoing::None if expects_body(request.method()) => Length::Is(0),
        Outgoing::None => Length::ZeroIfSaid,
        Outgoing::Chunked | Outgoing::UntilClose => Length::Absent,
    };
    let binds_login = fields(out, request.headers(), case, length);
    if framing == Outgoing::Chunked && !takes_over {
        field(out, "transfer-encoding", b"chunked", case);
    }
    if let Some(Upgrade(protocol)) = extensions.get() {
        upgrade(out, protocol.as_bytes(), case);
    }
    out.extend_from_slice(b"\r\n");
    binds_login
}

/// Methods whose requests usually have a body.
fn expects_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

fn target(out: &mut Vec<u8>, request: &Request<()>) {
    let uri = request.uri();
    if request.method() != Method::CONNECT
        && let Some(scheme) = uri.scheme_str()
    {
        out.extend_from_slice(scheme.as_bytes());
        out.extend_from_slice(b"://");
    }
    if let Some(authority) = uri.authority() {
        out.extend_from_slice(authority.as_str().as_bytes());
    }
    match uri.path_and_query() {
        Some(path) => out.extend_from_slice(path.as_str().as_bytes()),
        None if request.method() == Method::CONNECT => {}
        None => out.push(b'/'),
    }
}

/// What an answer says of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// Nothing: it goes on, as HTTP/1.1 has it.
    Silent,
    /// `keep-alive`, which a client of HTTP/1.0 wants to hear.
    KeepAlive,
    /// `close`.
    Close,
}

/// Writes the head of an answer to a client.
pub(crate) fn answer(
    out: &mut Vec<u8>,
    head: &Response<()>,
    version: Version,
    method: &Method,
    framing: Outgoing,
    persistence: Persistence,
) {
    let case = head.extensions().get::<NameCase>();
    status_line(out, head, version);
    let switching = head.status() == StatusCode::SWITCHING_PROTOCOLS;
    // With content it is an answer like any other, of a server that knows no CONNECT.
    let has_content = !matches!(framing, Outgoing::None | Outgoing::Length(0));
    let tunnel = switching || *method == Method::CONNECT && head.status().is_success() && !has_content;
    let length = match framing {
        _ if tunnel || head.status() == StatusCode::NO_CONTENT => Length::Absent,
        Outgoing::Length(length) => Length::Is(length),
        // HEAD and 304 tell the length that the body would have.
        Outgoing::None => Length::AsSaid,
        Outgoing::Chunked | Outgoing::UntilClose => Length::Absent,
    };
    fields(out, head.headers(), case, length);
    if framing == Outgoing::Chunked {
        field(out, "transfer-encoding", b"chunked", case);
    }
    let offered = head.extensions().get::<Upgrade>();
    if let Some(Upgrade(protocol)) = offered.filter(|_| switching) {
        upgrade(out, protocol.as_bytes(), case);
    } else if let Some(Upgrade(protocol)) = offered {
        // 426 says what it wants.
        let close = persistence == Persistence::Close;
        field(out, "connection", if close { b"upgrade, close" } else { b"upgrade" }, case);
        field(out, "upgrade", protocol.as_bytes(), case);
    } else {
        match persistence {
            Persistence::Silent => {}
            Persistence::KeepAlive => field(out, "connection", b"keep-alive", case),
            Persistence::Close => field(out, "connection", b"close", case),
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes an interim answer, which never has a body.
pub(crate) fn interim(out: &mut Vec<u8>, head: &Response<()>) {
    let case = head.extensions().get::<NameCase>();
    status_line(out, head, Version::HTTP_11);
    fields(out, head.headers(), case, Length::Absent);
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut Vec<u8>, head: &Response<()>, version: Version) {
    out.extend_from_slice(if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(head.status().as_str().as_bytes());
    out.push(b' ');
    match head.extensions().get::<Reason>() {
        Some(reason) => out.extend_from_slice(reason.as_bytes()),
        None => out.extend_from_slice(head.status().canonical_reason().unwrap_or("").as_bytes()),
    }
    out.extend_from_slice(b"\r\n");
}

/// What becomes of a `Content-Length` among the fields.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Length {
    /// This one is written, in its place or at the end.
    Is(u64),
    /// `0`, if the sender said so.
    ZeroIfSaid,
    /// What was said: the message has no body all the same.
    AsSaid,
    /// None is written.
    Absent,
}

/// `true`: among them are credentials of a scheme whose logins belong to their connection.
fn fields(out: &mut Vec<u8>, headers: &HeaderMap, case: Option<&NameCase>, length: Length) -> bool {
    let (mut told, mut binds_login) = (false, false);
    for (name, value) in headers {
        let (name, value) = (name.as_str(), value.as_bytes());
        match (name.len(), name) {
            (14, "content-length") => {
                if !told && let Some(octets) = length.of(value) {
                    number(out, CONTENT_LENGTH.as_str(), octets, case);
                    told = true;
                }
            }
            (17, "transfer-encoding") | (10, "connection" | "keep-alive") => {}
            (16, "proxy-connection") | (7, "upgrade") => {}
            (13, "authorization") | (19, "proxy-authorization") => {
                binds_login |= login::binds(value);
                field(out, name, value, case);
            }
            _ => field(out, name, value, case),
        }
    }
    if !told && let Length::Is(length) = length {
        number(out, CONTENT_LENGTH.as_str(), length, case);
    }
    binds_login
}

impl Length {
    fn of(self, said: &[u8]) -> Option<u64> {
        match self {
            Self::Is(length) => Some(length),
            Self::ZeroIfSaid => Some(0),
            Self::AsSaid => super::table::parse_length(said),
            Self::Absent => None,
        }
    }
}

/// A field whose value is a number.
fn number(out: &mut Vec<u8>, name: &str, mut number: u64, case: Option<&NameCase>) {
    // As many as the largest has.
    let mut digits = [b'0'; 20];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        used += 1;
        if number == 0 {
            break;
        }
    }
    field(out, name, digits.get(digits.len() - used..).unwrap_or_default(), case);
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8], case: Option<&NameCase>) {
    write_name(out, name, case);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn upgrade(out: &mut Vec<u8>, protocol: &[u8], case: Option<&NameCase>) {
    field(out, "connection", b"upgrade", case);
    if !protocol.is_empty() {
        field(out, "upgrade", protocol, case);
    }
}

/// Writes the last chunk with the trailers behind it.
pub(super) fn write_trailers(out: &mut Vec<u8>, trailers: &HeaderMap, case: Option<&NameCase>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        if !is_framing(name) {
            field(out, name.as_str(), value.as_bytes(), case);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// What a trailer may not be called: many servers read trailers as if they were headers.
fn is_framing(name: &HeaderName) -> bool {
    matches!(name.as_str(), "content-length" | "transfer-encoding" | "host" | "connection" | "upgrade" | "te")
}

/// Writes the line before a chunk.
pub(super) fn write_chunk_size(out: &mut Vec<u8>, size: usize) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    out.extend((0..digits).rev().map(|digit| HEX.get(size >> (4 * digit) & 15).copied().unwrap_or(b'0')));
    out.extend_from_slice(b"\r\n");
}
