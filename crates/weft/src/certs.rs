//! `weft certs`.

use std::fmt::Write as _;
use std::process::ExitCode;

use weft_ops::check::span;
use weft_ops::status::{self, CertsReport, ProxyCerts};

use crate::ask::{self, Asked, Output, Table};
use crate::style::{Style, Tone};

/// Characters of a hash: enough to tell two apart.
const SHORT: usize = 12;

/// Tell the identity, certificate and trust bundle of each sidecar, and when the mesh's root expires.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    asked: Asked,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> ExitCode {
    let own = args.asked.namespace.to_string();
    let work = async |client| status::certs(&client, &own, args.asked.only()).await;
    let answered = args.asked.with_client(work).and_then(|report| {
        ask::print(&match args.asked.output {
            Output::Json => ask::json(&report)?,
            Output::Text => text(&report, Style::stdout()),
        })
    });
    answered.err().unwrap_or(ExitCode::SUCCESS)
}

fn text(report: &CertsReport, style: Style) -> String {
    let mut out = String::new();
    match &report.bundle {
        Some(hash) => {
            let _ = writeln!(out, "trust bundle {}", style.paint(Tone::Strong, short(hash)));
            for root in &report.roots {
                // Seconds of a certificate's life are far below 2^53.
                let _ = writeln!(out, "  {}: expires in {}", root.subject, span(root.seconds_left as f64));
            }
        }
        None => {
            let _ = writeln!(
                out,
                "the trust bundle is not known: neither the Secret weft-ca nor a ConfigMap weft-mesh can be read"
            );
        }
    }
    out.push('\n');
    if report.proxies.is_empty() && report.unscraped.is_empty() {
        out.push_str("no pod has a sidecar\n");
        return out;
    }
    let mut table = Table::new(style, &["POD", "IDENTITY", "EXPIRES IN", "BUNDLE", "RENEWALS"]);
    for proxy in &report.proxies {
        table.row(row(proxy));
    }
    out.push_str(&table.text());
    if !report.unscraped.is_empty() {
        let _ = writeln!(out, "\n{}", style.paint(Tone::Warning, "not asked:"));
        for pod in &report.unscraped {
            let _ = writeln!(out, "  {}: {}", pod.pod, pod.reason);
        }
    }
    out
}

fn row(proxy: &ProxyCerts) -> [(Tone, String); 5] {
    let left = match proxy.seconds_left {
        None => (Tone::Bad, "none".to_owned()),
        Some(left) if left <= 0.0 => (Tone::Bad, format!("expired {} ago", span(-left))),
        Some(left) => (Tone::Plain, span(left)),
    };
    let bundle = match (&proxy.bundle, proxy.bundle_current) {
        (None, _) => (Tone::Bad, "none".to_owned()),
        (Some(hash), Some(false)) => (Tone::Bad, format!("{} (stale)", short(hash))),
        (Some(hash), Some(true)) => (Tone::Good, short(hash).to_owned()),
        (Some(hash), None) => (Tone::Plain, short(hash).to_owned()),
    };
    let renewals = match proxy.renewals_failed {
        failed if failed > 0.0 => (Tone::Warning, format!("{}, {failed} failed", proxy.renewals)),
        _ => (Tone::Plain, proxy.renewals.to_string()),
    };
    [
        (Tone::Strong, format!("{}/{}", proxy.namespace, proxy.pod)),
        (Tone::Plain, proxy.identity.clone().unwrap_or_else(|| "-".to_owned())),
        left,
        bundle,
        renewals,
    ]
}

fn short(hash: &str) -> &str {
    hash.get(..SHORT).unwrap_or(hash)
}

#[cfg(test)]
mod tests {
    use weft_ops::status::{Root, Unscraped, Workload};

    use super::*;

    #[test]
    fn each_proxy_is_one_line() {
        let good = ProxyCerts {
            namespace: "shop".into(),
            pod: "web-1".into(),
            workload: Workload { kind: "deployment".into(), name: "web".into() },
            identity: Some("spiffe://weft.local/ns/shop/sa/web".into()),
            expires: Some(1e9),
            seconds_left: Some(7260.0),
            bundle: Some("0123456789abcdef".into()),
            bundle_current: Some(true),
            renewals: 2.0,
            renewals_failed: 0.0,
        };
        let bad = ProxyCerts {
            seconds_left: Some(-60.0),
            bundle_current: Some(false),
            renewals_failed: 1.0,
            ..good.clone()
        };
        let report = CertsReport {
            bundle: Some("0123456789abcdef".into()),
            roots: vec![Root { subject: "CN=root".into(), expires: 1, seconds_left: 172_800 }],
            proxies: vec![good, bad],
            unscraped: vec![Unscraped { pod: "shop/x".into(), reason: "it is ending".into() }],
        };
        let said = text(&report, Style::plain());
        assert!(said.starts_with("trust bundle 0123456789ab\n  CN=root: expires in 2 d 0 h\n\n"), "{said}");
        assert!(said.contains("spiffe://weft.local/ns/shop/sa/web  2 h 1 min"), "{said}");
        assert!(
            said.contains("expired 1 min ago") && said.contains("(stale)") && said.contains("2, 1 failed"),
            "{said}"
        );
        assert!(said.ends_with("not asked:\n  shop/x: it is ending\n"), "{said}");
    }
}
