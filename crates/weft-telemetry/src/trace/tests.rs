use http::HeaderMap;
use proptest::prelude::*;

use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    map
}

fn extract(pairs: &[(&'static str, &str)]) -> Option<(String, String, bool)> {
    let context = TraceContext::extract(&headers(pairs))?;
    Some((context.trace_id.to_string(), context.span_id.to_string(), context.sampled))
}

fn found(sampled: bool) -> Option<(String, String, bool)> {
    Some((TRACE.to_owned(), SPAN.to_owned(), sampled))
}

fn tracer(ratio: f64) -> Tracer {
    Tracer { sampler: Some(Arc::new(Sampler::new(ratio).unwrap())), rng: IdRng::with_seed(7) }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|v| v.to_str().unwrap())
}

#[test]
fn traceparent_is_read_by_the_rules() {
    let parent = |text: String| extract(&[("traceparent", &text)]);
    assert_eq!(parent(format!("00-{TRACE}-{SPAN}-01")), found(true));
    assert_eq!(parent(format!("00-{TRACE}-{SPAN}-00")), found(false));
    assert_eq!(
        parent(format!("00-{TRACE}-{SPAN}-fe")),
        found(false),
        "only the lowest bit is the sampled flag"
    );
    assert_eq!(parent(format!(" 00-{TRACE}-{SPAN}-01\t")), found(true));
    assert_eq!(parent(format!("cc-{TRACE}-{SPAN}-01")), found(true), "a future version");
    assert_eq!(parent(format!("cc-{TRACE}-{SPAN}-01-what-the-future-will-be")), found(true));
    for bad in [
        format!("00-{TRACE}-{SPAN}-01-extra"),
        format!("00-{TRACE}-{SPAN}-01-"),
        format!("cc-{TRACE}-{SPAN}-01.extra"),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("0-{TRACE}-{SPAN}-01"),
        format!("00-{TRACE}-{SPAN}-1"),
        format!("00-{TRACE}-{SPAN}"),
        format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
        format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
        format!("00-{}-{SPAN}-01", "0".repeat(32)),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        format!("00_{TRACE}-{SPAN}-01"),
        format!("00-{TRACE}_{SPAN}-01"),
        format!("00-{TRACE}-{SPAN}_01"),
        format!("00-{}g-{SPAN}-01", &TRACE[1..]),
        format!("00-{TRACE}-{SPAN}-0g"),
        "00".to_owned(),
        String::new(),
    ] {
        assert_eq!(parent(bad.clone()), None, "{bad:?}");
    }
}

#[test]
fn two_traceparents_are_none() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    assert_eq!(extract(&[("traceparent", &parent), ("traceparent", &parent)]), None);
}

#[test]
fn b3_is_read_in_both_forms() {
    let single = |text: String| extract(&[("b3", &text)]);
    assert_eq!(single(format!("{TRACE}-{SPAN}-1")), found(true));
    assert_eq!(single(format!("{TRACE}-{SPAN}-d")), found(true));
    assert_eq!(single(format!("{TRACE}-{SPAN}-0-05e3ac9a4f6e3b90")), found(false));
    assert_eq!(single(format!("{TRACE}-{SPAN}")), found(false));
    let short = extract(&[("b3", "a3ce929d0e0e4736-00f067aa0ba902b7-1")]).unwrap();
    assert_eq!(short.0, "0000000000000000a3ce929d0e0e4736");
    for bad in [
        format!("{TRACE}-{SPAN}-2"),
        format!("{TRACE}-{SPAN}-1-zz"),
        format!("{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90-x"),
        format!("{TRACE}-"),
        "1".to_owned(),
        "-".to_owned(),
    ] {
        assert_eq!(single(bad.clone()), None, "{bad:?}");
    }
    let multi = |more: (&'static str, &str)| extract(&[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), more]);
    assert_eq!(multi(("x-b3-sampled", "1")), found(true));
    assert_eq!(multi(("x-b3-sampled", "true")), found(true));
    assert_eq!(multi(("x-b3-sampled", "0")), found(false));
    assert_eq!(multi(("x-b3-flags", "1")), found(true));
    assert_eq!(extract(&[("x-b3-traceid", TRACE)]), None);
}

#[test]
fn w3c_wins_over_b3_and_a_broken_one_falls_back() {
    let other = format!("{}-{SPAN}-0", "a".repeat(32));
    let good = format!("00-{TRACE}-{SPAN}-01");
    assert_eq!(extract(&[("traceparent", &good), ("b3", &other)]), found(true));
    let (trace, _, sampled) = extract(&[("traceparent", "junk"), ("b3", &other)]).unwrap();
    assert_eq!((trace, sampled), ("a".repeat(32), false));
}

#[test]
fn no_context_starts_a_trace() {
    for (ratio, flags) in [(0.0, "00"), (1.0, "01")] {
        let mut map = headers(&[("accept", "*/*"), ("tracestate", "a=b")]);
        let trace = tracer(ratio).begin(&map);
        assert_eq!(trace.parent, None);
        trace.inject(&mut map);
        let context = trace.context;
        let expected = format!("00-{}-{}-{flags}", context.trace_id, context.span_id);
        assert_eq!(text(&map, "traceparent"), Some(expected.as_str()));
        assert_eq!(text(&map, "tracestate"), None, "a tracestate without its traceparent means nothing");
        assert_eq!(text(&map, "b3"), None);
    }
}

#[test]
fn a_sampled_trace_goes_on_below_our_span() {
    let mut map = headers(&[("traceparent", &format!("00-{TRACE}-{SPAN}-03")), ("tracestate", "a=b")]);
    let trace = tracer(0.0).begin(&map);
    assert_eq!(trace.parent.unwrap().to_string(), SPAN);
    assert_eq!(trace.context.trace_id.to_string(), TRACE);
    trace.inject(&mut map);
    let ours = trace.context.span_id.to_string();
    assert_ne!(ours, SPAN);
    assert_eq!(text(&map, "traceparent"), Some(format!("00-{TRACE}-{ours}-03").as_str()));
    assert_eq!(text(&map, "tracestate"), Some("a=b"));
    let child = trace.context.child(tracer(1.0).rng());
    trace.inject_child(&child, &mut map);
    assert_eq!(text(&map, "traceparent"), Some(format!("00-{TRACE}-{}-03", child.span_id).as_str()));
}

#[test]
fn an_unsampled_trace_is_left_alone() {
    let sent = format!("00-{TRACE}-{SPAN}-00");
    let mut map = headers(&[("traceparent", &sent), ("tracestate", "a=b"), ("b3", "0")]);
    let before = map.clone();
    let trace = tracer(1.0).begin(&map);
    assert!(!trace.context.sampled, "the caller's decision holds");
    trace.inject(&mut map);
    assert_eq!(map, before);
}

#[test]
fn a_passive_tracer_changes_nothing() {
    let sent = format!("00-{TRACE}-{SPAN}-01");
    for map in [
        headers(&[]),
        headers(&[("traceparent", &sent), ("tracestate", "a=b")]),
        headers(&[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)]),
    ] {
        let trace = Tracer::passive().begin(&map);
        let mut after = map.clone();
        trace.inject(&mut after);
        assert_eq!(after, map);
        assert!(!trace.records());
    }
    let trace = Tracer::passive().begin(&headers(&[("traceparent", &sent)]));
    assert_eq!((trace.context.trace_id.to_string(), trace.context.sampled), (TRACE.to_owned(), true));
    assert!(tracer(0.0).begin(&headers(&[("traceparent", &sent)])).records());
}

#[test]
fn b3_is_kept_up_to_date_beside_traceparent() {
    let mut map = headers(&[("b3", &format!("{TRACE}-{SPAN}-d"))]);
    let trace = tracer(0.0).begin(&map);
    trace.inject(&mut map);
    let ours = trace.context.span_id.to_string();
    assert_eq!(text(&map, "traceparent"), Some(format!("00-{TRACE}-{ours}-01").as_str()));
    assert_eq!(text(&map, "b3"), Some(format!("{TRACE}-{ours}-d-{SPAN}").as_str()));

    let mut map = headers(&[
        ("x-b3-traceid", TRACE),
        ("x-b3-spanid", SPAN),
        ("x-b3-parentspanid", "05e3ac9a4f6e3b90"),
        ("x-b3-sampled", "1"),
    ]);
    let trace = tracer(0.0).begin(&map);
    trace.inject(&mut map);
    let ours = trace.context.span_id.to_string();
    assert_eq!(text(&map, "x-b3-spanid"), Some(ours.as_str()));
    assert_eq!(text(&map, "x-b3-parentspanid"), Some(SPAN));
    assert_eq!(text(&map, "x-b3-sampled"), Some("1"));
    assert_eq!(text(&map, "x-b3-flags"), None);
}

#[test]
fn a_b3_decision_that_was_left_open_is_made_here() {
    for (ratio, sampled) in [(0.0, "0"), (1.0, "1")] {
        let mut map = headers(&[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)]);
        let trace = tracer(ratio).begin(&map);
        trace.inject(&mut map);
        assert_eq!(text(&map, "x-b3-sampled"), Some(sampled));
        assert_eq!(trace.context.span_id.to_string() == SPAN, sampled == "0");
    }
}

#[test]
fn a_decision_without_ids_is_kept() {
    for (header, value, flags) in [("b3", "0", "00"), ("b3", "1", "01"), ("x-b3-sampled", "0", "00")] {
        let mut map = headers(&[(header, value)]);
        // The ratio says the opposite each time.
        let trace = tracer(if flags == "00" { 1.0 } else { 0.0 }).begin(&map);
        trace.inject(&mut map);
        assert!(text(&map, "traceparent").unwrap().ends_with(flags), "{header}: {value}");
    }
}

#[test]
fn the_ratio_is_kept_over_many_traces_and_decides_by_the_id() {
    let sampler = Sampler::new(0.25).unwrap();
    let mut rng = IdRng::with_seed(1);
    let ids: Vec<TraceId> = (0..100_000).map(|_| rng.trace_id()).collect();
    let share = ids.iter().filter(|id| sampler.samples(**id)).count() as f64 / ids.len() as f64;
    assert!((0.24..0.26).contains(&share), "{share}");
    sampler.set_ratio(1.0).unwrap();
    assert!(ids.iter().all(|id| sampler.samples(*id)));
    let all = TraceId::new([0xff; 16]).unwrap();
    assert!(sampler.samples(all));
    sampler.set_ratio(0.0).unwrap();
    let least = TraceId::new([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    assert!(!sampler.samples(least) && !ids.iter().any(|id| sampler.samples(*id)));
    for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(sampler.set_ratio(bad).is_err(), "{bad}");
    }
}

#[test]
fn generators_of_one_process_do_not_repeat_each_other() {
    let firsts: std::collections::HashSet<_> = (0..100).map(|_| IdRng::new().trace_id()).collect();
    assert_eq!(firsts.len(), 100);
}

proptest! {
    #[test]
    fn bytes_from_the_network_never_panic(
        values in prop::collection::vec((0usize..8, prop::collection::vec(any::<u8>(), 0..80)), 0..6),
    ) {
        let names = [&TRACEPARENT, &TRACESTATE, &B3, &X_B3_TRACE_ID, &X_B3_SPAN_ID, &X_B3_PARENT_SPAN_ID,
            &X_B3_SAMPLED, &X_B3_FLAGS];
        let mut map = HeaderMap::new();
        for (name, value) in &values {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                map.append(names[*name], value);
            }
        }
        let trace = tracer(0.5).begin(&map);
        trace.inject(&mut map);
        // Whatever came in, what goes out says what we decided.
        let after = TraceContext::extract(&map).unwrap();
        prop_assert_eq!(after.trace_id, trace.context.trace_id);
        prop_assert_eq!(after.span_id, trace.context.span_id);
        prop_assert_eq!(after.sampled, trace.context.sampled);
    }

    #[test]
    fn near_misses_never_panic(text in "[0-9a-fA-F]{0,33}[-_]?[0-9a-f]{0,34}-?[0-9a-f]{0,17}-?[01d]{0,3}-?.{0,4}") {
        let _ = w3c::parse(text.as_bytes());
        let _ = b3::parse_single(text.as_bytes());
    }

    #[test]
    fn a_context_survives_the_way_over_headers(trace: [u8; 16], span: [u8; 8], sampled: bool, random: bool) {
        prop_assume!(trace != [0; 16] && span != [0; 8]);
        let context = TraceContext {
            trace_id: TraceId::new(trace).unwrap(),
            span_id: SpanId::new(span).unwrap(),
            sampled,
            random,
        };
        let mut map = HeaderMap::new();
        context.inject(&mut map);
        prop_assert_eq!(TraceContext::extract(&map), Some(context));
        let b3 = b3::single_header(&context, None, false);
        let read = b3::parse_single(b3.as_bytes()).unwrap();
        prop_assert_eq!((read.ids, read.decision), (Some((context.trace_id, context.span_id)), Some(sampled)));
    }
}
