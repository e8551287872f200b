//! Connections whose bytes go to a backend as they are: TLSRoute and TCPRoute.

use std::rc::Rc;
use std::sync::Arc;

use weft_net::proxy_protocol::ProxyHeader;
use weft_net::{RelayCounters, RelayOptions, RelayOutcome, relay, relay_plain};
use weft_route::{L4Rule, Listener, ListenerKind, Upstream};
use weft_telemetry::metrics::{Direction, TcpLabels, TlsLabel, families};

use super::GatewayDoor;
use super::edge::{Edge, EdgeIo, tcp};
use crate::dial::{Announced, DialError};
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
            Ok(upstream) => Ok(Arc::clone(upstream)),
        }
    }

    /// Connects to a backend: over a mesh link where it is in the mesh; outside of it over TLS where that is asked for, or in
    /// plaintext. One that wants to know is told whose connection it is.
    async fn reach(&self, upstream: &Arc<Upstream>, edge: &Edge) -> Result<Reached, DialError> {
        let header = Some(ProxyHeader::Proxied { source: edge.client, destination: edge.local });
        let announced = upstream.proxy_protocol.map(|version| Announced { version, header });
        reach(&self.door.outbound, &self.door.routing.cluster(upstream), announced.as_ref()).await
    }

    async fn carry(self, mut edge: Edge, upstream: Arc<Upstream>, reached: Reached) {
        let Reached { mut far, endpoint, in_flight: _in_flight } = reached;
        self.count(&upstream.label, "relayed");
        let peer = far.peer();
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
            weft_net::reset_on_drop(tcp(&edge.io));
            match &far {
                Far::Tls(stream, _) => weft_net::reset_on_drop(stream.get_ref().0.get_ref()),
                Far::Plain(stream) => weft_net::reset_on_drop(stream),
            }
        }
    }

    fn refuse(&self, edge: &Edge, backend: &str, outcome: &'static str, why: &str) {
        self.count(backend, outcome);
        tracing::debug!(client = %edge.client, listener = %self.listener.label, why, "refused a connection");
        weft_net::reset_on_drop(tcp(&edge.io));
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
            (None, _) if upstream.tls.is_some() => TlsLabel::Tls,
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
        (near, Far::Tls(far, _)) => relay(near, far, options, counters).await,
    }
}
