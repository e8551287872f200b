//! `cargo xtask interop`: public conformance suites, each run twice: straight at the reference that it talks to, and
//! through a pair of sidecars. A mesh changes nothing, so what passes directly must pass through it.
//!
//! Both runs are made on the same ground (`bench::topology`), by the same programs at the same addresses. The pair is
//! the bench's: `weft init` rules, mutual TLS in between.

mod connect;
mod grpc;
mod h2spec;
mod h2specd;
mod outcome;
mod programs;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::bench::certs::{Certificates, Side};
use crate::bench::peers::{Peer as _, Proxies, Weft};
use crate::bench::topology::{Bed, Core};
use crate::bench::{self, open_keys, open_to_all};
use crate::cargo::{self, Profile};
use crate::{go, process, setup};
use outcome::{ACCEPTED, Judgement, Outcome, Reasons};
use programs::Programs;

const TASK: &str = "cargo xtask interop";

/// Where a sidecar's metrics are, in its own pod (`bind.metrics`).
const METRICS: &str = "http://127.0.0.1:15020/metrics";

/// What counts the requests that came to an application.
const REQUESTS: &str = "http_server_request_duration_seconds_count";

/// Options of `cargo xtask interop`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these suites.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SUITES")]
    suite: Vec<Suite>,
    /// Test this binary instead of building one.
    // --weft is what it was called before all commands called it the same.
    #[arg(long, alias = "weft", value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Keep configurations, logs and all that the suites say here.
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
}

/// A suite, in one of its modes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Suite {
    /// Frames of HTTP/2: odd ones for a server.
    H2spec,
    /// Frames of HTTP/2: odd ones for a client.
    H2specd,
    /// gRPC's interop cases.
    Grpc,
    /// Connect, gRPC and gRPC-Web: odd requests.
    ConnectServer,
    /// Connect, gRPC and gRPC-Web: odd answers.
    ConnectClient,
}

impl Suite {
    /// All, in the order of the output.
    pub(crate) const ALL: [Self; 5] =
        [Self::H2spec, Self::H2specd, Self::Grpc, Self::ConnectServer, Self::ConnectClient];

    /// Its name in the output, in the file of accepted differences and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::H2spec => "h2spec",
            Self::H2specd => "h2specd",
            Self::Grpc => "grpc",
            Self::ConnectServer => "connect-server",
            Self::ConnectClient => "connect-client",
        }
    }

    fn run(self, run: &Run<'_>) -> Result<Outcome> {
        match self {
            Self::H2spec => h2spec::run(run),
            Self::H2specd => h2specd::run(run),
            Self::Grpc => grpc::run(run),
            Self::ConnectServer => connect::run(run, Side::Client),
            Self::ConnectClient => connect::run(run, Side::Server),
        }
    }
}

/// One run of a suite: where, and with what.
pub(crate) struct Run<'a> {
    bed: &'a Bed,
    programs: &'a Programs,
}

/// What a program said until it ended.
pub(crate) struct Said {
    success: bool,
    stdout: String,
    stderr: String,
}

impl Said {
    /// The last lines of both.
    fn tail(&self) -> String {
        let all = self.stdout.lines().chain(self.stderr.lines()).collect::<Vec<_>>();
        all[all.len().saturating_sub(12)..].join("\n")
    }
}

impl Run<'_> {
    /// Runs a program on one side to its end, which is at most `limit` away.
    fn to_the_end(&self, name: &str, side: Side, limit: Duration, words: &[&str]) -> Result<Said> {
        let limit = limit.as_secs().to_string();
        let all = [&["timeout", "--kill-after=5", &limit, "setpriv", "--pdeathsig", "KILL"], words].concat();
        let files = ["out", "err"].map(|what| self.bed.scratch.join(format!("{name}.{what}")));
        let mut command = self.bed.namespace(side).program(Core::Load, None, &all);
        command.stdin(Stdio::null()).stdout(File::create(&files[0])?).stderr(File::create(&files[1])?);
        let success = process::stream(&mut command)?;
        let [stdout, stderr] = files.map(|file| fs::read(file).unwrap_or_default());
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Said { success, stdout: text(stdout), stderr: text(stderr) })
    }
}

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let suites = if options.suite.is_empty() { Suite::ALL.to_vec() } else { options.suite.clone() };
    let accepted = outcome::accepted()?;
    // Before anything is installed or built for nothing.
    go::go(programs::TASK)?;
    bench::ground(TASK, setup::INTEROP)?;
    let programs: Vec<Programs> = suites.iter().copied().map(Programs::ensure).collect::<Result<_>>()?;
    let weft = weft_binary(options)?;
    let scratch = bench::scratch()?;
    let holds = all(scratch.path(), &weft, &suites, &programs, &accepted);
    if let Some(directory) = &options.keep {
        keep(scratch.path(), directory)?;
    }
    Ok(if holds? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs and compares the suites; whether all is as it should be.
fn all(
    scratch: &Path,
    weft: &Path,
    suites: &[Suite],
    programs: &[Programs],
    accepted: &BTreeMap<String, Reasons>,
) -> Result<bool> {
    let mut ground = Ground::make(scratch, weft)?;
    let mut holds = true;
    let none = Reasons::new();
    for (suite, programs) in suites.iter().zip(programs) {
        let [direct, through] = ground.both(*suite, programs)?;
        let judged = Judgement::new(&direct, &through, accepted.get(suite.name()).unwrap_or(&none));
        report(*suite, &direct, &through, &judged);
        holds &= judged.holds();
    }
    Ok(holds)
}

/// Copies what the beds were left with.
fn keep(scratch: &Path, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let beds = BEDS.iter().map(|bed| scratch.join(bed)).filter(|bed| bed.exists());
    process::capture(Command::new("cp").arg("-r").args(beds).arg(directory))?;
    Ok(())
}

fn weft_binary(options: &Options) -> Result<PathBuf> {
    if let Some(file) = &options.binary {
        return file.canonicalize().with_context(|| format!("cannot find {}", file.display()));
    }
    // With assertions, and as `test` builds it.
    cargo::build(Profile::Debug, &["--workspace", "--all-targets"])?;
    cargo::binary(Profile::Debug, "weft")
}

/// The beds' directories.
const BEDS: [&str; 2] = ["direct", "weft"];

/// Two beds, of which one has a pair of sidecars.
struct Ground {
    plain: Bed,
    mesh: Bed,
    pair: Proxies,
}

impl Ground {
    fn make(scratch: &Path, weft: &Path) -> Result<Self> {
        // The proxies run as a user of their own.
        open_to_all(scratch)?;
        let copy = scratch.join("weft-under-test");
        fs::copy(weft, &copy).with_context(|| format!("cannot copy {}", weft.display()))?;
        open_to_all(&copy)?;
        let certificates = Certificates::make(scratch)?;
        open_keys(&certificates)?;
        let [plain, mesh] = BEDS.map(|name| Bed::new(scratch.join(name)));
        let (plain, mesh) = (plain?, mesh?);
        for bed in [&plain, &mesh] {
            open_to_all(&bed.scratch)?;
        }
        let pair = Weft::new(copy).without_traces().start(&mesh, &certificates)?;
        Ok(Self { plain, mesh, pair })
    }

    /// How many requests have come to the server's side by mutual TLS.
    fn carried(&self) -> Result<f64> {
        let mut command = self.mesh.server.enter();
        let page = process::text(command.args(["curl", "--silent", "--fail", "--max-time", "5", METRICS]))
            .context("cannot ask the sidecar for its metrics")?;
        let mutual = |line: &&str| line.starts_with(REQUESTS) && line.contains("tls=\"mutual\"");
        let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        Ok(page.lines().filter(mutual).filter_map(value).sum())
    }

    /// A build with assertions goes on after a panic, without the connection that had it.
    fn no_panic(&self) -> Result<()> {
        for side in [Side::Client, Side::Server] {
            let log = self.mesh.scratch.join(format!("weft-{}.log", side.name()));
            let text = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
            let text = String::from_utf8_lossy(&text);
            let said = panic_in(&text);
            anyhow::ensure!(
                said.is_empty(),
                "the {}'s sidecar had a panic:\n{}",
                side.name(),
                said.join("\n")
            );
        }
        Ok(())
    }

    /// Runs a suite directly and through the pair.
    fn both(&mut self, suite: Suite, programs: &Programs) -> Result<[Outcome; 2]> {
        let one = |bed, way: &str| {
            eprint!("{} {way} ... ", suite.name());
            let begun = Instant::now();
            let outcome = suite.run(&Run { bed, programs });
            match &outcome {
                Ok(outcome) => eprintln!(
                    "{} of {} pass, {} s",
                    outcome.passed(),
                    outcome.cases,
                    begun.elapsed().as_secs()
                ),
                Err(_) => eprintln!("failed"),
            }
            outcome.with_context(|| format!("{} {way}", suite.name()))
        };
        let direct = one(&self.plain, "directly")?;
        let before = self.carried()?;
        let through = one(&self.mesh, "through Weft")?;
        self.pair.check()?;
        self.no_panic()?;
        let carried = self.carried()? - before;
        eprintln!("{} {carried} requests came by mutual TLS", suite.name());
        // A pair that is walked past would pass everything. Hardly a case is without a request.
        anyhow::ensure!(
            carried * 2.0 > through.cases as f64,
            "{} cases, but only {carried} requests came to the server's sidecar by mutual TLS",
            through.cases
        );
        Ok([direct, through])
    }
}

/// What a log has of a panic.
fn panic_in(log: &str) -> Vec<&str> {
    let begins = |line: &str| line.starts_with("thread '") && line.contains(" panicked at ");
    log.lines().skip_while(|line| !begins(line)).take(12).collect()
}

/// One line for the suite, and what is to be said of its cases.
fn report(suite: Suite, direct: &Outcome, through: &Outcome, judged: &Judgement) {
    println!(
        "{:<15} {} cases: {} pass directly, {} through Weft; {} differ as documented, {} faults",
        suite.name(),
        direct.cases,
        direct.passed(),
        through.passed(),
        judged.accepted.len(),
        judged.faults.len(),
    );
    for (case, reason) in &judged.accepted {
        println!("  as documented: {case}\n      {reason}");
    }
    for (case, told) in through.failed.iter().filter(|(case, _)| direct.failed.contains_key(*case)) {
        println!("  fails both ways: {case} ({})", told.lines().next().unwrap_or_default());
    }
    for case in &judged.better {
        println!("  passes through Weft alone: {case}");
    }
    for (case, told) in &judged.faults {
        println!("  FAULT: {case}");
        told.lines().for_each(|line| println!("      {line}"));
    }
    if let Some([direct, through]) = judged.counts {
        println!("  FAULT: {direct} cases were run directly, {through} through Weft");
    }
    for case in &judged.stale {
        println!("  STALE: {case} passes through Weft, and is in {ACCEPTED}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_seen_in_a_log() {
        let line = |log| panic_in(log).first().copied().unwrap_or_default();
        assert!(line("{}\n\nthread 'worker-0' (7) panicked at src/a.rs:1:2:\nodd\n").contains("worker-0"));
        assert!(line("thread 'worker-0' panicked at src/a.rs:1:2:\nodd\n").contains("worker-0"));
        assert_eq!(line("{\"path\":\"/ panicked at \"}\n"), "");
    }
}
