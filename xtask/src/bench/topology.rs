//! The ground that every pair stands on, the same for all peers: two network namespaces joined by a link.
//!
//! ```text
//! ┌ client namespace ───────────┐            ┌ server namespace ─────────────┐
//! │ load ──► side A             │── veth ──► │ side B ──► backend            │
//! │ 10.99.0.1                   │   mTLS     │ 10.99.0.2                     │
//! └─────────────────────────────┘            └───────────────────────────────┘
//! ```
//! Each pair has namespaces of its own, because Weft's interception rules must not touch the other peers. The
//! namespaces have no name: each lives as long as one sleeping process of ours, and the kernel ends that process
//! when we die, so there is nothing to clean up.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::bench::certs::Side;
use crate::process::{self, Background};

/// The client namespace's address on the link.
pub(crate) const CLIENT_IP: &str = "10.99.0.1";
/// The server namespace's address on the link.
pub(crate) const SERVER_IP: &str = "10.99.0.2";

/// Which processor a process runs on: the proxies share one, load and backend the other, so that what is measured
/// is not disturbed by what measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Core {
    /// Load generator, backend, telemetry sink.
    Load,
    /// Both proxies.
    Proxy,
}

impl Core {
    fn number(self) -> &'static str {
        match self {
            Self::Load => "0",
            Self::Proxy => "1",
        }
    }
}

/// One network namespace.
pub(crate) struct Namespace {
    holder: Background,
}

impl Namespace {
    fn new(name: &str, scratch: &std::path::Path) -> Result<Self> {
        let mut command =
            process::command(&["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]);
        let holder = Background::start(name, &mut command, &scratch.join(format!("{name}.log")))?;
        let ours = fs::read_link("/proc/self/ns/net")?;
        let path = format!("/proc/{}/ns/net", holder.id());
        process::wait_until("a network namespace", Duration::from_secs(5), || {
            // Not ours any more, and `unshare` has become `sleep`.
            let comm = fs::read_to_string(format!("/proc/{}/comm", holder.id())).unwrap_or_default();
            Ok(fs::read_link(&path).is_ok_and(|theirs| theirs != ours) && comm.trim() == "sleep")
        })?;
        Ok(Self { holder })
    }

    /// A short command inside, run to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Result<()> {
        process::capture(self.enter().args(words))?;
        Ok(())
    }

    /// Where it can be entered.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// `nsenter` into this namespace; the words that follow are the program.
    pub(crate) fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path()));
        command
    }

    /// A long-running program inside: pinned to a core, as many open files as allowed, ended with us. `user` is a
    /// numeric user id to run as.
    pub(crate) fn program<S: AsRef<OsStr>>(&self, core: Core, user: Option<u32>, words: &[S]) -> Command {
        let mut command = self.enter();
        command.args(["sh", "-c", "ulimit -n $(ulimit -H -n) && exec \"$@\"", "sh"]);
        command.args(["taskset", "--cpu-list", core.number()]);
        command.args(["setpriv", "--pdeathsig", "KILL"]);
        if let Some(id) = user {
            command.args([format!("--reuid={id}"), format!("--regid={id}"), "--clear-groups".to_owned()]);
        }
        command.args(words);
        command
    }
}

/// The two namespaces of one pair.
pub(crate) struct Bed {
    /// Beside the client.
    pub(crate) client: Namespace,
    /// Beside the backend.
    pub(crate) server: Namespace,
    /// A directory for configurations and logs of this pair.
    pub(crate) scratch: PathBuf,
}

impl Bed {
    /// Makes both namespaces and the link.
    pub(crate) fn new(scratch: PathBuf) -> Result<Self> {
        fs::create_dir_all(&scratch)?;
        let client = Namespace::new("client-namespace", &scratch)?;
        let server = Namespace::new("server-namespace", &scratch)?;
        let (client_id, server_id) = (client.holder.id().to_string(), server.holder.id().to_string());
        process::capture(
            Command::new("ip")
                .args(["link", "add", "mesh0", "netns", &client_id, "type", "veth"])
                .args(["peer", "name", "mesh0", "netns", &server_id]),
        )
        .context("cannot join two network namespaces (this needs root)")?;
        for (namespace, address) in [(&client, CLIENT_IP), (&server, SERVER_IP)] {
            namespace.run(&["ip", "link", "set", "lo", "up"])?;
            namespace.run(&["ip", "address", "add", &format!("{address}/24"), "dev", "mesh0"])?;
            namespace.run(&["ip", "link", "set", "mesh0", "up"])?;
            // A connection per request wants many local ports.
            let ports = "echo 10240 65535 > /proc/sys/net/ipv4/ip_local_port_range";
            namespace.run(&["sh", "-c", ports])?;
        }
        Ok(Self { client, server, scratch })
    }

    /// The namespace of one side.
    pub(crate) fn namespace(&self, side: Side) -> &Namespace {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    /// Starts a program of this bed, with its log beside its configuration.
    pub(crate) fn start<S: AsRef<OsStr>>(
        &self,
        name: &str,
        side: Side,
        core: Core,
        user: Option<u32>,
        words: &[S],
    ) -> Result<Background> {
        let log = self.scratch.join(format!("{name}.log"));
        Background::start(name, &mut self.namespace(side).program(core, user, words), &log)
    }

    /// Writes a file of this bed and gives its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.scratch.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }

    /// Waits until something listens on a TCP port of this side; `process` must stay alive meanwhile.
    pub(crate) fn wait_listening(&self, side: Side, port: u16, process: &mut Background) -> Result<()> {
        let needle = format!(":{port:04X} ");
        let holder = self.namespace(side).holder.id();
        process::wait_until(&format!("port {port}"), Duration::from_secs(30), || {
            process.check()?;
            // State 0A is LISTEN (include/net/tcp_states.h); the local address is the second column.
            let tables = ["tcp", "tcp6"]
                .map(|table| fs::read_to_string(format!("/proc/{holder}/net/{table}")).unwrap_or_default());
            Ok(tables.iter().flat_map(|table| table.lines()).any(|line| {
                let mut columns = line.split_whitespace().skip(1);
                let local = columns.next().is_some_and(|local| format!("{local} ").ends_with(&needle));
                local && columns.nth(1) == Some("0A")
            }))
        })
    }
}
