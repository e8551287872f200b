//! The collector is away: what is lost is counted, and no request waits for it.

use weft_testbed::{Collector, Request, Result, story};

use super::shop::{Shop, wait_counted};

const DROPPED: &str = "weft_spans_dropped_total";

/// Spans that may wait: fewer than the traffic of a story makes.
const QUEUE: u64 = 64;

fn traced(shop: &Shop, trace: &str) -> Result<()> {
    let context = format!("00-{trace}-00f067aa0ba902b7-01");
    let answer = shop.web.send(Request::get("http://orders.shop/traced").header("traceparent", &context))?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    Ok(())
}

fn away(label: &str, stop: impl Fn(&Collector), back: impl Fn(&Collector) -> Result<()>) {
    story(label, |mesh| {
        let collector = mesh.collector()?;
        let mut shop = Shop::open(mesh)?;
        shop.client.reconfigure(|yaml| {
            yaml["telemetry"]["tracing"]["queue"] = QUEUE.into();
            // A request that waited for an export would wait beyond the deadline of the load.
            yaml["telemetry"]["tracing"]["timeout"] = "30s".into();
        })?;
        shop.client.restart()?;
        let traffic = shop.traffic()?;
        traced(&shop, "aaaa2f3577b34da6a3ce929d0e0e4736")?;
        collector.trace("aaaa2f3577b34da6a3ce929d0e0e4736", 2)?;
        let before = shop.client.metrics()?.sum(DROPPED, &[]);
        stop(collector);
        wait_counted(&shop.client, DROPPED, &[("reason", "queue_full")], before)?;
        traffic.go_on(2)?;
        back(collector)?;
        // Spans arrive again: those of requests that are made from now on, once an export has gone through.
        weft_testbed::eventually("spans to arrive again", super::shop::SOON, || {
            let trace = format!("{:032x}", fastrand::u128(1..));
            traced(&shop, &trace)?;
            let arrived = collector.trace(&trace, 2).is_ok();
            Ok(arrived.then_some(()))
        })?;
        traffic.end()
    });
}

#[test]
fn it_is_gone_and_comes_back() {
    away("collector-gone", Collector::stop, Collector::restart);
}

#[test]
fn it_hangs_and_goes_on() {
    away("collector-hangs", Collector::pause, |collector| {
        collector.resume();
        Ok(())
    });
}
