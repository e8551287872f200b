//! HTTP/2 preface and HTTP/1 request line.

use super::line::{Beginning, Verdict, is_tchar};
use super::{Detected, Detection, OpaqueReason};

/// The HTTP/2 connection preface (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest method that is taken for one. The longest registered one, `UPDATEREDIRECTREF`, has 17 characters.
pub const MAX_METHOD: usize = 32;

/// A line that fits and is longer than this is taken for HTTP/1 without having seen a target or a version: no other protocol is
/// known that sends 8 KiB of text on one line, and the HTTP parser has an answer for it (414). RFC 9112 section 3 asks
/// for 8000 octets to be supported at least.
pub const MAX_REQUEST_LINE: usize = 8192;

/// Empty lines before the request line that are skipped. RFC 9112 section 2.2 asks for at least one.
const MAX_EMPTY_LINES: usize = 2;

/// Whether `bytes` and the preface agree as far as both go.
pub(super) fn is_preface_so_far(bytes: &[u8]) -> bool {
    PREFACE.iter().zip(bytes).all(|(a, b)| a == b)
}

/// For bytes that agree with the preface. What they share with a request line of HTTP/1 is not judged before they differ.
pub(super) fn detect_preface(bytes: &[u8]) -> Detection {
    if bytes.len() >= PREFACE.len() {
        Detection::Done(Detected::Http2)
    } else {
        Detection::NeedMore { at_least: bytes.len() + 1 }
    }
}

/// Looks for a request line: see [`super::line`] for what that is. Only lines that begin as the RFC has them are waited
/// for; what is said in another shape is opaque at once, and refused where the watch finds a request in it.
pub(super) fn detect_http1(bytes: &[u8]) -> Detection {
    const OPAQUE: Detection = Detection::Done(Detected::Opaque(OpaqueReason::NoMatch));
    const HTTP1: Detection = Detection::Done(Detected::Http1);
    let more = Detection::NeedMore { at_least: bytes.len() + 1 };

    let Some(line) = skip_empty_lines(bytes) else { return more };
    let method = line.iter().take(MAX_METHOD + 1).take_while(|b| is_tchar(**b)).count();
    if method > MAX_METHOD {
        return OPAQUE;
    }
    match line.get(method) {
        None => return more,
        Some(b' ') if method > 0 => {}
        Some(_) => return OPAQUE,
    }
    let line = line.get(..MAX_REQUEST_LINE).unwrap_or(line);
    let text = line.iter().take_while(|b| is_text(**b)).count();
    // With what ends the line: a version is one when it is whole.
    let text = line.get(..=text).unwrap_or(line);
    match Beginning::NEW.after(text).verdict() {
        Verdict::Http => HTTP1,
        _ if text.last().is_some_and(|b| !is_text(*b)) => OPAQUE,
        _ if line.len() >= MAX_REQUEST_LINE => HTTP1,
        _ => more,
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

/// What may stand in a request line: everything but control characters. Bytes above ASCII are no business of detection.
fn is_text(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f
}
