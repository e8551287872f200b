//! Connections to destinations outside the mesh: forwarded as they are, and counted.

use std::sync::Arc;

use bytes::BytesMut;
use weft_core::EndpointAddr;
use weft_http::ErrorCode;
use weft_net::detect::{Detection, detect, read_more};
use weft_net::{Detected, RelayCounters, RelayOptions, relay_plain};
use weft_telemetry::metrics::{Direction, TcpLabels, TlsLabel};

use super::{Call, rewind};
use crate::destination::Target;
use crate::record::{ConnectionFacts, TcpRecord};

/// Connects to where the application was going and relays.
///
/// The first bytes are looked at for telemetry alone, whoever speaks first, and are on their way at once; nothing waits
/// for a verdict.
pub(super) async fn serve(
    mut call: Call,
    target: &Target,
    label: Arc<str>,
    addr: EndpointAddr,
    opaque: bool,
) {
    let door = std::rc::Rc::clone(&call.door);
    let connected = door.dialer.outside(addr).await;
    let mut first = BytesMut::new();
    let mut seen = None;
    if let (Ok(upstream), false) = (&connected, opaque) {
        tokio::select! {
            biased;
            _ = read_more(&mut call.accepted.stream, &mut first) => {}
            _ = upstream.readable() => {}
        }
        if let Detection::Done(detected) = detect(&first) {
            seen = Some(detected);
        }
    }
    let (protocol, tls) = match &seen {
        Some(Detected::Tls(_)) => ("tls", TlsLabel::Tls),
        Some(Detected::Http1) => ("http1", TlsLabel::None),
        Some(Detected::Http2) => ("http2", TlsLabel::None),
        _ => ("tcp", TlsLabel::None),
    };
    door.telemetry.passthrough.inc(protocol);
    let service = asked_for(target, seen.as_ref(), addr).unwrap_or(label);
    call.listed.update(|info| {
        info.protocol = protocol;
        info.service = Some(Arc::clone(&service));
    });
    let mut record = open(&call, service, tls, addr);
    match connected {
        Err(error) => {
            tracing::debug!(%error, "passthrough connection failed");
            record.failed(match error {
                weft_net::ConnectError::Refused { .. } => ErrorCode::ConnectRefused,
                weft_net::ConnectError::TimedOut { .. } => ErrorCode::ConnectTimeout,
                _ => ErrorCode::ConnectFailed,
            });
            weft_net::reset(call.accepted.stream);
        }
        Ok(mut upstream) => {
            let options = RelayOptions {
                idle_timeout: door.shared.config.timeouts.tcp_idle,
                ..RelayOptions::default()
            };
            let counters = RelayCounters::default();
            let mut client = rewind(call.accepted.stream, first);
            let relaying = relay_plain(&mut client, &mut upstream, &options, &counters);
            if record.run(relaying, &counters, door.shared.drain.clone().into_closed()).await.is_none() {
                weft_net::reset_on_drop(&client);
                weft_net::reset_on_drop(&upstream);
            }
        }
    }
}

/// Where no name was dialed, the name that the client asks for in its TLS hello, which says more than an address; it
/// decides nothing.
fn asked_for(target: &Target, seen: Option<&Detected>, addr: EndpointAddr) -> Option<Arc<str>> {
    if let (Target::Addr(_), Some(Detected::Tls(hello))) = (target, seen)
        && let Some(name) = hello.server_name()
        && name.parse::<weft_core::DnsName>().is_ok()
    {
        return Some(Arc::from(format!("{name}:{}", addr.port())));
    }
    None
}

fn open(call: &Call, service: Arc<str>, tls: TlsLabel, addr: EndpointAddr) -> TcpRecord {
    let series = call.door.telemetry.shard.tcp_series(&TcpLabels {
        direction: Direction::Outbound,
        source_workload: &call.door.telemetry.own_workload(),
        destination_service: &service,
        peer_identity: "",
        tls,
    });
    let facts = ConnectionFacts {
        direction: Direction::Outbound,
        client: call.accepted.client.get(),
        server: (Arc::clone(&service), addr.port()),
        service,
        source_identity: None,
        destination_identity: None,
        tls,
    };
    let mut record = TcpRecord::open(&call.door.telemetry, facts, series);
    record.upstream = Some(addr.get());
    record
}
