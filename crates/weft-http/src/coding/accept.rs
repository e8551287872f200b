//! Which coding a client takes best (RFC 9110 section 12.5.3).

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;
use weft_core::ContentCoding;

/// What a request's `Accept-Encoding` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// By [`place`].
    named: [Option<Weight>; 3],
    identity: Option<Weight>,
    /// `*`: what is not named.
    others: Option<Weight>,
}

/// A quality in thousandths.
type Weight = u16;

const MOST: Weight = 1000;

impl Accepted {
    /// Reads the field. A member that cannot be read counts as one that is not there; one that is there twice counts as the last.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut accepted = Self::default();
        for value in headers.get_all(ACCEPT_ENCODING) {
            for member in value.as_bytes().split(|byte| *byte == b',') {
                if let Some((name, weight)) = std::str::from_utf8(member).ok().and_then(member_of) {
                    accepted.add(name, weight);
                }
            }
        }
        accepted
    }

    fn add(&mut self, name: &str, weight: Weight) {
        // A recipient takes `x-gzip` for `gzip` (RFC 9110 section 8.4.1.3).
        let coding = ContentCoding::ALL.into_iter().find(|coding| name.eq_ignore_ascii_case(coding.as_str()));
        let coding = coding.or(name.eq_ignore_ascii_case("x-gzip").then_some(ContentCoding::Gzip));
        if let Some(coding) = coding {
            if let Some(named) = self.named.get_mut(place(coding)) {
                *named = Some(weight);
            }
        } else if name.eq_ignore_ascii_case("identity") {
            self.identity = Some(weight);
        } else if name == "*" {
            self.others = Some(weight);
        }
    }

    /// The one of `offered` that the client takes best; of those that it takes alike, the first. `None`: it takes none, or likes the
    /// content better as it is.
    pub fn best(&self, offered: &[ContentCoding]) -> Option<ContentCoding> {
        let weight = |coding| self.named.get(place(coding)).copied().flatten().or(self.others).unwrap_or(0);
        // `max_by_key` gives the last of several.
        let best = offered.iter().rev().copied().max_by_key(|coding| weight(*coding))?;
        let floor = self.identity.unwrap_or(0);
        (weight(best) > 0 && weight(best) >= floor).then_some(best)
    }
}

fn place(coding: ContentCoding) -> usize {
    match coding {
        ContentCoding::Gzip => 0,
        ContentCoding::Brotli => 1,
        ContentCoding::Zstd => 2,
    }
}

/// `name`, or `name;q=0.5` (RFC 9110 section 12.4.2).
fn member_of(member: &str) -> Option<(&str, Weight)> {
    let mut parts = member.split(';').map(|part| part.trim_matches([' ', '\t']));
    let name = parts.next().filter(|name| !name.is_empty())?;
    let weight = match parts.next() {
        None => MOST,
        Some(weight) => weight_of(weight.strip_prefix("q=").or_else(|| weight.strip_prefix("Q="))?)?,
    };
    parts.next().is_none().then_some((name, weight))
}

/// `0`, `0.75`, `1.000`: at most three digits behind the point.
fn weight_of(text: &str) -> Option<Weight> {
    let (whole, digits) = text.split_once('.').unwrap_or((text, ""));
    if digits.len() > 3 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let parts =
        digits.bytes().zip([100, 10, 1]).map(|(digit, worth)| Weight::from(digit - b'0') * worth).sum();
    match (whole, parts) {
        ("0", parts) => Some(parts),
        ("1", 0) => Some(MOST),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use ContentCoding::{Brotli, Gzip, Zstd};

    fn best_of(fields: &[&str]) -> Option<ContentCoding> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(ACCEPT_ENCODING, HeaderValue::from_str(field).unwrap());
        }
        Accepted::of(&headers).best(&[Zstd, Brotli, Gzip])
    }

    #[test]
    fn the_best_weight_has_it_and_then_our_order() {
        for (field, coding) in [
            ("gzip", Some(Gzip)),
            ("gzip, deflate, br, zstd", Some(Zstd)),
            ("GZIP;q=1.0, br;q=0.9", Some(Gzip)),
            ("br;Q=0.5 , gzip ; q=0.5", Some(Brotli)),
            ("x-gzip", Some(Gzip)),
            ("*", Some(Zstd)),
            ("zstd;q=0, *;q=0.001", Some(Brotli)),
            ("gzip;q=0", None),
            ("*;q=0", None),
            ("", None),
            ("deflate, compress", None),
            ("identity;q=0", None),
            ("identity;q=0, gzip;q=0.1", Some(Gzip)),
            ("identity;q=0.5, gzip;q=0.4", None),
            ("identity;q=0.5, gzip;q=0.5", Some(Gzip)),
            ("identity, gzip", Some(Gzip)),
            ("identity, gzip;q=0.9", None),
            ("gzip;q=0.9, gzip;q=0", None),
        ] {
            assert_eq!(best_of(&[field]), coding, "{field}");
        }
        assert_eq!(best_of(&["br;q=0.1", "gzip"]), Some(Gzip), "several lines are one list");
        assert_eq!(best_of(&[]), None);
    }

    #[test]
    fn what_cannot_be_read_is_not_there() {
        for field in [
            "gzip;q=1.1",
            "gzip;q=-1",
            "gzip;q=0.1234",
            "gzip;q=",
            "gzip;q=.5",
            "gzip;q=2",
            "gzip;level=1",
            "gzip;q=1;x",
            "gzip q=1",
            ";q=1",
            "gzip;q=0x1",
            "gz ip",
        ] {
            assert_eq!(best_of(&[field]), None, "{field}");
            assert_eq!(best_of(&[field, "br;q=0.2"]), Some(Brotli), "{field}");
        }
        let mut headers = HeaderMap::new();
        headers.append(ACCEPT_ENCODING, HeaderValue::from_bytes(b"\xff, gzip;q=\xe9, br").unwrap());
        assert_eq!(Accepted::of(&headers).best(&[Gzip, Brotli]), Some(Brotli));
    }

    proptest! {
        #[test]
        fn nothing_is_chosen_that_was_refused(
            weights in proptest::collection::vec(proptest::option::of(0_u16..=1000), 4),
        ) {
            let names = ["gzip", "br", "zstd", "identity"];
            let field: Vec<String> = names.iter().zip(&weights).filter_map(|(name, weight)| {
                weight.map(|weight| format!("{name};q={}.{:03}", weight / 1000, weight % 1000))
            }).collect();
            let best = best_of(&[&field.join(", ")]);
            let of = |name: &str| names.iter().position(|known| *known == name).and_then(|at| weights[at]);
            let most = ["gzip", "br", "zstd"].into_iter().filter_map(of).max().unwrap_or(0);
            let chosen = best.and_then(|best| of(best.as_str()));
            if most == 0 || most < of("identity").unwrap_or(0) {
                prop_assert_eq!(best, None);
            } else {
                prop_assert_eq!(chosen, Some(most));
            }
        }
    }
}
