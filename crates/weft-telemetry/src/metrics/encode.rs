//! The Prometheus text format, version 0.0.4.

use std::fmt::{Display, Write};

use super::registry::{FamilySnapshot, Value};
use super::{Buckets, Family, Kind};

/// Writes families to a scrape's answer.
///
/// A family must be written in one piece (the format demands it), so a collector asks for a [`FamilyEncoder`] and writes
/// all series of that family before it asks for the next.
#[derive(Debug)]
pub struct Encoder<'a> {
    out: &'a mut String,
}

/// Writes the series of one family.
#[derive(Debug)]
pub struct FamilyEncoder<'a> {
    out: &'a mut String,
    family: &'static Family,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(out: &'a mut String) -> Self {
        Self { out }
    }

    /// Begins a family: writes its HELP and TYPE lines.
    pub fn family(&mut self, family: &'static Family) -> FamilyEncoder<'_> {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        self.out.push_str("# HELP ");
        self.out.push_str(family.name);
        self.out.push(' ');
        escape(self.out, family.help, false);
        self.out.push_str("\n# TYPE ");
        self.out.push_str(family.name);
        self.out.push(' ');
        self.out.push_str(kind);
        self.out.push('\n');
        FamilyEncoder { out: self.out, family }
    }

    pub(super) fn snapshot(&mut self, snapshot: &FamilySnapshot) {
        if snapshot.series.is_empty() && snapshot.overflow.is_empty() {
            return;
        }
        let names = snapshot.family.labels;
        let mut encoder = self.family(snapshot.family);
        for (labels, shards) in &snapshot.series {
            let pairs = names.iter().copied().zip(labels.iter().map(|l| &**l));
            encoder.shards(&Labels::new(pairs), shards);
        }
        if !snapshot.overflow.is_empty() {
            encoder.shards(&Labels::new([("overflow", "true")].into_iter()), &snapshot.overflow);
        }
    }
}

impl FamilyEncoder<'_> {
    /// Writes one sample of a counter or gauge; `labels` are values in the family's order. An empty value leaves the
    /// label out, which means the same to Prometheus.
    pub fn value(&mut self, labels: &[&str], value: impl Display) -> &mut Self {
        let pairs = self.family.labels.iter().copied().zip(labels.iter().copied());
        self.sample("", &Labels::new(pairs), None, value);
        self
    }

    fn shards(&mut self, labels: &Labels, shards: &[(u64, Value)]) {
        match self.family.kind {
            Kind::Counter => {
                let sum = shards.iter().fold(0u64, |sum, (_, v)| match v {
                    Value::Counter(c) => sum.wrapping_add(c.get()),
                    Value::Gauge(_) | Value::Histogram(_) => sum,
                });
                self.sample("", labels, None, sum);
            }
            Kind::Gauge => {
                let sum = shards.iter().fold(0i64, |sum, (_, v)| match v {
                    Value::Gauge(g) => sum.wrapping_add(g.get()),
                    Value::Counter(_) | Value::Histogram(_) => sum,
                });
                self.sample("", labels, None, sum);
            }
            Kind::Histogram(buckets) => self.histogram(labels, shards, buckets),
        }
    }

    fn histogram(&mut self, labels: &Labels, shards: &[(u64, Value)], buckets: &Buckets) {
        let mut counts = vec![0u64; buckets.bounds.len() + 1];
        let mut sum = 0u64;
        for (_, value) in shards {
            if let Value::Histogram(h) = value {
                h.add_to(&mut counts);
                sum = sum.wrapping_add(h.sum());
            }
        }
        let mut cumulative = 0u64;
        let les = buckets.le.iter().copied().chain(["+Inf"]);
        for (le, count) in les.zip(&counts) {
            cumulative = cumulative.wrapping_add(*count);
            self.sample("_bucket", labels, Some(le), cumulative);
        }
        self.sample("_sum", labels, None, Scaled { value: sum, scale: buckets.scale });
        // Taken from the buckets, not kept apart, so that `_count` and the `+Inf` bucket always agree.
        self.sample("_count", labels, None, cumulative);
    }

    fn sample(&mut self, suffix: &str, labels: &Labels, le: Option<&str>, value: impl Display) {
        self.out.push_str(self.family.name);
        self.out.push_str(suffix);
        let Labels(text) = labels;
        match le {
            None if text.is_empty() => {}
            None => {
                self.out.push('{');
                self.out.push_str(text);
                self.out.push('}');
            }
            Some(le) => {
                self.out.push('{');
                self.out.push_str(text);
                if !text.is_empty() {
                    self.out.push(',');
                }
                self.out.push_str("le=\"");
                self.out.push_str(le);
                self.out.push_str("\"}");
            }
        }
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, " {value}");
    }
}

/// Label pairs, escaped and joined, without the braces: written once and used for each line of a histogram.
struct Labels(String);

impl Labels {
    fn new<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut text = String::new();
        for (name, value) in pairs.filter(|(_, value)| !value.is_empty()) {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(name);
            text.push_str("=\"");
            escape(&mut text, value, true);
            text.push('"');
        }
        Self(text)
    }
}

/// Backslash and line feed are escaped everywhere, the quote in label values only.
fn escape(out: &mut String, text: &str, quotes: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}

/// An integer in a small unit, written exactly in the large one.
struct Scaled {
    value: u64,
    scale: u64,
}

impl Display for Scaled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, rest) = (self.value / self.scale, self.value % self.scale);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let digits = self.scale.ilog10() as usize;
        let fraction = format!("{rest:0digits$}");
        write!(f, "{whole}.{}", fraction.trim_end_matches('0'))
    }
}
