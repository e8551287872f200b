//! From samples to tables: medians, ratios, JSON, and the page in `docs/`.
//!
//! Peers are compared within a round, where they ran within seconds of each other: a ratio is the median of the
//! rounds' ratios, not the ratio of two medians, so that a machine which changes its speed slowly does not move it.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::bench::bars::Verdict;
use crate::bench::gateway::changes::Changes;
use crate::bench::work::{HANDSHAKE, ROUTES, Spec, Unit, Work};
use crate::cargo;

/// One load on one pair in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// The peer's name.
    pub(crate) peer: String,
    /// The work's id.
    pub(crate) work: String,
    /// From 0.
    pub(crate) round: usize,
    /// Answered requests.
    pub(crate) requests: u64,
    /// Failed ones.
    pub(crate) errors: u64,
    /// Requests per second.
    pub(crate) rate: f64,
    /// CPU time of both proxies per request, or per MB (10^6 bytes) for TCP; microseconds.
    pub(crate) cpu_us: f64,
    /// Median latency, microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile, microseconds.
    pub(crate) p99_us: f64,
    /// PSS of each process under load, KiB; of a pair side A first.
    pub(crate) pss_kib: Vec<u64>,
}

/// The memory of one pair in one round, KiB of PSS for side A and side B.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MemorySample {
    /// The peer's name.
    pub(crate) peer: String,
    /// From 0.
    pub(crate) round: usize,
    /// After start, before any connection.
    pub(crate) idle_kib: Vec<u64>,
    /// With the idle connections open.
    pub(crate) connected_kib: Vec<u64>,
}

/// A peer as it was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PeerInfo {
    /// Its name.
    pub(crate) name: String,
    /// What it says its version is.
    pub(crate) version: String,
    /// How it was set up.
    pub(crate) note: String,
}

/// Everything of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Results {
    /// What one program was: a pair, or a gateway.
    pub(crate) what: String,
    /// Processor, kernel, cores.
    pub(crate) machine: String,
    /// How many rounds.
    pub(crate) rounds: usize,
    /// Length of each load.
    pub(crate) seconds: u64,
    /// Who took part.
    pub(crate) peers: Vec<PeerInfo>,
    /// All loads.
    pub(crate) samples: Vec<Sample>,
    /// All memory measurements.
    pub(crate) memory: Vec<MemorySample>,
    /// Changes of routes under load.
    pub(crate) changes: Option<Changes>,
}

/// Medians of a peer's memory, MB (10^6 bytes).
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Memory {
    /// Idle PSS of the larger of the two proxies.
    pub(crate) idle_mb: f64,
    /// What the idle connections add to both proxies together.
    pub(crate) connections_add_mb: f64,
}

/// Medians of a peer in one work.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Figures {
    rate: f64,
    cpu_us: f64,
    p50_us: f64,
    p99_us: f64,
    loaded_mb: f64,
}

/// The middle value, or the mean of the two in the middle; none of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// KiB to MB.
fn mb(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e6
}

fn largest_mb(kib: &[u64]) -> f64 {
    kib.iter().copied().max().map_or(0.0, mb)
}

/// A gateway of Weft with few routes, beside whose work with many is measured.
pub(crate) const FEW_ROUTES: &str = "weft-10";

impl Results {
    fn of<'a>(&'a self, work: &'a str, peer: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.work == work && sample.peer == peer)
    }

    fn ratio(&self, work: &str, peer: &str, base: &str, value: impl Fn(&Sample) -> f64) -> Option<f64> {
        median(self.of(work, peer).filter_map(|sample| {
            let other = self.of(work, base).find(|other| other.round == sample.round)?;
            Some(value(sample) / value(other))
        }))
    }

    /// CPU time of `peer` over that of `base`.
    pub(crate) fn cpu_ratio(&self, work: &str, peer: &str, base: &str) -> Option<f64> {
        self.ratio(work, peer, base, |sample| sample.cpu_us)
    }

    /// Requests per second of `peer` over those of `base`.
    pub(crate) fn rate_ratio(&self, work: &str, peer: &str, base: &str) -> Option<f64> {
        self.ratio(work, peer, base, |sample| sample.rate)
    }

    /// A peer's memory; none where it was not measured.
    pub(crate) fn memory(&self, peer: &str) -> Option<Memory> {
        let of_peer = || self.memory.iter().filter(|sample| sample.peer == peer);
        let idle_mb = median(of_peer().map(|sample| largest_mb(&sample.idle_kib)))?;
        let connections_add_mb = median(of_peer().map(|sample| {
            mb(sample.connected_kib.iter().sum::<u64>()) - mb(sample.idle_kib.iter().sum::<u64>())
        }))?;
        Some(Memory { idle_mb, connections_add_mb })
    }

    /// PSS of a peer's larger process under a load, MB.
    pub(crate) fn loaded_mb(&self, work: &str, peer: &str) -> Option<f64> {
        median(self.of(work, peer).map(|sample| largest_mb(&sample.pss_kib)))
    }

    fn figures(&self, work: &str, peer: &str) -> Option<Figures> {
        let of = |value: fn(&Sample) -> f64| median(self.of(work, peer).map(value));
        Some(Figures {
            rate: of(|sample| sample.rate)?,
            cpu_us: of(|sample| sample.cpu_us)?,
            p50_us: of(|sample| sample.p50_us)?,
            p99_us: of(|sample| sample.p99_us)?,
            loaded_mb: self.loaded_mb(work, peer)?,
        })
    }

    /// Works that all were measured in, in order.
    fn works(&self) -> impl Iterator<Item = Spec> + '_ {
        let works = Work::PAIR.into_iter().chain(Work::GATEWAY).filter(|work| *work != Work::GwRoutes);
        works.filter_map(Work::spec).filter(|spec| self.samples.iter().any(|sample| sample.work == spec.id))
    }

    /// The peer that others are divided by.
    fn base(&self) -> &str {
        let wanted = self.peers.iter().find(|peer| peer.name == "haproxy").or(self.peers.first());
        wanted.map_or("", |peer| &peer.name)
    }

    /// Samples, medians, ratios and bars as one JSON document.
    pub(crate) fn json(&self, verdicts: &[Verdict]) -> Result<String> {
        let base = self.base();
        let mut medians = serde_json::Map::new();
        for spec in self.works() {
            let mut row = serde_json::Map::new();
            for peer in &self.peers {
                let Some(figures) = self.figures(spec.id, &peer.name) else { continue };
                let mut cell = serde_json::to_value(figures)?;
                cell["cpu_ratio"] = serde_json::json!(self.cpu_ratio(spec.id, &peer.name, base));
                cell["rate_ratio"] = serde_json::json!(self.rate_ratio(spec.id, &peer.name, base));
                row.insert(peer.name.clone(), cell);
            }
            medians.insert(spec.id.to_owned(), row.into());
        }
        let memory: serde_json::Map<_, _> = self
            .peers
            .iter()
            .filter_map(|peer| {
                Some((peer.name.clone(), serde_json::to_value(self.memory(&peer.name)?).ok()?))
            })
            .collect();
        let bars: Vec<_> = verdicts
            .iter()
            .map(|bar| serde_json::json!({ "bar": bar.text, "value": bar.value, "held": bar.held }))
            .collect();
        let document = serde_json::json!({
            "ratios_to": base, "medians": medians, "memory_mb": memory, "bars": bars, "run": self,
        });
        Ok(serde_json::to_string_pretty(&document)? + "\n")
    }

    /// The tables, in Markdown, for the terminal and the page.
    pub(crate) fn markdown(&self, verdicts: &[Verdict]) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "One run on {}: {} rounds, {} s for each load.\n",
            self.machine, self.rounds, self.seconds
        );
        for peer in &self.peers {
            let _ = writeln!(out, "- {} {}: {}", peer.name, peer.version, peer.note);
        }
        self.ratio_table(&mut out);
        self.figure_tables(&mut out);
        self.handshake_table(&mut out);
        self.memory_table(&mut out);
        self.alone_table(&mut out);
        if !verdicts.is_empty() {
            let _ = writeln!(out, "\n### Bars\n\n| bar | measured | |\n|---|---|---|");
            for bar in verdicts {
                let value = bar.value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
                let word = match (bar.held, bar.value) {
                    (true, _) => "held",
                    (false, Some(_)) => "missed",
                    (false, None) => "not measured",
                };
                let _ = writeln!(out, "| {} | {value} | {word} |", bar.text);
            }
        }
        out
    }

    fn head(&self, out: &mut String, first: &str) {
        let _ = write!(out, "| {first} |");
        for peer in &self.peers {
            let _ = write!(out, " {} |", peer.name);
        }
        let _ = writeln!(out, "\n|---|{}", "---|".repeat(self.peers.len()));
    }

    fn row(&self, out: &mut String, title: &str, cell: impl Fn(&str) -> Option<String>) {
        let _ = write!(out, "| {title} |");
        for peer in &self.peers {
            let _ = write!(out, " {} |", cell(&peer.name).unwrap_or_else(|| "-".to_owned()));
        }
        let _ = writeln!(out);
    }

    fn ratio_table(&self, out: &mut String) {
        let base = self.base();
        if self.works().next().is_none() {
            return;
        }
        let what = &self.what;
        let _ = writeln!(out, "\n### CPU time of a {what}, as a ratio to {base} (less is better)\n");
        self.head(out, "work");
        for spec in self.works() {
            let title = format!("{} (per {})", spec.title, spec.unit.name());
            self.row(out, &title, |peer| Some(format!("{:.2}", self.cpu_ratio(spec.id, peer, base)?)));
        }
        let _ = writeln!(out, "\n### Requests per second, as a ratio to {base} (more is better)\n");
        self.head(out, "work");
        for spec in self.works() {
            self.row(out, spec.title, |peer| Some(format!("{:.2}", self.rate_ratio(spec.id, peer, base)?)));
        }
    }

    fn figure_tables(&self, out: &mut String) {
        if self.works().next().is_none() {
            return;
        }
        let _ = writeln!(
            out,
            "\n### The figures behind the ratios (of this machine: do not compare them with another's)\n\n\
             CPU µs per {} or {} · {}s per second · latency p50 / p99 in ms\n",
            Unit::Request.name(),
            Unit::Megabyte.name(),
            Unit::Request.name()
        );
        self.head(out, "work");
        for spec in self.works() {
            self.row(out, spec.title, |peer| {
                let of = self.figures(spec.id, peer)?;
                let (p50, p99) = (of.p50_us / 1e3, of.p99_us / 1e3);
                Some(format!("{:.1} · {:.0} · {p50:.2} / {p99:.2}", of.cpu_us, of.rate))
            });
        }
    }

    /// What gateways are asked besides: connections of clients they have never seen.
    fn handshake_table(&self, out: &mut String) {
        if self.of(HANDSHAKE, self.base()).next().is_none() {
            return;
        }
        let _ = writeln!(out, "\n### Full handshakes, each with one request, in a second of CPU\n");
        self.head(out, "");
        self.row(out, "as a ratio (more is better)", |peer| {
            Some(format!("{:.2}", self.cpu_ratio(HANDSHAKE, self.base(), peer)?))
        });
        self.row(out, "of this machine", |peer| {
            Some(format!("{:.0}", 1e6 / self.figures(HANDSHAKE, peer)?.cpu_us))
        });
    }

    /// What was measured of Weft's gateway alone.
    fn alone_table(&self, out: &mut String) {
        let routes = self.cpu_ratio(ROUTES, "weft", FEW_ROUTES).zip(self.loaded_mb(ROUTES, "weft"));
        if routes.is_none() && self.changes.is_none() {
            return;
        }
        let _ = writeln!(out, "\n### Weft alone\n\n| | |\n|---|---|");
        if let Some((ratio, mb)) = routes {
            let _ = writeln!(out, "| 5,000 routes on 500 hosts: PSS, MB | {mb:.1} |");
            if let Some(few) = self.loaded_mb(ROUTES, FEW_ROUTES) {
                let _ = writeln!(out, "| 10 routes on one host: PSS, MB | {few:.1} |");
            }
            let _ = writeln!(out, "| CPU per request with the 5,000, as a ratio to the 10 | {ratio:.2} |");
        }
        if let Some(Changes { changes, rate, failed, p50_us, p99_us, longest_us }) = &self.changes {
            let [p50, p99, longest] = [p50_us, p99_us, longest_us].map(|us| us / 1e3);
            let _ = writeln!(
                out,
                "| {changes} changes of a route under {rate:.0} requests/s: failed | {failed} |"
            );
            let _ = writeln!(
                out,
                "| in force after, p50 / p99 / longest, ms | {p50:.1} / {p99:.1} / {longest:.1} |"
            );
        }
    }

    fn memory_table(&self, out: &mut String) {
        let works = self.works().next().is_some();
        if self.memory.is_empty() && !works {
            return;
        }
        let _ = writeln!(out, "\n### Memory (PSS, MB)\n");
        self.head(out, "");
        if !self.memory.is_empty() {
            self.row(out, "idle, the larger of the two proxies", |peer| {
                Some(format!("{:.1}", self.memory(peer)?.idle_mb))
            });
            self.row(out, "5,000 idle HTTP/1.1 connections add, both proxies", |peer| {
                Some(format!("{:.1}", self.memory(peer)?.connections_add_mb))
            });
        }
        let title = if self.what == "pair" {
            "under load, the larger of the two, worst work"
        } else {
            "under load, worst work"
        };
        self.row(out, title, |peer| {
            let worst = self.works().filter_map(|spec| Some(self.figures(spec.id, peer)?.loaded_mb));
            worst.max_by(f64::total_cmp).map(|value| format!("{value:.1}"))
        });
    }
}

const PAGE: &str = "docs/benchmarks.md";
/// Around the tables of this command.
pub(crate) const BEGIN: &str = "<!-- results: written by `cargo xtask bench --write-docs` -->\n";
/// The same with `--gateway`.
pub(crate) const BEGIN_GATEWAY: &str =
    "<!-- gateways: written by `cargo xtask bench --gateway --write-docs` -->\n";
/// As above.
pub(crate) const END: &str = "<!-- end of results -->";

/// Puts tables between two markers of the page; everything else of it stays.
pub(crate) fn write_section(begin: &str, end: &str, tables: &str) -> Result<()> {
    let file = cargo::root().join(PAGE);
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {PAGE}"))?;
    let page =
        replace(&text, begin, end, tables).with_context(|| format!("{PAGE} has no line {}", begin.trim()))?;
    fs::write(&file, page).with_context(|| format!("cannot write {PAGE}"))
}

fn replace(page: &str, begin: &str, end: &str, tables: &str) -> Option<String> {
    let (before, rest) = page.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}\n{}\n\n{end}{after}", tables.trim()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn sample(peer: &str, round: usize, rate: f64, cpu_us: f64) -> Sample {
        let (peer, work) = (peer.to_owned(), "http1".to_owned());
        Sample {
            peer,
            work,
            round,
            requests: 1,
            errors: 0,
            rate,
            cpu_us,
            p50_us: 1.0,
            p99_us: 2.0,
            pss_kib: vec![1, 2],
        }
    }

    /// Weft takes half of HAProxy's time at 1.5 times its rate, on a machine that slows down from round to round.
    pub(crate) fn results() -> Results {
        let peer =
            |name: &str| PeerInfo { name: name.to_owned(), version: "1".to_owned(), note: String::new() };
        let mut samples = Vec::new();
        for (round, slow) in [1.0, 2.0, 9.0].into_iter().enumerate() {
            samples.push(sample("weft", round, 150.0 / slow, 10.0 * slow));
            samples.push(sample("haproxy", round, 100.0 / slow, 20.0 * slow));
        }
        let memory = vec![MemorySample {
            peer: "weft".to_owned(),
            round: 0,
            idle_kib: vec![5000, 4000],
            connected_kib: vec![9000, 4000],
        }];
        let peers = vec![peer("weft"), peer("haproxy")];
        let changes = Changes {
            changes: 1000,
            rate: 2000.0,
            failed: 1,
            p50_us: 4000.0,
            p99_us: 30_000.0,
            longest_us: 31_000.0,
        };
        Results {
            what: "pair".to_owned(),
            machine: "a test".to_owned(),
            rounds: 3,
            seconds: 1,
            peers,
            samples,
            memory,
            changes: Some(changes),
        }
    }

    #[test]
    fn medians() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        assert_eq!(results().cpu_ratio("http1", "weft", "haproxy"), Some(0.5));
        assert_eq!(results().rate_ratio("http1", "weft", "haproxy"), Some(1.5));
        assert_eq!(results().cpu_ratio("tcp", "weft", "haproxy"), None);
    }

    #[test]
    fn memory_is_the_larger_proxy_and_the_sum_of_what_is_added() {
        let memory = results().memory("weft").unwrap();
        assert!((memory.idle_mb - 5.12).abs() < 1e-9);
        assert!((memory.connections_add_mb - 4.096).abs() < 1e-9);
        assert!(results().memory("haproxy").is_none());
    }

    #[test]
    fn tables_and_json_tell_the_same() {
        let results = results();
        let tables = results.markdown(&[]);
        assert!(
            tables.contains("| HTTP/1.1, 64 connections, tiny body (per request) | 0.50 | 1.00 |"),
            "{tables}"
        );
        let json: serde_json::Value = serde_json::from_str(&results.json(&[]).unwrap()).unwrap();
        assert_eq!(json["medians"]["http1"]["weft"]["cpu_ratio"], 0.5);
        assert_eq!(json["run"]["samples"].as_array().unwrap().len(), 6);
    }

    #[test]
    fn the_page_keeps_what_is_around_the_results() {
        let page = format!("# Title\n{BEGIN}old\n{END}\nend\n");
        let once = replace(&page, BEGIN, END, "new\n").unwrap();
        assert_eq!(once, format!("# Title\n{BEGIN}\nnew\n\n{END}\nend\n"));
        assert_eq!(replace(&once, BEGIN, END, "new").unwrap(), once);
        assert!(replace("no markers", BEGIN, END, "new").is_none());
    }
}
