//! HAProxy: `nbthread 1`, connections to servers kept and shared (`http-reuse always`).

use std::process::Command;

use anyhow::Result;

use super::{Link, Peer, Proxies, plain_port, start_both, tls_port};
use crate::bench::backend;
use crate::bench::certs::{Certificates, Side};
use crate::bench::topology::{Bed, SERVER_IP};
use crate::bench::work::Listener;
use crate::process;

/// A pair of HAProxy.
pub(crate) struct Haproxy {
    /// The peer's name.
    pub(crate) name: &'static str,
    /// How HTTP/1.1 requests travel between the sides.
    pub(crate) link: Link,
}

impl Peer for Haproxy {
    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> Result<String> {
        let text = process::text(Command::new("haproxy").arg("-v"))?;
        Ok(text.split_whitespace().nth(2).unwrap_or("unknown").to_owned())
    }

    fn note(&self) -> &'static str {
        match self.link {
            Link::Http1 => {
                "`nbthread 1`, `http-reuse always`; HTTP/1.1 between the sides for HTTP/1.1 clients, HTTP/2 for HTTP/2"
            }
            Link::Http2 => "as haproxy, but HTTP/2 between the sides for every client",
        }
    }

    fn start(&self, bed: &Bed, certificates: &Certificates) -> Result<Proxies> {
        let client = bed.write("haproxy-a.cfg", &self.client(certificates))?;
        let server = bed.write("haproxy-b.cfg", &self.server(certificates))?;
        start_both(bed, |side| {
            let file = if side == Side::Client { &client } else { &server };
            vec!["haproxy".into(), "-db".into(), "-f".into(), file.into()]
        })
    }

    fn address(&self, listener: Listener) -> String {
        format!("127.0.0.1:{}", plain_port(listener))
    }

    fn tls_address(&self) -> String {
        format!("{SERVER_IP}:{}", tls_port(Listener::Http1))
    }
}

/// What pairs and gateways have in common.
pub(crate) const COMMON: &str = "global
  nbthread 1
  maxconn 6500
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
";

impl Haproxy {
    fn alpn(&self) -> &'static str {
        match self.link {
            Link::Http1 => "http/1.1",
            Link::Http2 => "h2",
        }
    }

    fn client(&self, certificates: &Certificates) -> String {
        let tls = format!(
            "ssl crt {} ca-file {} verify required",
            certificates.certificate_and_key(Side::Client).display(),
            certificates.ca().display(),
        );
        let alpn = self.alpn();
        format!(
            "{COMMON}
listen http1
  bind 127.0.0.1:{}
  server b {SERVER_IP}:{} {tls} alpn {alpn}
listen http2
  bind 127.0.0.1:{} proto h2
  server b {SERVER_IP}:{} {tls} alpn h2
listen tcp
  mode tcp
  bind 127.0.0.1:{}
  server b {SERVER_IP}:{} {tls}
",
            plain_port(Listener::Http1),
            tls_port(Listener::Http1),
            plain_port(Listener::Http2),
            tls_port(Listener::Http2),
            plain_port(Listener::Tcp),
            tls_port(Listener::Tcp),
        )
    }

    fn server(&self, certificates: &Certificates) -> String {
        let tls = format!(
            "ssl crt {} ca-file {} verify required",
            certificates.certificate_and_key(Side::Server).display(),
            certificates.ca().display(),
        );
        let alpn = self.alpn();
        format!(
            "{COMMON}
listen http1
  bind {SERVER_IP}:{} {tls} alpn {alpn}
  server app 127.0.0.1:{}
listen http2
  bind {SERVER_IP}:{} {tls} alpn h2
  server app 127.0.0.1:{} proto h2
listen tcp
  mode tcp
  bind {SERVER_IP}:{} {tls}
  server app 127.0.0.1:{}
",
            tls_port(Listener::Http1),
            backend::port(Listener::Http1),
            tls_port(Listener::Http2),
            backend::port(Listener::Http2),
            tls_port(Listener::Tcp),
            backend::port(Listener::Tcp),
        )
    }
}
