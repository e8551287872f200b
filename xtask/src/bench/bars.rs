//! The bars: what Weft must reach, as ratios in one run. They are data (`bench/bars.json`), not code.

use std::fs;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::bench::report::Results;
use crate::bench::work::Work;
use crate::cargo;

/// Where the bars are, from the workspace root.
const FILE: &str = "bench/bars.json";

/// One bar.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bar {
    /// A work's id.
    work: String,
    /// What of it.
    measure: Measure,
    /// The peer whose figure Weft's is divided by; none for bars that are no ratio.
    #[serde(default)]
    against: Option<String>,
    /// The value may not be above this.
    #[serde(default)]
    at_most: Option<f64>,
    /// The value may not be below this.
    #[serde(default)]
    at_least: Option<f64>,
}

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Measure {
    /// CPU time per request or MB.
    Cpu,
    /// Requests per second.
    Rate,
    /// Idle PSS of the larger of the two proxies, MB.
    IdleMb,
    /// PSS that 5,000 idle connections add to both proxies, MB.
    IdleConnectionsMb,
    /// What is done in a second of CPU.
    PerCpu,
    /// PSS under load, MB.
    PssMb,
    /// Requests that failed while routes changed.
    Failed,
    /// How long until a change of routes is in force, 99th percentile, ms.
    VisibleMs,
}

/// A bar with what was measured.
pub(crate) struct Verdict {
    /// What the bar says, for people.
    pub(crate) text: String,
    /// What was measured; none where the run left it out.
    pub(crate) value: Option<f64>,
    /// True where it was measured and the bar is held.
    pub(crate) held: bool,
}

/// Reads the bars of this checkout that are about these works.
pub(crate) fn load(works: &[Work]) -> Result<Vec<Bar>> {
    let mut bars = all()?;
    bars.retain(|bar| works.iter().any(|work| work.id() == bar.work));
    Ok(bars)
}

fn all() -> Result<Vec<Bar>> {
    let file = cargo::root().join(FILE);
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {FILE}"))?;
    parse(&text).with_context(|| format!("{FILE} is not a list of bars"))
}

fn parse(text: &str) -> Result<Vec<Bar>> {
    let bars: Vec<Bar> = serde_json::from_str(text)?;
    for bar in &bars {
        if bar.at_most.is_some() == bar.at_least.is_some() {
            bail!("{}: a bar has either at_most or at_least", bar.work);
        }
        let ratio = matches!(bar.measure, Measure::Cpu | Measure::Rate | Measure::PerCpu);
        if ratio != bar.against.is_some() {
            bail!("{}: cpu, per_cpu and rate have a peer in `against`, others have none", bar.work);
        }
    }
    Ok(bars)
}

/// Holds each bar against the results.
pub(crate) fn judge(bars: &[Bar], results: &Results) -> Vec<Verdict> {
    bars.iter().map(|bar| bar.judge(results)).collect()
}

impl Bar {
    fn judge(&self, results: &Results) -> Verdict {
        let value = self.value(results);
        let below = self.at_most.is_none_or(|most| value.is_some_and(|value| value <= most));
        let above = self.at_least.is_none_or(|least| value.is_some_and(|value| value >= least));
        Verdict { text: self.text(), value, held: value.is_some() && below && above }
    }

    fn value(&self, results: &Results) -> Option<f64> {
        match (self.measure, self.against.as_deref()) {
            (Measure::Cpu, Some(peer)) => results.cpu_ratio(&self.work, "weft", peer),
            (Measure::Rate, Some(peer)) => results.rate_ratio(&self.work, "weft", peer),
            (Measure::IdleMb, _) => results.memory("weft").map(|memory| memory.idle_mb),
            (Measure::IdleConnectionsMb, _) => results.memory("weft").map(|memory| memory.connections_add_mb),
            (Measure::PerCpu, Some(peer)) => results.cpu_ratio(&self.work, peer, "weft"),
            (Measure::PssMb, _) => results.loaded_mb(&self.work, "weft"),
            (Measure::Failed, _) => results.changes.as_ref().map(|changes| changes.failed as f64),
            (Measure::VisibleMs, _) => results.changes.as_ref().map(|changes| changes.p99_us / 1e3),
            (Measure::Cpu | Measure::Rate | Measure::PerCpu, None) => None,
        }
    }

    fn text(&self) -> String {
        let what = match self.measure {
            Measure::Cpu => "CPU",
            Measure::Rate => "rate",
            Measure::IdleMb => "idle PSS per proxy, MB",
            Measure::IdleConnectionsMb => "5,000 idle connections add, MB",
            Measure::PerCpu => "done in a second of CPU",
            Measure::PssMb => "PSS, MB",
            Measure::Failed => "failed requests",
            Measure::VisibleMs => "in force after, p99, ms",
        };
        let against = self.against.as_deref().map(|peer| format!(" against {peer}")).unwrap_or_default();
        let limit = match (self.at_most, self.at_least) {
            (Some(most), _) => format!("≤ {most}"),
            (_, Some(least)) => format!("≥ {least}"),
            (None, None) => String::new(),
        };
        format!("{}: {what}{against} {limit}", self.work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::results;

    #[test]
    fn the_bars_of_this_checkout_name_works_and_peers_that_exist() {
        let (pair, gateway) = (load(&Work::PAIR).unwrap(), load(&Work::GATEWAY).unwrap());
        assert!(!pair.is_empty() && !gateway.is_empty());
        assert_eq!(pair.len() + gateway.len(), all().unwrap().len(), "a bar is about no work");
        for peer in pair.into_iter().chain(gateway).filter_map(|bar| bar.against) {
            let names = &crate::bench::peers::NAMES;
            assert!(names.contains(&peer.as_str()) || peer == crate::bench::report::FEW_ROUTES, "{peer}");
        }
    }

    #[test]
    fn a_bar_is_held_or_missed_or_not_measured() {
        // In `results`, Weft takes half of HAProxy's time and does 1.5 times its rate.
        let judge_one = |text: &str| judge(&parse(text).unwrap(), &results()).remove(0);
        let held = judge_one(r#"[{"work":"http1","measure":"cpu","against":"haproxy","at_most":0.5}]"#);
        assert!(held.held && held.value == Some(0.5), "{}", held.text);
        assert!(!judge_one(r#"[{"work":"http1","measure":"cpu","against":"haproxy","at_most":0.49}]"#).held);
        assert!(judge_one(r#"[{"work":"http1","measure":"rate","against":"haproxy","at_least":1.5}]"#).held);
        assert!(
            !judge_one(r#"[{"work":"http1","measure":"rate","against":"haproxy","at_least":1.51}]"#).held
        );
        assert!(judge_one(r#"[{"work":"memory","measure":"idle_mb","at_most":6}]"#).held);
        assert!(judge_one(r#"[{"work":"http1","measure":"per_cpu","against":"haproxy","at_least":2}]"#).held);
        assert!(judge_one(r#"[{"work":"http1","measure":"pss_mb","at_most":0.0021}]"#).held);
        assert!(!judge_one(r#"[{"work":"gw-changes","measure":"failed","at_most":0}]"#).held);
        assert!(judge_one(r#"[{"work":"gw-changes","measure":"visible_ms","at_most":30}]"#).held);
        let missing = judge_one(r#"[{"work":"http1","measure":"cpu","against":"envoy","at_most":9}]"#);
        assert!(!missing.held && missing.value.is_none());
    }

    #[test]
    fn a_bar_without_a_meaning_is_refused() {
        for text in [
            r#"[{"work":"http1","measure":"cpu","against":"haproxy"}]"#,
            r#"[{"work":"http1","measure":"cpu","at_most":1}]"#,
            r#"[{"work":"memory","measure":"idle_mb","against":"envoy","at_most":1}]"#,
            r#"[{"work":"http1","measure":"speed","against":"haproxy","at_most":1}]"#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
