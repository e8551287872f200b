//! Weft: two sidecars as they run in pods, interception rules included.
//!
//! The client dials the service's own address; the rules of `weft init` bring it to side A, and side A's mesh link to
//! side B. So Weft alone pays for connection tracking and address translation here: that is how it is used. Metrics
//! are on and 1 % of the requests are traced and exported over OTLP/HTTP to a sink in each namespace.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::{LISTENERS, Pair, Peer};
use crate::bench::backend::{self, SINK_PORT};
use crate::bench::certs::{Certificates, Side};
use crate::bench::topology::{Bed, CLIENT_IP, Core, SERVER_IP};
use crate::bench::work::Listener;
use crate::process;

/// The user that the rules let through (DESIGN section 4).
pub(crate) const PROXY_USER: u32 = 2102;
/// The health check (DESIGN section 4: ports).
const READY: &str = "http://127.0.0.1:15021/ready";

/// A pair of Weft.
pub(crate) struct Weft {
    binary: PathBuf,
    callgrind: Option<(Side, PathBuf)>,
    counts: Option<PathBuf>,
    traces: bool,
}

impl Weft {
    /// A pair of this binary.
    pub(crate) fn new(binary: PathBuf) -> Self {
        Self { binary, callgrind: None, counts: None, traces: true }
    }

    /// Exports no traces: for beds without a sink.
    pub(crate) fn without_traces(mut self) -> Self {
        self.traces = false;
        self
    }

    /// Runs one side under callgrind from the next start on; its counts go to `file`.
    pub(crate) fn under_callgrind(&mut self, side: Side, file: &Path) {
        self.callgrind = Some((side, file.to_owned()));
    }

    /// Has a program that was built to count what it runs write its counts there when it ends.
    pub(crate) fn records_into(&mut self, directory: &Path) {
        self.counts = Some(directory.to_owned());
    }

    fn side(&self, bed: &Bed, certificates: &Certificates, side: Side) -> Result<process::Background> {
        let file =
            bed.write(&format!("weft-{}.yaml", side.name()), &config(side, certificates, self.traces))?;
        let namespace = bed.namespace(side);
        let user = PROXY_USER.to_string();
        let mut words: Vec<std::ffi::OsString> = Vec::new();
        if let Some(counts) = &self.counts {
            // One file for each process; %m tells programs apart.
            words.extend([
                "env".into(),
                format!("LLVM_PROFILE_FILE={}/%p-%m.profraw", counts.display()).into(),
            ]);
        }
        let init = ["init", "--proxy-uid", &user];
        process::capture(namespace.enter().args(&words).arg(&self.binary).args(init))?;
        if let Some((_, counts)) = self.callgrind.as_ref().filter(|(counted, _)| *counted == side) {
            words.extend(["valgrind", "--tool=callgrind", "--instr-atstart=no"].map(Into::into));
            words.push(format!("--callgrind-out-file={}", counts.display()).into());
        }
        words.extend([self.binary.clone().into_os_string(), "proxy".into(), "--config".into(), file.into()]);
        let mut process =
            bed.start(&format!("weft-{}", side.name()), side, Core::Proxy, Some(PROXY_USER), &words)?;
        // Ready is more than listening: an identity and a first snapshot.
        process::wait_until("a ready sidecar", Duration::from_secs(60), || {
            process.check()?;
            Ok(namespace.run(&["curl", "--silent", "--fail", "--max-time", "5", READY]).is_ok())
        })
        .map_err(|error| error.context(process.log_tail()))?;
        Ok(process)
    }
}

impl Peer for Weft {
    fn name(&self) -> &'static str {
        "weft"
    }

    fn version(&self) -> Result<String> {
        let text = process::text(Command::new(&self.binary).arg("--version"))?;
        Ok(text.split_whitespace().nth(1).unwrap_or("unknown").to_owned())
    }

    fn note(&self) -> &'static str {
        "one worker, `weft init` rules, metrics on, 1 % traces exported over OTLP/HTTP; HTTP/2 between the sides for every client"
    }

    fn start(&self, bed: &Bed, certificates: &Certificates) -> Result<Pair> {
        let server = self.side(bed, certificates, Side::Server)?;
        let client = self.side(bed, certificates, Side::Client)?;
        Ok(Pair { client, server })
    }

    fn address(&self, listener: Listener) -> String {
        format!("{SERVER_IP}:{}", backend::port(listener))
    }

    fn mutual_tls_address(&self) -> String {
        self.address(Listener::Http1)
    }

    /// Spans are exported in batches: the last may take a few seconds.
    fn check_after(&self, bed: &Bed) -> Result<()> {
        for side in [Side::Client, Side::Server] {
            let log = backend::sink_log(bed, side);
            let what = format!("an export of traces by the {} side", side.name());
            process::wait_until(&what, Duration::from_secs(15), || {
                Ok(log.metadata().is_ok_and(|data| data.len() > 0))
            })?;
        }
        Ok(())
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

fn tracing() -> String {
    format!(
        "telemetry:
  tracing:
    endpoint: http://127.0.0.1:{SINK_PORT}
    protocol: http
    sampling: 0.01
"
    )
}
