//! The trace headers that an application gets: they name the innermost span, in every format that the request came with.

use std::collections::BTreeMap;

use weft_testbed::{Result, Span, story};

use super::shop::{CALLER, Shop, new_trace, one, traceparent};

/// The client's and the server's span of a trace of `browser` and `echo`.
fn hop(shop: &Shop<'_>, trace: &str) -> Result<(Span, Span)> {
    let spans = shop.collector.trace(trace, 2)?;
    let (client, server) = (one(&spans, "browser", "client")?, one(&spans, "echo", "server")?);
    assert_eq!((client.parent.as_str(), server.parent.as_str()), (CALLER, client.id.as_str()));
    Ok((client.clone(), server.clone()))
}

#[test]
fn w3c_is_continued_and_tracestate_is_kept() {
    story("context-w3c", |mesh| {
        let shop = Shop::pair(mesh, |_| {})?;
        let trace = new_trace();
        let state = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";
        let seen = shop.echo(&[("traceparent", &traceparent(&trace, true)), ("tracestate", state)])?;
        let (_, server) = hop(&shop, &trace)?;
        assert_eq!(seen["traceparent"], format!("00-{trace}-{}-01", server.id));
        assert_eq!(seen["tracestate"], state);
        assert!(!seen.contains_key("b3") && !seen.contains_key("x-b3-traceid"), "{seen:?}");

        // A traceparent that nobody can read counts as none, and takes its tracestate with it.
        let seen = shop.echo(&[("traceparent", "00-nonsense"), ("tracestate", state)])?;
        let fresh = trace_of(&seen);
        assert!(fresh.len() == 32 && !seen.contains_key("tracestate"), "{seen:?}");
        assert_eq!(shop.collector.trace(&fresh, 2)?[0].parent, "");
        Ok(())
    });
}

fn trace_of(seen: &BTreeMap<String, String>) -> String {
    seen["traceparent"].split('-').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn b3_is_kept_up_to_date_beside_traceparent() {
    story("context-b3", |mesh| {
        let shop = Shop::pair(mesh, |_| {})?;
        let trace = new_trace();
        let seen = shop.echo(&[("b3", &format!("{trace}-{CALLER}-1"))])?;
        let (client, server) = hop(&shop, &trace)?;
        assert_eq!(seen["b3"], format!("{trace}-{}-1-{}", server.id, client.id));
        assert_eq!(seen["traceparent"], format!("00-{trace}-{}-01", server.id));

        let trace = new_trace();
        let multi = [("x-b3-traceid", trace.as_str()), ("x-b3-spanid", CALLER), ("x-b3-sampled", "1")];
        let seen = shop.echo(&multi)?;
        let (client, server) = hop(&shop, &trace)?;
        assert_eq!((&seen["x-b3-traceid"], &seen["x-b3-spanid"]), (&trace, &server.id));
        assert_eq!((&seen["x-b3-parentspanid"], seen["x-b3-sampled"].as_str()), (&client.id, "1"));
        assert_eq!(seen["traceparent"], format!("00-{trace}-{}-01", server.id));

        // Trace ids of 64 bits are filled up with zeros.
        let short = &new_trace()[16..];
        let seen = shop.echo(&[("b3", &format!("{short}-{CALLER}-1"))])?;
        let (_, server) = hop(&shop, &format!("{:0>32}", short))?;
        assert_eq!(seen["traceparent"], format!("00-{short:0>32}-{}-01", server.id));
        Ok(())
    });
}

#[test]
fn without_a_collector_headers_stay_as_they_are() {
    story("context-passive", |mesh| {
        let shop = Shop::pair(mesh, |tracing| *tracing = serde_json::Value::Null)?;
        let given = traceparent(&new_trace(), true);
        assert_eq!(shop.echo(&[("traceparent", &given)])?["traceparent"], given);
        let seen = shop.echo(&[])?;
        assert!(!seen.contains_key("traceparent") && !seen.contains_key("b3"), "{seen:?}");
        Ok(())
    });
}
