//! h2specd: what a client of HTTP/2 does with answers that are wrong. The client is curl. Through Weft, what h2specd talks to
//! is the sidecar beside it, as the client of its application.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Run;
use super::outcome::Outcome;
use crate::bench::certs::Side;
use crate::bench::topology::SERVER_IP;

/// A case waits 2 s at most, and there are 57.
const LIMIT: Duration = Duration::from_secs(300);

/// Each case listens on a port of its own, from here on.
const FIRST_PORT: &str = "30000";

/// Runs it.
pub(crate) fn run(run: &Run<'_>) -> Result<Outcome> {
    let program = run.programs.suite.display().to_string();
    // h2specd gives up where a case takes more than 3 s, and starts the client itself.
    let client = format!(
        "nsenter --net={} curl --silent --max-time 2 --http2-prior-knowledge",
        run.bed.namespace(Side::Client).path()
    );
    let words = [&program, "-h", SERVER_IP, "-f", FIRST_PORT, "-e", &client];
    let said = run.to_the_end("h2specd", Side::Server, LIMIT, &words)?;
    read(&said.stdout).with_context(|| format!("h2specd came to no end:\n{}", said.tail()))
}

/// Reads what h2specd prints (it has no other report): titles of sections, and below each its cases.
fn read(text: &str) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut section = String::new();
    let mut failed: Option<String> = None;
    let mut ended = false;
    for line in text.lines().map(plain) {
        let line = line.trim();
        if line.starts_with("Failures:") || line.starts_with("Finished in ") {
            ended = true;
            break;
        }
        if let Some((number, title)) = case(line) {
            let name = format!("client/{section}/{number}");
            outcome.cases += 1;
            failed = (!line.starts_with('✔')).then(|| name.clone());
            if failed.is_some() {
                outcome.failed.insert(name, title.to_owned());
            }
        } else if let Some(number) = title(line) {
            section = number.to_owned();
            failed = None;
        } else if let Some(told) = failed.as_ref().and_then(|name| outcome.failed.get_mut(name))
            && !line.is_empty()
        {
            told.push('\n');
            told.push_str(line);
        }
    }
    anyhow::ensure!(ended && outcome.cases > 0, "no end of the cases");
    Ok(outcome)
}

/// The number and title of a case: `✔ 1: title`, `× 1: title`, or without a mark where it was skipped.
fn case(line: &str) -> Option<(&str, &str)> {
    let (number, title) = line.trim_start_matches(['✔', '×', ' ']).split_once(": ")?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some((number, title))
}

/// The number of a section: `6.5.2. Title`.
fn title(line: &str) -> Option<&str> {
    let (number, _) = line.split_once(". ")?;
    number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.').then_some(number)
}

/// A line as a terminal shows it in the end: without colours, and what was written over.
fn plain(line: &str) -> String {
    let mut pieces = line.rsplit('\r').next().unwrap_or_default().split('\u{1b}');
    let first = pieces.next().unwrap_or_default().to_owned();
    // A colour is `[`, numbers and `m`.
    pieces.fold(first, |text, piece| text + piece.split_once('m').map_or("", |(_, rest)| rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Client tests\n  5. Streams\n    5.1. States\n\
        \r      \u{1b}[32m✔\u{1b}[0m \u{1b}[90m1:\u{1b}[0m \u{1b}[90midle: sends\u{1b}[0m\n\
        \r      \u{1b}[31m× 2: Sends: more\u{1b}[0m\n\
        \x20       -> The endpoint MUST.\n\
        \x20          Expected: GOAWAY\n\
        \x20            Actual: Timeout\n\
        \x20     5.1.1. Identifiers\n\
        \r        \u{1b}[36m1: skipped\u{1b}[0m\n\
        \n\
        Failures: \n\
        \x20   5.1. States\n\
        \x20     × 2: Sends: more\n\
        Finished in 0.5 seconds\n";

    #[test]
    fn cases_are_named_by_section_and_number() {
        let outcome = read(SAID).unwrap();
        assert_eq!((outcome.cases, outcome.passed()), (3, 1));
        let told: Vec<_> = outcome.failed.iter().map(|(name, told)| (name.as_str(), told.as_str())).collect();
        let more = "Sends: more\n-> The endpoint MUST.\nExpected: GOAWAY\nActual: Timeout";
        assert_eq!(told, [("client/5.1.1/1", "skipped"), ("client/5.1/2", more)]);
    }

    #[test]
    fn what_ends_early_is_an_error() {
        assert!(read("").is_err());
        assert!(read(SAID.split_once("Failures").unwrap().0).is_err());
    }
}
