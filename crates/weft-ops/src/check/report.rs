//! What a check says.

use std::fmt;

use serde::Serialize;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Could not be looked at, or does not apply.
    Skipped,
    /// To be looked at; the mesh works.
    Warning,
    /// Something does not work, or will not.
    Failed,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Failed => "failed",
        })
    }
}

/// From where something was looked at. What answers here may not answer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vantage {
    /// The objects in the API server, and its own answers.
    Api,
    /// The API server itself did it: it called the webhook.
    ApiServer,
    /// From this machine, through a port-forward of the API server and the kubelet.
    PortForward,
    /// The proxies' own metrics, through the API server's pod proxy.
    Proxies,
}

impl fmt::Display for Vantage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Api => "objects",
            Self::ApiServer => "asked by the API server",
            Self::PortForward => "through port-forward",
            Self::Proxies => "told by the proxies",
        })
    }
}

/// The outcome of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `topic.check`; the same from version to version.
    pub id: &'static str,
    /// How it ended.
    pub state: State,
    /// From where it was looked at.
    pub from: Vantage,
    /// What was found, in one line.
    pub summary: String,
    /// Particulars: one pod, namespace, Service each.
    pub details: Vec<String>,
    /// What to do; always there when it failed.
    pub cure: Option<String>,
}

impl Finding {
    fn new(id: &'static str, from: Vantage, state: State, summary: impl Into<String>) -> Self {
        Self { id, state, from, summary: summary.into(), details: Vec::new(), cure: None }
    }

    pub(crate) fn ok(id: &'static str, from: Vantage, summary: impl Into<String>) -> Self {
        Self::new(id, from, State::Ok, summary)
    }

    pub(crate) fn skipped(id: &'static str, from: Vantage, summary: impl Into<String>) -> Self {
        Self::new(id, from, State::Skipped, summary)
    }

    pub(crate) fn warning(
        id: &'static str,
        from: Vantage,
        summary: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { cure: Some(cure.into()), ..Self::new(id, from, State::Warning, summary) }
    }

    pub(crate) fn failed(
        id: &'static str,
        from: Vantage,
        summary: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { cure: Some(cure.into()), ..Self::new(id, from, State::Failed, summary) }
    }

    pub(crate) fn details(mut self, details: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(details);
        self
    }

    /// The part before the dot.
    pub fn topic(&self) -> &'static str {
        self.id.split_once('.').map_or(self.id, |(topic, _)| topic)
    }
}

/// All that was checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order in which one thing needs the other.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing failed.
    pub fn ok(&self) -> bool {
        self.count(State::Failed) == 0
    }

    /// How many ended so.
    pub fn count(&self, state: State) -> usize {
        self.findings.iter().filter(|finding| finding.state == state).count()
    }

    /// As `-o json` prints it: `docs/guide/checks.md` describes the fields.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "ok": self.ok(),
            "failed": self.count(State::Failed),
            "warnings": self.count(State::Warning),
            "checks": self.findings,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_fails_by_failures_alone() {
        let mut report = Report::default();
        report.findings.push(Finding::ok("a.b", Vantage::Api, "fine"));
        report.findings.push(Finding::warning("a.c", Vantage::Proxies, "hm", "look"));
        report.findings.push(Finding::skipped("b.c", Vantage::ApiServer, "no"));
        assert!(report.ok());
        report
            .findings
            .push(Finding::failed("b.d", Vantage::PortForward, "bad", "mend").details(["x".to_owned()]));
        assert!(!report.ok());
        let json = report.json();
        assert_eq!((&json["ok"], &json["failed"], &json["warnings"]), (&false.into(), &1.into(), &1.into()));
        assert_eq!(
            json["checks"][3],
            serde_json::json!({
                "id": "b.d", "state": "failed", "from": "port-forward", "summary": "bad", "details": ["x"], "cure": "mend",
            })
        );
        assert_eq!(report.findings[3].topic(), "b");
    }
}
