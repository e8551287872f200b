//! Answers that leave in a content coding, as curl decodes them.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_testbed::{Gateway, Process, PublicCa, eventually};

const PATIENCE: Duration = Duration::from_secs(20);

const NGINX: &str = include_str!("../../peers/nginx-files.conf");

const DOORS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public, namespace: edge}
spec:
  gatewayClassName: weft
  addresses: [{value: "{ip}"}]
  listeners:
    - {name: web, port: 8080, protocol: HTTP}
    - {name: shop, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{group: weft.dev, kind: Certificate, name: shop}]}}
---
apiVersion: weft.dev/v1alpha1
kind: Certificate
metadata: {name: shop, namespace: edge}
spec: {certificateFile: "{dir}/shop.pem", keyFile: "{dir}/shop.key"}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: all, namespace: edge}
spec: {parentRefs: [{name: public}], rules: [{backendRefs: [{group: weft.dev, kind: Backend, name: behind}]}]}
---
apiVersion: weft.dev/v1alpha1
kind: Backend
metadata: {name: behind, namespace: edge}
"#;

/// A gateway that compresses, in front of what listens there.
fn gateway(behind: SocketAddr, compression: &str) -> Result<Gateway> {
    let dir = tempfile::tempdir()?;
    PublicCa::new(dir.path(), "ca")?.issue("shop", &["a.shop.test"])?;
    let (ip, port) = (behind.ip(), behind.port());
    let resources = format!("{DOORS}spec: {{endpoints: [{{host: \"{ip}\", port: {port}}}]}}\n");
    Gateway::start_with_yaml(dir, &resources, compression)
}

const ON: &str = "gateway: {compression: {}}\n";

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Something that gets smaller.
fn page(length: usize) -> String {
    let line = |n: usize| format!("<li>item {n} costs {}</li>\n", n * 7919 % 9973);
    let mut text: String = (0..).flat_map(|n| line(n).chars().collect::<Vec<_>>()).take(length).collect();
    text.replace_range(text.len() - 1.., "\n");
    text
}

/// nginx with files behind a gateway.
fn nginx(compression: &str) -> Result<(Gateway, Process)> {
    let addr = free_port()?;
    let gateway = gateway(addr, compression)?;
    let dir = gateway.dir().display().to_string();
    for made in ["tmp", "files"] {
        fs::create_dir(gateway.dir().join(made))?;
    }
    for (name, text) in [
        ("page.html", page(300_000)),
        ("small.html", page(1023)),
        ("image.png", page(50_000)),
        ("stream.events", page(50_000)),
        ("data.json", page(2000)),
    ] {
        fs::write(gateway.dir().join("files").join(name), text)?;
    }
    let text = NGINX.replace("PORT", &addr.port().to_string()).replace("DIR", &dir);
    fs::write(gateway.dir().join("nginx.conf"), text)?;
    let config = format!("{dir}/nginx.conf");
    let process = gateway.beside("nginx", "nginx", &["-e", "stderr", "-c", &config])?;
    eventually("nginx to listen", PATIENCE, || {
        ensure!(process.is_running(), "nginx: {}", process.log());
        Ok(TcpStream::connect(addr).ok().map(drop))
    })?;
    Ok((gateway, process))
}

/// What curl gets: the head in small letters, and the body as it decoded it.
fn curl(gateway: &Gateway, path: &str, version: &str, args: &[&str]) -> Result<(String, String)> {
    let (url, resolve) = match version {
        "--http2" => {
            (format!("https://a.shop.test:8443{path}"), format!("a.shop.test:8443:{}", gateway.ip()))
        }
        _ => (format!("http://{}{path}", gateway.at(8080)), "x:1:127.0.0.1".to_owned()),
    };
    let fixed = ["-s", "-i", version, "--cacert", "ca.pem", "--resolve", &resolve, &url];
    let output = gateway.run("curl", &[&fixed, args].concat())?.ok().with_context(|| path.to_owned())?;
    let (head, body) = output.stdout.split_once("\r\n\r\n").context("no head")?;
    Ok((format!("{}\n", head.replace('\r', "").to_lowercase()), body.to_owned()))
}

#[test]
fn curl_decodes_what_nginx_sent() -> Result<()> {
    let (gateway, _nginx) = nginx(ON)?;
    for version in ["--http1.1", "--http2"] {
        for coding in ["gzip", "br", "zstd"] {
            let accept = format!("accept-encoding: {coding}");
            let (head, body) = curl(&gateway, "/page.html", version, &["--compressed", "-H", &accept])?;
            ensure!(body == page(300_000), "{version} {coding}: {} octets", body.len());
            for wanted in
                [&format!("\ncontent-encoding: {coding}\n"), "\nvary: accept-encoding\n", "\netag: w/\""]
            {
                ensure!(head.contains(wanted), "{wanted}: {head}");
            }
            ensure!(!head.contains("content-length") && !head.contains("accept-ranges"), "{head}");
            // And it is smaller.
            let size = ["-o", "/dev/null", "-w", "%{size_download}", "-H", &accept];
            let url = format!("http://{}/page.html", gateway.at(8080));
            let size = gateway.run("curl", &[&["-s", url.as_str()], &size[..]].concat())?.ok()?.stdout;
            ensure!(size.parse::<usize>()? < 100_000, "{coding}: {size} octets");
        }
        let (head, body) = curl(&gateway, "/page.html", version, &["--compressed"])?;
        ensure!(head.contains("content-encoding: zstd\n") && body == page(300_000), "{head}");
        // Who asks for none, and is told of the others.
        let (head, body) = curl(&gateway, "/page.html", version, &[])?;
        ensure!(!head.contains("content-encoding") && body == page(300_000), "{head}");
        ensure!(
            head.contains("vary: accept-encoding\n") && head.contains("content-length: 300000\n"),
            "{head}"
        );
    }
    Ok(())
}

#[test]
fn what_is_to_stay_as_it_is_stays() -> Result<()> {
    let (gateway, _nginx) = nginx(ON)?;
    for (path, args, length) in [
        ("/small.html", &["--compressed"][..], 1023),
        ("/image.png", &["--compressed"], 50_000),
        ("/stream.events", &["--compressed"], 50_000),
        ("/fixed/page.html", &["--compressed"], 300_000),
        ("/page.html", &["--compressed", "-r", "0-4999"], 5000),
        ("/page.html", &["--compressed", "-H", "cache-control: no-transform"], 300_000),
        ("/page.html", &["--compressed", "-0"], 300_000),
    ] {
        let (head, body) = curl(&gateway, path, "--http1.1", args)?;
        ensure!(!head.contains("content-encoding") && body.len() == length, "{path} {args:?}: {head}");
        ensure!(head.contains(&format!("content-length: {length}\n")), "{path}: {head}");
        ensure!(!head.contains("etag: w/"), "{path}: {head}");
    }
    // What nginx has encoded itself is not encoded again.
    let (head, body) = curl(&gateway, "/own/page.html", "--http1.1", &["--compressed"])?;
    ensure!(
        head.matches("content-encoding").count() == 1 && head.contains("content-encoding: gzip"),
        "{head}"
    );
    ensure!(body == page(300_000));
    // The tag that a client got is one that nginx knows again.
    let (head, _) = curl(&gateway, "/page.html", "--http1.1", &["--compressed"])?;
    let tag =
        head.lines().find_map(|line| line.strip_prefix("etag: ")).context("no tag")?.replace("w/", "W/");
    let again = format!("if-none-match: {tag}");
    let (head, body) = curl(&gateway, "/page.html", "--http1.1", &["--compressed", "-H", &again])?;
    ensure!(head.starts_with("http/1.1 304") && body.is_empty(), "{head}");
    ensure!(head.contains(&format!("etag: {}\n", tag.to_lowercase())), "{head}");
    let (head, body) = curl(&gateway, "/page.html", "--http1.1", &["--compressed", "-I"])?;
    ensure!(
        head.starts_with("http/1.1 200") && body.is_empty() && !head.contains("content-length"),
        "{head}"
    );
    Ok(())
}

#[test]
fn without_the_setting_nothing_changes_and_it_can_be_narrowed() -> Result<()> {
    let (gateway, _nginx) = nginx("")?;
    let (head, body) = curl(&gateway, "/page.html", "--http1.1", &["--compressed"])?;
    ensure!(!head.contains("content-encoding") && !head.contains("vary") && body.len() == 300_000, "{head}");
    let narrow =
        "gateway: {compression: {algorithms: [gzip], minimumSize: 10KiB, contentTypes: [text/html]}}\n";
    let (gateway, _nginx) = nginx(narrow)?;
    let (head, body) = curl(&gateway, "/page.html", "--http1.1", &["--compressed"])?;
    ensure!(head.contains("content-encoding: gzip\n") && body == page(300_000), "{head}");
    let (head, _) = curl(&gateway, "/data.json", "--http1.1", &["--compressed"])?;
    ensure!(!head.contains("content-encoding") && !head.contains("vary"), "{head}");
    Ok(())
}

/// A backend that begins an answer and goes on as it is told.
struct Slow {
    addr: SocketAddr,
    orders: Sender<Order>,
    /// What became of each part that it was to send: `false`, nobody takes it.
    sent: Receiver<bool>,
}

enum Order {
    Send(String),
    End,
    BreakOff,
}

impl Slow {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        let (orders, taken) = channel();
        let (done, sent) = channel();
        thread::spawn(move || -> std::io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            let mut head = [0; 4096];
            let _ = stream.read(&mut head)?;
            stream.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ntransfer-encoding: chunked\r\n\r\n",
            )?;
            stream.set_write_timeout(Some(Duration::from_secs(3)))?;
            for order in taken {
                match order {
                    Order::Send(text) => {
                        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
                        let _ = done.send(stream.write_all(chunk.as_bytes()).is_ok());
                    }
                    Order::End => stream.write_all(b"0\r\n\r\n")?,
                    Order::BreakOff => return Ok(()),
                }
            }
            Ok(())
        });
        Ok(Self { addr, orders, sent })
    }

    fn send(&self, text: &str) -> Result<bool> {
        self.orders.send(Order::Send(text.to_owned())).ok().context("the backend is gone")?;
        Ok(self.sent.recv_timeout(PATIENCE)?)
    }
}

/// curl, whose output is read as it comes.
fn streaming(gateway: &Gateway, version: &str, coding: &str) -> Result<std::process::Child> {
    let url = format!("http://{}/", gateway.at(8080));
    let accept = format!("accept-encoding: {coding}");
    let version = if version == "2" { "--http2-prior-knowledge" } else { "--http1.1" };
    let args = ["-s", "-N", version, "--compressed", "-m", "30", "-H", &accept, &url];
    Command::new("curl").args(args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("curl")
}

#[test]
fn a_backend_that_pauses_holds_nothing_back() -> Result<()> {
    for (version, coding) in [("1", "gzip"), ("2", "br"), ("1", "zstd")] {
        let backend = Slow::start()?;
        let gateway = gateway(backend.addr, ON)?;
        let mut client = streaming(&gateway, version, coding)?;
        let mut output = client.stdout.take().context("no output")?;
        for part in ["the first part, ", "the second, ", "and so on"] {
            backend.send(part)?;
            let mut got = vec![0; part.len()];
            output.read_exact(&mut got)?;
            ensure!(got == part.as_bytes(), "{coding}: {}", String::from_utf8_lossy(&got));
        }
        backend.orders.send(Order::End)?;
        ensure!(client.wait()?.success(), "{coding}");
        ensure!(output.read(&mut [0; 8])? == 0);
    }
    Ok(())
}

#[test]
fn a_backend_that_breaks_off_is_no_end() -> Result<()> {
    for (version, coding) in
        [("1", "gzip"), ("2", "br"), ("2", "zstd"), ("1", "zstd"), ("2", "gzip"), ("1", "br")]
    {
        let backend = Slow::start()?;
        let gateway = gateway(backend.addr, ON)?;
        let mut client = streaming(&gateway, version, coding)?;
        backend.send("<p>half of it")?;
        let mut output = client.stdout.take().context("no output")?;
        let mut got = [0; 13];
        output.read_exact(&mut got)?;
        backend.orders.send(Order::BreakOff)?;
        let status = client.wait()?;
        ensure!(!status.success() && &got == b"<p>half of it", "{version} {coding}: {status}");
    }
    Ok(())
}

#[test]
fn a_client_that_does_not_read_holds_up_the_backend() -> Result<()> {
    let backend = Slow::start()?;
    let gateway = gateway(backend.addr, ON)?;
    let mut client = TcpStream::connect(gateway.at(8080))?;
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\n\r\n")?;
    // Letters as of base64: three quarters of it remain.
    let mut state = 1_u64;
    let mut part = || -> String {
        let mut letter = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(
                b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[(state >> 58) as usize],
            )
        };
        (0..100_000).map(|_| letter()).collect()
    };
    let mut sent = 0;
    while sent < 1000 && backend.send(&part())? {
        sent += 1;
    }
    // Buffers of the kernel on both sides are some megabytes; the rest was not taken.
    ensure!(sent < 400, "{sent} parts of 100 kB were taken, and nobody read them");
    Ok(())
}
