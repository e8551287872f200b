//! What one relay costs: processor time per MB of the relaying thread alone, over loopback.
//!
//! `cargo run --release -p weft-net --example relay_cost -- [MODE] [MB]`. Without a mode, all are run in turn. Under
//! `strace -fc` one mode shows its system calls. Results are in `docs/design/tcp-relay.md`.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use weft_net::{
    Acceptor, ConnectOptions, ListenOptions, Listener, ReadAhead, RelayCounters, RelayOptions, connect,
    relay, relay_plain,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How the bytes are carried, and who speaks TLS on the client's side.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    /// `tokio::io::copy_bidirectional`, for comparison.
    Tokio,
    /// Buffers only.
    Copy,
    /// Buffers, then `splice`.
    Splice,
    /// TLS towards the client, rustls reading from the socket. The client sends.
    TlsIn,
    /// The same over [`ReadAhead`].
    TlsInAhead,
    /// TLS towards the client; the upstream sends.
    TlsOut,
    /// The same over [`ReadAhead`].
    TlsOutAhead,
    /// 1 KiB there and back over TLS, one at a time.
    TlsPing,
    /// The same over [`ReadAhead`].
    TlsPingAhead,
}

const MODES: [(&str, Mode); 9] = [
    ("tokio", Mode::Tokio),
    ("copy", Mode::Copy),
    ("splice", Mode::Splice),
    ("tls-in", Mode::TlsIn),
    ("tls-in-ahead", Mode::TlsInAhead),
    ("tls-out", Mode::TlsOut),
    ("tls-out-ahead", Mode::TlsOutAhead),
    ("tls-ping", Mode::TlsPing),
    ("tls-ping-ahead", Mode::TlsPingAhead),
];

impl Mode {
    fn is_tls(self) -> bool {
        !matches!(self, Self::Tokio | Self::Copy | Self::Splice)
    }

    fn is_ping(self) -> bool {
        matches!(self, Self::TlsPing | Self::TlsPingAhead)
    }

    fn is_download(self) -> bool {
        matches!(self, Self::TlsOut | Self::TlsOutAhead)
    }
}

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let only = args.next();
    let megabytes: usize = args.next().map_or(Ok(2000), |text| text.parse())?;
    for (name, mode) in MODES {
        if only.as_deref().is_none_or(|only| only == name) {
            // A ping moves 2 KiB.
            let total = if mode.is_ping() { megabytes * 50_000 } else { megabytes * 1_000_000 };
            run(name, mode, total)?;
        }
    }
    Ok(())
}

fn run(name: &str, mode: Mode, total: usize) -> Result<(), Failure> {
    let identity = Identity::new()?;
    let upstream = StdListener::bind("127.0.0.1:0")?;
    let upstream_addr = upstream.local_addr()?;
    let listener = Listener::bind("127.0.0.1:0".parse()?, &ListenOptions::default())?;
    let proxy_addr = listener.local_addr();
    let server = thread::spawn(move || serve(upstream.accept()?.0, mode, total));
    let tls = identity.client.clone();
    let client = thread::spawn(move || dial(proxy_addr, tls, mode, total));
    let relaying = thread::spawn(move || -> Result<(f64, f64), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (wall, cpu) = (Instant::now(), cpu_seconds()?);
        runtime.block_on(carry(listener, upstream_addr, identity.server, mode))?;
        Ok((wall.elapsed().as_secs_f64(), cpu_seconds()? - cpu))
    });
    let (wall, cpu) = relaying.join().map_err(|_| "the relay panicked")??;
    client.join().map_err(|_| "the client panicked")??;
    server.join().map_err(|_| "the server panicked")??;
    let (unit, count) = if mode.is_ping() { ("ping", total / 1024) } else { ("MB", total / 1_000_000) };
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{name:15} {:8.1} us CPU per {unit}, {:8.0} {unit}/s",
        cpu * 1e6 / count as f64,
        count as f64 / wall
    )?;
    Ok(())
}

/// The proxy: one connection in, one out, and the relay between them.
async fn carry(
    listener: Listener,
    upstream: SocketAddr,
    tls: Arc<ServerConfig>,
    mode: Mode,
) -> Result<(), Failure> {
    let client = Acceptor::new(listener)?.accept().await.stream;
    let mut upstream = connect(weft_core::EndpointAddr::new(upstream), &ConnectOptions::default()).await?;
    let counters = RelayCounters::default();
    let options = RelayOptions::default();
    let acceptor = TlsAcceptor::from(tls);
    match mode {
        Mode::Tokio => {
            let mut client = client;
            copy_bidirectional(&mut client, &mut upstream).await?;
        }
        Mode::Copy | Mode::Splice => {
            let mut client = client;
            let splice_after = options.splice_after.filter(|_| mode == Mode::Splice);
            relay_plain(&mut client, &mut upstream, &RelayOptions { splice_after, ..options }, &counters)
                .await;
        }
        Mode::TlsIn | Mode::TlsOut | Mode::TlsPing => over_tls(acceptor, client, upstream).await?,
        Mode::TlsInAhead | Mode::TlsOutAhead | Mode::TlsPingAhead => {
            over_tls(acceptor, ReadAhead::new(client), upstream).await?;
        }
    }
    Ok(())
}

async fn over_tls<S>(acceptor: TlsAcceptor, client: S, mut upstream: TcpStream) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut client = acceptor.accept(client).await?;
    relay(&mut client, &mut upstream, &RelayOptions::default(), &RelayCounters::default()).await;
    Ok(())
}

/// The client application; blocking.
fn dial(proxy: SocketAddr, tls: Arc<ClientConfig>, mode: Mode, total: usize) -> Result<(), Failure> {
    let socket = StdStream::connect(proxy)?;
    socket.set_nodelay(true)?;
    if !mode.is_tls() {
        return Ok(produce(socket, total)?);
    }
    let session = ClientConnection::new(tls, ServerName::try_from("bench.example")?)?;
    let mut stream = StreamOwned::new(session, socket);
    if mode.is_ping() {
        let mut message = [1; 1024];
        for _ in 0..total / message.len() {
            stream.write_all(&message)?;
            stream.read_exact(&mut message)?;
        }
    } else if mode.is_download() {
        consume(&mut stream, total)?;
    } else {
        produce(&mut stream, total)?;
    }
    stream.conn.send_close_notify();
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut stream.sock)?;
    }
    // The other end closes after it has taken everything.
    let _ = stream.read(&mut [0]);
    Ok(())
}

/// The server application; blocking.
fn serve(socket: StdStream, mode: Mode, total: usize) -> Result<(), Failure> {
    socket.set_nodelay(true)?;
    if mode.is_ping() {
        let mut socket = socket;
        let mut message = [0; 1024];
        for _ in 0..total / message.len() {
            socket.read_exact(&mut message)?;
            socket.write_all(&message)?;
        }
    } else if mode.is_download() {
        produce(socket, total)?;
    } else {
        consume(socket, total)?;
    }
    Ok(())
}

fn produce(mut to: impl Write, total: usize) -> io::Result<()> {
    let block = vec![1; 256 << 10];
    let mut left = total;
    while left > 0 {
        let n = left.min(block.len());
        to.write_all(&block[..n])?;
        left -= n;
    }
    to.flush()
}

fn consume(mut from: impl Read, total: usize) -> io::Result<()> {
    let mut block = vec![0; 256 << 10];
    let mut left = total;
    while left > 0 {
        match from.read(&mut block)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => left -= n.min(left),
        }
    }
    Ok(())
}

/// Time this thread was on a processor.
fn cpu_seconds() -> Result<f64, Failure> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds: f64 = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(nanoseconds / 1e9)
}

struct Identity {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Identity {
    fn new() -> Result<Self, Failure> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let made = rcgen::generate_simple_self_signed(vec!["bench.example".to_owned()])?;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone())?;
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }
}
