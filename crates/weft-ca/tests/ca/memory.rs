//! What an open bundle stream costs the CA, in memory of its process.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use weft_identity::proto::WatchBundleRequest;

use crate::support::{Site, WEB_TOKEN, raw_from, with_credential};

/// A `weft ca` of its own; ends with the value.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(site: &Site) -> Self {
        let program = std::env::var_os("WEFT_BINARY").expect("WEFT_BINARY must name the program weft");
        site.write(
            "ca.yaml",
            &format!(
                "trustDomain: weft.local\nlisten: 127.0.0.1:0\ndataDir: {}\ntokensFile: {}\n",
                site.path("data").display(),
                site.path("tokens.yaml").display()
            ),
        );
        let mut child = Command::new(program)
            .args(["ca", "--config"])
            .arg(site.path("ca.yaml"))
            .env("WEFT_LOG", "weft_ca=info")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let at = line.find("127.0.0.1:")?;
            let text: String =
                line[at..].chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect();
            text.parse().ok()
        });
        // The rest is read, or the process stops at a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address: address.expect("the CA says where it listens") }
    }

    /// Resident memory in KiB.
    fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Opens streams from as many addresses as a node has pods, each with a report as a proxy sends it, and prints what the
/// second half of them added. By hand:
///
/// ```text
/// WEFT_BINARY=target/release/weft cargo test -p weft-ca --test ca -- --ignored --nocapture memory
/// ```
#[tokio::test]
#[ignore = "needs WEFT_BINARY, and opens thousands of connections; WEFT_STREAMS says how many (2000)"]
#[expect(clippy::print_stdout, reason = "for whoever measures")]
async fn what_a_bundle_stream_costs() {
    let count: usize = std::env::var("WEFT_STREAMS").ok().and_then(|text| text.parse().ok()).unwrap_or(2000);
    let site = Arc::new(Site::new());
    let ca = Process::start(&site);
    let (empty, mut half) = (ca.resident(), 0);
    let mut open = Vec::new();
    for number in 0..count {
        if number == count / 2 {
            half = ca.resident();
        }
        let [.., third, fourth] = u32::try_from(number / 8).unwrap().to_be_bytes();
        let mut raw = raw_from([127, 1, third, fourth.max(1)], &site, ca.address);
        let (reports, requests) = tokio::sync::mpsc::channel(2);
        reports.send(WatchBundleRequest { bundle_hash: "0".repeat(64) }).await.unwrap();
        let request = with_credential(ReceiverStream::new(requests), Some(&format!("Bearer {WEB_TOKEN}")));
        let mut stream = raw.client.watch_bundle(request).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        open.push((raw, reports, stream));
    }
    let full = ca.resident();
    println!(
        "{count} streams: {empty} KiB without any, {full} KiB with all; {:.1} KiB each",
        (full - half) as f64 / (count - count / 2) as f64
    );
}
