//! HTTP/2 preface and HTTP/1 request line.

use super::{Detected, Detection, OpaqueReason};

/// The HTTP/2 connection preface (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest method that is taken for one. The longest registered one, `UPDATEREDIRECTREF`, has 17 characters.
pub const MAX_METHOD: usize = 32;

/// A line that fits and is longer than this is taken for HTTP/1 without having seen its version: no other protocol is
/// known that sends 8 KiB of text on one line, and the HTTP parser has an answer for it (414). RFC 9112 section 3 asks
/// for 8000 octets to be supported at least.
pub const MAX_REQUEST_LINE: usize = 8192;

/// What a request line ends with, apart from the minor version (RFC 9112 section 3).
const VERSION: &[u8] = b" HTTP/1.";

/// The least that follows a method: the version and its digit. (A line without a target is malformed, but HTTP.)
const AFTER_METHOD: usize = VERSION.len() + 1;

/// Empty lines before the request line that are skipped. RFC 9112 section 2.2 asks for at least one.
const MAX_EMPTY_LINES: usize = 2;

/// Whether `bytes` and the preface agree as far as both go.
pub(super) fn is_preface_so_far(bytes: &[u8]) -> bool {
    PREFACE.iter().zip(bytes).all(|(a, b)| a == b)
}

/// For bytes that agree with the preface.
pub(super) fn detect_preface(bytes: &[u8]) -> Detection {
    if bytes.len() >= PREFACE.len() {
        Detection::Done(Detected::Http2)
    } else if bytes.len() >= b"PRI * HTTP/2".len() {
        Detection::NeedMore { at_least: PREFACE.len() }
    } else {
        // Up to here it may also become `PRI * HTTP/1.1` or `PATCH ...`.
        detect_http1(bytes)
    }
}

/// Looks for a request line.
pub(super) fn detect_http1(bytes: &[u8]) -> Detection {
    const OPAQUE: Detection = Detection::Done(Detected::Opaque(OpaqueReason::NoMatch));
    const HTTP1: Detection = Detection::Done(Detected::Http1);
    let more = |n: usize| Detection::NeedMore { at_least: bytes.len() + n };

    let Some(line) = skip_empty_lines(bytes) else { return more(1 + AFTER_METHOD) };
    let method = line.iter().take(MAX_METHOD + 1).take_while(|b| is_tchar(**b)).count();
    if method > MAX_METHOD {
        return OPAQUE;
    }
    match line.get(method) {
        None => return more(AFTER_METHOD),
        Some(b' ') if method > 0 => {}
        Some(_) => return OPAQUE,
    }
    let rest = line.get(method..MAX_REQUEST_LINE.min(line.len())).unwrap_or_default();
    let text = rest.iter().take_while(|b| is_text(**b)).count();
    let ended = text < rest.len();
    let rest = rest.get(..text).unwrap_or_default();
    if has_version(rest) || (!ended && line.len() >= MAX_REQUEST_LINE) {
        HTTP1
    } else if ended {
        OPAQUE
    } else {
        more(1)
    }
}

/// The bytes from the first that is no line end; `None` while there are only line ends. Too many line ends are left
/// where they are, and fail as a method.
fn skip_empty_lines(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes;
    for _ in 0..MAX_EMPTY_LINES {
        rest = match rest {
            [] | [b'\r'] => return None,
            [b'\r', b'\n', after @ ..] | [b'\n', after @ ..] => after,
            _ => return Some(rest),
        };
    }
    if rest.is_empty() { None } else { Some(rest) }
}

/// Whether ` HTTP/1.` and a digit occur.
fn has_version(text: &[u8]) -> bool {
    text.windows(VERSION.len() + 1)
        .any(|w| w.starts_with(VERSION) && w.last().is_some_and(u8::is_ascii_digit))
}

/// What may stand in a request line: everything but control characters. Bytes above ASCII are no business of detection.
fn is_text(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f
}

/// A character of a token (RFC 9110 section 5.6.2).
pub(super) fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
