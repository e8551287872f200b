//! The figures as tables, for the terminal and for docs/benchmarks.md.

use std::fmt::Write as _;

use super::admission::Admission;
use super::idle::{Idle, Usage};
use super::many::Many;
use super::startup::Startup;

/// Around the tables of the page.
pub(super) const BEGIN: &str = "<!-- cluster: written by `cargo xtask cluster measure --write-docs` -->\n";
pub(super) const END: &str = "<!-- end of cluster -->";

/// Everything of a run.
pub(super) struct Results {
    pub(super) machine: String,
    /// What the program says its version is.
    pub(super) version: String,
    pub(super) kubernetes: String,
    /// How long processor time was counted.
    pub(super) seconds: u64,
    pub(super) idle: Idle,
    pub(super) startup: Startup,
    pub(super) admission: Admission,
    pub(super) many: Many,
}

impl Results {
    pub(super) fn markdown(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "One run on {}: {}, Kubernetes {}, one node; processor time counted for {} s.",
            self.machine, self.version, self.kubernetes, self.seconds
        );
        self.idle_table(&mut out);
        self.many_table(&mut out);
        self.startup_table(&mut out);
        self.admission_table(&mut out);
        out
    }

    fn idle_table(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "\n### Idle\n\n| | PSS, MB | anonymous memory, MB | CPU, thousandths of a core |\n|---|---|---|---|"
        );
        for (name, usage) in rows(&self.idle) {
            let Usage { pss_mb, anon_mb, millicores } = usage;
            let _ = writeln!(out, "| {name} | {pss_mb:.1} | {anon_mb:.1} | {millicores:.2} |");
        }
    }

    fn many_table(&self, out: &mut String) {
        let Many { pods, before, permissive, strict, bytes } = &self.many;
        let hundreds = f64::from(*pods) / 100.0;
        let _ = writeln!(
            out,
            "\n### 100 more pods and services in the mesh add\n\n\
             | | anonymous memory, MB, while all are permissive | when all are strict | CPU, thousandths of a core, permissive | strict |\n\
             |---|---|---|---|---|"
        );
        for (((name, old), (_, loose)), (_, tight)) in
            rows(before).into_iter().zip(rows(permissive)).zip(rows(strict))
        {
            let memory = |new: Usage| (new.anon_mb - old.anon_mb) / hundreds;
            let time = |new: Usage| (new.millicores - old.millicores) / hundreds;
            let (m1, m2, t1, t2) = (memory(loose), memory(tight), time(loose), time(tight));
            let _ = writeln!(out, "| {name} | {m1:+.2} | {m2:+.2} | {t1:+.2} | {t2:+.2} |");
        }
        let _ = writeln!(
            out,
            "\nMeasured with {pods} of them. `weft.yaml` in `weft-mesh` had {} bytes before, {} while all were permissive, {} when \
             all were strict.",
            bytes[0], bytes[1], bytes[2]
        );
    }

    fn startup_table(&self, out: &mut String) {
        let Startup { ready, slowest, count } = &self.startup;
        let _ = writeln!(
            out,
            "\n### Start of a pod, ms from the request that makes it\n\n\
             | until it is ready | with a sidecar | without | the sidecar adds |\n|---|---|---|---|"
        );
        for (name, times) in [(format!("median of {count}"), ready), ("slowest".to_owned(), slowest)] {
            let [with, without] = times;
            let _ = writeln!(out, "| {name} | {with:.0} | {without:.0} | {:.0} |", with - without);
        }
    }

    fn admission_table(&self, out: &mut String) {
        let Admission { count, injected, without, webhook } = &self.admission;
        let _ = writeln!(
            out,
            "\n### Admission of a pod, ms\n\n| {count} dry-run creations of each | p50 | p99 |\n|---|---|---|\n\
             | injected | {:.1} | {:.1} |\n| opted out, so not sent to the injector | {:.1} | {:.1} |",
            injected[0], injected[1], without[0], without[1]
        );
        let _ = writeln!(
            out,
            "\nThe API server's own histogram of the webhook, over {:.0} calls: mean {:.1} ms; {:.1} % took at most 5 ms, {:.1} % at \
             most 25 ms.",
            webhook.count,
            webhook.mean,
            webhook.within[0] * 100.0,
            webhook.within[1] * 100.0
        );
    }
}

fn rows(idle: &Idle) -> [(&'static str, Usage); 3] {
    [
        ("sidecar", idle.sidecar),
        ("`weft control`, the replica that leads", idle.leader),
        ("`weft control`, the other", idle.other),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::admission::Webhook;
    use super::*;

    fn idle(pss_mb: f64) -> Idle {
        let usage =
            |more: f64| Usage { pss_mb: pss_mb + more, anon_mb: pss_mb - 3.0, millicores: pss_mb / 10.0 };
        Idle { sidecar: usage(0.0), leader: usage(10.0), other: usage(8.0) }
    }

    #[test]
    fn what_is_added_is_for_a_hundred() {
        let results = Results {
            machine: "a test".into(),
            version: "weft 0".into(),
            kubernetes: "v1".into(),
            seconds: 60,
            idle: idle(5.0),
            startup: Startup { ready: [2600.0, 1100.0], slowest: [3000.0, 2000.0], count: 20 },
            admission: Admission {
                count: 300,
                injected: [5.04, 9.0],
                without: [2.0, 3.0],
                webhook: Webhook { count: 300.0, mean: 2.5, within: [0.991, 1.0] },
            },
            many: Many {
                pods: 300,
                before: idle(5.0),
                permissive: idle(8.0),
                strict: idle(5.3),
                bytes: [1, 2, 3],
            },
        };
        let text = results.markdown();
        for line in [
            "| sidecar | 5.0 | 2.0 | 0.50 |",
            "| sidecar | +1.00 | +0.10 | +0.10 | +0.01 |",
            "| median of 20 | 2600 | 1100 | 1500 |",
            "| injected | 5.0 | 9.0 |",
            "mean 2.5 ms; 99.1 % took at most 5 ms, 100.0 % at",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
