//! Routes that change under load: how long until a change is in force, and whether a request fails meanwhile.
//!
//! What changes and looks runs as a process of its own (`cargo xtask changes`, hidden), because it must be inside a namespace. Each
//! change has the answers of one route say its number; what is told is the time from the moment that the file lands until an answer
//! says it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::spec;
use super::weft::{PLAIN_PORT, Routes, Weft, replace, resources, route};
use crate::bench::backend::Backend;
use crate::bench::certs::{Certificates, SERVER_NAME, Side};
use crate::bench::load::{self, percentiles};
use crate::bench::open_to_all;
use crate::bench::topology::{Bed, Core, SERVER_IP};
use crate::bench::work::{Load, Protocol, Spec, Work};
use crate::process;

/// How many.
const CHANGES: usize = 1000;
/// One begins so long after another, unless that is not in force yet.
const EVERY: Duration = Duration::from_millis(40);
/// Connections of the load, and requests of each in a second: 2,000.
const CONNECTIONS: u32 = 20;
const EACH: u32 = 100;
/// The load begins before the changes and ends behind them.
const SECONDS: u64 = CHANGES as u64 * EVERY.as_millis() as u64 / 1000 + 15;

/// What was seen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Changes {
    /// Changes made.
    pub(crate) changes: usize,
    /// Requests of the load that were answered meanwhile, a second.
    #[serde(default)]
    pub(crate) rate: f64,
    /// Requests that failed, of the load and of those that looked.
    pub(crate) failed: u64,
    /// Until a change was in force, microseconds.
    pub(crate) p50_us: f64,
    /// The 99th percentile.
    pub(crate) p99_us: f64,
    /// The longest.
    pub(crate) longest_us: f64,
}

/// Measures a gateway with ten routes.
pub(super) fn measure(binary: &Path, scratch: &Path, certificates: &Certificates) -> Result<Changes> {
    let bed = Bed::new(scratch.join("changes"))?;
    open_to_all(&bed.scratch)?;
    let _backend = Backend::start(&bed)?;
    let weft = Weft::new(binary.to_owned(), Routes::Hosts(1));
    let mut process = weft.gateway(&bed, certificates)?;
    let load = Load::H2load { how: Protocol::Http1, connections: CONNECTIONS, streams: 1 };
    let spec = Spec { load, ..spec(Work::GwHttp1)? };
    eprintln!("{CHANGES} changes under {} requests/s, {SECONDS} s", CONNECTIONS * EACH);
    let (seen, mut changes, ended_in_time) = std::thread::scope(|scope| {
        let load = scope.spawn(|| load::paced(&bed, &spec, &super::address(), SECONDS, EACH));
        process::pause(Duration::from_secs(2));
        let changes = changer(&bed);
        let ended_in_time = !load.is_finished();
        let seen = load.join().map_err(|_| anyhow::anyhow!("the load's thread ended in a panic"))??;
        anyhow::Ok((seen, changes?, ended_in_time))
    })?;
    process.check()?;
    ensure!(ended_in_time, "the load ended before the changes: this machine is too slow or too busy for it");
    ensure!(seen.requests > 0, "there was no load");
    changes.rate = seen.requests as f64 / seen.seconds;
    changes.failed += seen.errors;
    Ok(changes)
}

/// Runs what changes and looks.
fn changer(bed: &Bed) -> Result<Changes> {
    let own = std::env::current_exe()?;
    let address = format!("{SERVER_IP}:{PLAIN_PORT}");
    let words = [own.into_os_string(), "changes".into(), address.into(), resources(bed).into_os_string()];
    let text = process::text(&mut bed.namespace(Side::Client).program(Core::Load, None, &words))?;
    serde_json::from_str(text.trim()).with_context(|| format!("the changes said: {text}"))
}

/// Options of the hidden command.
#[derive(clap::Args)]
pub(crate) struct ChangesOptions {
    /// Where the gateway is asked, in plaintext.
    address: SocketAddr,
    /// Its resources.
    resources: PathBuf,
}

/// The hidden command: changes a route and looks, and tells it as JSON.
pub(crate) fn run(options: &ChangesOptions) -> Result<ExitCode> {
    let mut probe = Probe::new(options.address)?;
    let mut took = Vec::with_capacity(CHANGES);
    let mut failed = 0;
    let begun = Instant::now();
    for number in 1..=CHANGES {
        process::pause((begun + EVERY * number as u32).saturating_duration_since(Instant::now()));
        replace(&options.resources, "changing.yaml", &changing(number))?;
        let landed = Instant::now();
        let wanted = number.to_string();
        loop {
            match probe.ask() {
                Ok(told) if told == wanted => break,
                // The route is not there before the first change.
                Ok(_) => {}
                Err(error) => {
                    eprintln!("change {number}: {error:#}");
                    failed += 1;
                    probe = Probe::new(options.address)?;
                }
            }
            if landed.elapsed() > Duration::from_secs(10) {
                bail!("change {number} is not in force after 10 s");
            }
            process::pause(Duration::from_micros(500));
        }
        took.push(landed.elapsed().as_micros() as u32);
    }
    let [p50_us, p99_us, longest_us] = percentiles(&mut took, [0.50, 0.99, 1.0]);
    let changes = Changes { changes: took.len(), rate: 0.0, failed, p50_us, p99_us, longest_us };
    println!("{}", serde_json::to_string(&changes)?);
    Ok(ExitCode::SUCCESS)
}

/// A route whose answers say the number.
fn changing(number: usize) -> String {
    let filter = format!(
        "      filters: [{{ type: ResponseHeaderModifier, responseHeaderModifier: {{ set: [{{ name: x-change, value: \"{number}\" }}] }} }}]\n"
    );
    route("changing", SERVER_NAME, "/tiny", &filter)
}

/// One connection that asks again and again.
struct Probe(BufReader<TcpStream>);

impl Probe {
    fn new(address: SocketAddr) -> Result<Self> {
        let limit = Duration::from_secs(10);
        let stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// What the answer says; empty where it says nothing.
    fn ask(&mut self) -> Result<String> {
        let request = format!("GET /tiny HTTP/1.1\r\nHost: {SERVER_NAME}\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes())?;
        let (mut told, mut length, mut line) = (String::new(), None, String::new());
        self.0.read_line(&mut line)?;
        ensure!(line.starts_with("HTTP/1.1 200"), "{line:?}");
        loop {
            line.clear();
            ensure!(self.0.read_line(&mut line)? > 0, "the connection ended");
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "x-change" => value.clone_into(&mut told),
                "content-length" => length = Some(value.parse()?),
                _ => {}
            }
        }
        let mut body = vec![0; length.context("an answer without a length")?];
        std::io::Read::read_exact(&mut self.0, &mut body)?;
        Ok(told)
    }
}
