//! A request's way through a link, with any headers: nothing of a hop or of the mesh's own survives that the client wrote,
//! what comes out of the link is what went in, and the trace stays one.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, Request, Version};
use libfuzzer_sys::fuzz_target;
use weft_http::headers::is_internal;
use weft_http::{testing, wire};
use weft_telemetry::trace::IdRng;
use weft_telemetry::{Sampler, TraceContext, Tracer};

const OF_A_HOP: [&str; 6] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings"];

/// `name: value` lines; what is none is left out, as the parsers before this do.
fn headers(text: &[u8]) -> HeaderMap {
    let lines = text.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(line[..colon].trim_ascii()).ok()?;
        Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
    });
    lines.fold(HeaderMap::new(), |mut headers, (name, value)| {
        headers.append(name, value);
        headers
    })
}

// Which version, and then the headers.
fuzz_target!(|input: &[u8]| {
    let Some((kind, text)) = input.split_first() else { return };
    let version = [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2][usize::from(kind % 3)];
    let mut request = if version == Version::HTTP_2 {
        let mut request = Request::new(());
        *request.version_mut() = version;
        *request.headers_mut() = headers(text);
        request
    } else {
        // Of HTTP/1, only what its parser has made.
        let line: &[u8] = if version == Version::HTTP_10 { b"GET / HTTP/1.0\r\n" } else { b"GET / HTTP/1.1\r\n" };
        let Some(request) = testing::request_head(&[line, text, b"\r\n\r\n"].concat()) else { return };
        request
    };
    let Ok(upgrade) = wire::clean_request(&mut request) else { return };
    assert!(!request.headers().keys().any(|name| is_internal(name.as_str())));
    if version != Version::HTTP_2 {
        assert!(!OF_A_HOP.iter().any(|name| request.headers().contains_key(*name)));
    }

    let sampler = Sampler::new(0.5).map(std::sync::Arc::new).unwrap_or_else(|_| unreachable!("a ratio"));
    let trace = Tracer::new(sampler).begin(request.headers());
    trace.inject(request.headers_mut());
    if let Some(seen) = TraceContext::extract(request.headers()) {
        assert_eq!(seen.trace_id, trace.context.trace_id);
        assert_eq!(seen.child(&mut IdRng::with_seed(1)).trace_id, seen.trace_id);
    }

    let before = request.headers().clone();
    wire::to_link(&mut request, upgrade.clone());
    let Ok(original) = wire::from_link(&mut request) else { panic!("what an application may send, a link takes") };
    assert_eq!((original.version, original.upgrade), (version, upgrade));
    assert_eq!(*request.headers(), before);
});
