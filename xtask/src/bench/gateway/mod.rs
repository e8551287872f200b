//! `--gateway`: Weft at the edge, side by side with HAProxy, Envoy and nginx.
//!
//! ```text
//! ┌ client namespace ─┐            ┌ server namespace ───────┐
//! │ load              │── veth ──► │ gateway ──► backend     │
//! │                   │   TLS 1.3  │       plaintext HTTP/1.1│
//! └───────────────────┘            └─────────────────────────┘
//! ```
//! The ground, the rounds and the figures are those of the pairs. Two things are measured of Weft alone: what many routes cost
//! ([`routes`]), and how changes of routes come into force under load ([`changes`]).

pub(crate) mod changes;
mod others;
mod routes;
mod weft;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::certs::{Certificates, SERVER_NAME};
use super::peers::{EDGE_PORT, Peer};
use super::report::Results;
use super::topology::{Bed, SERVER_IP};
use super::work::Work;
use super::{Options, one_at_a_time, s_client, wanted};

pub(crate) use weft::{Routes, Weft};

/// Where every gateway is dialed.
fn address() -> String {
    format!("{SERVER_IP}:{EDGE_PORT}")
}

/// The gateways of these names. `weft` is the binary to measure.
pub(crate) fn by_names(names: &[String], weft: Option<&PathBuf>) -> Result<Vec<Box<dyn Peer>>> {
    let mut peers: Vec<Box<dyn Peer>> = Vec::new();
    for name in names {
        peers.push(match name.as_str() {
            "weft" => {
                Box::new(Weft::new(weft.context("the program for weft is not there")?.clone(), Routes::One))
            }
            "haproxy" => Box::new(others::haproxy()),
            "envoy" => Box::new(others::envoy()?),
            "nginx" => Box::new(others::nginx()),
            other => bail!("no gateway is called {other}; there are weft, haproxy, envoy, nginx"),
        });
    }
    Ok(peers)
}

/// That a gateway answers in both versions over TLS 1.3, with the certificate that all show and the key exchange that all are
/// measured with.
pub(crate) fn check(peer: &dyn Peer, bed: &Bed, certificates: &Certificates) -> Result<()> {
    one_at_a_time(peer, bed, Work::GwHttp1)?;
    let ca = certificates.ca().display().to_string();
    for version in ["http/1.1", "h2"] {
        let words = ["-alpn", version, "-servername", SERVER_NAME, "-groups", "X25519", "-CAfile", &ca];
        let said = s_client(peer, bed, &words)?;
        let alpn = format!("ALPN protocol: {version}");
        let wanted = [
            "TLSv1.3",
            &alpn,
            "Server Temp Key: X25519",
            "Peer signature type: ECDSA",
            "Verify return code: 0 (ok)",
        ];
        for wanted in wanted {
            if !said.contains(wanted) {
                bail!("a handshake with {version} does not say `{wanted}`: {said}");
            }
        }
    }
    Ok(())
}

/// What is measured of Weft alone.
pub(crate) fn alone(
    options: &Options,
    binary: &Path,
    scratch: &Path,
    certificates: &Certificates,
    results: &mut Results,
) -> Result<()> {
    if wanted(options, Work::GwRoutes) {
        routes::measure(options, binary, scratch, certificates, results)?;
    }
    if wanted(options, Work::GwChanges) {
        results.changes = Some(changes::measure(binary, scratch, certificates)?);
    }
    Ok(())
}

fn spec(work: Work) -> Result<super::work::Spec> {
    work.spec().context("no such load")
}
