//! The server: a script for each request, in the order in which requests begin, on whatever connection.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::message::{head_end, requests, whole_request};
use super::step::{Ending, Line, Script, Step};
use crate::pod::Pod;

/// One connection that the server got.
#[derive(Debug, Clone, Default)]
pub struct ServerConnection {
    /// Every byte that came.
    pub bytes: Vec<u8>,
    /// For each request that began on it, its number among all of the server.
    pub begun: Vec<usize>,
    /// How it stands.
    pub ending: Ending,
    /// Requests whose client was waited for until it left, and did.
    pub left: Vec<usize>,
    /// What a script waited for in vain, because the client had ended the connection.
    pub note: Option<String>,
    /// The server turned it into a tunnel: what follows the request is no HTTP.
    pub tunnel: bool,
}

#[derive(Debug)]
struct Shared {
    scripts: Vec<Script>,
    connections: Mutex<Vec<ServerConnection>>,
    begun: AtomicUsize,
    /// Connections in the middle of a script.
    busy: AtomicUsize,
}

/// The server. It ends, with all its connections, when it is dropped.
#[derive(Debug)]
pub struct ScriptedServer {
    shared: Arc<Shared>,
    _running: watch::Sender<()>,
}

impl ScriptedServer {
    /// Listens on a port of the pod. The first request that begins is answered by the first script and so on, those after the last
    /// script by that one. A script begins at a request's first byte, so that it can answer before the head has ended.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(pod: &Pod, port: u16, scripts: Vec<Script>) -> Result<Self> {
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener = pod.run(async || {
            let listener = std::net::TcpListener::bind(address).context("binding a scripted server")?;
            listener.set_nonblocking(true).context("scripted server")?;
            Ok(listener)
        })?;
        let (running, mut ended) = watch::channel(());
        let shared = Arc::new(Shared {
            scripts,
            connections: Mutex::default(),
            begun: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
        });
        let served = Arc::clone(&shared);
        pod.start(async move || {
            let listener = TcpListener::from_std(listener).context("scripted server")?;
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                        let number = served.accepted();
                        tokio::spawn(serve(stream, Arc::clone(&served), number));
                    },
                    // Only ever an error: the sender is gone. The runtime ends, and all connections with it.
                    _ = ended.changed() => return Ok(()),
                }
            }
        })?;
        Ok(Self { shared, _running: running })
    }

    /// What it has got so far, connection by connection.
    pub fn connections(&self) -> Vec<ServerConnection> {
        self.shared.locked().clone()
    }

    /// Whether no script is under way.
    pub fn is_idle(&self) -> bool {
        self.shared.busy.load(Ordering::SeqCst) == 0
    }
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, Vec<ServerConnection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accepted(&self) -> usize {
        let mut connections = self.locked();
        connections.push(ServerConnection::default());
        connections.len() - 1
    }

    fn change(&self, number: usize, change: impl FnOnce(&mut ServerConnection)) {
        if let Some(connection) = self.locked().get_mut(number) {
            change(connection);
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>, number: usize) {
    let mut line = Line::new(stream);
    // Where the request that is being answered begins.
    let mut start = 0;
    while line.is_open() || line.can_answer() && line.got.len() > start {
        while line.got.len() <= start && line.is_open() {
            line.more().await;
        }
        if line.got.len() > start {
            shared.busy.fetch_add(1, Ordering::SeqCst);
            let end = one(&mut line, start, &shared, number).await;
            shared.busy.fetch_sub(1, Ordering::SeqCst);
            if let Err(error) = end {
                shared.change(number, |connection| connection.note = Some(format!("{error:#}")));
                // Nothing in the script says how to go on.
                let _ = line.take(&Step::Gone, &|_, _| true).await;
            }
        }
        start = whole_request(&line.got, start).unwrap_or(line.got.len());
        shared.keep(number, &line);
    }
}

impl Shared {
    fn keep(&self, number: usize, line: &Line) {
        self.change(number, |connection| {
            connection.bytes.clone_from(&line.got);
            connection.ending = line.ending;
        });
    }
}

/// Answers the request that begins at `start`.
async fn one(line: &mut Line, start: usize, shared: &Shared, number: usize) -> Result<()> {
    let request = shared.begun.fetch_add(1, Ordering::SeqCst);
    shared.change(number, |connection| connection.begun.push(request));
    let script =
        shared.scripts.get(request).or(shared.scripts.last()).context("a server without a script")?;
    let found = |step: &Step, got: &[u8]| match step {
        Step::Head => head_end(got, start).is_some(),
        Step::Whole => whole_request(got, start).is_some(),
        Step::Until(bytes) => got.get(start..).is_some_and(|got| contains(got, bytes)),
        _ => true,
    };
    for step in script {
        if let Step::Say(bytes) = step
            && bytes.starts_with(b"HTTP/1.1 101 ")
        {
            shared.change(number, |connection| connection.tunnel = true);
        }
        let done = line.take(step, &found).await;
        shared.keep(number, line);
        done?;
        if matches!(step, Step::Gone) && line.ending != Ending::Own {
            shared.change(number, |connection| connection.left.push(request));
        }
    }
    Ok(())
}

pub(super) fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || bytes.windows(wanted.len()).any(|window| window == wanted)
}

impl ServerConnection {
    /// The requests on it, and what is left behind the last of them.
    pub fn requests(&self) -> (Vec<super::Message>, Vec<u8>) {
        requests(&self.bytes, self.tunnel)
    }
}
