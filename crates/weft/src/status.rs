//! `weft status`.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use weft_ops::status::{self, StatusReport, WorkloadStatus};

use crate::ask::{self, Asked, Output, Table};
use crate::style::{Style, Tone};

/// Callers that are named in one cell.
const NAMED: usize = 2;

/// Tell what the workloads of the mesh do: sidecars, requests, failures, latencies, modes, callers in plaintext.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Time between the two looks that rates are taken from: 1s to 10m.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = window)]
    window: Duration,
    #[command(flatten)]
    asked: Asked,
}

fn window(text: &str) -> Result<Duration, String> {
    let window = humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 10s"))?;
    if (Duration::from_secs(1)..=Duration::from_secs(600)).contains(&window) {
        return Ok(window);
    }
    Err("must be between 1s and 10m".to_owned())
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> ExitCode {
    let own = args.asked.namespace.to_string();
    let waiting = |sidecars| {
        if args.asked.output == Output::Text {
            ask::tell(&asking(sidecars, args.window));
        }
    };
    let work = async |client| status::status(&client, &own, args.asked.only(), args.window, waiting).await;
    let answered = args.asked.with_client(work).and_then(|report| {
        ask::print(&match args.asked.output {
            Output::Json => ask::json(&report)?,
            Output::Text => text(&report, Style::stdout()),
        })
    });
    answered.err().unwrap_or(ExitCode::SUCCESS)
}

/// What takes the time.
fn asking(sidecars: usize, window: Duration) -> String {
    let sidecars = if sidecars == 1 { "1 sidecar".to_owned() } else { format!("{sidecars} sidecars") };
    format!("asking {sidecars} twice, {} apart (--window)", humantime::format_duration(window))
}

fn text(report: &StatusReport, style: Style) -> String {
    if report.workloads.is_empty() {
        return "no namespace takes part, or none of it has pods; see weft check\n".to_owned();
    }
    let headings = [
        "WORKLOAD",
        "MESHED",
        "VERSION",
        "REQUESTS/S",
        "SUCCESS",
        "P50",
        "P99",
        "CLIENTS",
        "INBOUND",
        "PLAINTEXT FROM",
    ];
    let mut table = Table::new(style, &headings);
    for workload in &report.workloads {
        table.row(row(workload));
    }
    let mut out = table.text();
    if !report.unscraped.is_empty() {
        let _ = writeln!(out, "\n{}", style.paint(Tone::Warning, "without the traffic of:"));
        for pod in &report.unscraped {
            let _ = writeln!(out, "  {}: {}", pod.pod, pod.reason);
        }
    }
    if report.partial {
        let _ = writeln!(
            out,
            "\n{}",
            style.paint(
                Tone::Faint,
                "other namespaces may not be read: callers from there are told by address"
            )
        );
    }
    out
}

fn row(status: &WorkloadStatus) -> [(Tone, String); 10] {
    let plain = |text: String| (Tone::Plain, text);
    let meshed = match (status.meshed, status.ready) {
        (meshed, ready) if meshed < status.pods => {
            (Tone::Warning, format!("{meshed}/{}{}", status.pods, unready(meshed, ready)))
        }
        (meshed, ready) if ready < meshed => {
            (Tone::Warning, format!("{meshed}/{}{}", status.pods, unready(meshed, ready)))
        }
        (meshed, _) => (Tone::Good, format!("{meshed}/{}", status.pods)),
    };
    let dash = || plain("-".to_owned());
    let traffic = status.traffic;
    let success = traffic.and_then(|traffic| traffic.success_rate).map_or_else(dash, |rate| {
        let tone = if rate >= 0.999 {
            Tone::Good
        } else if rate >= 0.99 {
            Tone::Warning
        } else {
            Tone::Bad
        };
        (tone, percent(rate))
    });
    let callers: Vec<String> = status
        .plaintext_callers
        .iter()
        .take(NAMED)
        .map(|(caller, count)| format!("{caller}: {count}"))
        .collect();
    let more = status.plaintext_callers.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let callers =
        if callers.is_empty() { dash() } else { (Tone::Warning, format!("{}{more}", callers.join(", "))) };
    let words = |words: &std::collections::BTreeSet<String>| match words.len() {
        0 => dash(),
        _ => plain(words.iter().map(String::as_str).collect::<Vec<_>>().join(",")),
    };
    [
        (Tone::Strong, format!("{}/{}/{}", status.namespace, status.workload.kind, status.workload.name)),
        meshed,
        words(&status.versions),
        traffic.map_or_else(dash, |traffic| plain(format!("{:.1}", traffic.requests_per_second))),
        success,
        traffic.and_then(|traffic| traffic.p50_seconds).map_or_else(dash, |seconds| plain(latency(seconds))),
        traffic.and_then(|traffic| traffic.p99_seconds).map_or_else(dash, |seconds| plain(latency(seconds))),
        words(&status.client_modes),
        words(&status.inbound_modes),
        callers,
    ]
}

fn unready(meshed: usize, ready: usize) -> String {
    if ready < meshed { format!(" ({} not ready)", meshed - ready) } else { String::new() }
}

/// Never rounded up to 100 %.
fn percent(rate: f64) -> String {
    let hundredths = (rate * 10_000.0).floor() / 100.0;
    format!("{hundredths:.2}%")
}

fn latency(seconds: f64) -> String {
    match seconds {
        s if s < 0.01 => format!("{:.2}ms", s * 1e3),
        s if s < 1.0 => format!("{:.0}ms", s * 1e3),
        s => format!("{s:.2}s"),
    }
}

#[cfg(test)]
mod tests {
    use weft_ops::status::{Traffic, Unscraped, Workload};

    use super::*;

    #[test]
    fn a_workload_is_one_line() {
        let status = WorkloadStatus {
            namespace: "shop".into(),
            workload: Workload { kind: "deployment".into(), name: "web".into() },
            pods: 3,
            meshed: 2,
            ready: 2,
            versions: ["0.1.0".to_owned(), "0.2.0".to_owned()].into(),
            traffic: Some(Traffic {
                requests_per_second: 12.34,
                success_rate: Some(0.99999),
                p50_seconds: Some(0.0012),
                p99_seconds: Some(0.2),
            }),
            client_modes: ["permissive".to_owned()].into(),
            inbound_modes: ["strict".to_owned()].into(),
            plaintext_callers: [("a".to_owned(), 1.0), ("b".to_owned(), 2.0), ("c".to_owned(), 3.0)].into(),
        };
        let idle = WorkloadStatus {
            traffic: None,
            client_modes: [].into(),
            plaintext_callers: [].into(),
            pods: 2,
            ..status.clone()
        };
        let report = StatusReport {
            window_seconds: 10.0,
            workloads: vec![status, idle],
            unscraped: vec![Unscraped { pod: "shop/x".into(), reason: "no answer".into() }],
            partial: false,
        };
        let said = text(&report, Style::plain());
        let lines: Vec<Vec<&str>> = said
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        assert_eq!(
            lines[1],
            [
                "shop/deployment/web",
                "2/3",
                "0.1.0,0.2.0",
                "12.3",
                "99.99%",
                "1.20ms",
                "200ms",
                "permissive",
                "strict",
                "a: 1, b: 2 and 1 more"
            ]
        );
        assert_eq!(
            lines[2],
            ["shop/deployment/web", "2/2", "0.1.0,0.2.0", "-", "-", "-", "-", "-", "strict", "-"]
        );
        assert!(said.ends_with("without the traffic of:\n  shop/x: no answer\n"), "{said}");
    }

    #[test]
    fn what_is_waited_for_is_said() {
        let window = Duration::from_secs(10);
        assert_eq!(asking(1, window), "asking 1 sidecar twice, 10s apart (--window)");
        assert_eq!(asking(12, window), "asking 12 sidecars twice, 10s apart (--window)");
    }

    #[test]
    fn a_window_has_bounds() {
        assert_eq!(window("30s"), Ok(Duration::from_secs(30)));
        for text in ["0s", "1h", "soon"] {
            assert!(window(text).is_err(), "{text}");
        }
    }
}
