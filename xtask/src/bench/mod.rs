//! `cargo xtask bench`: a sidecar pair of Weft, side by side with pairs of HAProxy, Envoy and nginx, in one run.
//!
//! What is compared is the *whole* price of mutual TLS between two workloads: both proxies together, from plaintext to
//! plaintext. All pairs stand on the same ground (`topology`), serve the same backend (`backend`) under the same load
//! (`load`), on one core of their own. All pairs are up during a round; within each kind of work they take turns, and
//! the order rotates from round to round, so that no peer always runs first or last.
//!
//! `--gateway` measures the same programs where clients come in (`gateway`), on the same ground and by the same rounds.

mod backend;
mod bars;
pub(crate) mod certs;
pub(crate) mod gateway;
pub(crate) mod hold;
mod instructions;
mod load;
pub(crate) mod measure;
pub(crate) mod peers;
pub(crate) mod report;
pub(crate) mod topology;
pub(crate) mod training;
mod work;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::setup::{self, Missing};
use crate::{bench, dist, process};
use bench::backend::Backend;
use bench::certs::{Certificates, Side};
use bench::peers::{Peer, Proxies};
use bench::report::{MemorySample, PeerInfo, Results, Sample};
use bench::topology::{Bed, Core};
use bench::work::{Listener, Load, Spec, Unit, Work};

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Measure gateways instead of sidecar pairs.
    #[arg(long)]
    gateway: bool,
    /// How often everything is measured.
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: usize,
    /// How long each load lasts.
    #[arg(long, default_value_t = 5, value_name = "S")]
    seconds: u64,
    /// Only these kinds of work.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WORKS")]
    only: Vec<Work>,
    /// Only these peers: weft, haproxy, envoy, nginx; of pairs also haproxy-h2, envoy-h2.
    #[arg(long, value_delimiter = ',', value_name = "PEERS")]
    peers: Vec<String>,
    /// Measure this binary instead of building one.
    // --weft is what it was called before all commands called it the same.
    #[arg(long, alias = "weft", value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Write everything that was measured to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Exit with 1 where a bar of bench/bars.json is missed.
    #[arg(long)]
    check: bool,
    /// Put the tables into docs/benchmarks.md.
    #[arg(long)]
    write_docs: bool,
    /// Instead: instructions per request of one Weft sidecar (or gateway), under callgrind.
    #[arg(long)]
    instructions: bool,
    /// With --instructions: keep callgrind's files here, for `callgrind_annotate`.
    #[arg(long, value_name = "DIRECTORY", requires = "instructions")]
    keep: Option<PathBuf>,
}

/// A share of failed requests above this makes a sample worthless.
const MOST_ERRORS: f64 = 0.001;

/// Connections that are held open for the memory measurement.
const IDLE_CONNECTIONS: usize = 5000;

/// How long they have been idle when memory is measured. What is asked is what a client's pool of connections costs
/// that nobody uses, not what the last request left behind: a proxy may take its time to give that back.
const IDLE_FOR: Duration = Duration::from_secs(15);

/// Runs the command.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    prepare(options)?;
    let names: Vec<String> = match (options.instructions, options.peers.as_slice()) {
        (true, _) => vec!["weft".to_owned()],
        (false, []) => peers::NAMES[..peers::DEFAULT].iter().map(|name| (*name).to_owned()).collect(),
        (false, chosen) => chosen.to_vec(),
    };
    let scratch = scratch()?;
    // Weft runs as its own user: it must be able to read its configuration, certificates and binary.
    open_to_all(scratch.path())?;
    let mut weft = None;
    if names.iter().any(|name| name == "weft") {
        let copy = scratch.path().join("weft-under-test");
        std::fs::copy(weft_binary(options)?, &copy)?;
        open_to_all(&copy)?;
        weft = Some(copy);
    }
    let certificates = Certificates::make(scratch.path())?;
    open_keys(&certificates)?;
    if options.instructions {
        let weft = weft.context("no binary to measure")?;
        return instructions::run(
            weft,
            options.gateway,
            scratch.path(),
            &certificates,
            options.keep.as_deref(),
        );
    }
    let scene = if options.gateway { Scene::GATEWAY } else { Scene::PAIR };
    let peers = (scene.peers)(&names, weft.as_ref())?;
    let mut results = measure_all(options, &scene, &peers, scratch.path(), &certificates)?;
    if let (true, Some(weft)) = (options.gateway, &weft) {
        gateway::alone(options, weft, scratch.path(), &certificates, &mut results)?;
    }
    finish(options, &scene, &results)
}

/// Finds peers by their names; the file is the binary of Weft that is measured.
type ByNames = fn(&[String], Option<&PathBuf>) -> Result<Vec<Box<dyn Peer>>>;

/// What is measured.
struct Scene {
    /// What one program is here, for people.
    what: &'static str,
    works: &'static [Work],
    peers: ByNames,
    /// Whether a program does what it should, before it is measured.
    check: fn(&dyn Peer, &Bed, &Certificates) -> Result<()>,
    /// Around its tables on the page.
    begin: &'static str,
}

impl Scene {
    const PAIR: Self = Self {
        what: "pair",
        works: &Work::PAIR,
        peers: peers::by_names,
        check: check_mutual_tls,
        begin: report::BEGIN,
    };
    const GATEWAY: Self = Self {
        what: "gateway",
        works: &Work::GATEWAY,
        peers: gateway::by_names,
        check: gateway::check,
        begin: report::BEGIN_GATEWAY,
    };
}

fn prepare(options: &Options) -> Result<()> {
    ground("cargo xtask bench", setup::BENCH)?;
    if options.instructions {
        setup::ensure("cargo xtask bench --instructions", &[setup::CALLGRIND])?;
    }
    let works = if options.gateway { Scene::GATEWAY.works } else { Scene::PAIR.works };
    if options.only.iter().any(|work| !works.contains(work)) {
        bail!(
            "--only names a work that is not measured {} --gateway",
            if options.gateway { "with" } else { "without" }
        );
    }
    if options.rounds == 0 || options.seconds == 0 {
        bail!("--rounds and --seconds are at least 1");
    }
    Ok(())
}

/// What a pair needs of the machine, beside these programs.
pub(crate) fn ground(command: &str, needs: &[setup::Need]) -> Result<()> {
    setup::ensure(command, &[setup::PAIR, needs])?;
    if setup::namespaces() != setup::Namespaces::AsRoot {
        return Err(Missing(format!(
            "{command} makes network namespaces joined by links, and needs root for that.\n  \
             Please run:  sudo -E env PATH=$PATH {command}"
        ))
        .into());
    }
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return Err(
            Missing(format!("{command} needs two cores: one for the proxies, one for the load")).into()
        );
    }
    Ok(())
}

/// Start of the name of a run's directory; its process id follows.
const SCRATCH: &str = "weft-bench-";

/// A directory for this run. Those of runs that were killed are removed: processes end with a run by themselves, files
/// do not.
pub(crate) fn scratch() -> Result<tempfile::TempDir> {
    for entry in std::fs::read_dir(std::env::temp_dir())?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(SCRATCH).and_then(|rest| rest.split('-').next());
        let Some(process) = process.and_then(|id| id.parse::<u32>().ok()) else { continue };
        if !Path::new(&format!("/proc/{process}")).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(tempfile::Builder::new().prefix(&format!("{SCRATCH}{}-", std::process::id())).tempdir()?)
}

fn weft_binary(options: &Options) -> Result<PathBuf> {
    if let Some(file) = &options.binary {
        return file.canonicalize().with_context(|| format!("cannot find {}", file.display()));
    }
    dist::release()
}

pub(crate) fn open_to_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Keys of a throw-away CA that lives as long as this run.
pub(crate) fn open_keys(certificates: &Certificates) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for side in [Side::Client, Side::Server] {
        std::fs::set_permissions(certificates.key(side), std::fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// Whether this run is to measure it.
fn wanted(options: &Options, work: Work) -> bool {
    options.only.is_empty() || options.only.contains(&work)
}

fn measure_all(
    options: &Options,
    scene: &Scene,
    peers: &[Box<dyn Peer>],
    scratch: &Path,
    certificates: &Certificates,
) -> Result<Results> {
    let wanted = |work: Work| scene.works.contains(&work) && wanted(options, work);
    let mut results = Results {
        what: scene.what.to_owned(),
        machine: machine(),
        rounds: options.rounds,
        seconds: options.seconds,
        peers: peers.iter().map(|peer| describe(peer.as_ref())).collect::<Result<_>>()?,
        samples: Vec::new(),
        memory: Vec::new(),
        changes: None,
    };
    let mut beds = Vec::new();
    for peer in peers {
        let bed = Bed::new(scratch.join(peer.name()))?;
        open_to_all(&bed.scratch)?;
        let backend = Backend::start(&bed)?;
        beds.push((bed, backend));
    }
    for round in 0..options.rounds {
        let order: Vec<usize> = (0..peers.len()).map(|at| (at + round) % peers.len()).collect();
        if wanted(Work::Memory) {
            for &at in &order {
                progress(round, options, "memory", peers[at].name());
                results.memory.push(memory(peers[at].as_ref(), &beds[at].0, certificates, round)?);
            }
        }
        let mut pairs = Vec::new();
        for (peer, (bed, _)) in peers.iter().zip(&beds) {
            let start = || peer.start(bed, certificates);
            pairs.push(
                start().with_context(|| format!("cannot start the {} of {}", scene.what, peer.name()))?,
            );
            (scene.check)(peer.as_ref(), bed, certificates).with_context(|| {
                format!("the {} of {} does not do what it should", scene.what, peer.name())
            })?;
        }
        // What many routes cost is measured of two gateways of Weft.
        let loads = scene.works.iter().filter(|work| wanted(**work) && **work != Work::GwRoutes);
        for spec in loads.filter_map(|work| work.spec()) {
            for &at in &order {
                progress(round, options, spec.id, peers[at].name());
                let sample =
                    sample(peers[at].as_ref(), &mut pairs[at], &beds[at].0, &spec, round, options.seconds);
                results
                    .samples
                    .push(sample.with_context(|| format!("{} with {}", spec.title, peers[at].name()))?);
            }
        }
        // Traces are about the loads; the memory measurement alone makes too few requests for one.
        if !results.samples.is_empty() {
            for (peer, (bed, _)) in peers.iter().zip(&beds) {
                peer.check_after(bed)?;
            }
        }
    }
    Ok(results)
}

fn progress(round: usize, options: &Options, work: &str, peer: &str) {
    eprintln!("round {}/{}  {work:<10} {peer}", round + 1, options.rounds);
}

fn describe(peer: &dyn Peer) -> Result<PeerInfo> {
    let version = peer.version().with_context(|| format!("cannot ask {} for its version", peer.name()))?;
    Ok(PeerInfo { name: peer.name().to_owned(), version, note: peer.note().to_owned() })
}

/// One load: a second to warm up, then the measured time.
fn sample(
    peer: &dyn Peer,
    pair: &mut Proxies,
    bed: &Bed,
    spec: &Spec,
    round: usize,
    seconds: u64,
) -> Result<Sample> {
    let address = peer.address(spec.listener);
    load::run(bed, spec, &address, 1, || Ok(()))?;
    pair.check()?;
    let ids = pair.ids();
    let mut pss_kib = Vec::new();
    let before = measure::cpu_nanoseconds(&ids)?;
    let seen = load::run(bed, spec, &address, seconds, || {
        pss_kib = pair.pss_kib()?;
        Ok(())
    })?;
    let cpu_us = (measure::cpu_nanoseconds(&ids)? - before) as f64 / 1e3;
    pair.check()?;
    if seen.requests == 0 || seen.errors as f64 > seen.requests as f64 * MOST_ERRORS {
        bail!("{} of {} requests failed\n{}", seen.errors, seen.requests + seen.errors, pair.logs());
    }
    let units = match spec.unit {
        Unit::Request => seen.requests as f64,
        Unit::Megabyte => seen.bytes as f64 / 1e6,
    };
    Ok(Sample {
        peer: peer.name().to_owned(),
        work: spec.id.to_owned(),
        round,
        requests: seen.requests,
        errors: seen.errors,
        rate: seen.requests as f64 / seen.seconds,
        cpu_us: cpu_us / units,
        p50_us: seen.p50_us,
        p99_us: seen.p99_us,
        pss_kib,
    })
}

/// A fresh pair: idle, then with many idle connections.
fn memory(peer: &dyn Peer, bed: &Bed, certificates: &Certificates, round: usize) -> Result<MemorySample> {
    let mut pair = peer.start(bed, certificates)?;
    // Until start-up work is over.
    process::pause(Duration::from_secs(2));
    let idle_kib = pair.pss_kib()?;
    let ready = bed.scratch.join("held");
    let _ = std::fs::remove_file(&ready);
    let own = std::env::current_exe()?;
    let words = [
        own.into_os_string(),
        "hold".into(),
        peer.address(Listener::Http1).into(),
        IDLE_CONNECTIONS.to_string().into(),
        ready.clone().into(),
    ];
    let mut holder = bed.start("hold", Side::Client, Core::Load, None, &words)?;
    process::wait_until("5,000 open connections", Duration::from_secs(60), || {
        holder.check()?;
        pair.check()?;
        Ok(ready.exists())
    })?;
    process::pause(IDLE_FOR);
    Ok(MemorySample { peer: peer.name().to_owned(), round, idle_kib, connected_kib: pair.pss_kib()? })
}

/// That the pair answers at all, and that side B takes nobody without a certificate: a bench of a pair that is not
/// set up for mutual TLS would be worth nothing.
fn check_mutual_tls(peer: &dyn Peer, bed: &Bed, certificates: &Certificates) -> Result<()> {
    one_at_a_time(peer, bed, Work::One)?;
    let (pem, key) = (certificates.certificate(Side::Client), certificates.key(Side::Client));
    let (pem, key) = (pem.display().to_string(), key.display().to_string());
    let alpn = ["-alpn", "http/1.1,h2,weft/http"];
    let with = s_client(peer, bed, &[&alpn[..], &["-cert", &pem, "-key", &key]].concat())?;
    if !with.contains("TLSv1.3") || with.contains("alert") {
        bail!("side B does not take TLS 1.3 with our certificate: {with}");
    }
    let without = s_client(peer, bed, &alpn)?;
    if !REFUSALS.iter().any(|refusal| without.contains(refusal)) {
        bail!("side B does not refuse a client without a certificate: {without}");
    }
    Ok(())
}

/// A second of single requests, of which none may fail.
fn one_at_a_time(peer: &dyn Peer, bed: &Bed, work: Work) -> Result<()> {
    let spec = work.spec().context("no such work")?;
    let load = match spec.load {
        Load::Wrk { .. } => Load::Wrk { connections: 1, keep_alive: true },
        Load::H2load { how, .. } => Load::H2load { how, connections: 1, streams: 1 },
    };
    let seen = load::run(bed, &Spec { load, ..spec }, &peer.address(spec.listener), 1, || Ok(()))?;
    if seen.requests == 0 || seen.errors > 0 {
        bail!("{} answers and {} errors in a second of single requests", seen.requests, seen.errors);
    }
    Ok(())
}

/// How a client without a certificate is refused: in TLS 1.3 by an alert after the handshake (RFC 8446 section 6.2);
/// nginx finishes the handshake and answers the first request so.
const REFUSALS: [&str; 2] = ["alert certificate required", "400 No required SSL certificate was sent"];

/// What `openssl s_client` says about a handshake where a program ends TLS, and a request on it.
fn s_client(peer: &dyn Peer, bed: &Bed, more: &[&str]) -> Result<String> {
    let address = peer.tls_address();
    // It ends when the other side closes the connection; one that goes on gets a second.
    let mut words = vec!["timeout", "1", "openssl", "s_client", "-ign_eof", "-connect", &address];
    words.extend_from_slice(more);
    let request = bed.write("request", "GET /tiny HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut command = bed.client.program(Core::Load, peer.user(), &words);
    let output = command.stdin(std::fs::File::open(request)?).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

/// Processor, kernel and cores of this machine.
pub(crate) fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let kernel = process::text(Command::new("uname").arg("-r")).unwrap_or_default();
    let release = kernel.trim().split('-').next().unwrap_or_default().to_owned();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{} ({cores} cores), Linux {release}", model.unwrap_or("an unknown processor").trim())
}

fn finish(options: &Options, scene: &Scene, results: &Results) -> Result<ExitCode> {
    let verdicts = bars::judge(&bars::load(scene.works)?, results);
    let tables = results.markdown(&verdicts);
    println!("\n{tables}");
    if let Some(file) = &options.json {
        std::fs::write(file, results.json(&verdicts)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if options.write_docs {
        report::write_section(scene.begin, report::END, &tables)?;
    }
    if !options.check {
        return Ok(ExitCode::SUCCESS);
    }
    // A run that was told to leave something out is not blamed for leaving it out.
    let partial = !options.only.is_empty() || !options.peers.is_empty();
    let missed: Vec<_> =
        verdicts.iter().filter(|bar| !(bar.held || (partial && bar.value.is_none()))).collect();
    for bar in &missed {
        let value = bar.value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.3}"));
        println!("missed: {} (measured: {value})", bar.text);
    }
    if verdicts.iter().all(|bar| bar.value.is_none()) {
        bail!("nothing of what the bars are about was measured");
    }
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
