//! Connect's conformance suite: Connect, gRPC and gRPC-Web over HTTP/1.1 and HTTP/2, with every codec and compression.
//!
//! It has both ends itself. Either the program under test is the server: then the suite's clients (Connect's and gRPC's)
//! ask odd things. Or it is the client: then the suite's servers answer oddly. Both are the suite's own reference here,
//! and what is under test is what lies between them; the suite and the program under test are in different pods.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Run;
use super::outcome::Outcome;
use crate::bench::certs::Side;
use crate::bench::topology::SERVER_IP;

/// Thousands of cases, some of which wait for a deadline.
const LIMIT: Duration = Duration::from_secs(900);

/// All that works without TLS.
const CONFIG: &str = "features:
  versions: [HTTP_VERSION_1, HTTP_VERSION_2]
  protocols: [PROTOCOL_CONNECT, PROTOCOL_GRPC, PROTOCOL_GRPC_WEB]
  codecs: [CODEC_PROTO, CODEC_JSON]
  compressions:
    - COMPRESSION_IDENTITY
    - COMPRESSION_GZIP
    - COMPRESSION_BR
    - COMPRESSION_ZSTD
    - COMPRESSION_DEFLATE
    - COMPRESSION_SNAPPY
  supportsH2c: true
  supportsTls: false
  supportsHalfDuplexBidiOverHttp1: true
";

/// What a case is called of which the suite only says that there were some.
const NOT_RUN: &str = "(cases that could not be run)";

/// Runs it with the suite's client, or with its server.
pub(crate) fn run(run: &Run<'_>, suite_at: Side) -> Result<Outcome> {
    let bed = run.bed;
    let (mode, tested_at) = match suite_at {
        Side::Client => ("server", Side::Server),
        Side::Server => ("client", Side::Client),
    };
    let config = bed.write("connect.yaml", CONFIG)?.display().to_string();
    let suite = run.programs.suite.display().to_string();
    let tested = run.programs.other.as_ref().context("the suite has a program at the other end")?;
    let tested = tested.display().to_string();
    let pod = bed.namespace(tested_at).path();
    let mut words = vec![suite.as_str(), "--conf", &config, "--mode", mode];
    if suite_at == Side::Server {
        words.extend(["--bind", SERVER_IP]);
    }
    let enter = format!("--net={pod}");
    words.extend(["--", "nsenter", &enter, "setpriv", "--pdeathsig", "KILL", &tested]);
    if tested_at == Side::Server {
        words.extend(["-bind", SERVER_IP]);
    }
    let said = run.to_the_end(&format!("connect-{mode}"), suite_at, LIMIT, &words)?;
    read(&said.stdout).with_context(|| format!("connectconformance came to no end:\n{}", said.tail()))
}

/// Reads what the suite prints: each case that failed with the reasons indented below it, and the sums.
fn read(text: &str) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut total = None;
    let mut failed = None;
    let mut case: Option<String> = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("FAILED: ") {
            let name = name.strip_suffix(':').unwrap_or(name).to_owned();
            outcome.failed.insert(name.clone(), String::new());
            case = Some(name);
        } else if let Some(sum) = line.strip_prefix("Total cases: ") {
            total = sum.parse().ok();
            case = None;
        } else if let Some(sum) = line.strip_suffix(" failed").and_then(|line| line.split_once(" passed, ")) {
            failed = sum.1.parse().ok();
        } else if let Some(lost) =
            line.strip_prefix("Another ").filter(|rest| rest.contains("could not be run"))
        {
            outcome.failed.insert(NOT_RUN.to_owned(), lost.to_owned());
        } else if let Some(told) = case.as_ref().and_then(|name| outcome.failed.get_mut(name)) {
            // A blank line ends the reasons.
            if line.trim().is_empty() {
                case = None;
            } else {
                if !told.is_empty() {
                    told.push('\n');
                }
                told.push_str(line.trim());
            }
        }
    }
    outcome.cases = total.context("no sum of all cases")?;
    let named = outcome.failed.keys().filter(|name| *name != NOT_RUN).count();
    let failed: usize = failed.context("no sum of the cases that failed")?;
    anyhow::ensure!(failed == named, "{failed} cases failed, and {named} are named");
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "FAILED: Basic/HTTPVersion:1/Protocol:PROTOCOL_CONNECT/unary/success:\n\
        \x20   actual response headers missing \"x\"\n\
        \x20   expecting 1; got 2\n\
        FAILED: Errors/TLS:false/server-stream/error:\n\
        \x20   wrong\n\
        \n\
        \n\
        Total cases: 120\n\
        118 passed, 2 failed\n";

    #[test]
    fn failed_cases_have_their_reasons() {
        let outcome = read(SAID).unwrap();
        assert_eq!((outcome.cases, outcome.passed()), (120, 118));
        let told: Vec<_> = outcome.failed.iter().map(|(name, told)| (name.as_str(), told.as_str())).collect();
        assert_eq!(
            told,
            [
                (
                    "Basic/HTTPVersion:1/Protocol:PROTOCOL_CONNECT/unary/success",
                    "actual response headers missing \"x\"\nexpecting 1; got 2"
                ),
                ("Errors/TLS:false/server-stream/error", "wrong"),
            ]
        );
    }

    #[test]
    fn cases_that_could_not_be_run_have_failed() {
        let said = "Total cases: 7\n7 passed, 0 failed\n\
                    Another 3 could not be run due to client timing out or exiting prematurely.\n";
        assert!(read(said).unwrap().failed.contains_key(NOT_RUN));
    }

    #[test]
    fn what_ends_early_is_an_error() {
        assert!(read("").is_err());
        assert!(read("FAILED: a/b:\n  why\n").is_err());
        assert!(read("Total cases: 7\n5 passed, 2 failed\n").is_err(), "two are not named");
    }
}
