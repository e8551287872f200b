//! A network namespace and a mount namespace without names, held by file descriptors; or, on loopback, neither.
//!
//! Nothing is bound to a path, so nothing is left when the process ends, however it ends. The mount namespace gives a
//! pod its own `/etc/resolv.conf` and a private `/run` (where iptables keeps its lock: two pods must not wait for each
//! other), with the `weft` binary at `/run/weft`, where a user without rights on the checkout can run it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::helper::Enter;
use crate::process::spawn_on_lasting_thread;

/// Where the `weft` binary is, seen from inside the namespaces.
pub(crate) const WEFT_INSIDE: &str = "/run/weft";

/// Runs in the new namespaces before anything else. `$1`: the resolv.conf, `$2`: the weft binary or "".
const SETUP: &str = r#"
set -e
mount -t tmpfs -o mode=755 tmpfs /run
if [ -n "$1" ]; then
  target=$(readlink -m /etc/resolv.conf)
  mkdir -p "$(dirname "$target")"
  [ -e "$target" ] || touch "$target"
  mount --bind "$1" "$target"
fi
if [ -n "$2" ]; then touch /run/weft; mount --bind "$2" /run/weft; fi
ip link set lo up
echo ready
exec cat
"#;

/// Where programs of a pod run.
#[derive(Debug)]
pub(crate) enum Sandbox {
    /// In namespaces.
    Namespaces {
        /// The network namespace.
        net: File,
        /// The mount namespace.
        mnt: File,
    },
    /// Where this process is.
    Here,
}

impl Sandbox {
    pub(crate) fn create(resolv_conf: Option<&Path>, weft: Option<&Path>) -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--propagation", "private", "--", "sh", "-c", SETUP, "setup"]);
        command.arg(resolv_conf.unwrap_or(Path::new(""))).arg(weft.unwrap_or(Path::new("")));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn_on_lasting_thread(command).context("running unshare (package util-linux)")?;
        let stdout = child.stdout.take().context("unshare has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("reading from unshare")?;
        if line.trim() != "ready" {
            let output = child.wait_with_output().context("waiting for unshare")?;
            let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("cannot make namespaces: {error}\n{}", needs_root());
        }
        let open = |kind: &str| {
            let path = format!("/proc/{}/ns/{kind}", child.id());
            File::open(&path).with_context(|| format!("opening {path}"))
        };
        let sandbox = Self::Namespaces { net: open("net")?, mnt: open("mnt")? };
        // Closing its input ends `cat`; from here on the descriptors hold the namespaces.
        drop(child.stdin.take());
        child.wait().context("waiting for unshare")?;
        Ok(sandbox)
    }

    /// The network namespace as a path that processes started from this one can open.
    pub(crate) fn net_path(&self) -> Option<String> {
        match self {
            Self::Namespaces { net, .. } => Some(path(net)),
            Self::Here => None,
        }
    }

    /// For starting a program inside.
    pub(crate) fn enter(&self, uid: Option<u32>) -> Enter {
        let namespaces = match self {
            Self::Namespaces { net, mnt } => Some((path(net), path(mnt))),
            Self::Here => None,
        };
        Enter { namespaces, uid }
    }

    fn net(&self) -> Result<Option<File>> {
        match self {
            Self::Namespaces { net, .. } => net.try_clone().context("duplicating the namespace").map(Some),
            Self::Here => Ok(None),
        }
    }

    /// Runs `work` on a new thread that is in the network namespace (not in the mount namespace: the file system is
    /// that of the test).
    pub(crate) fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T>>> {
        let net = self.net()?;
        Ok(thread::spawn(move || {
            enter_network(net)?;
            Ok(work())
        }))
    }

    /// Like [`Sandbox::on_thread`], but waits, so that `work` may borrow.
    pub(crate) fn scoped<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let net = self.net()?;
        thread::scope(|scope| {
            let handle = scope.spawn(|| {
                enter_network(net)?;
                Ok(work())
            });
            // A panic inside is the test's own: hand it on as it is.
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Moves the calling thread.
fn enter_network(net: Option<File>) -> Result<()> {
    let Some(net) = net else { return Ok(()) };
    move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))
        .context("entering the network namespace")
}

/// A descriptor of this process as a path that processes started from this one can open.
fn path(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// What to tell a user who may not make namespaces.
pub(crate) fn needs_root() -> &'static str {
    "network namespaces need root, or a user namespace with sub-ids: run the same command under\n  \
     unshare --user --map-root-user --map-auto --mount <command>\n(package uidmap, and a line for you in /etc/subuid and /etc/subgid)"
}
