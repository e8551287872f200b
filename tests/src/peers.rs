//! Real HTTP programs of other makers, each where it is present on this machine: their sources are in `tests/peers`.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::go::GoProgram;
use crate::mesh::find_program;
use crate::otelcol::find_go;
use crate::{Pod, Process};

const GO_MOD: &str = include_str!("../peers/go/go.mod");
const GO_MAIN: &str = include_str!("../peers/go/main.go");
const NGINX: &str = include_str!("../peers/nginx.conf");

/// Java compiles its source first.
const START: Duration = Duration::from_secs(60);

/// How long a client may take for everything that it does.
const WORK: Duration = Duration::from_secs(180);

/// A maker of HTTP programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// `http.client`, `http.server`.
    Python,
    /// `http`, and `http2` as a server of its own.
    Node,
    /// Node's `http2`.
    NodeH2,
    /// `net/http`, HTTP/1.1 and HTTP/2 by prior knowledge.
    Go,
    /// `java.net.http`, `com.sun.net.httpserver`.
    Java,
    /// A server only.
    Nginx,
    /// A client only.
    Curl,
}

impl Maker {
    /// Its name in operations and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::NodeH2 => "nodeh2",
            Self::Go => "go",
            Self::Java => "java",
            Self::Nginx => "nginx",
            Self::Curl => "curl",
        }
    }

    /// What is missing here, if anything is.
    pub fn missing(self) -> Option<&'static str> {
        let program = match self {
            Self::Python => "python3",
            Self::Node | Self::NodeH2 => "node",
            Self::Go => return find_go().is_none().then_some("go"),
            Self::Java => "java",
            Self::Nginx => "nginx",
            Self::Curl => "curl",
        };
        find_program(program).is_none().then_some(program)
    }

    /// Starts its server on a port of the pod and waits until it listens.
    ///
    /// # Errors
    /// It does not start.
    pub fn serve(self, pod: &Pod, port: u16) -> Result<Arc<Process>> {
        let name = format!("{}-server", self.name());
        let at = port.to_string();
        let command = match self {
            Self::Python => vec!["python3".to_owned(), source("server.py"), at],
            Self::Node => vec!["node".to_owned(), source("server.js"), at],
            Self::NodeH2 => vec!["node".to_owned(), source("server.js"), at, "h2".to_owned()],
            Self::Go => vec![go_peer()?, "serve".to_owned(), at],
            Self::Java => vec!["java".to_owned(), source("Server.java"), at],
            Self::Nginx => return Self::nginx(pod, port),
            Self::Curl => bail!("curl serves nobody"),
        };
        let process = pod.spawn(&name, &command)?;
        process.wait_for_log("listening", START)?;
        Ok(process)
    }

    fn nginx(pod: &Pod, port: u16) -> Result<Arc<Process>> {
        let dir = pod.dir().join("nginx");
        fs::create_dir_all(&dir).context("nginx")?;
        let text = NGINX.replace("PORT", &port.to_string()).replace("DIR", &dir.display().to_string());
        let file = dir.join("nginx.conf");
        fs::write(&file, text).context("nginx.conf")?;
        let file = file.display().to_string();
        let process = pod.spawn("nginx-server", &["nginx", "-e", "stderr", "-c", &file])?;
        crate::eventually("nginx to listen", START, || {
            let reached =
                pod.run(async || Ok(tokio::net::TcpStream::connect((pod.ip(), port)).await.is_ok()))?;
            Ok(reached.then_some(()))
        })?;
        Ok(process)
    }

    /// Runs its client against each of these servers (name, port) at `host`; what it printed.
    ///
    /// # Errors
    /// It does not run to its end.
    pub fn ask(self, pod: &Pod, host: &str, servers: &[(&str, u16)]) -> Result<String> {
        let mut command = match self {
            Self::Python => vec!["python3".to_owned(), source("client.py")],
            Self::Node | Self::NodeH2 => vec!["node".to_owned(), source("client.js")],
            Self::Go => vec![go_peer()?, "ask".to_owned()],
            Self::Java => vec!["java".to_owned(), source("Client.java")],
            Self::Curl => vec!["sh".to_owned(), source("client.sh")],
            Self::Nginx => bail!("nginx asks nobody"),
        };
        command.push(host.to_owned());
        command.extend(servers.iter().map(|(name, port)| format!("{name}={port}")));
        let process = pod.spawn(&format!("{}-client", self.name()), &command)?;
        let status = process.wait_exit(WORK)?;
        if !status.success() {
            bail!("{} ended with {status}: {}", self.name(), process.log());
        }
        Ok(process.log())
    }
}

fn source(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers").join(name).display().to_string()
}

/// The Go program.
fn go_peer() -> Result<String> {
    GoProgram { name: "peer", sources: &[("go.mod", GO_MOD), ("main.go", GO_MAIN)], package: "." }.ensure()
}
