//! A pod and the network it is in, as two network namespaces.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use weft_intercept::{Backend, BackendChoice, Families, Host};

pub(crate) const WAIT: Duration = Duration::from_secs(2);

pub(crate) fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {err}");
    String::from_utf8(output.stdout).unwrap()
}

/// A pod at 10.9.0.2 and fd00:9::2, and the network it is in: 10.9.0.1 and fd00:9::1, with a route to everywhere.
pub(crate) struct Pod {
    name: String,
}

impl Pod {
    pub(crate) fn new() -> Option<Self> {
        #[expect(clippy::print_stderr, reason = "a skipped test says so")]
        fn skipped() {
            eprintln!("skipped: needs root and iproute2");
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() || Command::new("ip").arg("-V").output().is_err() {
            skipped();
            return None;
        }
        let name = format!("wk{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let pod = Self { name };
        let (pod_ns, net_ns) = (pod.ns(), pod.net());
        sh(&format!(
            "set -e; ip netns add {pod_ns}; ip netns add {net_ns}
             ip link add eth0 netns {pod_ns} type veth peer name eth0 netns {net_ns}
             for n in {pod_ns} {net_ns}; do
               ip netns exec $n sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.eth0.accept_dad=0
               ip -n $n link set lo up; ip -n $n link set eth0 up
             done
             ip -n {pod_ns} addr add 10.9.0.2/24 dev eth0; ip -n {net_ns} addr add 10.9.0.1/24 dev eth0
             ip -n {pod_ns} addr add fd00:9::2/64 dev eth0 nodad; ip -n {net_ns} addr add fd00:9::1/64 dev eth0 nodad
             ip -n {net_ns} addr add 10.9.0.3/24 dev eth0
             ip -n {pod_ns} route add default via 10.9.0.1; ip -n {pod_ns} route add default via fd00:9::1"
        ));
        Some(pod)
    }

    pub(crate) fn ns(&self) -> String {
        format!("{}p", self.name)
    }

    pub(crate) fn net(&self) -> String {
        format!("{}n", self.name)
    }

    /// Runs `work` inside the pod.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.ns(), work)
    }

    /// Runs `work` on the network beside the pod.
    pub(crate) fn outside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.net(), work)
    }

    /// All rules, without counters and comments of the program.
    pub(crate) fn rules(&self) -> String {
        let saved = sh(&format!(
            "for c in iptables-nft-save iptables-legacy-save ip6tables-nft-save ip6tables-legacy-save; do ip netns exec {} $c; done",
            self.ns()
        ));
        let rule = |line: &&str| line.starts_with("-A") || line.starts_with('*') || line.starts_with(":WEFT");
        saved.lines().filter(rule).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.ns()]).status();
        let _ = Command::new("ip").args(["netns", "del", &self.net()]).status();
    }
}

fn inside<T: Send>(ns: &str, work: impl FnOnce() -> T + Send) -> T {
    let file = std::fs::File::open(Path::new("/run/netns").join(ns)).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))
                .unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs `work` as user `uid` on a thread of its own, in the namespace of the caller.
pub(crate) fn as_user<T: Send>(uid: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let uid = rustix::process::Uid::from_raw(uid);
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A listener that tells each client which port it reached.
pub(crate) fn serve(addr: &str) -> SocketAddr {
    let listener = TcpListener::bind(addr).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.write_all(addr.port().to_string().as_bytes());
        }
    });
    addr
}

/// Connects, and tells which port answered; `None` when nobody did.
pub(crate) fn reach(target: &str) -> Option<u16> {
    reach_from(None, target)
}

pub(crate) fn reach_from(from: Option<&str>, target: &str) -> Option<u16> {
    let target: SocketAddr = target.parse().unwrap();
    let mut stream = match from {
        None => TcpStream::connect_timeout(&target, WAIT).ok()?,
        Some(from) => {
            use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
            let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let fd = socket(family, SocketType::STREAM, None).unwrap();
            bind(&fd, &SocketAddr::new(from.parse::<IpAddr>().unwrap(), 0)).unwrap();
            connect(&fd, &target).ok()?;
            TcpStream::from(fd)
        }
    };
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.parse().ok()
}

pub(crate) fn backends() -> [Backend; 2] {
    [Backend::Nft, Backend::Legacy]
}

pub(crate) fn host(backend: Backend) -> Host {
    Host::detect(Families::Both, BackendChoice::Only(backend)).unwrap()
}
