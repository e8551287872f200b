//! B3 propagation (openzipkin/b3-propagation): the single `b3` header and the `x-b3-*` ones.

use http::{HeaderMap, HeaderValue};

use super::w3c::ascii;
use super::{
    SpanId, TraceContext, TraceId, X_B3_FLAGS, X_B3_PARENT_SPAN_ID, X_B3_SAMPLED, X_B3_SPAN_ID, X_B3_TRACE_ID,
};

/// What either form says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct B3Context {
    pub(super) ids: Option<(TraceId, SpanId)>,
    pub(super) decision: Option<bool>,
    pub(super) debug: bool,
}

/// The `x-b3-*` headers of a request.
#[derive(Default)]
pub(super) struct Multi<'a> {
    trace_id: Option<&'a HeaderValue>,
    span_id: Option<&'a HeaderValue>,
    sampled: Option<&'a HeaderValue>,
    flags: Option<&'a HeaderValue>,
}

impl<'a> Multi<'a> {
    /// Takes a header that begins with `x-b3-`; says whether it is one of the format's.
    pub(super) fn look(&mut self, name: &str, value: &'a HeaderValue) -> bool {
        let slot = match name {
            "x-b3-traceid" => &mut self.trace_id,
            "x-b3-spanid" => &mut self.span_id,
            "x-b3-sampled" => &mut self.sampled,
            "x-b3-flags" => &mut self.flags,
            "x-b3-parentspanid" => return true,
            _ => return false,
        };
        slot.get_or_insert(value);
        true
    }

    pub(super) fn parse(&self) -> Option<B3Context> {
        let text = |value: Option<&'a HeaderValue>| value.map(|v| v.as_bytes().trim_ascii());
        let debug = text(self.flags) == Some(b"1");
        let decision = if debug { Some(true) } else { text(self.sampled).and_then(decision) };
        let ids = match (text(self.trace_id), text(self.span_id)) {
            (Some(trace), Some(span)) => ids(trace, span),
            _ => None,
        };
        (ids.is_some() || decision.is_some()).then_some(B3Context { ids, decision, debug })
    }
}

/// `{TraceId}-{SpanId}[-{SamplingState}[-{ParentSpanId}]]`, or a sampling state alone.
pub(super) fn parse_single(value: &[u8]) -> Option<B3Context> {
    let value = value.trim_ascii();
    let mut parts = value.split(|c| *c == b'-');
    let (first, second, state, parent, rest) =
        (parts.next()?, parts.next(), parts.next(), parts.next(), parts.next());
    let Some(second) = second else {
        let decision = Some(state_decision(first)?);
        return Some(B3Context { ids: None, decision, debug: first == b"d" });
    };
    if rest.is_some() || parent.is_some_and(|p| SpanId::from_hex(p, true).is_none()) {
        return None;
    }
    let decision = match state {
        Some(state) => Some(state_decision(state)?),
        None => None,
    };
    Some(B3Context { ids: Some(ids(first, second)?), decision, debug: state == Some(b"d") })
}

/// The states of the single header.
fn state_decision(text: &[u8]) -> Option<bool> {
    match text {
        b"1" | b"d" => Some(true),
        b"0" => Some(false),
        _ => None,
    }
}

/// `x-b3-sampled`; old tracers sent words.
fn decision(text: &[u8]) -> Option<bool> {
    match text {
        b"1" | b"true" => Some(true),
        b"0" | b"false" => Some(false),
        _ => None,
    }
}

/// A trace id of 64 bits is the low half of one of 128. Capital letters are read, as Zipkin's own libraries do.
fn ids(trace: &[u8], span: &[u8]) -> Option<(TraceId, SpanId)> {
    let trace_id = match trace.len() {
        16 => {
            let low = SpanId::from_hex(trace, true)?;
            let mut bytes = [0; 16];
            bytes[8..].copy_from_slice(&low.bytes());
            TraceId::new(bytes)?
        }
        _ => TraceId::from_hex(trace, true)?,
    };
    Some((trace_id, SpanId::from_hex(span, true)?))
}

/// 32 + 1 + 16 + 1 + 1 + 1 + 16.
const SINGLE_LEN: usize = 68;

pub(super) fn single_header(context: &TraceContext, parent: Option<SpanId>, debug: bool) -> HeaderValue {
    let mut out = [b'-'; SINGLE_LEN];
    out[..32].copy_from_slice(&context.trace_id.hex());
    out[33..49].copy_from_slice(&context.span_id.hex());
    out[50] = if debug { b'd' } else { sampled(context) };
    match parent {
        Some(parent) => {
            out[52..].copy_from_slice(&parent.hex());
            ascii(&out)
        }
        None => ascii(&out[..51]),
    }
}

pub(super) fn insert_multi(
    headers: &mut HeaderMap,
    context: &TraceContext,
    parent: Option<SpanId>,
    debug: bool,
) {
    headers.insert(X_B3_TRACE_ID.clone(), ascii(&context.trace_id.hex()));
    headers.insert(X_B3_SPAN_ID.clone(), ascii(&context.span_id.hex()));
    match parent {
        Some(parent) => headers.insert(X_B3_PARENT_SPAN_ID.clone(), ascii(&parent.hex())),
        None => headers.remove(&X_B3_PARENT_SPAN_ID),
    };
    if debug {
        // The format says that debug implies the decision, and that x-b3-sampled is then not sent.
        headers.insert(X_B3_FLAGS.clone(), HeaderValue::from_static("1"));
        headers.remove(&X_B3_SAMPLED);
    } else {
        headers.insert(X_B3_SAMPLED.clone(), ascii(&[sampled(context)]));
        headers.remove(&X_B3_FLAGS);
    }
}

fn sampled(context: &TraceContext) -> u8 {
    if context.sampled { b'1' } else { b'0' }
}
