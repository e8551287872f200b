//! nginx: one process, upstream connections kept. Its proxy speaks HTTP/1.1 upstream only, so that is what goes
//! between the sides and to the backend, whatever the client speaks.

use std::process::Command;

use anyhow::Result;

use super::{Peer, Proxies, plain_port, start_both, tls_port};
use crate::bench::backend::{self, NGINX_HTTP, nginx_main};
use crate::bench::certs::{Certificates, SERVER_NAME, Side};
use crate::bench::topology::{Bed, SERVER_IP};
use crate::bench::work::Listener;
use crate::{process, setup};

/// A pair of nginx.
pub(crate) struct Nginx;

impl Peer for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn version(&self) -> Result<String> {
        // nginx tells its version on standard error.
        let output = process::capture(Command::new("nginx").arg("-v"))?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(text.rsplit('/').next().unwrap_or("unknown").trim().to_owned())
    }

    fn note(&self) -> &'static str {
        "one process, `keepalive` upstreams, buffers that hold a 64 KiB body; HTTP/1.1 between the sides for every client (its proxy has no other)"
    }

    fn start(&self, bed: &Bed, certificates: &Certificates) -> Result<Proxies> {
        let client = bed.write("nginx-a.conf", &client(bed, certificates))?;
        let server = bed.write("nginx-b.conf", &server(bed, certificates))?;
        start_both(bed, |side| {
            let file = if side == Side::Client { &client } else { &server };
            vec!["nginx".into(), "-c".into(), file.into()]
        })
    }

    fn address(&self, listener: Listener) -> String {
        format!("127.0.0.1:{}", plain_port(listener))
    }

    fn tls_address(&self) -> String {
        format!("{SERVER_IP}:{}", tls_port(Listener::Http1))
    }
}

/// Keep-alive towards the other side, and buffers in memory: with the defaults a 64 KiB body goes to a file.
pub(crate) const PROXY: &str =
    "proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host;
  proxy_buffer_size 16k; proxy_buffers 8 16k; proxy_max_temp_file_size 0; proxy_read_timeout 1h;";

fn main(bed: &Bed, name: &str) -> String {
    format!("load_module {};\n{}", setup::NGINX_STREAM, nginx_main(bed, name))
}

/// What is proxied to.
pub(crate) fn upstream(address: &str) -> String {
    format!(
        "upstream next {{ server {address}; keepalive 512; keepalive_requests 1000000000; keepalive_time 1d; keepalive_timeout 1h; }}"
    )
}

fn client(bed: &Bed, certificates: &Certificates) -> String {
    let tls = format!(
        "proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate {}; proxy_ssl_certificate_key {};\n\
         proxy_ssl_trusted_certificate {}; proxy_ssl_verify on; proxy_ssl_name {SERVER_NAME}; proxy_ssl_server_name on;",
        certificates.certificate(Side::Client).display(),
        certificates.key(Side::Client).display(),
        certificates.ca().display(),
    );
    let tls_http = format!("{SERVER_IP}:{}", tls_port(Listener::Http1));
    format!(
        "{main}http {{ {NGINX_HTTP}\n{upstream}\n{PROXY}\n{tls}
  server {{ listen 127.0.0.1:{http1} backlog=4096; location / {{ proxy_pass https://next; }} }}
  server {{ listen 127.0.0.1:{http2} http2 backlog=4096; location / {{ proxy_pass https://next; }} }}
}}
stream {{ proxy_ssl on; {tls}\n  server {{ listen 127.0.0.1:{tcp}; proxy_pass {SERVER_IP}:{tls_tcp}; }} }}\n",
        main = main(bed, "nginx-a"),
        upstream = upstream(&tls_http),
        http1 = plain_port(Listener::Http1),
        http2 = plain_port(Listener::Http2),
        tcp = plain_port(Listener::Tcp),
        tls_tcp = tls_port(Listener::Tcp),
    )
}

fn server(bed: &Bed, certificates: &Certificates) -> String {
    let tls = format!(
        "ssl_protocols TLSv1.3; ssl_certificate {}; ssl_certificate_key {};\n\
         ssl_client_certificate {}; ssl_verify_client on;",
        certificates.certificate(Side::Server).display(),
        certificates.key(Side::Server).display(),
        certificates.ca().display(),
    );
    format!(
        "{main}http {{ {NGINX_HTTP}\n{upstream}\n{PROXY}\n{tls}
  server {{ listen {SERVER_IP}:{http1} ssl backlog=4096; location / {{ proxy_pass http://next; }} }}
  server {{ listen {SERVER_IP}:{http2} ssl; location / {{ proxy_pass http://next; }} }}
}}
stream {{ {tls}\n  server {{ listen {SERVER_IP}:{tcp} ssl; proxy_pass 127.0.0.1:{app_tcp}; }} }}\n",
        main = main(bed, "nginx-b"),
        upstream = upstream(&format!("127.0.0.1:{}", backend::port(Listener::Http1))),
        http1 = tls_port(Listener::Http1),
        http2 = tls_port(Listener::Http2),
        tcp = tls_port(Listener::Tcp),
        app_tcp = backend::port(Listener::Tcp),
    )
}
