//! Two pods with sidecars, and a raw connection to talk over.

use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_testbed::apps::Checksum;
use weft_testbed::{Mesh, Metrics, Pod, Service, Sidecar, Task};

/// The server, as clients name it.
pub(crate) const APP: &str = "app.shop";

/// Longer than anything waits here; only a story that fails reaches it.
const DEADLINE: Duration = Duration::from_secs(15);

/// A client and a server, both in the mesh.
pub(crate) struct Pair {
    pub(crate) client: Pod,
    pub(crate) server: Pod,
    pub(crate) client_proxy: Sidecar,
    pub(crate) server_proxy: Sidecar,
}

impl Pair {
    /// `app.shop` with these ports, the same ones on the server.
    pub(crate) fn new(mesh: &Mesh, ports: &[u16]) -> Result<Self> {
        let (client, server) = pods(mesh, ports)?;
        Self::meshed(mesh, client, server)
    }

    /// Gives two pods their sidecars.
    pub(crate) fn meshed(mesh: &Mesh, client: Pod, server: Pod) -> Result<Self> {
        let client_proxy = mesh.sidecar(&client)?.start()?;
        let server_proxy = mesh.sidecar(&server)?.start()?;
        Ok(Self { client, server, client_proxy, server_proxy })
    }

    /// Runs `talk` in the client's pod over a connection to `app.shop`.
    pub(crate) fn talk<T: Send>(
        &self,
        port: u16,
        talk: impl AsyncFnOnce(&mut Wire) -> Result<T> + Send,
    ) -> Result<T> {
        let address = SocketAddr::new(self.client.resolve(APP)?[0], port);
        self.client.run(async || talk(&mut Wire::connect(address).await?).await)
    }

    /// Sends `text` and returns the whole answer to it, as it came.
    pub(crate) fn ask(&self, port: u16, text: &str) -> Result<String> {
        self.talk(port, async |wire| {
            wire.say(text).await?;
            wire.answer(text.starts_with("HEAD ")).await
        })
    }

    /// curl in the client's pod, silent, with these arguments; what it printed.
    pub(crate) fn curl(&self, args: &[&str]) -> Result<String> {
        let output = self.client.exec(&[&["curl", "-sS", "--max-time", "15"], args].concat())?.ok()?;
        Ok(output.stdout)
    }

    /// How often the client's sidecar found out a protocol in this way.
    pub(crate) fn detected(&self, outcome: &str) -> Result<f64> {
        let labels = [("direction", "outbound"), ("outcome", outcome)];
        Ok(self.client_proxy.metrics()?.sum("weft_protocol_detections_total", &labels))
    }

    /// Both sidecars' metrics.
    pub(crate) fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics::merged(&[self.client_proxy.metrics()?, self.server_proxy.metrics()?]))
    }
}

/// The two pods and their name, still without sidecars.
pub(crate) fn pods(mesh: &Mesh, ports: &[u16]) -> Result<(Pod, Pod)> {
    let client = mesh.pod("client.shop").start()?;
    let server = mesh.pod("app.shop").start()?;
    let service = ports.iter().fold(Service::virtual_ip(APP), |service, port| service.port(*port, *port));
    mesh.dns().set(service.on(&[&server]))?;
    Ok((client, server))
}

/// Serves the next connection on a port of the pod with the test's own code; it listens when this returns.
pub(crate) fn serve<T: Send + 'static>(
    pod: &Pod,
    port: u16,
    work: impl AsyncFnOnce(Wire) -> Result<T> + Send + 'static,
) -> Result<Task<T>> {
    let bind = async || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).context("listening");
    let listener = pod.run(bind)?;
    listener.set_nonblocking(true).context("a listener for tokio")?;
    pod.start(async move || {
        let listener = tokio::net::TcpListener::from_std(listener).context("a listener for tokio")?;
        let (stream, _) = in_time("a connection to come", listener.accept()).await??;
        work(Wire::new(stream)?).await
    })
}

/// One end of a TCP connection, to be read and written by hand.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    /// Read, but not asked for yet.
    unread: Vec<u8>,
}

impl Wire {
    fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true).context("TCP_NODELAY")?;
        Ok(Self { stream, unread: Vec::new() })
    }

    pub(crate) async fn connect(to: SocketAddr) -> Result<Self> {
        Self::new(in_time("a connection", TcpStream::connect(to)).await??)
    }

    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        in_time("writing", self.stream.write_all(bytes.as_ref())).await?.context("writing")
    }

    /// Closes the sending half.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        self.stream.shutdown().await.context("half-close")
    }

    /// Has the connection end with a reset when it is dropped.
    pub(crate) fn reset(&mut self) -> Result<()> {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).context("SO_LINGER")
    }

    /// Whether the other side has sent nothing so far. Only what has arrived can be seen.
    pub(crate) fn is_quiet(&self) -> bool {
        self.unread.is_empty() && self.stream.try_read(&mut [0]).is_err()
    }

    async fn more(&mut self) -> Result<usize> {
        self.unread.reserve(65_536);
        in_time("bytes", self.stream.read_buf(&mut self.unread)).await?.context("reading")
    }

    /// The text up to and with `end`.
    pub(crate) async fn until(&mut self, end: &str) -> Result<String> {
        loop {
            let found = self.unread.windows(end.len()).position(|window| window == end.as_bytes());
            if let Some(at) = found {
                return self.take(at + end.len()).await;
            }
            if self.more().await? == 0 {
                bail!("the end came before {end:?}, after {:?}", String::from_utf8_lossy(&self.unread));
            }
        }
    }

    /// The next `count` bytes as text.
    pub(crate) async fn take(&mut self, count: usize) -> Result<String> {
        while self.unread.len() < count {
            if self.more().await? == 0 {
                bail!("the end came after {} of {count} bytes", self.unread.len());
            }
        }
        let rest = self.unread.split_off(count);
        let taken = std::mem::replace(&mut self.unread, rest);
        Ok(String::from_utf8_lossy(&taken).into_owned())
    }

    /// A message's head, with its empty line.
    pub(crate) async fn head(&mut self) -> Result<String> {
        self.until("\r\n\r\n").await
    }

    /// One HTTP/1 response as it came, after any 100, framed as its head says (RFC 9112 section 6.3).
    pub(crate) async fn answer(&mut self, to_head: bool) -> Result<String> {
        let mut text = self.head().await?;
        while text.starts_with("HTTP/1.1 100 ") {
            text = self.head().await?;
        }
        let bodiless = to_head || [" 204 ", " 304 "].iter().any(|code| text[8..].starts_with(code));
        if bodiless {
            return Ok(text);
        }
        if let Some(length) = header(&text, "content-length") {
            let length = length.parse().context("content-length")?;
            text.push_str(&self.take(length).await?);
        } else if header(&text, "transfer-encoding").is_some() {
            while !text.ends_with("\r\n0\r\n") {
                text.push_str(&self.until("\r\n").await?);
            }
            // Trailers end with an empty line, as heads do.
            loop {
                let line = self.until("\r\n").await?;
                text.push_str(&line);
                if line == "\r\n" {
                    break;
                }
            }
        } else {
            text.push_str(&self.rest().await?);
        }
        Ok(text)
    }

    /// Everything up to the end of the connection.
    pub(crate) async fn rest(&mut self) -> Result<String> {
        while self.more().await? > 0 {}
        let rest = std::mem::take(&mut self.unread);
        Ok(String::from_utf8_lossy(&rest).into_owned())
    }

    /// The checksum of the next `count` bytes, which are not kept.
    pub(crate) async fn checksum(&mut self, count: u64) -> Result<u64> {
        let mut sum = Checksum::default();
        let mut left = count;
        while left > 0 {
            if self.unread.is_empty() && self.more().await? == 0 {
                bail!("the end came {left} bytes before {count}");
            }
            let taken = self.unread.len().min(usize::try_from(left)?);
            sum.add(&self.unread[..taken]);
            self.unread.drain(..taken);
            left -= taken as u64;
        }
        Ok(sum.value())
    }

    /// Waits for the connection's end, by FIN or by RST, and ignores what comes before it.
    pub(crate) async fn gone(&mut self) -> Result<()> {
        let mut scrap = vec![0; 65_536];
        let read = async { while self.stream.read(&mut scrap).await.is_ok_and(|read| read > 0) {} };
        in_time("the other side to leave", read).await
    }
}

/// A header's value in a message's head.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().skip(1).take_while(|line| !line.is_empty());
    lines.find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Fails a story that would hang.
pub(crate) async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(DEADLINE, work).await.with_context(|| format!("waited in vain for {what}"))
}

/// Starts a TLS server with a certificate of its own for `name`; returns the certificate's path.
pub(crate) fn tls_server(pod: &Pod, name: &str, port: u16) -> Result<String> {
    let [key, cert] = ["own.key", "own.pem"].map(|file| pod.dir().join(file).display().to_string());
    let names = [format!("/CN={name}"), format!("subjectAltName=DNS:{name}")];
    let request =
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let files = ["-keyout", &key, "-out", &cert, "-days", "1", "-subj", &names[0], "-addext", &names[1]];
    pod.exec(&[&request[..], &files[..]].concat())?.ok()?;
    let port = port.to_string();
    let server = ["openssl", "s_server", "-accept", &port, "-cert", &cert, "-key", &key, "-www"];
    pod.spawn("s_server", &server)?.wait_for_log("ACCEPT", DEADLINE)?;
    Ok(cert)
}
