//! The applications that tests talk to: `weft-testapp serve <kind> --listen <ip:port> --name <name>`.
//!
//! | kind | what it does |
//! |---|---|
//! | `http` | HTTP/1.1 and HTTP/2 by prior knowledge; the path picks a behaviour (see `apps/http.rs`) |
//! | `raw` | HTTP/1.1 written to the socket: 1xx, `Expect`, answers without a length (see `apps/raw.rs`) |
//! | `echo` | sends bytes back |
//! | `greet` | speaks first, as SMTP does |
//! | `sink` | reads until half-close, then answers with count and checksum |
//! | `source` | sends as many bytes as asked, half-closes, reads on |
//! | `counter` | counts keys as redis does (see `apps/counter.rs`) |
//! | `names` | a small name server (see `apps/names.rs`) |
//! | `otlp` | Weft's own small OTLP/HTTP receiver (see `apps/otlp.rs`) |
//! | `web`, `orders`, `inventory` | the demo's services (see `apps/shop.rs`) |
//!
//! Each writes `listening on <address>` once it takes connections, and ends in good order (see `apps/ending.rs`).
//! `load` and `get` are clients for pods of a cluster (see `apps/load.rs`), and `attack` is a bad one (see `apps/attack`).

mod attack;
mod checksum;
mod counter;
mod ending;
mod http;
mod load;
mod names;
mod otlp;
mod raw;
mod shop;
mod tcp;

use std::net::{Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub use checksum::{Checksum, pattern, piece};
use ending::Ending;

/// What a server was started with.
#[derive(Debug)]
struct Args {
    kind: String,
    listen: SocketAddr,
    name: String,
    /// Where those that it calls are, by name; names that are not here are resolved.
    calls: shop::Calls,
}

/// The entry point of `weft-testapp`.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&format!("weft-testapp: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some("mesh-and-wait") {
        return mesh_and_wait();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    let mut words = std::env::args().skip(1);
    match std::env::args().nth(1).as_deref() {
        Some("load") => runtime.block_on(load::load(words.skip(1))),
        Some("attack") => runtime.block_on(attack::attack(words.skip(1))),
        Some("get") => runtime.block_on(load::get(words.skip(1))),
        _ => runtime.block_on(serve(parse(&mut words)?)),
    }
}

/// For the test that kills a process which has a mesh: says the name of its run and waits for the end of its input.
fn mesh_and_wait() -> Result<()> {
    let mesh = crate::Mesh::start("crash")?;
    let pod = mesh.pod("idle").start()?;
    pod.spawn("sleep", &["sleep", "600"])?;
    std::io::Write::write_all(&mut std::io::stdout(), format!("{}\n", mesh.run_name()).as_bytes())?;
    std::io::Read::read(&mut std::io::stdin(), &mut [0])?;
    Ok(())
}

fn parse(words: &mut impl Iterator<Item = String>) -> Result<Args> {
    if words.next().as_deref() != Some("serve") {
        bail!(
            "usage: weft-testapp serve <kind> (--port <port> | --listen <ip:port>) [--name <name>] [--call <name>=<ip:port>]..."
        );
    }
    // One IPv6 socket takes IPv4 as well (mapped): Linux's default, net.ipv6.bindv6only = 0.
    let mut listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let kind = words.next().context("no kind")?;
    let (mut name, mut calls) = (String::from("app"), shop::Calls::default());
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--port" => listen.set_port(value.parse().context("--port")?),
            "--listen" => listen = value.parse().context("--listen")?,
            "--name" => name = value,
            "--call" => {
                let (callee, address) = value.split_once('=').context("--call <name>=<ip:port>")?;
                calls.insert(callee.to_owned(), address.parse().context("--call")?);
            }
            _ => bail!("{word} is not an option"),
        }
    }
    Ok(Args { kind, listen, name, calls })
}

async fn serve(args: Args) -> Result<()> {
    let address = args.listen;
    if args.kind == "names" {
        return names::serve(address).await;
    }
    let listener = TcpListener::bind(address).await.with_context(|| format!("binding {address}"))?;
    let kind = Kind::parse(&args.kind, args.name.into(), args.calls)?;
    report(&format!("listening on {}", listener.local_addr().context("own address")?));
    let ending = Ending::on_sigterm()?;
    let mut connections = JoinSet::new();
    // One for all turns: a new one in each would begin to wait anew with each connection.
    let mut late = std::pin::pin!(ending.late());
    loop {
        let stream = tokio::select! {
            stream = listener.accept() => stream.context("accept")?.0,
            // What has ended is let go, or the set would grow for ever.
            Some(_) = connections.join_next() => continue,
            () = late.as_mut() => break,
        };
        let _ = stream.set_nodelay(true);
        let (kind, ending) = (kind.clone(), ending.clone());
        connections.spawn(async move {
            if let Err(error) = kind.serve(stream, ending).await {
                report(&format!("connection: {error:#}"));
            }
        });
    }
    drop(listener);
    let rest = tokio::time::timeout(ending::MOST, async { while connections.join_next().await.is_some() {} });
    if rest.await.is_err() {
        report("ended with connections open");
    }
    Ok(())
}

#[derive(Debug, Clone)]
enum Kind {
    Http(Arc<str>),
    Raw,
    Echo,
    Greet(Arc<str>),
    Sink,
    Source,
    Otlp,
    Counter(counter::Counts),
    Shop(Arc<shop::Shop>),
}

impl Kind {
    fn parse(kind: &str, name: Arc<str>, calls: shop::Calls) -> Result<Self> {
        Ok(match kind {
            "http" => Self::Http(name),
            "raw" => Self::Raw,
            "echo" => Self::Echo,
            "greet" => Self::Greet(name),
            "sink" => Self::Sink,
            "source" => Self::Source,
            "otlp" => Self::Otlp,
            "counter" => Self::Counter(counter::Counts::default()),
            _ => Self::Shop(Arc::new(
                shop::Shop::new(kind, name, calls).with_context(|| format!("no kind {kind}"))?,
            )),
        })
    }

    async fn serve(self, stream: TcpStream, ending: Ending) -> Result<()> {
        match self {
            Self::Http(name) => http::serve(stream, name, ending).await,
            Self::Raw => until(&ending, raw::serve(stream)).await,
            Self::Echo => until(&ending, tcp::echo(stream)).await,
            Self::Greet(name) => until(&ending, tcp::greet(stream, name)).await,
            Self::Sink => until(&ending, tcp::sink(stream)).await,
            Self::Source => until(&ending, tcp::source(stream)).await,
            Self::Otlp => until(&ending, otlp::serve(stream)).await,
            Self::Counter(counts) => until(&ending, counter::serve(stream, counts)).await,
            Self::Shop(shop) => shop.serve(stream, ending).await,
        }
    }
}

/// A connection that has no word for "this is the last answer" is cut.
async fn until(ending: &Ending, serving: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        result = serving => result,
        () = ending.late() => Ok(()),
    }
}

fn report(line: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes());
}
