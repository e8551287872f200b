//! Something for each host name, found by the name's labels from the right.

use std::collections::HashMap;

use weft_resource::value::HostPattern;

/// Values by host name: exact names before wildcards, longer wildcards before shorter, and one for every name last.
#[derive(Clone, Debug)]
pub struct HostTable<T> {
    exact: HashMap<Box<str>, T>,
    /// By what stands behind `*.`.
    below: HashMap<Box<str>, T>,
    /// Labels of the longest wildcard: a name with more is not looked up with more.
    deepest: usize,
    any: Option<T>,
}

impl<T> Default for HostTable<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), below: HashMap::new(), deepest: 0, any: None }
    }
}

impl<T> HostTable<T> {
    /// These; `None` is for every name. Where a pattern comes twice, the first holds.
    pub fn new(entries: impl IntoIterator<Item = (Option<HostPattern>, T)>) -> Self {
        let mut table = Self::default();
        for (pattern, value) in entries {
            match pattern {
                None => {
                    table.any.get_or_insert(value);
                }
                Some(HostPattern::Exact(name)) => {
                    table.exact.entry(name.as_str().into()).or_insert(value);
                }
                Some(HostPattern::Wildcard(base)) => {
                    table.deepest = table.deepest.max(labels(base.as_str()));
                    table.below.entry(base.as_str().into()).or_insert(value);
                }
            }
        }
        table
    }

    /// The value of the most specific pattern that a host name, in lower case, fulfils.
    pub fn most_specific(&self, host: &str) -> Option<&T> {
        self.matching(host).next()
    }

    /// The values of all patterns that a host name fulfils, from the most specific on.
    pub fn matching(&self, host: &str) -> impl Iterator<Item = &T> {
        let exact = (!self.exact.is_empty()).then(|| self.exact.get(host)).flatten();
        let below = self.suffixes(host).filter_map(|base| self.below.get(base));
        exact.into_iter().chain(below).chain(&self.any)
    }

    /// What follows each dot of a name, the longest first, as far as there are wildcards.
    fn suffixes<'h>(&self, host: &'h str) -> impl Iterator<Item = &'h str> {
        let none = self.below.is_empty() || host.starts_with('.');
        let deepest = self.deepest;
        // Where more labels follow than the longest wildcard has, nothing is to be found: a name of a thousand labels costs no
        // more than the wildcards have.
        let total = if none { 0 } else { labels(host) };
        let mut rest = host;
        (1..total).filter_map(move |cut| {
            rest = rest.split_once('.')?.1;
            (total - cut <= deepest).then_some(rest)
        })
    }

    /// The values, in no order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.below.values()).chain(&self.any)
    }
}

fn labels(name: &str) -> usize {
    name.bytes().filter(|b| *b == b'.').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_pattern_comes_first() {
        let patterns =
            [None, Some("*.com"), Some("*.example.com"), Some("a.example.com"), Some("*.a.example.com")];
        let table = HostTable::new(patterns.map(|p| (p.map(|p| p.parse().unwrap()), p.unwrap_or("any"))));
        let all = |host: &str| table.matching(host).copied().collect::<Vec<_>>();
        assert_eq!(all("a.example.com"), ["a.example.com", "*.example.com", "*.com", "any"]);
        assert_eq!(all("b.a.example.com"), ["*.a.example.com", "*.example.com", "*.com", "any"]);
        assert_eq!(all("example.com"), ["*.com", "any"]);
        assert_eq!(all("com"), ["any"]);
        assert_eq!(all(".com"), ["any"]);
        assert_eq!(all("x..com"), ["*.com", "any"]);
        assert_eq!(all(""), ["any"]);
    }
}
