//! The Prometheus text format, version 0.0.4; and the same values for those who do not want text.

use std::fmt::{Display, Write};
use std::time::SystemTime;

use super::points::{FamilyPoints, Number, Point, PointLabels, PointValue};
use super::registry::{FamilySnapshot, Value};
use super::{Buckets, Family, Kind};

/// Takes the families of a collection: into a scrape's text, or as values for an exporter.
///
/// A family must be written in one piece (the text format demands it), so a collector asks for a [`FamilyEncoder`] and
/// writes all series of that family before it asks for the next.
#[derive(Debug)]
pub struct Encoder<'a> {
    out: Output<'a>,
    /// Since when values count that bring no time of their own.
    since: SystemTime,
}

/// Writes the series of one family.
#[derive(Debug)]
pub struct FamilyEncoder<'a> {
    out: Output<'a>,
    family: &'static Family,
    since: SystemTime,
}

#[derive(Debug)]
enum Output<'a> {
    Text(&'a mut String),
    Points(&'a mut Vec<FamilyPoints>),
}

impl<'a> Encoder<'a> {
    pub(super) fn text(out: &'a mut String, since: SystemTime) -> Self {
        Self { out: Output::Text(out), since }
    }

    pub(super) fn points(out: &'a mut Vec<FamilyPoints>, since: SystemTime) -> Self {
        Self { out: Output::Points(out), since }
    }

    /// Begins a family.
    pub fn family(&mut self, family: &'static Family) -> FamilyEncoder<'_> {
        let out = match &mut self.out {
            Output::Text(out) => {
                headings(out, family);
                Output::Text(out)
            }
            Output::Points(out) => {
                out.push(FamilyPoints { family, points: Vec::new() });
                Output::Points(out)
            }
        };
        FamilyEncoder { out, family, since: self.since }
    }

    pub(super) fn snapshot(&mut self, snapshot: &FamilySnapshot) {
        if snapshot.series.is_empty() && snapshot.overflow.is_empty() {
            return;
        }
        let since = self.since;
        let mut encoder = self.family(snapshot.family);
        for (labels, series) in &snapshot.series {
            encoder.since = series.since;
            encoder.point(PointLabels::Are(labels.clone()), summed(snapshot.family.kind, &series.shards));
        }
        if !snapshot.overflow.is_empty() {
            encoder.since = since;
            encoder.point(PointLabels::Overflow, summed(snapshot.family.kind, &snapshot.overflow));
        }
    }
}

/// The HELP and TYPE lines.
fn headings(out: &mut String, family: &Family) {
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
    };
    out.push_str("# HELP ");
    out.push_str(family.name);
    out.push(' ');
    escape(out, family.help, false);
    out.push_str("\n# TYPE ");
    out.push_str(family.name);
    out.push(' ');
    out.push_str(kind);
    out.push('\n');
}

/// One value out of those of all shards.
fn summed(kind: Kind, shards: &[(u64, Value)]) -> PointValue {
    let values = shards.iter().map(|(_, value)| value);
    match kind {
        Kind::Counter => {
            let sum = values.fold(0u64, |sum, value| match value {
                Value::Counter(c) => sum.wrapping_add(c.get()),
                Value::Gauge(_) | Value::Histogram(_) => sum,
            });
            PointValue::Number(Number::Unsigned(sum))
        }
        Kind::Gauge => {
            let sum = values.fold(0i64, |sum, value| match value {
                Value::Gauge(g) => sum.wrapping_add(g.get()),
                Value::Counter(_) | Value::Histogram(_) => sum,
            });
            PointValue::Number(Number::Signed(sum))
        }
        Kind::Histogram(buckets) => {
            let mut counts = vec![0u64; buckets.bounds.len() + 1];
            let mut sum = 0u64;
            for value in values {
                if let Value::Histogram(h) = value {
                    h.add_to(&mut counts);
                    sum = sum.wrapping_add(h.sum());
                }
            }
            PointValue::Histogram { counts, sum }
        }
    }
}

impl FamilyEncoder<'_> {
    /// Adds one sample of a counter or gauge; `labels` are values in the family's order. An empty value leaves the
    /// label out, which means the same to Prometheus.
    pub fn value(&mut self, labels: &[&str], value: impl Into<Number>) -> &mut Self {
        let labels = labels.iter().map(|label| Box::from(*label)).collect();
        self.point(PointLabels::Are(labels), PointValue::Number(value.into()));
        self
    }

    /// Adds one sample of a histogram: a count for each bound of the family and one for what is beyond the last, not
    /// cumulative; and the sum, in the unit of the bounds.
    pub fn histogram(&mut self, labels: &[&str], counts: Vec<u64>, sum: u64) -> &mut Self {
        let labels = labels.iter().map(|label| Box::from(*label)).collect();
        self.point(PointLabels::Are(labels), PointValue::Histogram { counts, sum });
        self
    }

    fn point(&mut self, labels: PointLabels, value: PointValue) {
        let (family, since) = (self.family, self.since);
        match &mut self.out {
            Output::Points(out) => {
                if let Some(of_family) = out.last_mut() {
                    of_family.points.push(Point { labels, since, value });
                }
            }
            Output::Text(out) => Text { out, family }.point(&labels, &value),
        }
    }
}

/// The lines of one family.
struct Text<'a> {
    out: &'a mut String,
    family: &'static Family,
}

impl Text<'_> {
    fn point(&mut self, labels: &PointLabels, value: &PointValue) {
        let labels = match labels {
            PointLabels::Are(values) => {
                let values = values.iter().map(|value| &**value);
                Labels::new(self.family.labels.iter().copied().zip(values))
            }
            PointLabels::Overflow => Labels::new([("overflow", "true")].into_iter()),
        };
        match (value, self.family.kind) {
            (PointValue::Number(number), _) => self.sample("", &labels, None, number),
            (PointValue::Histogram { counts, sum }, Kind::Histogram(buckets)) => {
                self.histogram(&labels, counts, *sum, buckets);
            }
            (PointValue::Histogram { .. }, Kind::Counter | Kind::Gauge) => {}
        }
    }

    fn histogram(&mut self, labels: &Labels, counts: &[u64], sum: u64, buckets: &Buckets) {
        let mut cumulative = 0u64;
        let les = buckets.le.iter().copied().chain(["+Inf"]);
        for (le, count) in les.zip(counts) {
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
