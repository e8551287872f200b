//! `weft init` in real namespaces: what is captured, and what is not.
//!
//! No proxy runs here: servers that say which port they are on stand where the proxy would listen.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use weft_testbed::{Mesh, Output, PROXY_UID, Pod, story};

const OUTBOUND: u16 = 15001;
const INBOUND: u16 = 15006;

fn weft(pod: &Pod, args: &[&str]) -> Result<Output> {
    let command: Vec<&str> = ["/run/weft", "init"].iter().chain(args).copied().collect();
    pod.exec(&command)
}

/// A pod with rules, and servers in the place of the proxy's listeners.
fn captured(mesh: &Mesh, args: &[&str]) -> Result<Pod> {
    let pod = mesh.pod("captured.shop").start()?;
    for port in [OUTBOUND, INBOUND] {
        pod.app_as("greet", port, &format!("port-{port}"))?;
    }
    weft(&pod, args)?.ok().context("weft init")?;
    Ok(pod)
}

/// What greets a connection, or "" where there is none.
fn greeting(pod: &Pod, address: &str) -> Result<String> {
    pod.run(async || {
        let connect = TcpStream::connect(address);
        let Ok(Ok(mut stream)) = tokio::time::timeout(Duration::from_secs(3), connect).await else {
            return Ok(String::new());
        };
        let mut line = [0; 128];
        let read = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut line));
        let length = read.await.unwrap_or(Ok(0)).unwrap_or(0);
        Ok(String::from_utf8_lossy(&line[..length]).trim().to_owned())
    })
}

#[test]
fn tcp_is_captured_both_ways_in_both_families() {
    story("captured", |mesh| {
        let pod = captured(mesh, &[])?;
        let other = mesh.pod("other.shop").start()?;
        for out in ["10.96.0.99:80", "[fd96::99]:80", "192.0.2.1:443"] {
            assert_eq!(greeting(&pod, out)?, "220 port-15001 ready", "{out}");
        }
        for ip in pod.addresses() {
            let to = std::net::SocketAddr::new(ip, 8080).to_string();
            assert_eq!(greeting(&other, &to)?, "220 port-15006 ready", "{to}");
            // An application that calls its own pod's address comes in at the front door as well.
            let own = greeting(&pod, &to)?;
            assert!(own == "220 port-15001 ready" || own == "220 port-15006 ready", "{to}: {own:?}");
        }
        Ok(())
    });
}

#[test]
fn loopback_and_the_proxy_itself_are_not_captured() {
    story("returned", |mesh| {
        let pod = captured(mesh, &[])?;
        pod.app_as("greet", 8080, "the-app")?;
        assert_eq!(greeting(&pod, "127.0.0.1:8080")?, "220 the-app ready");
        assert_eq!(greeting(&pod, "[::1]:8080")?, "220 the-app ready");
        let other = mesh.pod("other.shop").start()?;
        other.app_as("greet", 9090, "other")?;
        let connect = format!("exec 3<>/dev/tcp/{}/9090; head -n1 <&3", other.ip());
        let proxy = pod.exec_as(Some(PROXY_UID), &["bash", "-c", &connect])?;
        assert_eq!(proxy.stdout.trim(), "220 other ready");
        let app = pod.exec(&["bash", "-c", &connect])?;
        assert_eq!(app.stdout.trim(), "220 port-15001 ready");
        Ok(())
    });
}

#[test]
fn the_rules_are_repeatable_and_removable() {
    story("rules", |mesh| {
        let pod = mesh.pod("captured.shop").start()?;
        let rules = || -> Result<String> {
            let v4 = pod.exec(&["iptables-save"])?.ok()?.stdout;
            let v6 = pod.exec(&["ip6tables-save"])?.ok()?.stdout;
            // Counters and times differ from one listing to the next.
            let lines = v4.lines().chain(v6.lines()).filter(|line| line.starts_with("-A"));
            Ok(lines.collect::<Vec<_>>().join("\n"))
        };
        assert_eq!(rules()?, "");
        weft(&pod, &[])?.ok()?;
        let once = rules()?;
        assert!(once.contains("15001") && once.contains("15006") && once.contains("15053"), "{once}");
        weft(&pod, &[])?.ok()?;
        assert_eq!(rules()?, once);
        weft(&pod, &["--remove"])?.ok()?;
        assert_eq!(rules()?, "");
        Ok(())
    });
}
