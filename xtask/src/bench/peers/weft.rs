//! Weft: two sidecars as they run in pods, interception rules included.
//!
//! The client dials the service's own address; the rules of `weft init` bring it to side A, and side A's mesh link to
//! side B. So Weft alone pays for connection tracking and address translation here: that is how it is used. Metrics
//! are on and 1 % of the requests are traced and exported over OTLP/HTTP to a sink in each namespace.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::{LISTENERS, Pair, Peer, Proxies};
use crate::bench::backend::{self, SINK_PORT};
use crate::bench::certs::{Certificates, Side};
use crate::bench::topology::{Bed, CLIENT_IP, Core, SERVER_IP};
use crate::bench::work::Listener;
use crate::process::{self, Background};

/// The user that the rules let through (DESIGN section 4).
pub(crate) const PROXY_USER: u32 = 2102;
/// The health check (DESIGN section 4: ports).
const READY: &str = "http://127.0.0.1:15021/ready";

/// The program that is measured, and what it runs under.
pub(crate) struct Program {
    binary: PathBuf,
    callgrind: Option<PathBuf>,
    counts: Option<PathBuf>,
}

impl Program {
    /// This binary, under nothing.
    pub(crate) fn new(binary: PathBuf) -> Self {
        Self { binary, callgrind: None, counts: None }
    }

    /// Runs it under callgrind from the next start on; its counts go to `file`.
    pub(crate) fn under_callgrind(&mut self, file: &Path) {
        self.callgrind = Some(file.to_owned());
    }

    /// Has a program that was built to count what it runs write its counts there when it ends.
    pub(crate) fn records_into(&mut self, directory: &Path) {
        self.counts = Some(directory.to_owned());
    }

    /// What its version is.
    pub(crate) fn version(&self) -> Result<String> {
        let text = process::text(Command::new(&self.binary).arg("--version"))?;
        Ok(text.split_whitespace().nth(1).unwrap_or("unknown").to_owned())
    }

    /// Where it writes its counts.
    fn environment(&self) -> Vec<OsString> {
        // One file for each process; %m tells programs apart.
        let counts = self.counts.iter().flat_map(|counts| {
            ["env".into(), format!("LLVM_PROFILE_FILE={}/%p-%m.profraw", counts.display()).into()]
        });
        counts.collect()
    }

    /// A run to its end, with the rights of the namespace.
    fn once(&self, bed: &Bed, side: Side, words: &[&str]) -> Result<()> {
        process::capture(bed.namespace(side).enter().args(self.environment()).arg(&self.binary).args(words))?;
        Ok(())
    }

    /// Starts it as `sidecar` or gateway on one side of a bed, and waits until it is ready. `counted`: under callgrind, if it is to
    /// run there at all.
    pub(crate) fn start(
        &self,
        bed: &Bed,
        side: Side,
        (name, command, config): (&str, &str, &Path),
        counted: bool,
    ) -> Result<Background> {
        let mut words = self.environment();
        if let Some(counts) = self.callgrind.as_ref().filter(|_| counted) {
            words.extend(["valgrind", "--tool=callgrind", "--instr-atstart=no"].map(Into::into));
            words.push(format!("--callgrind-out-file={}", counts.display()).into());
        }
        let program = self.binary.clone().into_os_string();
        words.extend([program, command.into(), "--config".into(), config.as_os_str().to_owned()]);
        let mut process = bed.start(name, side, Core::Proxy, Some(PROXY_USER), &words)?;
        // Ready is more than listening: an identity and a first snapshot, or routes in force.
        process::wait_until("a ready proxy", Duration::from_secs(60), || {
            process.check()?;
            let ask = ["curl", "--silent", "--fail", "--max-time", "5", READY];
            Ok(bed.namespace(side).run(&ask).is_ok())
        })
        .map_err(|error| error.context(process.log_tail()))?;
        Ok(process)
    }
}

/// Waits until a side has exported traces. Spans are exported in batches: the last may take a few seconds.
pub(crate) fn wait_for_traces(bed: &Bed, side: Side) -> Result<()> {
    let log = backend::sink_log(bed, side);
    let what = format!("an export of traces by the {} side", side.name());
    process::wait_until(&what, Duration::from_secs(15), || {
        Ok(log.metadata().is_ok_and(|data| data.len() > 0))
    })
}

/// A pair of Weft.
pub(crate) struct Weft {
    pub(crate) program: Program,
    /// The side that runs under callgrind, where one does.
    counted: Option<Side>,
    traces: bool,
}

impl Weft {
    /// A pair of this binary.
    pub(crate) fn new(binary: PathBuf) -> Self {
        Self { program: Program::new(binary), counted: None, traces: true }
    }

    /// Exports no traces: for beds without a sink.
    pub(crate) fn without_traces(mut self) -> Self {
        self.traces = false;
        self
    }

    /// Runs one side under callgrind from the next start on; its counts go to `file`.
    pub(crate) fn under_callgrind(&mut self, side: Side, file: &Path) {
        self.counted = Some(side);
        self.program.under_callgrind(file);
    }

    /// Starts both sides.
    pub(crate) fn pair(&self, bed: &Bed, certificates: &Certificates) -> Result<Pair> {
        let server = self.side(bed, certificates, Side::Server)?;
        let client = self.side(bed, certificates, Side::Client)?;
        Ok(Pair { client, server })
    }

    fn side(&self, bed: &Bed, certificates: &Certificates, side: Side) -> Result<Background> {
        let name = format!("weft-{}", side.name());
        let file = bed.write(&format!("{name}.yaml"), &config(side, certificates, self.traces))?;
        self.program.once(bed, side, &["init", "--proxy-uid", &PROXY_USER.to_string()])?;
        self.program.start(bed, side, (&name, "proxy", &file), self.counted == Some(side))
    }
}

impl Peer for Weft {
    fn name(&self) -> &'static str {
        "weft"
    }

    fn version(&self) -> Result<String> {
        self.program.version()
    }

    fn note(&self) -> &'static str {
        "one worker, `weft init` rules, metrics on, 1 % traces exported over OTLP/HTTP; HTTP/2 between the sides for every client"
    }

    fn start(&self, bed: &Bed, certificates: &Certificates) -> Result<Proxies> {
        Ok(self.pair(bed, certificates)?.into())
    }

    fn address(&self, listener: Listener) -> String {
        format!("{SERVER_IP}:{}", backend::port(listener))
    }

    fn tls_address(&self) -> String {
        self.address(Listener::Http1)
    }

    fn check_after(&self, bed: &Bed) -> Result<()> {
        [Side::Client, Side::Server].into_iter().try_for_each(|side| wait_for_traces(bed, side))
    }

    fn user(&self) -> Option<u32> {
        Some(PROXY_USER)
    }
}

fn config(side: Side, certificates: &Certificates, traces: bool) -> String {
    let address = if side == Side::Client { CLIENT_IP } else { SERVER_IP };
    let tcp = backend::port(LISTENERS[2]);
    let telemetry = if traces { tracing() } else { String::new() };
    format!(
        "workload:
  name: {name}
  namespace: bench
  serviceAccount: {name}
  addresses: [{address}]
workers: 1
identity:
  trustDomain: weft.local
  files:
    certificate: {certificate}
    key: {key}
    bundle: {bundle}
mesh:
  cidrs: [10.99.0.0/24]
  mode: strict
inbound:
  mode: strict
  opaquePorts: [{tcp}]
outbound:
  opaquePorts: [{tcp}]
{telemetry}",
        name = side.name(),
        certificate = certificates.certificate(side).display(),
        key = certificates.key(side).display(),
        bundle = certificates.ca().display(),
    )
}

/// 1 % of the requests, over OTLP/HTTP.
pub(crate) fn tracing() -> String {
    format!(
        "telemetry:
  tracing:
    endpoint: http://127.0.0.1:{SINK_PORT}
    protocol: http
    sampling: 0.01
"
    )
}
