//! Connections whose bytes go to a backend as they are: TLSRoute and TCPRoute.

use std::rc::Rc;
use std::sync::Arc;

use weft_http::ErrorCode;
use weft_net::proxy_protocol::{self, ProxyHeader};
use weft_net::{RelayCounters, RelayOptions, RelayOutcome, relay, relay_plain};
use weft_route::{L4Rule, Listener, ListenerKind, Upstream};
use weft_telemetry::metrics::{Direction, TcpLabels, TlsLabel, families};

use super::GatewayDoor;
use super::edge::{Edge, EdgeIo};
use crate::dial::DialError;
use crate::outbound::tcp::{Far, Reached, reach};
use crate::record::{ConnectionFacts, TcpRecord};

/// Serves one connection by a rule; `None`: the listener has none for it.
pub(super) async fn serve(
    door: Rc<GatewayDoor>,
    edge: Edge,
    listener: &Arc<Listener>,
    rule: Option<Arc<L4Rule>>,
) {
    let way = Way { door, listener: Arc::clone(listener), rule };
    match way.backend() {
        Ok(upstream) => match way.reach(&upstream, &edge).await {
            Ok(reached) => drop(tokio::task::spawn_local(way.carry(edge, upstream, reached))),
            Err(error) => {
                way.record(&edge, &upstream, None).failed(error.code);
                way.refuse(&edge, &upstream.label, "unreachable", &error.detail);
            }
        },
        Err((outcome, why)) => way.refuse(&edge, "", outcome, &why),
    }
}

/// The way of one connection.
struct Way {
    door: Rc<GatewayDoor>,
    listener: Arc<Listener>,
    rule: Option<Arc<L4Rule>>,
}

impl Way {
    /// The backend whose turn it is, or why there is none.
    fn backend(&self) -> Result<Arc<Upstream>, (&'static str, String)> {
        let rule = self.rule.as_ref().ok_or(("no_route", "no route takes it".to_owned()))?;
        let picked = rule.backends.pick(&mut self.door.routing.rng.borrow_mut());
        let backend = picked.ok_or_else(|| ("no_backend", format!("{} has no backend", rule.id)))?;
        match &backend.upstream {
            Err(problem) => Err(("invalid_backend", format!("{}: {problem}", rule.id))),
            // It must not go in plaintext what was to be secured.
            Ok(upstream) if upstream.tls.is_some() => {
                let why = format!("{}: TLS towards {} is for HTTP routes only", rule.id, upstream.label);
                Err(("invalid_backend", why))
            }
            Ok(upstream) => Ok(Arc::clone(upstream)),
        }
    }

    /// Connects to a backend: over a mesh link where it is in the mesh, in plaintext where it is not. One that wants to know is told
    /// whose connection it is.
    async fn reach(&self, upstream: &Arc<Upstream>, edge: &Edge) -> Result<Reached, DialError> {
        let outbound = &self.door.outbound;
        let mut reached = reach(outbound, &self.door.routing.cluster(upstream)).await?;
        if let Some(version) = upstream.proxy_protocol {
            let header = ProxyHeader::Proxied { source: edge.client, destination: edge.local };
            let failed = |error: std::io::Error| DialError::new(ErrorCode::ConnectFailed, &error);
            match &mut reached.far {
                Far::Plain(stream) => {
                    proxy_protocol::write(stream, version, &header).await.map_err(failed)?;
                }
                // Not reached: what the resources list is outside the mesh, where links have no such header.
                Far::Mesh(..) => return Err(failed(std::io::ErrorKind::Unsupported.into())),
            }
        }
        Ok(reached)
    }

    async fn carry(self, mut edge: Edge, upstream: Arc<Upstream>, reached: Reached) {
        let Reached { mut far, endpoint, in_flight: _in_flight } = reached;
        self.count(&upstream.label, "relayed");
        let peer = match &far {
            Far::Mesh(_, peer) => Some(Arc::clone(peer)),
            Far::Plain(_) => None,
        };
        edge.listed.update(|info| {
            info.protocol = "tcp";
            info.service = Some(Arc::clone(&upstream.label));
            info.peer.clone_from(&peer);
        });
        let mut record = self.record(&edge, &upstream, peer);
        record.upstream = Some(endpoint.get());
        let counters = RelayCounters::default();
        let idle_timeout = self.door.shared.config.timeouts.tcp_idle;
        let options = RelayOptions { idle_timeout, ..RelayOptions::default() };
        let ended = edge.drain.clone().into_closed();
        let relaying = between(&mut edge.io, &mut far, &options, &counters);
        let outcome = record.run(relaying, &counters, ended).await;
        // An abort of one side, or of the whole process, is passed on as one.
        if outcome.is_none_or(|outcome| outcome.aborted) {
            weft_net::reset_on_drop(edge.io.tcp());
            match &far {
                Far::Mesh(stream, _) => weft_net::reset_on_drop(stream.get_ref().0.get_ref()),
                Far::Plain(stream) => weft_net::reset_on_drop(stream),
            }
        }
    }

    fn refuse(&self, edge: &Edge, backend: &str, outcome: &'static str, why: &str) {
        self.count(backend, outcome);
        tracing::debug!(client = %edge.client, listener = %self.listener.label, why, "refused a connection");
        weft_net::reset_on_drop(edge.io.tcp());
    }

    fn count(&self, backend: &str, outcome: &str) {
        let route = self.rule.as_ref().map_or("", |rule| &rule.label);
        let labels = [&self.listener.label, route, backend, outcome];
        self.door.telemetry.shard.counter(&families::GATEWAY_CONNECTIONS, &labels).inc();
    }

    fn record(&self, edge: &Edge, upstream: &Upstream, peer: Option<Arc<str>>) -> TcpRecord {
        let telemetry = &self.door.telemetry;
        let tls = match (&peer, &self.listener.kind) {
            (Some(_), _) => TlsLabel::Mutual,
            (None, ListenerKind::Passthrough(_)) => TlsLabel::Tls,
            (None, _) => TlsLabel::None,
        };
        let series = telemetry.shard.tcp_series(&TcpLabels {
            direction: Direction::Gateway,
            source_workload: &telemetry.own_workload(),
            destination_service: &upstream.label,
            peer_identity: peer.as_deref().unwrap_or(""),
            tls,
        });
        let facts = ConnectionFacts {
            direction: Direction::Gateway,
            client: edge.client,
            server: (edge.local.ip().to_string().into(), edge.local.port()),
            service: Arc::clone(&upstream.label),
            source_identity: telemetry.own_identity(),
            destination_identity: peer,
            tls,
        };
        TcpRecord::open(telemetry, facts, series)
    }
}

async fn between(
    near: &mut EdgeIo,
    far: &mut Far,
    options: &RelayOptions,
    counters: &RelayCounters,
) -> RelayOutcome {
    match (near, far) {
        // The kernel carries it by itself.
        (EdgeIo::Plain(near), Far::Plain(far)) => relay_plain(near, far, options, counters).await,
        (near, Far::Plain(far)) => relay(near, far, options, counters).await,
        (near, Far::Mesh(far, _)) => relay(near, far, options, counters).await,
    }
}
