//! Kubernetes quantities, read as strictly as the API server does.
//!
//! A quantity that the API server refuses would refuse the whole pod with a message about a container that its author
//! never wrote. So it is read here first, and the message names the annotation or setting that it came from.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

/// An amount of a resource, such as `100m`, `0.5`, `24Mi`. Kept as it was written; compared by value.
#[derive(Clone, Debug)]
pub struct Quantity {
    text: String,
    /// In billionths: the finest that Kubernetes knows.
    nano: i128,
}

/// The suffixes and what each multiplies by, in billionths.
const UNITS: [(&str, i128); 16] = [
    ("n", 1),
    ("u", 1_000),
    ("m", 1_000_000),
    ("", NANO),
    ("k", NANO * 1_000),
    ("M", NANO * 1_000_000),
    ("G", NANO * 1_000_000_000),
    ("T", NANO * 1_000_000_000_000),
    ("P", NANO * 1_000_000_000_000_000),
    ("E", NANO * 1_000_000_000_000_000_000),
    ("Ki", NANO << 10),
    ("Mi", NANO << 20),
    ("Gi", NANO << 30),
    ("Ti", NANO << 40),
    ("Pi", NANO << 50),
    ("Ei", NANO << 60),
];
const NANO: i128 = 1_000_000_000;
/// More digits than this never mean anything, and fewer cannot overflow.
const MAX_DIGITS: usize = 15;

impl Quantity {
    /// Whether it is a whole number of units: memory is counted in octets, so `100m` of it is a mistake for `100M`.
    pub fn is_whole(&self) -> bool {
        self.nano % NANO == 0
    }

    /// Whether it is nothing.
    pub(crate) fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// Whether it is more than `ratio` times `other`. What is too large to be told is not.
    pub(crate) fn exceeds(&self, other: &Self, ratio: &Self) -> bool {
        match (self.nano.checked_mul(NANO), other.nano.checked_mul(ratio.nano)) {
            (Some(this), Some(most)) => this > most,
            _ => false,
        }
    }

    /// The least of which it is no more than `ratio` times as much, in thousandths (of CPU) or whole units.
    pub(crate) fn divided(&self, ratio: &Self, thousandths: bool) -> Option<Self> {
        let (scaled, step) = (self.nano.checked_mul(NANO)?, step(thousandths));
        let parts = ratio.nano.checked_mul(step).filter(|parts| *parts > 0)?;
        // Rounded up.
        Self::of_steps(scaled.checked_add(parts - 1)? / parts, thousandths)
    }

    /// The most that is no more than `ratio` times as much as this.
    pub(crate) fn times(&self, ratio: &Self, thousandths: bool) -> Option<Self> {
        let product = self.nano.checked_mul(ratio.nano)?;
        Self::of_steps(product / NANO / step(thousandths), thousandths)
    }

    fn of_steps(steps: i128, thousandths: bool) -> Option<Self> {
        let nano = steps.checked_mul(step(thousandths))?;
        Some(Self { text: if thousandths { format!("{steps}m") } else { steps.to_string() }, nano })
    }

    /// Both together; as text in whole units where that is possible.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        // Each is at most 2^63-1 units, and a pod has some dozens of containers.
        let nano = self.nano.saturating_add(other.nano);
        let text = [(NANO << 20, "Mi"), (NANO, ""), (NANO / 1_000, "m"), (1, "n")]
            .into_iter()
            .find(|(unit, _)| nano % unit == 0)
            .map_or_else(String::new, |(unit, suffix)| format!("{}{suffix}", nano / unit));
        Self { text, nano }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Default for Quantity {
    fn default() -> Self {
        Self { text: "0".to_owned(), nano: 0 }
    }
}

/// The billionths that the API server counts in: thousandths of a CPU, whole octets.
fn step(thousandths: bool) -> i128 {
    if thousandths { NANO / 1_000 } else { NANO }
}

impl FromStr for Quantity {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "write a quantity such as 100m, 0.5, 64Mi or 1Gi";
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(WRONG);
        }
        let whole = if whole.is_empty() { "0" } else { whole };
        if whole.len() > MAX_DIGITS || fraction.len() > MAX_DIGITS {
            return Err("this has too many digits");
        }
        let scale = scale(unit).ok_or(WRONG)?;
        let whole: i128 = whole.parse().map_err(|_| WRONG)?;
        let parts: i128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| WRONG)? };
        let tenths = 10_i128.checked_pow(u32::try_from(fraction.len()).unwrap_or(0)).ok_or(WRONG)?;
        let nano = whole.checked_mul(scale).and_then(|n| n.checked_add(parts.checked_mul(scale)? / tenths));
        // Kubernetes caps quantities at 2^63-1 units.
        let nano = nano.filter(|n| *n <= i128::from(i64::MAX) * NANO).ok_or("this is too large")?;
        Ok(Self { text: text.to_owned(), nano })
    }
}

/// The billionths that one of `unit` is: a suffix, or a decimal exponent.
fn scale(unit: &str) -> Option<i128> {
    if let Some((_, scale)) = UNITS.iter().find(|(suffix, _)| *suffix == unit) {
        return Some(*scale);
    }
    let exponent: i32 = unit.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = u32::try_from(exponent.checked_add(9)?).ok().filter(|power| *power <= 27)?;
    Some(10_i128.pow(power))
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity such as 100m, 0.5 or 64Mi")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Quantity, E> {
                text.parse().map_err(|reason| E::custom(format!("quantity {text:?}: {reason}")))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Quantity, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Quantity, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Quantity, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn q(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|reason| panic!("{text}: {reason}"))
    }

    #[test]
    fn equal_amounts_in_other_units_are_equal() {
        for (a, b) in [
            ("100m", "0.1"),
            ("1", "1000m"),
            ("1Ki", "1024"),
            ("64Mi", "67108864"),
            ("1e3", "1k"),
            ("1.5Gi", "1536Mi"),
            (".5", "500m"),
            ("2.", "2e0"),
            ("1E", "1e18"),
            ("1n", "0.001u"),
        ] {
            assert_eq!(q(a).nano.max(1), q(b).nano.max(1), "{a} {b}");
        }
        assert!(q("100m") < q("1") && q("1G") < q("1Gi"));
        assert!(q("1.5Gi").is_whole() && !q("100m").is_whole());
    }

    #[test]
    fn what_the_api_server_refuses_is_refused() {
        for text in [
            "",
            "m",
            ".",
            "-1",
            "+1",
            "1 Gi",
            "1GiB",
            "1gi",
            "1K",
            "64MB",
            "1..2",
            "1e",
            "1e99",
            "0x1",
            "9999999999999999999",
            "99Ei",
            "１",
        ] {
            assert!(text.parse::<Quantity>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn sums_and_shares() {
        assert_eq!(q("256Mi").plus(&q("1Gi")).as_str(), "1280Mi");
        assert_eq!(q("10m").plus(&q("1")).as_str(), "1010m");
        assert_eq!(q("1").plus(&q("1")).as_str(), "2");
        assert_eq!(q("100").plus(&q("0")).as_str(), "100");
        assert_eq!(q("256Mi").divided(&q("3"), false).unwrap().as_str(), "89478486");
        assert_eq!(q("1").divided(&q("3"), true).unwrap().as_str(), "334m");
        assert_eq!(q("1").divided(&q("1.5"), true).unwrap().as_str(), "667m");
        assert_eq!(q("10m").times(&q("1.25"), true).unwrap().as_str(), "12m");
        assert_eq!(q("1Ki").times(&q("1.5"), false).unwrap().as_str(), "1536");
        assert_eq!(q("1").divided(&q("0"), true), None);
        assert!(q("1").exceeds(&q("100m"), &q("9.9")) && !q("1").exceeds(&q("100m"), &q("10")));
        assert!(!q("9E").exceeds(&q("9E"), &q("9E")), "too large to be told");
    }

    proptest! {
        #[test]
        fn a_share_is_the_nearest_that_fits(limit in 1_u64..1 << 49, ratio in 1_000_u64..1_000_000) {
            let (limit, ratio) = (q(&limit.to_string()), q(&format!("{ratio}m")));
            let request = limit.divided(&ratio, false).unwrap();
            prop_assert!(!limit.exceeds(&request, &ratio) && request <= limit);
            let less = q(&(request.as_str().parse::<u64>().unwrap() - 1).to_string());
            prop_assert!(limit.exceeds(&less, &ratio));
            let back = request.times(&ratio, false).unwrap();
            prop_assert!(back >= limit && !back.exceeds(&request, &ratio));
        }

        #[test]
        fn no_text_panics(text in "[0-9.]{0,20}[a-zA-Z]{0,3}[-+0-9]{0,12}") {
            let _ = text.parse::<Quantity>();
        }
    }
}
