//! The application behind every pair, and the sink of the traces: nginx, one process each, on the load's core.

use std::fs;

use anyhow::Result;

use crate::bench::certs::Side;
use crate::bench::topology::{Bed, Core};
use crate::bench::work::Listener;
use crate::process::Background;

/// Where OTLP/HTTP traces go, on the loopback address of both namespaces.
pub(crate) const SINK_PORT: u16 = 4318;

/// What the backend says to `/tiny`.
pub(crate) const TINY: &str = "woven\n";

/// The port of the application for a listener.
pub(crate) fn port(listener: Listener) -> u16 {
    match listener {
        // Gateways speak HTTP/1.1 to it whatever their clients do.
        Listener::Http1 | Listener::Edge => 8080,
        Listener::Http2 => 8082,
        Listener::Tcp => 8090,
    }
}

/// The lines of every nginx that we start: one process in the foreground, no log per request, connections that
/// live as long as the client wants (the default closes each after 1,000 requests).
pub(crate) const NGINX_HTTP: &str = "access_log off; server_tokens off; sendfile on; tcp_nodelay on;
  keepalive_requests 1000000000; keepalive_time 1d; keepalive_timeout 1h; client_body_temp_path /tmp;";

/// The outermost lines of every nginx that we start. `master_process off` makes worker and master one process.
pub(crate) fn nginx_main(bed: &Bed, name: &str) -> String {
    format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\nuser root;\nerror_log {scratch}/{name}.error.log warn;\n\
         pid {scratch}/{name}.pid;\nevents {{ worker_connections 16384; multi_accept on; }}\n",
        scratch = bed.scratch.display(),
    )
}

/// The backend and both sinks.
pub(crate) struct Backend {
    _processes: [Background; 2],
}

impl Backend {
    /// Starts them and waits until they listen.
    pub(crate) fn start(bed: &Bed) -> Result<Self> {
        let files = bed.scratch.join("objects");
        fs::create_dir_all(&files)?;
        // Not one repeated byte: no layer below should be able to make it cheaper than it is.
        let object: Vec<u8> =
            (0u32..1024 * 1024).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(files.join("64k"), &object[..64 * 1024])?;
        fs::write(files.join("1m"), &object)?;
        let application = bed.write("backend.conf", &application_config(bed))?;
        let sink = bed.write("sink.conf", &sink_config(bed))?;
        let start = |name: &str, side, file: &std::path::Path| {
            bed.start(name, side, Core::Load, None, &["nginx".as_ref(), "-c".as_ref(), file.as_os_str()])
        };
        let mut backend = start("backend", Side::Server, &application)?;
        let mut sink = start("sink", Side::Client, &sink)?;
        for listener in [Listener::Http1, Listener::Http2, Listener::Tcp] {
            bed.wait_listening(Side::Server, port(listener), &mut backend)?;
        }
        bed.wait_listening(Side::Server, SINK_PORT, &mut backend)?;
        bed.wait_listening(Side::Client, SINK_PORT, &mut sink)?;
        Ok(Self { _processes: [backend, sink] })
    }
}

fn application_config(bed: &Bed) -> String {
    let server = |listen: String| {
        format!(
            "server {{ listen {listen} backlog=4096; root {}/objects; default_type text/plain;\n\
             location = /tiny {{ return 200 \"{}\"; }} }}\n",
            bed.scratch.display(),
            TINY.replace('\n', "\\n"),
        )
    };
    format!(
        "{}http {{ {NGINX_HTTP} open_file_cache max=16 inactive=1h;\n{}{}{}{} }}\n",
        nginx_main(bed, "backend"),
        server(port(Listener::Http1).to_string()),
        server(format!("{} http2", port(Listener::Http2))),
        server(port(Listener::Tcp).to_string()),
        sink_server(bed, Side::Server),
    )
}

fn sink_config(bed: &Bed) -> String {
    format!("{}http {{ {NGINX_HTTP} {} }}\n", nginx_main(bed, "sink"), sink_server(bed, Side::Client))
}

/// Answers each export with an empty `ExportTraceServiceResponse` and writes a line about it, from which a run
/// tells whether traces really were sent.
fn sink_server(bed: &Bed, side: Side) -> String {
    format!(
        "server {{ listen 127.0.0.1:{SINK_PORT}; access_log {}; default_type application/x-protobuf;\n\
         client_max_body_size 16m; location / {{ return 200 \"\"; }} }}\n",
        sink_log(bed, side).display(),
    )
}

/// Where the sink of a side writes its line per export.
pub(crate) fn sink_log(bed: &Bed, side: Side) -> std::path::PathBuf {
    bed.scratch.join(format!("exports.{}.log", side.name()))
}
