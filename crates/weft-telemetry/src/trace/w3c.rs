//! `traceparent` (W3C Trace Context level 1, and the flag of level 2).

use http::HeaderValue;

use super::id::{read_pair, write_hex};
use super::{SpanId, TraceContext, TraceId};

/// `00-<32>-<16>-<2>`.
const LEN: usize = 55;
const SAMPLED: u8 = 1;
const RANDOM: u8 = 2;

/// Reads a `traceparent` (section 3.2). Version 00 has exactly 55 characters; a higher one may be longer if its first
/// 55 characters have the shape of version 00 and a `-` follows (section 3.2.4); ff is invalid.
pub(super) fn parse(value: &[u8]) -> Option<TraceContext> {
    let value = value.trim_ascii();
    let version = read_pair(value.get(..2)?, false)?;
    match (version, value.len()) {
        (0xff, _) => return None,
        (0, len) if len != LEN => return None,
        (_, LEN) => {}
        (_, _) if value.get(LEN) == Some(&b'-') => {}
        _ => return None,
    }
    if [2, 35, 52].iter().any(|at| value.get(*at) != Some(&b'-')) {
        return None;
    }
    let flags = read_pair(value.get(53..55)?, false)?;
    Some(TraceContext {
        trace_id: TraceId::from_hex(value.get(3..35)?, false)?,
        span_id: SpanId::from_hex(value.get(36..52)?, false)?,
        sampled: flags & SAMPLED != 0,
        random: flags & RANDOM != 0,
    })
}

/// The 55 characters of version 00. Flags that this version does not know are not passed on (section 3.2.2.5).
pub(super) fn format(context: &TraceContext) -> [u8; LEN] {
    let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let flags = if context.sampled { SAMPLED } else { 0 } | if context.random { RANDOM } else { 0 };
    write_hex(&context.trace_id.bytes(), &mut out[3..35]);
    write_hex(&context.span_id.bytes(), &mut out[36..52]);
    write_hex(&[flags], &mut out[53..55]);
    out
}

///
/// It is marked so that HPACK does not index it (RFC 7541 section 6.2.3): no two requests have the same, and an entry
/// for each would only push useful ones out of the tables at both ends of a link.
pub(super) fn header(context: &TraceContext) -> HeaderValue {
    let mut value = ascii(&format(context));
    value.set_sensitive(true);
    value
}

/// A header value of characters that are known to be valid.
pub(super) fn ascii(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
