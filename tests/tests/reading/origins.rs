//! Real origins of three makers, and what each of them took for a request.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;

use anyhow::{Context, Result};
use weft_testbed::peers::Maker;
use weft_testbed::{Gateway, Process, eventually};

use super::raw::PATIENCE;

const NGINX: &str = include_str!("../../peers/nginx-origin.conf");

/// Those that are here. Stories need nginx and Python; Node is told where it is missing.
#[expect(clippy::print_stderr, reason = "what is left out has to be seen beside the verdict")]
pub(crate) fn makers() -> Vec<&'static str> {
    let mut makers = vec!["nginx", "python"];
    match Maker::Node.missing() {
        None => makers.push("node"),
        Some(program) => eprintln!("SKIPPED: node, since {program} is not installed"),
    }
    makers
}

/// One of them, at a port of loopback.
pub(crate) struct Origin {
    pub(crate) maker: &'static str,
    process: Process,
}

/// How often a request was seen, by `METHOD /path`.
pub(crate) type Seen = BTreeMap<String, usize>;

pub(crate) fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

impl Origin {
    pub(crate) fn start(gateway: &Gateway, maker: &'static str, at: SocketAddr) -> Result<Self> {
        let port = at.port().to_string();
        let script = |name: &str| {
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers").join(name).display().to_string()
        };
        let process = match maker {
            "node" => gateway.beside(maker, "node", &[&script("origin.js"), &port])?,
            "python" => gateway.beside(maker, "python3", &[&script("origin.py"), &port])?,
            _ => {
                let dir = gateway.dir().display().to_string();
                let file = gateway.dir().join("nginx-origin.conf");
                fs::write(&file, NGINX.replace("PORT", &port).replace("DIR", &dir))?;
                gateway.beside(maker, "nginx", &["-e", "stderr", "-c", &file.display().to_string()])?
            }
        };
        eventually("an origin to listen", PATIENCE, || Ok(TcpStream::connect(at).is_ok().then_some(())))
            .with_context(|| process.log())?;
        Ok(Self { maker, process })
    }

    /// What it took for a request so far, and what for none.
    pub(crate) fn seen(&self) -> (Seen, Vec<String>) {
        let (mut seen, mut refused) = (Seen::new(), Vec::new());
        for line in self.process.log().lines() {
            match line.split_once(' ') {
                // nginx has no TRACE, and says so.
                Some(("whole" | "broken" | "status-200" | "status-405", request)) => {
                    *seen.entry(request.to_owned()).or_default() += 1;
                }
                // Node's word for a request that broke off, as one does whose client was refused half-way.
                Some(("refused", "HPE_INVALID_EOF_STATE" | "ECONNRESET")) => {}
                Some((word, _)) if word == "refused" || word.starts_with("status-") => {
                    refused.push(line.to_owned());
                }
                _ => {}
            }
        }
        (seen, refused)
    }
}
