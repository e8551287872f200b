//! Trace context: read from a request, continued or started, written back.
//!
//! A proxy must carry the trace of applications that know nothing of it, in whichever of the three header formats they
//! use, at a price that the 99 % of requests that nobody samples do not notice. So an unsampled request that already has
//! a `traceparent` is left exactly as it is (a span id of ours would name a span that never exists); one without any
//! context gets fresh ids, so that everything behind it agrees on "not sampled"; only a sampled one gets a span.

mod b3;
mod id;
mod sampler;
mod w3c;

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

pub use id::{IdRng, SpanId, TraceId};
pub use sampler::Sampler;

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
static B3: HeaderName = HeaderName::from_static("b3");
static X_B3_TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
static X_B3_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
static X_B3_PARENT_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
static X_B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
static X_B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// A position in a trace: the trace, a span of it, and whether it is recorded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: TraceId,
    /// The span that whatever comes next has as its parent.
    pub span_id: SpanId,
    /// Whether spans are recorded.
    pub sampled: bool,
    /// The random-trace-id flag of Trace Context level 2, passed on as it came.
    pub random: bool,
}

/// The formats that a request came with, which are the ones that are kept up to date in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formats {
    /// A `traceparent`, valid or not.
    pub w3c: bool,
    /// A single `b3` header.
    pub b3_single: bool,
    /// Any of the `x-b3-*` headers.
    pub b3_multi: bool,
}

/// What a request says about its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// The trace and the caller's span, if they are valid.
    pub parent: Option<(TraceId, SpanId)>,
    /// The caller's sampling decision; `None` where it leaves it to us.
    pub decision: Option<bool>,
    /// The random-trace-id flag.
    pub random: bool,
    /// B3's debug flag (`d`, or `x-b3-flags: 1`), passed on as it came. It implies a decision to sample.
    pub debug: bool,
    /// The headers that were there.
    pub formats: Formats,
    /// Whether the position came from `traceparent`, so that `tracestate` belongs to it.
    pub from_w3c: bool,
}

/// The trace of one request inside this proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestTrace {
    /// Where the request is now: this proxy's own span if sampled.
    pub context: TraceContext,
    /// The caller's span, if there is one: the parent of ours.
    pub parent: Option<SpanId>,
    /// From a passive tracer: headers stay as they are.
    passive: bool,
    incoming: Incoming,
}

impl Incoming {
    /// Reads the headers: `traceparent` first, then the single `b3`, then `x-b3-*`.
    ///
    /// The headers are walked once: most requests have none of these, and a handful of compares by length is cheaper
    /// than eight hash lookups.
    pub fn extract(headers: &HeaderMap) -> Self {
        let mut found = Found::default();
        for (name, value) in headers {
            found.look(name, value);
        }
        found.parse()
    }
}

#[derive(Default)]
struct Found<'a> {
    traceparent: Option<&'a HeaderValue>,
    /// More than one `traceparent`: none can be trusted (Trace Context section 3.2 gives no way to choose).
    several: bool,
    b3: Option<&'a HeaderValue>,
    multi: b3::Multi<'a>,
    formats: Formats,
}

impl<'a> Found<'a> {
    #[inline]
    fn look(&mut self, name: &HeaderName, value: &'a HeaderValue) {
        let text = name.as_str();
        match text.len() {
            2 if text == "b3" => {
                self.formats.b3_single = true;
                self.b3.get_or_insert(value);
            }
            11 if text == "traceparent" => {
                self.several |= self.formats.w3c;
                self.formats.w3c = true;
                self.traceparent = Some(value);
            }
            10..=17 if text.starts_with("x-b3-") => {
                self.formats.b3_multi |= self.multi.look(text, value);
            }
            _ => {}
        }
    }

    fn parse(&self) -> Incoming {
        let mut incoming = Incoming {
            parent: None,
            decision: None,
            random: false,
            debug: false,
            formats: self.formats,
            from_w3c: false,
        };
        let w3c = if self.several { None } else { self.traceparent.and_then(|v| w3c::parse(v.as_bytes())) };
        if let Some(context) = w3c {
            incoming.parent = Some((context.trace_id, context.span_id));
            incoming.decision = Some(context.sampled);
            incoming.random = context.random;
            incoming.from_w3c = true;
            return incoming;
        }
        let b3 = self.b3.and_then(|v| b3::parse_single(v.as_bytes()));
        if let Some(b3) = b3.or_else(|| self.multi.parse()) {
            incoming.parent = b3.ids;
            incoming.decision = b3.decision;
            incoming.debug = b3.debug;
        }
        incoming
    }
}

impl TraceContext {
    /// The position that a request is at, if its headers say so. A missing sampling decision (B3 allows it) reads as
    /// "not sampled"; [`Tracer::begin`] decides it instead.
    pub fn extract(headers: &HeaderMap) -> Option<Self> {
        let incoming = Incoming::extract(headers);
        let (trace_id, span_id) = incoming.parent?;
        Some(Self { trace_id, span_id, sampled: incoming.decision == Some(true), random: incoming.random })
    }

    /// A new position below this one: same trace, new span.
    pub fn child(&self, rng: &mut IdRng) -> Self {
        Self { span_id: rng.span_id(), ..*self }
    }

    /// Writes `traceparent`, replacing what is there. Other headers are left alone; [`RequestTrace::inject`] also keeps
    /// B3 and `tracestate` right.
    pub fn inject(&self, headers: &mut HeaderMap) {
        headers.insert(TRACEPARENT.clone(), w3c::header(self));
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&w3c::format(self)).unwrap_or(""))
    }
}

/// A worker's source of trace decisions: a sampler shared by all and ids of its own.
#[derive(Debug)]
pub struct Tracer {
    /// None: passive.
    sampler: Option<Arc<Sampler>>,
    rng: IdRng,
}

impl Tracer {
    /// A tracer for one worker.
    pub fn new(sampler: Arc<Sampler>) -> Self {
        Self { sampler: Some(sampler), rng: IdRng::new() }
    }

    /// A tracer for a proxy that has no collector: it reads contexts (for the access log) and changes no header. A span
    /// id of its own would break the trace of those who record, and a decision of its own would keep them from it.
    pub fn passive() -> Self {
        Self { sampler: None, rng: IdRng::new() }
    }

    /// Reads a request's context and decides: continue the caller's trace or start one, record it or not.
    #[inline]
    pub fn begin(&mut self, headers: &HeaderMap) -> RequestTrace {
        let incoming = Incoming::extract(headers);
        let trace_id = match incoming.parent {
            Some((trace_id, _)) => trace_id,
            None => self.rng.trace_id(),
        };
        let parent = incoming.parent.map(|(_, span_id)| span_id);
        let decide = || self.sampler.as_ref().is_some_and(|sampler| sampler.samples(trace_id));
        let sampled = incoming.decision.unwrap_or_else(decide);
        let passive = self.sampler.is_none();
        // No span of ours will exist: the caller's stays the parent of what follows.
        let span_id = match parent {
            Some(span_id) if passive || !sampled => span_id,
            _ => self.rng.span_id(),
        };
        let context = TraceContext { trace_id, span_id, sampled, random: incoming.random };
        RequestTrace { context, parent, passive, incoming }
    }

    /// The ids of this worker, for spans beyond the first of a request.
    pub fn rng(&mut self) -> &mut IdRng {
        &mut self.rng
    }
}

impl RequestTrace {
    /// Whether a span is to be made of this request.
    pub fn records(&self) -> bool {
        self.context.sampled && !self.passive
    }

    /// Brings the request's headers up to date, for the next hop to see this position as its parent.
    #[inline]
    pub fn inject(&self, headers: &mut HeaderMap) {
        self.inject_as(&self.context, self.parent, headers);
    }

    /// The same for a span below the request's own: a gateway's client span under its server span.
    pub fn inject_child(&self, child: &TraceContext, headers: &mut HeaderMap) {
        self.inject_as(child, Some(self.context.span_id), headers);
    }

    fn inject_as(&self, context: &TraceContext, parent: Option<SpanId>, headers: &mut HeaderMap) {
        let incoming = &self.incoming;
        if self.passive {
            return;
        }
        let unchanged = !context.sampled && incoming.parent == Some((context.trace_id, context.span_id));
        if unchanged && incoming.from_w3c {
            return;
        }
        if !incoming.from_w3c && (incoming.formats.w3c || headers.contains_key(&TRACESTATE)) {
            // Trace Context section 3.3.1: a tracestate is worth nothing without the traceparent it came with.
            headers.remove(&TRACESTATE);
        }
        context.inject(headers);
        if unchanged && incoming.decision.is_some() {
            return;
        }
        self.inject_b3(context, parent.filter(|p| *p != context.span_id), headers);
    }

    fn inject_b3(&self, context: &TraceContext, parent: Option<SpanId>, headers: &mut HeaderMap) {
        let formats = self.incoming.formats;
        if formats.b3_single {
            headers.insert(B3.clone(), b3::single_header(context, parent, self.incoming.debug));
        }
        if formats.b3_multi {
            b3::insert_multi(headers, context, parent, self.incoming.debug);
        }
    }
}

#[cfg(test)]
mod tests;
