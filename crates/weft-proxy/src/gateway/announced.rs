//! Connections that a load balancer makes for others, and says so: the PROXY protocol in front of a gateway's listeners.
//!
//! From the addresses that the configuration trusts the header is needed, and without it there is no connection: it would be one
//! whose client nobody knows. From all others nothing of the kind is read, so that nobody can say who they are. What they send
//! is what the port is for, and a header is none of it.

use std::cell::Cell;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;
use weft_config::ProxyProtocolSources;
use weft_core::{AddrSet, ClientAddr, Drain};
use weft_net::Accepted;
use weft_net::proxy_protocol::{self, ProxyHeader, ProxyProtocolError, Trusted, TrustedSources};
use weft_telemetry::Shard;
use weft_telemetry::metrics::{CodeCounters, families};

/// How often a worker says in its log that headers do not come as they should. All of them are counted.
const TELL: Duration = Duration::from_secs(10);

/// The load balancers in front.
pub(crate) struct Announced {
    sources: TrustedSources,
    /// At which ports they send headers.
    config: ProxyProtocolSources,
    outcomes: CodeCounters,
    told: Cell<Option<Instant>>,
}

impl Announced {
    /// `None`: there are none.
    pub(crate) fn new(config: &ProxyProtocolSources, shard: &Shard) -> Option<Self> {
        (!config.trusted.is_empty()).then(|| Self {
            sources: TrustedSources::new(AddrSet::new(&config.trusted)),
            config: config.clone(),
            outcomes: CodeCounters::new(shard, &families::GATEWAY_PROXY_PROTOCOL, &[]),
            told: Cell::new(None),
        })
    }

    /// Whether a connection has to begin with a header.
    pub(crate) fn expects(&self, accepted: &Accepted) -> Option<Trusted> {
        let here = self.config.at(accepted.local.port());
        self.sources.check(accepted.client).ok().filter(|_| here)
    }

    /// Reads the header and has the connection be the one that it tells of. What came behind it; `None`: there is no header, and
    /// the connection is closed.
    pub(crate) async fn read(
        &self,
        trusted: Trusted,
        accepted: &mut Accepted,
        limit: Duration,
        drain: Drain,
    ) -> Option<BytesMut> {
        let deadline = Instant::now() + limit;
        let mut first = BytesMut::new();
        let header = tokio::select! {
            biased;
            header = proxy_protocol::read(trusted, &mut accepted.stream, &mut first, deadline) => header,
            () = drain.into_quiet() => Err(ProxyProtocolError::TimedOut { octets: first.len() }),
        };
        match header {
            Ok(header) => {
                self.outcomes.inc(outcome(&header));
                if let ProxyHeader::Proxied { source, destination } = header {
                    (accepted.client, accepted.local) = (ClientAddr::new(source), destination);
                }
                Some(first)
            }
            Err(error) => {
                self.outcomes.inc(error.reason());
                self.tell(accepted, &error);
                None
            }
        }
    }

    fn tell(&self, accepted: &Accepted, error: &ProxyProtocolError) {
        let (peer, at) = (accepted.client, accepted.local);
        // Balancers that look whether the port is open connect and say nothing.
        let check = matches!(error, ProxyProtocolError::Closed { octets: 0 });
        let recent = self.told.get().is_some_and(|told| told.elapsed() < TELL);
        if check || recent {
            tracing::debug!(%peer, %at, %error, "closed a connection without a PROXY protocol header");
            return;
        }
        self.told.set(Some(Instant::now()));
        let reason = error.reason();
        tracing::warn!(code = "proxy-protocol", %peer, %at, %error, reason,
            "closed a connection: gateway.proxyProtocol.trusted has its address, so that it must begin with a header");
    }
}

fn outcome(header: &ProxyHeader) -> &'static str {
    match header {
        ProxyHeader::Proxied { .. } => "proxied",
        ProxyHeader::Local => "local",
        ProxyHeader::Unknown => "unknown",
    }
}

#[cfg(test)]
#[path = "announced_tests.rs"]
mod tests;
