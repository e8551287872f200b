//! The ports of a gateway, on the control thread: bound, changed and let go as the program says.
//!
//! A port that stays is not touched: what it does is swapped in place, and its sockets and connections do not notice. One that
//! is new is bound once for each worker (SO_REUSEPORT) before one that is gone is let go. What is gone accepts nothing more,
//! and what is open there ends as in a drain of the process.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use weft_core::{Drain, DrainTrigger, drain};
use weft_identity::edge::{ALPN_H2, ALPN_HTTP1, ClientCheck, ClientRoots, EdgeServer, Tickets};
use weft_identity::{IdentityError, TrustBundle};
use weft_net::{ListenOptions, Listener as Socket};
use weft_route::{ClientValidation, Listener, ListenerId, ListenerKind, SocketKind, Sockets, TlsTermination};

use super::port::{ListenAt, ListenerState, Port, PortState};
use crate::program::ProgramHandle;
use crate::worker::Door;

/// How often a port that could not be had is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Sockets on their way to a worker.
pub(crate) type DoorSender = UnboundedSender<(Door, Socket)>;

/// What the admin server tells of the ports.
#[derive(Debug, Default)]
pub(crate) struct DoorStatus(Mutex<Status>);

#[derive(Debug, Default)]
struct Status {
    /// Whether a program has been in force with all its ports.
    complete: bool,
    /// By port: why it is not listened on, where it is not.
    ports: BTreeMap<ListenAt, Option<String>>,
}

impl DoorStatus {
    /// Why the gateway does not take traffic yet. Once it did, a port that is missing is no reason to take none on the others.
    pub(crate) fn unready(&self) -> Option<String> {
        let status = self.lock();
        let missing: Vec<&str> = status.ports.values().flatten().map(String::as_str).collect();
        match status.complete {
            true => None,
            false if missing.is_empty() => Some("no gateways and routes are in force yet".to_owned()),
            false => Some(missing.join("; ")),
        }
    }

    /// Every port, and whether it is listened on.
    pub(crate) fn ports(&self) -> Vec<(ListenAt, bool)> {
        self.lock().ports.iter().map(|(at, missing)| (*at, missing.is_none())).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ports, and how they come to the workers.
pub(crate) struct Doors {
    program: Arc<ProgramHandle>,
    status: Arc<DoorStatus>,
    workers: Vec<DoorSender>,
    options: ListenOptions,
    /// How long a drain takes (`timeouts.drain`).
    grace: Duration,
    open: HashMap<ListenAt, Open>,
}

/// A port that is listened on.
struct Open {
    port: Arc<Port>,
    kind: SocketKind,
    trigger: DrainTrigger,
    listeners: HashMap<ListenerId, Known>,
}

/// What is kept of a listener from one program to the next.
struct Known {
    listener: Arc<Listener>,
    tls: Option<(EdgeServer, Tickets)>,
    trigger: DrainTrigger,
}

impl Doors {
    pub(crate) fn new(
        program: Arc<ProgramHandle>,
        status: Arc<DoorStatus>,
        workers: Vec<DoorSender>,
        options: ListenOptions,
        grace: Duration,
    ) -> Self {
        Self { program, status, workers, options, grace, open: HashMap::new() }
    }

    /// Follows the program until everything closes.
    pub(crate) async fn run(mut self, mut drain: Drain) {
        let mut versions = self.program.subscribe();
        loop {
            let complete = *versions.borrow_and_update() == 0 || self.apply();
            let retry = async {
                if complete {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(RETRY).await;
            };
            tokio::select! {
                Ok(()) = versions.changed() => {}
                () = retry => {}
                () = drain.draining() => break,
            }
        }
        for open in self.open.values() {
            open.start(self.grace);
        }
        drain.closed().await;
    }

    /// Brings the ports into line with the program. Whether all of them could be had.
    fn apply(&mut self) -> bool {
        let program = self.program.program();
        let wanted: Vec<(ListenAt, &Arc<Sockets>)> = program
            .sockets
            .iter()
            .flat_map(|one| ListenAt::of(one).into_iter().map(move |at| (at, one)))
            .collect();
        let mut missing = BTreeMap::new();
        for (at, sockets) in &wanted {
            let reason = self.bring(*at, sockets).err().map(|error| told(*at, sockets, &error));
            missing.insert(*at, reason);
        }
        let kept: HashSet<ListenAt> = wanted.iter().map(|(at, _)| *at).collect();
        let gone: Vec<ListenAt> = self.open.keys().filter(|at| !kept.contains(at)).copied().collect();
        for at in gone {
            if let Some(open) = self.open.remove(&at) {
                tracing::info!(%at, "no longer listening");
                open.let_go(self.grace);
            }
        }
        let complete = missing.values().all(Option::is_none);
        let mut status = self.status.lock();
        for (at, reason) in &missing {
            if let Some(reason) = reason
                && status.ports.get(at) != Some(&Some(reason.clone()))
            {
                tracing::error!(code = "listen-failed", "{reason}");
            }
        }
        status.complete |= complete;
        status.ports = missing;
        complete
    }

    /// Has a port do what the program says.
    fn bring(&mut self, at: ListenAt, sockets: &Arc<Sockets>) -> io::Result<()> {
        if let Some(open) = self.open.get_mut(&at)
            && open.kind == sockets.kind
        {
            open.change(sockets, self.grace);
            return Ok(());
        }
        let bound: Vec<Socket> =
            self.workers.iter().map(|_| bind(at, &self.options)).collect::<io::Result<_>>()?;
        let (trigger, drain) = drain();
        let mut listeners = HashMap::new();
        let state = state(sockets, &mut listeners, self.grace);
        let port = Port::new(at, drain, state);
        for (worker, socket) in self.workers.iter().zip(bound) {
            // A worker that is gone ends the process.
            let _ = worker.send((Door::Gateway(Arc::clone(&port)), socket));
        }
        tracing::info!(%at, listeners = labels(sockets), "listening");
        let open = Open { port, kind: sockets.kind, trigger, listeners };
        // What a client begins with has changed: whoever is connected began with something else.
        if let Some(before) = self.open.insert(at, open) {
            before.let_go(self.grace);
        }
        Ok(())
    }
}

impl Open {
    fn change(&mut self, sockets: &Arc<Sockets>, grace: Duration) {
        self.port.set(state(sockets, &mut self.listeners, grace));
    }

    fn start(&self, grace: Duration) {
        self.trigger.start(grace);
        for known in self.listeners.values() {
            known.trigger.start(grace);
        }
    }

    /// Accepts nothing more, and ends what is open.
    fn let_go(self, grace: Duration) {
        let Self { trigger, listeners, .. } = self;
        let triggers = listeners.into_values().map(|known| known.trigger);
        for trigger in std::iter::once(trigger).chain(triggers) {
            end(trigger, grace);
        }
    }
}

/// Begins a drain, and closes what is left when its time is over.
fn end(trigger: DrainTrigger, grace: Duration) {
    trigger.start(grace);
    tokio::spawn(async move {
        tokio::select! {
            () = tokio::time::sleep(grace) => {}
            () = trigger.unwatched() => {}
        }
        trigger.close();
    });
}

/// What a port does by a program, taking over from before what has not changed.
fn state(sockets: &Arc<Sockets>, known: &mut HashMap<ListenerId, Known>, grace: Duration) -> PortState {
    let mut before = std::mem::take(known);
    let mut listeners = HashMap::new();
    for listener in sockets.listeners.values() {
        let old = before.remove(&listener.id);
        // One that does something else than before is another one.
        let (old, other) = match old {
            Some(old) if same_kind(&old.listener, listener) => (Some(old), None),
            old => (None, old),
        };
        if let Some(other) = other {
            end(other.trigger, grace);
        }
        let tls = termination(listener).and_then(|wanted| secured(listener, wanted, old.as_ref()));
        let trigger = old.map_or_else(|| drain().0, |old| old.trigger);
        let of = ListenerState { tls: tls.as_ref().map(|(tls, _)| tls.clone()), drain: trigger.watch() };
        listeners.insert(listener.id.clone(), of);
        known.insert(listener.id.clone(), Known { listener: Arc::clone(listener), tls, trigger });
    }
    for gone in before.into_values() {
        end(gone.trigger, grace);
    }
    PortState::new(Arc::clone(sockets), listeners)
}

fn same_kind(one: &Listener, other: &Listener) -> bool {
    std::mem::discriminant(&one.kind) == std::mem::discriminant(&other.kind)
}

fn termination(listener: &Listener) -> Option<&TlsTermination> {
    match &listener.kind {
        ListenerKind::Https(termination, _) | ListenerKind::Tls(termination, _) => Some(termination),
        ListenerKind::Http(_)
        | ListenerKind::Mesh(_)
        | ListenerKind::Passthrough(_)
        | ListenerKind::Tcp(_) => None,
    }
}

/// The TLS of a listener: as before where nothing of it has changed. Sessions go on over a change of certificates, but not over
/// one of what clients have to show. Where the new one cannot be used, the last good one stays.
fn secured(
    listener: &Listener,
    wanted: &TlsTermination,
    old: Option<&Known>,
) -> Option<(EdgeServer, Tickets)> {
    let before = old.and_then(|old| Some((termination(&old.listener)?, old.tls.as_ref()?)));
    let tickets = match before {
        Some((had, tls)) if had == wanted => return Some(tls.clone()),
        Some((had, (_, tickets))) if had.clients == wanted.clients => Ok(tickets.clone()),
        _ => Tickets::new(),
    };
    let alpn: &[&[u8]] = match &listener.kind {
        ListenerKind::Https(..) => &[ALPN_H2, ALPN_HTTP1],
        _ => &[],
    };
    match tickets.and_then(|tickets| Ok((server(wanted, alpn, &tickets)?, tickets))) {
        Ok(secured) => Some(secured),
        Err(error) => {
            let kept = before.is_some();
            tracing::error!(code = "listener-tls", listener = %listener.label, %error, kept,
                "the TLS of a listener cannot be used; kept: the one before stays");
            // What asks less of clients than is wanted now is not kept.
            before.filter(|(had, _)| had.clients == wanted.clients).map(|(_, tls)| tls.clone())
        }
    }
}

fn server(wanted: &TlsTermination, alpn: &[&[u8]], tickets: &Tickets) -> Result<EdgeServer, IdentityError> {
    let pairs = wanted.certificates.iter().map(|one| (one.chain.as_slice(), one.key.as_slice()));
    let clients = wanted.clients.as_deref().map(check).transpose()?;
    EdgeServer::new(pairs, clients, alpn, tickets)
}

fn check(validation: &ClientValidation) -> Result<ClientCheck, IdentityError> {
    let roots = ClientRoots::new(TrustBundle::from_pem(&validation.roots.join(&b'\n'))?);
    Ok(ClientCheck { roots: Arc::new(roots), insecure_fallback: validation.insecure_fallback })
}

fn bind(at: ListenAt, options: &ListenOptions) -> io::Result<Socket> {
    match at.address {
        None => Socket::bind_any(at.port, options),
        Some(ip) => Socket::bind(SocketAddr::new(ip, at.port), &ListenOptions { v6_only: true, ..*options }),
    }
}

fn labels(sockets: &Sockets) -> String {
    let mut labels: Vec<&str> = sockets.listeners.values().map(|listener| &*listener.label).collect();
    labels.sort_unstable();
    labels.join(", ")
}

fn told(at: ListenAt, sockets: &Sockets, error: &io::Error) -> String {
    let cure = match error.kind() {
        io::ErrorKind::AddrInUse => "another process has it; it is tried again every second",
        io::ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "no interface has this address",
        _ => "it is tried again every second",
    };
    format!("cannot listen on {at} for {}: {error}; {cure}", labels(sockets))
}

#[cfg(test)]
#[path = "doors_tests.rs"]
mod tests;
