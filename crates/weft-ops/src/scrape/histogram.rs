//! Histograms: many series added up, the difference of two looks, quantiles.

use super::text::Page;

/// A histogram of any number of series that have the same bounds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// Inclusive upper bounds, rising, the last one infinite; and how many observations are at most that.
    buckets: Vec<(f64, f64)>,
}

impl Histogram {
    /// Adds up the series of a family of which `wanted` says yes to the labels.
    pub fn of(page: &Page, family: &str, mut wanted: impl FnMut(&super::Sample) -> bool) -> Self {
        let bucket = format!("{family}_bucket");
        let mut histogram = Self::default();
        for sample in page.of(&bucket).filter(|sample| wanted(sample)) {
            if let Ok(bound) = sample.label("le").parse::<f64>()
                && !bound.is_nan()
                && sample.value.is_finite()
            {
                histogram.put(bound, sample.value);
            }
        }
        histogram
    }

    fn put(&mut self, bound: f64, count: f64) {
        match self.buckets.binary_search_by(|(at, _)| at.total_cmp(&bound)) {
            Ok(index) => {
                if let Some((_, sum)) = self.buckets.get_mut(index) {
                    *sum += count;
                }
            }
            Err(index) => self.buckets.insert(index, (bound, count)),
        }
    }

    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        for (bound, count) in &other.buckets {
            self.put(*bound, *count);
        }
    }

    /// What was observed since `earlier`. A count that fell is that of a process that started anew: all of it is new.
    pub fn since(&self, earlier: &Self) -> Self {
        if self.count() < earlier.count() {
            return self.clone();
        }
        let before = |bound: f64| {
            earlier
                .buckets
                .iter()
                .find(|(at, _)| at.total_cmp(&bound).is_eq())
                .map_or(0.0, |(_, count)| *count)
        };
        let buckets = self.buckets.iter().map(|(bound, count)| (*bound, (count - before(*bound)).max(0.0)));
        Self { buckets: buckets.collect() }
    }

    /// How many observations there are.
    pub fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |(_, count)| *count)
    }

    /// The value that a share `q` (0 to 1) of the observations do not exceed, as Prometheus' `histogram_quantile` tells it:
    /// linear within a bucket, and the highest finite bound for what lies above it. None without observations.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let total = self.count();
        if total <= 0.0 || !(0.0..=1.0).contains(&q) {
            return None;
        }
        let rank = q * total;
        let (mut lower, mut below) = (0.0_f64, 0.0_f64);
        for (bound, count) in &self.buckets {
            if *count >= rank && *count > below {
                if bound.is_infinite() {
                    return Some(lower);
                }
                let share = ((rank - below) / (count - below)).clamp(0.0, 1.0);
                return Some(lower + (bound - lower) * share);
            }
            (lower, below) = (if bound.is_finite() { *bound } else { lower }, count.max(below));
        }
        Some(lower)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(lines: &[(&str, &str, u64)]) -> Page {
        let line = |(code, le, count): &(&str, &str, u64)| {
            format!("h_bucket{{code=\"{code}\",le=\"{le}\"}} {count}\n")
        };
        Page::parse(&lines.iter().map(line).collect::<String>()).unwrap()
    }

    #[test]
    fn series_are_added_and_quantiles_are_linear_within_a_bucket() {
        let page = page(&[
            ("200", "0.1", 5),
            ("200", "1", 9),
            ("200", "+Inf", 10),
            ("500", "0.1", 0),
            ("500", "1", 10),
            ("500", "+Inf", 10),
        ]);
        let all = Histogram::of(&page, "h", |_| true);
        assert_eq!(all.count(), 20.0);
        assert_eq!(all.quantile(0.25), Some(0.1));
        // 10 of 20: 5 in the first bucket, 5 of the 14 in the second.
        assert!((all.quantile(0.5).unwrap() - (0.1 + 0.9 * 5.0 / 14.0)).abs() < 1e-9);
        assert_eq!(all.quantile(1.0), Some(1.0), "above the last bound, that is told");
        let failed = Histogram::of(&page, "h", |sample| sample.label("code") == "500");
        assert_eq!(failed.count(), 10.0);
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn a_restart_is_no_negative_rate() {
        let old = Histogram::of(&page(&[("200", "1", 50), ("200", "+Inf", 60)]), "h", |_| true);
        let new = Histogram::of(&page(&[("200", "1", 53), ("200", "+Inf", 70)]), "h", |_| true);
        assert_eq!(new.since(&old).count(), 10.0);
        assert_eq!(new.since(&old).quantile(0.3), Some(1.0));
        assert_eq!(old.since(&new).count(), 60.0);
    }

    proptest! {
        /// Between the bounds of the bucket that has the rank.
        #[test]
        fn a_quantile_is_where_the_naive_count_says(values in prop::collection::vec(0u32..1000, 1..200), q in 0.0f64..=1.0) {
            let bounds = [1.0, 10.0, 100.0, 1000.0];
            let mut histogram = Histogram::default();
            for bound in bounds {
                let count = values.iter().filter(|v| f64::from(**v) <= bound).count();
                histogram.put(bound, count as f64);
            }
            histogram.put(f64::INFINITY, values.len() as f64);
            let told = histogram.quantile(q).unwrap();
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let rank = ((q * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let exact = f64::from(sorted[rank - 1]);
            let upper = bounds.into_iter().find(|bound| exact <= *bound).unwrap();
            let lower = bounds.into_iter().rev().find(|bound| *bound < exact).unwrap_or(0.0);
            prop_assert!((lower..=upper).contains(&told), "{told} not in {lower}..={upper}");
        }
    }
}
