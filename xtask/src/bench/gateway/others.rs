//! HAProxy, Envoy and nginx as gateways: TLS 1.3 for both versions of HTTP on one port, one host that is routed to the backend, the
//! client told to the backend as Weft tells it (`x-forwarded-*`, `x-request-id`), connections to the backend kept.

use std::ffi::OsString;

use anyhow::Result;
use serde_json::json;

use crate::bench::backend::{self, NGINX_HTTP, nginx_main};
use crate::bench::certs::{Certificates, SERVER_NAME, Side};
use crate::bench::peers::{EDGE_PORT, Link, Peer, Proxies, envoy, haproxy, nginx};
use crate::bench::topology::{Bed, Core, SERVER_IP};
use crate::bench::work::Listener;

/// Writes the configuration and says how the program is run.
type Words = Box<dyn Fn(&Bed, &Certificates) -> Result<Vec<OsString>>>;

/// Another program as a gateway. It is the same program as that of its pair.
pub(super) struct Other {
    pair: Box<dyn Peer>,
    note: &'static str,
    words: Words,
}

impl Peer for Other {
    fn name(&self) -> &'static str {
        self.pair.name()
    }

    fn version(&self) -> Result<String> {
        self.pair.version()
    }

    fn note(&self) -> &'static str {
        self.note
    }

    fn start(&self, bed: &Bed, certificates: &Certificates) -> Result<Proxies> {
        let words = (self.words)(bed, certificates)?;
        let mut process = bed.start("edge", Side::Server, Core::Proxy, None, &words)?;
        bed.wait_listening(Side::Server, EDGE_PORT, &mut process)?;
        Ok(process.into())
    }

    fn address(&self, _listener: Listener) -> String {
        super::address()
    }

    fn tls_address(&self) -> String {
        super::address()
    }
}

/// HAProxy.
pub(super) fn haproxy() -> Other {
    let words = |bed: &Bed, certificates: &Certificates| {
        let text = format!(
            "{common}
frontend edge
  bind {SERVER_IP}:{EDGE_PORT} ssl crt {certificate} alpn h2,http/1.1 curves X25519
  option forwardfor
  http-request set-header X-Forwarded-Proto https
  http-request set-header X-Forwarded-Host %[req.hdr(Host)]
  http-request set-header X-Forwarded-Port {EDGE_PORT}
  unique-id-format %{{+X}}o%ci%cp%Ts%rt%pid
  unique-id-header X-Request-ID
  use_backend app if {{ req.hdr(Host) -i {SERVER_NAME} }}
backend app
  server app 127.0.0.1:{app}
",
            common = haproxy::COMMON,
            certificate = certificates.certificate_and_key(Side::Server).display(),
            app = backend::port(Listener::Edge),
        );
        let file = bed.write("haproxy-edge.cfg", &text)?;
        Ok(vec!["haproxy".into(), "-db".into(), "-f".into(), file.into()])
    };
    Other {
        pair: Box::new(haproxy::Haproxy { name: "haproxy", link: Link::Http1 }),
        note: "`nbthread 1`, `http-reuse always`, no log",
        words: Box::new(words),
    }
}

/// nginx.
pub(super) fn nginx() -> Other {
    let words = |bed: &Bed, certificates: &Certificates| {
        let text = format!(
            "{main}http {{ {NGINX_HTTP}\n{upstream}\n{proxy}
  proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto https;
  proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Port {EDGE_PORT};
  proxy_set_header X-Request-ID $request_id;
  ssl_protocols TLSv1.3; ssl_ecdh_curve X25519; ssl_certificate {certificate}; ssl_certificate_key {key};
  server {{ listen {SERVER_IP}:{EDGE_PORT} ssl http2 backlog=4096; server_name {SERVER_NAME};
    location / {{ proxy_pass http://next; }} }}
}}\n",
            main = nginx_main(bed, "nginx-edge"),
            upstream = nginx::upstream(&format!("127.0.0.1:{}", backend::port(Listener::Edge))),
            proxy = nginx::PROXY,
            certificate = certificates.certificate(Side::Server).display(),
            key = certificates.key(Side::Server).display(),
        );
        let file = bed.write("nginx-edge.conf", &text)?;
        Ok(vec!["nginx".into(), "-c".into(), file.into()])
    };
    Other {
        pair: Box::new(nginx::Nginx),
        note: "one process, `keepalive` upstream, buffers that hold a 64 KiB body, no log",
        words: Box::new(words),
    }
}

/// Envoy.
pub(super) fn envoy() -> Result<Other> {
    let binary = envoy::binary()?;
    let program = binary.clone();
    let words = move |bed: &Bed, certificates: &Certificates| {
        let pair = envoy::Envoy::new("envoy", Link::Http1, program.clone());
        let mut filter = envoy::http_filter(Listener::Edge, "AUTO");
        let manager = &mut filter["typed_config"];
        manager["use_remote_address"] = json!(true);
        let host = &mut manager["route_config"]["virtual_hosts"][0];
        host["domains"] = json!([SERVER_NAME]);
        host["routes"][0]["route"]["cluster"] = json!(envoy::cluster_name(Listener::Http1));
        let mut tls = envoy::tls_context(certificates, Side::Server, "");
        tls["tls_params"]["ecdh_curves"] = json!(["X25519"]);
        tls["alpn_protocols"] = json!(["h2", "http/1.1"]);
        // Clients show no certificate.
        if let Some(context) = tls.as_object_mut() {
            context.remove("validation_context");
        }
        let chain = json!({
            "filters": [filter],
            "transport_socket": envoy::downstream_tls(false, &tls),
        });
        let listener = json!({
            "name": "edge", "address": envoy::socket(SERVER_IP, EDGE_PORT), "filter_chains": [chain],
        });
        let bootstrap = json!({
            "node": { "id": "edge", "cluster": "bench" },
            "static_resources": {
                "listeners": [listener],
                "clusters": [pair.cluster(Side::Server, Listener::Http1, certificates)],
            }
        });
        let file = bed.write("envoy-edge.json", &serde_json::to_string_pretty(&bootstrap)?)?;
        Ok(pair.words(file))
    };
    Ok(Other {
        pair: Box::new(envoy::Envoy::new("envoy", Link::Http1, binary)),
        note: "`--concurrency 1`, default statistics, no log",
        words: Box::new(words),
    })
}
