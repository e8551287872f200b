//! The programs that are compared, each as a pair: side A beside the client (plaintext in, mTLS out), side B
//! beside the backend (mTLS in, plaintext out).
//!
//! All are set up for the same job: one worker, TLS 1.3 only, both certificates verified, connections towards the
//! other side and towards the backend kept and reused. Where a program can carry requests between the two sides
//! as HTTP/1.1 or as HTTP/2, the bench uses the one that costs it less; the other is there as a peer of its own
//! (`haproxy-h2`, `envoy-h2`), so that the choice can be checked.

pub(crate) mod envoy;
pub(crate) mod haproxy;
pub(crate) mod nginx;
pub(crate) mod weft;

use std::path::PathBuf;

use anyhow::Result;

use crate::bench::certs::{Certificates, Side};
use crate::bench::measure;
use crate::bench::topology::Bed;
use crate::bench::work::Listener;
use crate::process::Background;

pub(crate) use weft::{PROXY_USER, Program, Weft};

/// A running pair.
pub(crate) struct Pair {
    /// Side A.
    pub(crate) client: Background,
    /// Side B.
    pub(crate) server: Background,
}

/// The running proxies of a peer: both of a pair, or the one that is a gateway.
pub(crate) struct Proxies(Vec<Background>);

impl From<Pair> for Proxies {
    fn from(pair: Pair) -> Self {
        Self(vec![pair.client, pair.server])
    }
}

impl From<Background> for Proxies {
    fn from(one: Background) -> Self {
        Self(vec![one])
    }
}

impl Proxies {
    /// The process ids.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.0.iter().map(Background::id).collect()
    }

    /// An error with the log of the proxy that is gone, if one is.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(Background::check)
    }

    /// PSS of each, KiB.
    pub(crate) fn pss_kib(&self) -> Result<Vec<u64>> {
        self.ids().into_iter().map(measure::pss_kib).collect()
    }

    /// The ends of their logs.
    pub(crate) fn logs(&self) -> String {
        self.0.iter().map(Background::log_tail).collect::<Vec<_>>().join("\n")
    }
}

/// How requests of HTTP/1.1 clients travel between the two sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    /// One request at a time on each connection.
    Http1,
    /// Many on one.
    Http2,
}

/// One program of the comparison.
pub(crate) trait Peer {
    /// Name in bars, JSON, tables and on the command line.
    fn name(&self) -> &'static str;
    /// What the program says its version is.
    fn version(&self) -> Result<String>;
    /// How it is set up, for the page: one sentence.
    fn note(&self) -> &'static str;
    /// Starts its proxies in the bed and waits until they listen.
    fn start(&self, bed: &Bed, certificates: &Certificates) -> Result<Proxies>;
    /// Where the client dials for a listener.
    fn address(&self, listener: Listener) -> String;
    /// Where it ends TLS, for the check that this is as it should be: side B of a pair, or the gateway.
    fn tls_address(&self) -> String;
    /// Looks, after a round's loads, whether the pair did what its note says beside answering.
    fn check_after(&self, _bed: &Bed) -> Result<()> {
        Ok(())
    }
    /// The user that both sides run as, where that is not root.
    fn user(&self) -> Option<u32> {
        None
    }
}

/// Names of all peers; the first four are the default.
pub(crate) const NAMES: [&str; 6] = ["weft", "haproxy", "envoy", "nginx", "haproxy-h2", "envoy-h2"];

/// How many of [`NAMES`] are measured when nothing else is asked for.
pub(crate) const DEFAULT: usize = 4;

/// The peers of these names. `weft` is the binary to measure.
pub(crate) fn by_names(names: &[String], weft: Option<&PathBuf>) -> Result<Vec<Box<dyn Peer>>> {
    let envoy =
        if names.iter().any(|name| name.starts_with("envoy")) { Some(envoy::binary()?) } else { None };
    let mut peers: Vec<Box<dyn Peer>> = Vec::new();
    for name in names {
        let missing = || anyhow::anyhow!("the program for {name} is not there");
        peers.push(match name.as_str() {
            "weft" => Box::new(Weft::new(weft.cloned().ok_or_else(missing)?)),
            "haproxy" => Box::new(haproxy::Haproxy { name: "haproxy", link: Link::Http1 }),
            "haproxy-h2" => Box::new(haproxy::Haproxy { name: "haproxy-h2", link: Link::Http2 }),
            "envoy" => Box::new(envoy::Envoy::new("envoy", Link::Http1, envoy.clone().ok_or_else(missing)?)),
            "envoy-h2" => {
                Box::new(envoy::Envoy::new("envoy-h2", Link::Http2, envoy.clone().ok_or_else(missing)?))
            }
            "nginx" => Box::new(nginx::Nginx),
            other => anyhow::bail!("no peer is called {other}; there are {}", NAMES.join(", ")),
        });
    }
    Ok(peers)
}

/// Where gateways end TLS.
pub(crate) const EDGE_PORT: u16 = 8443;

/// Where side A of the other proxies listens: programs without interception are dialed themselves.
fn plain_port(listener: Listener) -> u16 {
    match listener {
        Listener::Http1 => 7080,
        Listener::Http2 => 7082,
        Listener::Tcp => 7090,
        Listener::Edge => EDGE_PORT,
    }
}

/// Where side B of the other proxies accepts mTLS.
fn tls_port(listener: Listener) -> u16 {
    match listener {
        Listener::Http1 => 9080,
        Listener::Http2 => 9082,
        Listener::Tcp => 9090,
        Listener::Edge => EDGE_PORT,
    }
}

const LISTENERS: [Listener; 3] = [Listener::Http1, Listener::Http2, Listener::Tcp];

/// Starts side B and then side A with these configurations, and waits for their listeners.
fn start_both(bed: &Bed, words: impl Fn(Side) -> Vec<std::ffi::OsString>) -> Result<Proxies> {
    let core = crate::bench::topology::Core::Proxy;
    let mut server = bed.start("side-b", Side::Server, core, None, &words(Side::Server))?;
    for listener in LISTENERS {
        bed.wait_listening(Side::Server, tls_port(listener), &mut server)?;
    }
    let mut client = bed.start("side-a", Side::Client, core, None, &words(Side::Client))?;
    for listener in LISTENERS {
        bed.wait_listening(Side::Client, plain_port(listener), &mut client)?;
    }
    Ok(Pair { client, server }.into())
}
