//! The terminal: one screen, drawn anew twice a second.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use crate::demo::facts::{Fact, shares, whole_trace};
use crate::demo::shop::Shop;
use crate::{Metrics, Report, Span};

/// Widths of the columns with names and of bars, in characters.
const NAME: usize = 26;
const BAR: usize = 40;

/// What the screen shows.
#[derive(Debug)]
pub(super) struct Picture<'a> {
    pub(super) receiver: &'a str,
    pub(super) loopback: bool,
    pub(super) report: &'a Report,
    /// By pod: now, and the change over `window`.
    pub(super) now: &'a BTreeMap<String, Metrics>,
    pub(super) change: &'a BTreeMap<String, Metrics>,
    pub(super) window: Duration,
    pub(super) spans: &'a [Span],
    pub(super) event: &'a str,
    pub(super) facts: &'a [Fact],
}

/// Whether the terminal can be drawn on.
pub(super) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Writes a line or a screen; a closed terminal is no error of the demo.
pub(super) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Draws over the last screen.
pub(super) fn draw(text: &str) {
    // Home, then each line cleared to its end, then all below: no flicker, as nothing is blank in between.
    let lines: String = text.lines().map(|line| format!("{line}\x1b[K\n")).collect();
    print(&format!("\x1b[H{lines}\x1b[J"));
}

impl Picture<'_> {
    pub(super) fn text(&self, shop: &Shop) -> String {
        let mut text = String::from(
            "Weft demo: shopper > gateway (HTTPS) > web > orders x3 and a canary > inventory (gRPC) > redis (TCP)\n",
        );
        if self.loopback {
            text.push_str(
                "LOOPBACK PODS: no interception, no capture of the wire, no isolation between pods\n",
            );
        }
        let _ = writeln!(
            text,
            "{} requests, {} failed, p50 {:.1?}, p99 {:.1?}   spans go to {}\n",
            self.report.sent,
            self.report.failures(),
            self.report.quantile(0.5),
            self.report.quantile(0.99),
            self.receiver
        );
        self.edges(&mut text);
        self.links(&mut text);
        let _ = writeln!(text, "from here: {}\n", shop.edge.curl());
        self.balance(shop, &mut text);
        self.canary(shop, &mut text);
        waterfall(self.spans, &mut text);
        let _ = writeln!(text, "{}", self.event);
        for fact in self.facts {
            let _ = writeln!(text, "{fact}");
        }
        text.push_str("Ctrl-C ends it; nothing is left behind.\n");
        text
    }

    fn edges(&self, text: &mut String) {
        let _ = writeln!(text, "{:NAME$} {:>9} {:>9} {:>9}", "edge", "per s", "p50", "p99");
        let seconds = self.window.as_secs_f64().max(0.1);
        let time = |value: Option<f64>| value.map_or("-".to_owned(), |s| format!("<{:.2}ms", s * 1e3));
        for (from, service, sources) in edges() {
            let of = |metrics: &BTreeMap<String, Metrics>, name: &str| -> Vec<Metrics> {
                let has = |pod: &str| sources.iter().any(|source| pod.starts_with(source));
                let all = metrics.iter().filter(|(pod, _)| has(pod)).map(|(_, metrics)| metrics.clone());
                all.filter(|metrics| metrics.of(name, &[]).next().is_some()).collect()
            };
            let edge = format!("{from} > {service}");
            if service == "redis" {
                let sum = |name: &str| -> f64 {
                    of(self.change, name).iter().map(|m| m.sum(name, &[("direction", "outbound")])).sum()
                };
                let bytes = sum("weft_tcp_sent_bytes_total") + sum("weft_tcp_received_bytes_total");
                let name = "weft_tcp_connections_active";
                let open: f64 =
                    of(self.now, name).iter().map(|m| m.sum(name, &[("direction", "outbound")])).sum();
                let rate = bytes / 1024.0 / seconds;
                let _ = writeln!(text, "{edge:NAME$} {rate:>6.1} KB per s, {open:.0} open (opaque TCP)");
                continue;
            }
            // A gateway measures what its clients see.
            let name = match from {
                "gateway" => "http_server_request_duration_seconds",
                _ => "http_client_request_duration_seconds",
            };
            let change = Metrics::merged(&of(self.change, &format!("{name}_count")));
            let labels = change.values_of(&format!("{name}_count"), "destination_service");
            let Some(dialed) = labels.iter().find(|dialed| dialed.starts_with(&format!("{service}."))) else {
                let _ = writeln!(text, "{edge:NAME$} {:>9}", "-");
                continue;
            };
            let labels = [("destination_service", dialed.as_str())];
            let rate = change.sum(&format!("{name}_count"), &labels) / seconds;
            let quantile = |share| time(change.quantile(name, &labels, share));
            let _ = writeln!(text, "{edge:NAME$} {rate:>9.1} {:>9} {:>9}", quantile(0.5), quantile(0.99));
        }
        text.push('\n');
    }

    fn links(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "mutual TLS links (client's id as the server verified it > server's id as the client did)"
        );
        for (from, service, _) in edges() {
            let ids = |pods: &str, names: [&str; 2], other: &str| -> String {
                let all = self.now.iter().filter(|(pod, _)| pod.starts_with(pods));
                let mut ids = all.flat_map(|(_, metrics)| {
                    names.into_iter().flat_map(|name| metrics.values_of(name, "peer_identity"))
                });
                ids.find(|id| id.ends_with(&format!("/sa/{other}"))).unwrap_or_else(|| "-".to_owned())
            };
            let inbound = ["http_server_request_duration_seconds_count", "weft_tcp_connections_opened_total"];
            let outbound = match from {
                "gateway" => inbound,
                _ => ["http_client_request_duration_seconds_count", "weft_tcp_connections_opened_total"],
            };
            let _ = writeln!(text, "  {} > {}", ids(service, inbound, from), ids(from, outbound, service));
        }
        text.push('\n');
    }

    fn balance(&self, shop: &Shop, text: &mut String) {
        text.push_str("orders, requests by replica\n");
        let taken: Vec<(String, f64, bool)> = shop
            .orders
            .iter()
            .map(|member| {
                let name = member.pod.name().to_owned();
                let metrics = self.now.get(&name);
                let count = metrics.map_or(0.0, |m| m.sum("http_server_request_duration_seconds_count", &[]));
                (name, count, member.sidecar.process().is_running())
            })
            .collect();
        let most = taken.iter().map(|(_, count, _)| *count).fold(1.0, f64::max);
        for (name, count, alive) in taken {
            let bar = "#".repeat(part(count / most, BAR));
            let state = if alive { "" } else { " (killed)" };
            let _ = writeln!(text, "  {name:10} {bar:BAR$} {count:.0}{state}");
        }
        text.push('\n');
    }
}

impl Picture<'_> {
    fn canary(&self, shop: &Shop, text: &mut String) {
        text.push_str("route shop/orders in the sidecar of web\n");
        let (stable, canary) = self.now.get(shop.web.pod.name()).map_or((0.0, 0.0), shares);
        let all = (stable + canary).max(1.0);
        for (name, weight, count) in [("orders", 80, stable), ("orders-canary", 20, canary)] {
            let bar = "#".repeat(part(count / all, BAR));
            let _ = writeln!(
                text,
                "  {name:13} weight {weight} {bar:BAR$} {count:.0} ({:.0} %)",
                count / all * 100.0
            );
        }
        text.push('\n');
    }
}

/// Caller, callee, and the beginnings of the caller's pod names.
fn edges() -> [(&'static str, &'static str, &'static [&'static str]); 4] {
    [
        ("gateway", "web", &["gateway"]),
        ("web", "orders", &["web"]),
        ("orders", "inventory", &["orders"]),
        ("inventory", "redis", &["inventory"]),
    ]
}

/// The newest whole trace, one line a span, to scale.
fn waterfall(spans: &[Span], text: &mut String) {
    let Some(trace) = whole_trace(spans) else { return };
    let (Some(start), Some(end)) = (trace.iter().map(|s| s.start).min(), trace.iter().map(|s| s.end).max())
    else {
        return;
    };
    let total = Duration::from_nanos(end.saturating_sub(start).max(1));
    let root = trace.first().map_or("", |span| &span.trace);
    let _ = writeln!(text, "trace {root}, {:.2} ms", total.as_secs_f64() * 1e3);
    for span in &trace {
        let share =
            |time: u64| Duration::from_nanos(time.saturating_sub(start)).as_secs_f64() / total.as_secs_f64();
        let (from, to) = (part(share(span.start), BAR), part(share(span.end), BAR).max(1));
        let bar = format!("{}{}", " ".repeat(from.min(BAR - 1)), "=".repeat(to.saturating_sub(from).max(1)));
        let depth = depth(&trace, span);
        let label = format!("{}{} {}", "  ".repeat(depth), span.service, span.kind);
        let took = Duration::from_nanos(span.end.saturating_sub(span.start)).as_secs_f64() * 1e3;
        let _ = writeln!(text, "  {label:34} |{bar:BAR$}| {took:.2} ms  {}", span.name);
    }
    text.push('\n');
}

fn depth(trace: &[Span], span: &Span) -> usize {
    let mut depth = 0;
    let mut parent = &span.parent;
    while let Some(above) = trace.iter().find(|s| s.id == *parent) {
        depth += 1;
        parent = &above.parent;
        if depth > trace.len() {
            break;
        }
    }
    depth
}

/// A share of a width, in whole characters.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
fn part(share: f64, width: usize) -> usize {
    (share.clamp(0.0, 1.0) * width as f64).round() as usize
}
