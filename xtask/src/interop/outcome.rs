//! What came of a suite, directly and through Weft, and what the difference means.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

use crate::cargo;

/// The differences that are as they should be, from the root of the workspace: by suite and case, words of the page that
/// tells of it.
pub(crate) const ACCEPTED: &str = "tests/interop/differences.json";

/// The page.
#[cfg(test)]
const PAGE: &str = include_str!("../../../docs/guide/protocols.md");

/// Cases, and why they are accepted.
pub(crate) type Reasons = BTreeMap<String, String>;

/// One run of a suite.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Outcome {
    /// How many cases there were.
    pub(crate) cases: usize,
    /// Those that did not pass, and what the suite says of each.
    pub(crate) failed: BTreeMap<String, String>,
}

impl Outcome {
    /// How many passed.
    pub(crate) fn passed(&self) -> usize {
        self.cases.saturating_sub(self.failed.len())
    }
}

/// Both runs, compared.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Judgement {
    /// Cases that differ as the page says, with its words.
    pub(crate) accepted: Reasons,
    /// Cases that pass directly and not through Weft, and what the suite says of each.
    pub(crate) faults: BTreeMap<String, String>,
    /// Cases that are accepted, and do not fail through Weft. (One that fails both ways is left in peace: some of these
    /// suites fail a reference now and then.)
    pub(crate) stale: Vec<String>,
    /// Cases that pass through Weft alone: it has mended what the reference does wrongly.
    pub(crate) better: Vec<String>,
    /// Where not the same cases were run.
    pub(crate) counts: Option<[usize; 2]>,
}

impl Judgement {
    /// Compares two runs of one suite.
    pub(crate) fn new(direct: &Outcome, through: &Outcome, reasons: &Reasons) -> Self {
        let mut made = Self::default();
        if direct.cases != through.cases {
            made.counts = Some([direct.cases, through.cases]);
        }
        for (case, told) in &through.failed {
            if direct.failed.contains_key(case) {
                continue;
            }
            match reasons.get(case) {
                Some(reason) => made.accepted.insert(case.clone(), reason.clone()),
                None => made.faults.insert(case.clone(), told.clone()),
            };
        }
        made.stale = reasons.keys().filter(|case| !through.failed.contains_key(*case)).cloned().collect();
        made.better =
            direct.failed.keys().filter(|case| !through.failed.contains_key(*case)).cloned().collect();
        made
    }

    /// Whether all is as it should be.
    pub(crate) fn holds(&self) -> bool {
        self.faults.is_empty() && self.stale.is_empty() && self.counts.is_none()
    }
}

/// The accepted differences of every suite in this checkout.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn accepted() -> Result<BTreeMap<String, Reasons>> {
    let file = cargo::root().join(ACCEPTED);
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {ACCEPTED}"))?;
    serde_json::from_str(&text).with_context(|| format!("{ACCEPTED} is not what it should be"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interop::Suite;

    fn outcome(cases: usize, failed: &[&str]) -> Outcome {
        let failed = failed.iter().map(|case| ((*case).to_owned(), "told".to_owned())).collect();
        Outcome { cases, failed }
    }

    fn reasons(cases: &[&str]) -> Reasons {
        cases.iter().map(|case| ((*case).to_owned(), "why".to_owned())).collect()
    }

    #[test]
    fn what_fails_through_weft_alone_is_a_fault_unless_it_is_accepted() {
        let judged = Judgement::new(
            &outcome(9, &["both"]),
            &outcome(9, &["both", "new", "known"]),
            &reasons(&["known"]),
        );
        assert_eq!(judged.faults.keys().collect::<Vec<_>>(), ["new"]);
        assert_eq!(judged.accepted, reasons(&["known"]));
        assert!(!judged.holds() && judged.stale.is_empty());
        assert!(Judgement::new(&outcome(9, &["both"]), &outcome(9, &["both"]), &Reasons::new()).holds());
    }

    #[test]
    fn an_accepted_case_that_does_not_fail_is_stale() {
        let judged =
            Judgement::new(&outcome(9, &["both"]), &outcome(9, &["both"]), &reasons(&["both", "fine"]));
        assert_eq!(judged.stale, ["fine"]);
        assert!(!judged.holds());
        assert!(judged.accepted.is_empty());
    }

    #[test]
    fn a_case_that_was_left_out_is_seen() {
        let judged = Judgement::new(&outcome(9, &[]), &outcome(8, &[]), &Reasons::new());
        assert_eq!(judged.counts, Some([9, 8]));
        assert!(!judged.holds());
    }

    #[test]
    fn what_only_passes_through_weft_is_told_and_no_fault() {
        let judged = Judgement::new(&outcome(9, &["odd"]), &outcome(9, &[]), &Reasons::new());
        assert_eq!(judged.better, ["odd"]);
        assert!(judged.holds());
    }

    #[test]
    fn each_accepted_difference_has_words_of_the_page_and_a_suite() {
        let page: String = PAGE.split_whitespace().collect::<Vec<_>>().join(" ");
        for (suite, cases) in accepted().unwrap() {
            assert!(Suite::ALL.iter().any(|known| known.name() == suite), "no suite is called {suite}");
            for (case, words) in cases {
                assert!(page.contains(&words), "docs/guide/protocols.md does not say so of {case}: {words}");
            }
        }
    }
}
