//! Who decides whether a request is recorded: its caller if it says so, otherwise the first sidecar's ratio.

use weft_testbed::{Result, story};

use super::shop::{CALLER, Shop, new_trace, traceparent};

/// A recorded request, and the wait for its spans. Spans leave a sidecar in the order in which they ended, so whatever an
/// earlier request made is there by then.
fn marker(shop: &Shop<'_>) -> Result<String> {
    let trace = new_trace();
    shop.echo(&[("traceparent", &traceparent(&trace, true))])?;
    shop.collector.trace(&trace, 2)?;
    Ok(trace)
}

/// No trace has come but these.
fn only(shop: &Shop<'_>, traces: &[String]) -> Result<()> {
    let spans = shop.collector.spans()?;
    let others: Vec<_> = spans.iter().filter(|span| !traces.contains(&span.trace)).collect();
    assert!(others.is_empty(), "{others:#?}");
    Ok(())
}

#[test]
fn a_ratio_of_zero_records_only_what_callers_ask_for() {
    story("sampling-zero", |mesh| {
        let shop = Shop::pair(mesh, |tracing| tracing["sampling"] = 0.0.into())?;
        let mut kept = Vec::new();
        for _ in 0..20 {
            let seen = shop.echo(&[])?;
            assert!(seen["traceparent"].ends_with("-00"), "decided once, for all that follow: {seen:?}");
        }
        kept.push(marker(&shop)?);
        only(&shop, &kept)?;
        let trace = new_trace();
        shop.echo(&[("b3", &format!("{trace}-{CALLER}-1"))])?;
        shop.collector.trace(&trace, 2)?;
        kept.push(trace);
        kept.push(marker(&shop)?);
        only(&shop, &kept)
    });
}

#[test]
fn a_callers_no_is_respected_and_its_headers_are_left_alone() {
    story("sampling-no", |mesh| {
        let shop = Shop::pair(mesh, |tracing| tracing["sampling"] = 1.0.into())?;
        let no = traceparent(&new_trace(), false);
        let seen = shop.echo(&[("traceparent", &no), ("tracestate", "a=b")])?;
        assert_eq!((seen["traceparent"].as_str(), seen["tracestate"].as_str()), (no.as_str(), "a=b"));
        let b3 = format!("{}-{CALLER}-0", new_trace());
        assert_eq!(shop.echo(&[("b3", &b3)])?["b3"], b3);
        // B3 alone may say no without naming a trace.
        assert_eq!(shop.echo(&[("b3", "0")])?["traceparent"].rsplit('-').next(), Some("00"));
        let kept = [marker(&shop)?];
        only(&shop, &kept)
    });
}

/// Every sidecar decides on the trace id, so a trace is whole or absent.
#[test]
fn a_trace_is_recorded_by_all_or_by_none() {
    story("sampling-half", |mesh| {
        let shop = Shop::pair(mesh, |tracing| tracing["sampling"] = 0.5.into())?;
        let (mut yes, mut no) = (Vec::new(), 0);
        for _ in 0..40 {
            let seen = shop.echo(&[])?;
            let parts: Vec<&str> = seen["traceparent"].split('-').collect();
            if parts[3] == "01" { yes.push(parts[1].to_owned()) } else { no += 1 }
        }
        // Out of 40 fair draws fewer than 5 or more than 35 of a kind come once in 10 million.
        assert!(yes.len() >= 5 && no >= 5, "{} recorded, {no} not", yes.len());
        for trace in &yes {
            assert_eq!(shop.collector.trace(trace, 2)?.len(), 2);
        }
        yes.push(marker(&shop)?);
        only(&shop, &yes)
    });
}
