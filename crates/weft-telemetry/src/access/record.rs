//! What one line says.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Version};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::metrics::{Direction, TlsLabel, grpc_status_name, protocol_version};
use crate::trace::TraceContext;

/// One request or relayed connection, for the access log. [`Serialize`] gives the line; fields that are `None`, empty or
/// not fitting are left out. `docs/guide/tracing.md` lists the field names.
#[derive(Clone, Debug)]
pub struct AccessRecord {
    /// Unix time in nanoseconds at which it began; see [`crate::span::unix_nanos`].
    pub start_unix_nanos: u64,
    /// Until the last byte.
    pub duration: Duration,
    /// Towards the own application or away from it.
    pub direction: Direction,
    /// HTTP or bytes, with what only one of them has.
    pub protocol: AccessProtocol,
    /// The service that was dialed, `name:port`.
    pub destination_service: Option<Arc<str>>,
    /// The endpoint (outbound) or the application's address (inbound) that served it.
    pub upstream: Option<SocketAddr>,
    /// Who connected.
    pub client: Option<SocketAddr>,
    /// Whose request it is, where trusted proxies in front of a gateway have told.
    pub forwarded_for: Option<IpAddr>,
    /// The caller's SPIFFE id.
    pub source_identity: Option<Arc<str>>,
    /// The callee's SPIFFE id.
    pub destination_identity: Option<Arc<str>>,
    /// How the network side was secured.
    pub tls: TlsLabel,
    /// Body bytes (HTTP) or bytes (TCP), client to server.
    pub sent_bytes: u64,
    /// Body bytes (HTTP) or bytes (TCP), server to client.
    pub received_bytes: u64,
    /// The `weft-error` code, where Weft ended it.
    pub error: Option<&'static str>,
}

/// What only HTTP or only TCP has.
#[derive(Clone, Debug)]
pub enum AccessProtocol {
    /// A relayed connection.
    Tcp,
    /// A request.
    Http {
        /// The version that the application on this side speaks.
        version: Version,
        /// The method.
        method: Method,
        /// Host or `:authority`.
        authority: Option<Box<str>>,
        /// The path without the query; empty for CONNECT, which asks for the authority.
        path: Box<str>,
        /// The status; `None` where there was none.
        status: Option<u16>,
        /// The `grpc-status`.
        grpc_status: Option<u8>,
        /// The `user-agent` header.
        user_agent: Option<Box<str>>,
        /// The `x-request-id` header.
        request_id: Option<Box<str>>,
        /// Where in its trace the request was.
        trace: Option<TraceContext>,
        /// How many times it was sent again.
        retries: u32,
    },
}

impl Serialize for AccessRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("time", &Rfc3339(self.start_unix_nanos).to_string())?;
        map.serialize_entry("direction", self.direction.as_str())?;
        self.serialize_protocol(&mut map)?;
        map.serialize_entry("duration_ms", &millis(self.duration))?;
        map.serialize_entry("sent_bytes", &self.sent_bytes)?;
        map.serialize_entry("received_bytes", &self.received_bytes)?;
        optional(&mut map, "destination_service", self.destination_service.as_deref())?;
        optional(&mut map, "upstream", self.upstream)?;
        optional(&mut map, "client", self.client)?;
        optional(&mut map, "forwarded_for", self.forwarded_for)?;
        map.serialize_entry("tls", self.tls.as_str())?;
        optional(&mut map, "source_identity", self.source_identity.as_deref())?;
        optional(&mut map, "destination_identity", self.destination_identity.as_deref())?;
        optional(&mut map, "error", self.error)?;
        map.end()
    }
}

impl AccessRecord {
    fn serialize_protocol<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let AccessProtocol::Http {
            version,
            method,
            authority,
            path,
            status,
            grpc_status,
            user_agent,
            request_id,
            trace,
            retries,
        } = &self.protocol
        else {
            return map.serialize_entry("protocol", "tcp");
        };
        map.serialize_entry("protocol", if grpc_status.is_some() { "grpc" } else { "http" })?;
        map.serialize_entry("version", protocol_version(*version))?;
        map.serialize_entry("method", method.as_str())?;
        optional(map, "authority", authority.as_deref())?;
        optional(map, "path", (!path.is_empty()).then_some(path))?;
        optional(map, "status", *status)?;
        optional(map, "grpc_status", grpc_status.map(grpc_status_name))?;
        optional(map, "user_agent", user_agent.as_deref())?;
        optional(map, "request_id", request_id.as_deref())?;
        if let Some(trace) = trace {
            map.serialize_entry("trace_id", &trace.trace_id.to_string())?;
            map.serialize_entry("span_id", &trace.span_id.to_string())?;
            map.serialize_entry("sampled", &trace.sampled)?;
        }
        optional(map, "retries", (*retries > 0).then_some(*retries))
    }
}

fn optional<M: SerializeMap>(
    map: &mut M,
    key: &'static str,
    value: Option<impl Serialize>,
) -> Result<(), M::Error> {
    match value {
        Some(value) => map.serialize_entry(key, &value),
        None => Ok(()),
    }
}

/// Milliseconds with microsecond resolution: more digits would only make lines longer.
pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1_000.0
}

/// `2026-01-31T23:59:59.123456Z` (RFC 3339), from Unix nanoseconds.
struct Rfc3339(u64);

impl std::fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, micros) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000 / 1_000);
        let (year, month, day) = civil(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

/// The Gregorian date of a number of days since 1970-01-01.
///
/// Counts in years that begin in March, so that the leap day is the last of its year: 146,097 days are 400 years, and the
/// lengths of the months from March on repeat every five months with 153 days.
pub(super) fn civil(days: u64) -> (u64, u64, u64) {
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let (month, carry) =
        if month_from_march < 10 { (month_from_march + 3, 0) } else { (month_from_march - 9, 1) };
    (era * 400 + year_of_era + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000Z"),
            (1_709_251_200, "2024-03-01T00:00:00.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
        ] {
            assert_eq!(Rfc3339(seconds * 1_000_000_000).to_string(), text);
        }
        assert_eq!(Rfc3339(1_234_567).to_string(), "1970-01-01T00:00:00.001234Z");
    }

    #[test]
    fn days_count_up_without_a_gap_for_four_centuries() {
        let leap = |y: u64| (y.is_multiple_of(4) && !y.is_multiple_of(100)) || y.is_multiple_of(400);
        let mut expected = (1970, 1, 1);
        for days in 0..146_097 * 2 {
            assert_eq!(civil(days), expected);
            let (year, month, day) = expected;
            let length = match month {
                2 if leap(year) => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                (_, d) if d == length => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
        }
    }
}
