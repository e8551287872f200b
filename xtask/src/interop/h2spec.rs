//! h2spec: what a server of HTTP/2 does with frames that are right, odd and wrong. The server is nghttpd: it is told
//! apart from Weft, and passes nearly all of it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Run;
use super::outcome::Outcome;
use crate::bench::certs::Side;
use crate::bench::topology::{Core, SERVER_IP};

const PORT: u16 = 8080;

/// Without a hurry: a case waits 2 s at most, and there are 146.
const LIMIT: Duration = Duration::from_secs(600);

/// Octets of the page: more than the small windows of some cases.
const PAGE: usize = 1000;

/// Runs it.
pub(crate) fn run(run: &Run<'_>) -> Result<Outcome> {
    let bed = run.bed;
    let root = bed.scratch.join("htdocs");
    fs::create_dir_all(&root)?;
    fs::write(root.join("index.html"), "w".repeat(PAGE))?;
    let root = root.display().to_string();
    let words = ["nghttpd", "--no-tls", "-a", SERVER_IP, "-d", &root, &PORT.to_string()];
    let mut server = bed.start("nghttpd", Side::Server, Core::Load, None, &words)?;
    bed.wait_listening(Side::Server, PORT, &mut server)?;
    let report = bed.scratch.join("h2spec.xml");
    let program = run.programs.suite.display().to_string();
    let report_word = report.display().to_string();
    let words = [&program, "--strict", "-h", SERVER_IP, "-p", &PORT.to_string(), "-j", &report_word];
    // It ends with 1 where a case fails, too: the report says what it was.
    let said = run.to_the_end("h2spec", Side::Client, LIMIT, &words)?;
    server.check()?;
    let text =
        fs::read_to_string(&report).with_context(|| format!("h2spec came to no end:\n{}", said.tail()))?;
    read(&text)
}

/// Reads a report in JUnit's format, as h2spec writes it: one element a line. A case is named by its section and its
/// place there.
fn read(report: &str) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut case = None;
    for line in report.lines() {
        let element = line.trim_start();
        if element.starts_with("<testcase ") {
            let section = attribute(element, "package").context("a case without a section")?;
            let place = places.entry(section.clone()).or_default();
            *place += 1;
            outcome.cases += 1;
            let name = format!("{section}/{place}");
            case = Some((name, attribute(element, "classname").unwrap_or_default()));
        } else if element.starts_with("</testsuite>") {
            case = None;
        } else if let Some((name, title)) = &case {
            match outcome.failed.get_mut(name) {
                None if is_failure(element) => {
                    outcome.failed.insert(name.clone(), format!("{title}\n{}", plain(element)));
                }
                Some(told) if !plain(element).is_empty() => {
                    told.push('\n');
                    told.push_str(&plain(element));
                }
                _ => {}
            }
        }
    }
    anyhow::ensure!(outcome.cases > 0, "h2spec's report has no case");
    Ok(outcome)
}

fn is_failure(element: &str) -> bool {
    ["<error", "<failure", "<skipped"].iter().any(|start| element.starts_with(start))
}

/// A line without its tags. h2spec does not escape what it says, so only its own tags are looked for.
fn plain(line: &str) -> String {
    let mut text = line.to_owned();
    for tag in ["error", "failure", "testcase"] {
        text = text.replace(&format!("<{tag}>"), "").replace(&format!("</{tag}>"), "");
    }
    text.replace("<skipped></skipped>", "skipped").trim().to_owned()
}

fn attribute(element: &str, name: &str) -> Option<String> {
    let value = element.split_once(&format!(" {name}=\""))?.1.split_once('"')?.0;
    let pairs = [("&#34;", "\""), ("&#39;", "'"), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")];
    Some(pairs.iter().fold(value.to_owned(), |text, (escape, plain)| text.replace(escape, plain)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
  <testsuite name="1. Start" package="generic/1" id="1" tests="2" skipped="0" failures="0" errors="1">
    <testcase package="generic/1" classname="Sends &#34;this&#34;" time="0.0000"></testcase>
    <testcase package="generic/1" classname="Sends that" time="0.0000">
      <error>GOAWAY Frame (Error Code: PROTOCOL_ERROR)
DATA Frame (length:1000, <odd>)</error>
    </testcase>
  </testsuite>
  <testsuite name="2. Go on" package="generic/2" id="2" tests="2" skipped="1" failures="0" errors="0">
    <testcase package="generic/2" classname="Sends more" time="0.0000"></testcase>
    <testcase package="generic/2" classname="Skips" time="0.0000">
      <skipped></skipped>
    </testcase>
  </testsuite>
</testsuites>"#;

    #[test]
    fn cases_are_named_by_section_and_place() {
        let outcome = read(REPORT).unwrap();
        assert_eq!((outcome.cases, outcome.passed()), (4, 2));
        let told: Vec<_> = outcome.failed.iter().map(|(name, told)| (name.as_str(), told.as_str())).collect();
        let error = "Sends that\nGOAWAY Frame (Error Code: PROTOCOL_ERROR)\nDATA Frame (length:1000, <odd>)";
        assert_eq!(told, [("generic/1/2", error), ("generic/2/2", "Skips\nskipped")]);
    }

    #[test]
    fn names_may_have_quotes() {
        assert_eq!(
            attribute(r#"<testcase classname="&#34;a&#34; &lt; b""#, "classname").unwrap(),
            "\"a\" < b"
        );
    }

    #[test]
    fn a_report_of_nothing_is_an_error() {
        assert!(read("<testsuites></testsuites>").is_err());
    }
}
