//! Load generators: `wrk` for HTTP/1.1, `h2load` for HTTP/2. Both run one thread on the load's core and tell what
//! they saw in a form that can be read by a program.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::bench::certs::SERVER_NAME;
use crate::bench::topology::{Bed, Core};
use crate::bench::work::{Listener, Load, Protocol, Spec};
use crate::process;

/// What one load saw.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Seen {
    /// Requests that were answered.
    pub(crate) requests: u64,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Octets that the client got.
    pub(crate) bytes: u64,
    /// Connections that failed, and answers other than 2xx.
    pub(crate) errors: u64,
    /// Median latency, microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile, microseconds.
    pub(crate) p99_us: f64,
}

/// Printed by wrk at its end: one JSON object on a line. `summary.duration` and latencies are in microseconds.
const WRK_REPORT: &str = r#"
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '{"requests":%d,"seconds":%.6f,"bytes":%d,"errors":%d,"p50_us":%.1f,"p99_us":%.1f}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"#;

/// Runs a load against `address`; `during` is called once in its middle.
pub(crate) fn run(
    bed: &Bed,
    spec: &Spec,
    address: &str,
    seconds: u64,
    during: impl FnOnce() -> Result<()>,
) -> Result<Seen> {
    match spec.load {
        Load::Wrk { connections, keep_alive } => {
            wrk(bed, spec, address, seconds, (connections, keep_alive), during)
        }
        Load::H2load { .. } => h2load(bed, spec, address, seconds, &[], during),
    }
}

/// The same at a fixed rate: so many connections, each of which sends so many requests a second.
pub(crate) fn paced(bed: &Bed, spec: &Spec, address: &str, seconds: u64, each: u32) -> Result<Seen> {
    h2load(bed, spec, address, seconds, &[format!("--rps={each}")], || Ok(()))
}

fn wrk(
    bed: &Bed,
    spec: &Spec,
    address: &str,
    seconds: u64,
    (connections, keep_alive): (u32, bool),
    during: impl FnOnce() -> Result<()>,
) -> Result<Seen> {
    let script =
        if keep_alive { String::new() } else { "wrk.headers[\"Connection\"] = \"close\"\n".to_owned() };
    let script = bed.write(if keep_alive { "keep.lua" } else { "close.lua" }, &(script + WRK_REPORT))?;
    let words = [
        "wrk".to_owned(),
        "--threads=1".to_owned(),
        format!("--connections={connections}"),
        format!("--duration={seconds}s"),
        "--timeout=10s".to_owned(),
        "--script".to_owned(),
        script.display().to_string(),
        format!("http://{address}{}", spec.path),
    ];
    let text = run_tool(bed, &words, seconds, during)?;
    let line =
        text.lines().rev().find(|line| line.starts_with('{')).with_context(|| format!("wrk said: {text}"))?;
    serde_json::from_str(line).with_context(|| format!("wrk said: {line}"))
}

fn h2load(
    bed: &Bed,
    spec: &Spec,
    address: &str,
    seconds: u64,
    more: &[String],
    during: impl FnOnce() -> Result<()>,
) -> Result<Seen> {
    let Load::H2load { how, connections, streams } = spec.load else {
        bail!("{} is no load of h2load", spec.id)
    };
    let log = bed.scratch.join("h2load.log");
    // h2load appends.
    let _ = fs::remove_file(&log);
    let run = |length: String, seconds, during: &mut dyn FnMut() -> Result<()>| {
        let mut words = h2load_words(how, connections, streams);
        words.extend([length, format!("--log-file={}", log.display())]);
        words.extend_from_slice(more);
        words.extend(target(spec.listener, address, spec.path));
        let text = run_tool(bed, &words, seconds, during)?;
        parse_h2load(&text).with_context(|| format!("h2load said: {text}"))
    };
    let mut during = Some(during);
    let mut during = || during.take().map_or(Ok(()), |during| during());
    let mut seen = match how {
        Protocol::Http1 | Protocol::Http2 => run(format!("--duration={seconds}s"), seconds, &mut during)?,
        // At the end of its time h2load waits for ever where a handshake is under way: so many at a time, for as long.
        Protocol::Close => {
            let begun = Instant::now();
            let mut all = run(format!("--requests={BATCH}"), 0, &mut during)?;
            while begun.elapsed() < Duration::from_secs(seconds) {
                let more = run(format!("--requests={BATCH}"), 0, &mut during)?;
                all.requests += more.requests;
                all.errors += more.errors;
                all.bytes += more.bytes;
                all.seconds += more.seconds;
            }
            all
        }
    };
    let latencies = fs::read_to_string(&log).context("h2load wrote no log")?;
    (seen.p50_us, seen.p99_us) = parse_h2load_log(&latencies);
    Ok(seen)
}

/// Requests of a load that is not ended by time.
const BATCH: u32 = 1000;

fn h2load_words(how: Protocol, connections: u32, streams: u32) -> Vec<String> {
    let mut words = vec!["h2load".to_owned(), "--threads=1".to_owned(), format!("--clients={connections}")];
    words.extend(match how {
        Protocol::Http1 => vec!["--h1".to_owned()],
        // h2load dials again where its connection was closed, and never resumes a session.
        Protocol::Close => vec!["--h1".to_owned(), "--header=Connection: close".to_owned()],
        Protocol::Http2 => vec![format!("--max-concurrent-streams={streams}")],
    });
    words
}

/// What is asked for, and where. Towards a gateway the client offers one group and one cipher suite, which all programs have: so
/// all do the same cryptography, whatever they would prefer.
fn target(listener: Listener, address: &str, path: &str) -> Vec<String> {
    if listener != Listener::Edge {
        return vec![format!("http://{address}{path}")];
    }
    vec![
        "--groups=X25519".to_owned(),
        "--tls13-ciphers=TLS_AES_128_GCM_SHA256".to_owned(),
        format!("--connect-to={address}"),
        format!("https://{SERVER_NAME}{path}"),
    ]
}

/// A fixed number of requests, with this body each; all must be answered with 2xx.
pub(crate) fn fixed(
    bed: &Bed,
    how: Protocol,
    (listener, address): (Listener, &str),
    requests: u64,
    body: Option<&Path>,
) -> Result<()> {
    let mut words = h2load_words(how, 4, 8);
    words.extend(body.map(|file| format!("--data={}", file.display())));
    words.push(format!("--requests={requests}"));
    words.extend(target(listener, address, "/tiny"));
    let output = process::text(&mut bed.client.program(Core::Load, None, &words))?;
    let counts = parse_counts(&output).with_context(|| format!("h2load said: {output}"))?;
    if counts.succeeded != requests {
        bail!("{} of {requests} requests succeeded", counts.succeeded);
    }
    Ok(())
}

fn run_tool(
    bed: &Bed,
    words: &[String],
    seconds: u64,
    during: impl FnOnce() -> Result<()>,
) -> Result<String> {
    let mut command: Command = bed.client.program(Core::Load, None, words);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // Both tools print a few lines only, at the end: the pipes cannot fill up meanwhile.
    process::pause(Duration::from_millis(seconds * 600));
    let middle = during();
    let output = child.wait_with_output()?;
    middle?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("`{}` failed: {text}{}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}

struct Counts {
    succeeded: u64,
    failed: u64,
}

/// The line `requests: 10 total, 10 started, 10 done, 9 succeeded, 1 failed, 0 errored, 0 timeout`.
fn parse_counts(text: &str) -> Option<Counts> {
    let line = text.lines().find_map(|line| line.strip_prefix("requests: "))?;
    let count = |name: &str| -> Option<u64> {
        line.split(", ").find_map(|part| part.strip_suffix(name)?.trim().parse().ok())
    };
    let failed = count("failed")? + count("errored")? + count("timeout")?;
    Some(Counts { succeeded: count("succeeded")?, failed })
}

fn parse_h2load(text: &str) -> Option<Seen> {
    let counts = parse_counts(text)?;
    // "finished in 5.00s, 12345.67 req/s, 1.23MB/s"
    let finished = text.lines().find_map(|line| line.strip_prefix("finished in "))?;
    let seconds = parse_seconds(finished.split(", ").next()?)?;
    // "traffic: 1.23MB (1234567) total, ..."
    let traffic = text.lines().find_map(|line| line.strip_prefix("traffic: "))?;
    let bytes = traffic.split(['(', ')']).nth(1)?.parse().ok()?;
    Some(Seen { requests: counts.succeeded, seconds, bytes, errors: counts.failed, p50_us: 0.0, p99_us: 0.0 })
}

/// h2load writes `12.34s`, `56.78ms` or `90us`.
fn parse_seconds(text: &str) -> Option<f64> {
    for (suffix, scale) in [("ms", 1e-3), ("us", 1e-6), ("s", 1.0)] {
        if let Some(number) = text.strip_suffix(suffix) {
            return number.parse::<f64>().ok().map(|value| value * scale);
        }
    }
    None
}

/// Median and 99th percentile of the third column: microseconds until the end of each answer.
fn parse_h2load_log(text: &str) -> (f64, f64) {
    let mut times: Vec<u32> = text.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok()).collect();
    let [median, late] = percentiles(&mut times, [0.50, 0.99]);
    (median, late)
}

/// The values below which these shares of the times lie; zeroes where there are none.
pub(crate) fn percentiles<const N: usize>(times: &mut [u32], shares: [f64; N]) -> [f64; N] {
    times.sort_unstable();
    let last = times.len().saturating_sub(1) as f64;
    shares.map(|share| times.get((last * share) as usize).copied().map_or(0.0, f64::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2load_is_read() {
        let text = "finished in 2.02s, 1050.50 req/s, 26.83KB/s\n\
            requests: 2101 total, 2165 started, 2101 done, 2100 succeeded, 1 failed, 2 errored, 3 timeout\n\
            traffic: 53.67KB (54957) total, 10.0KB (100) headers (space savings 95%), 14.35KB (14700) data\n";
        let seen = parse_h2load(text).unwrap();
        assert_eq!((seen.requests, seen.errors, seen.bytes), (2100, 6, 54957));
        assert!((seen.seconds - 2.02).abs() < 1e-9);
    }

    #[test]
    fn h2load_units_of_time() {
        assert_eq!(parse_seconds("1.50s"), Some(1.5));
        assert_eq!(parse_seconds("250ms"), Some(0.25));
        assert_eq!(parse_seconds("500us"), Some(0.0005));
        assert_eq!(parse_seconds("5"), None);
    }

    #[test]
    fn percentiles_come_from_the_log() {
        let log: String = (1..=100).map(|us| format!("1700000000000000\t200\t{us}\n")).collect();
        assert_eq!(parse_h2load_log(&log), (50.0, 99.0));
        assert_eq!(parse_h2load_log(""), (0.0, 0.0));
    }
}
