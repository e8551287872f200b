//! A record as a line of text, in a format of the user's own.

use std::fmt::{self, Display, Write as _};

use weft_core::{LogField, LogPiece};

use super::record::{AccessProtocol, AccessRecord, civil, millis};
use crate::metrics::{grpc_status_name, protocol_version};

/// What stands where there is nothing.
const NOTHING: &str = "-";

/// Appends a record.
pub(super) fn append(buffer: &mut Vec<u8>, format: &[LogPiece], record: &AccessRecord) {
    let mut out = Escaped(&mut *buffer);
    for piece in format {
        // Memory takes whatever it is given.
        let _ = match piece {
            LogPiece::Text(text) => {
                out.0.extend_from_slice(text.as_bytes());
                Ok(())
            }
            LogPiece::Field(field) => write_field(&mut out, *field, record),
        };
    }
    buffer.push(b'\n');
}

/// Writes what came from others so that it can neither end a line nor a quoted text in it: as nginx does by default, `"`, `\` and
/// everything that is not visible ASCII or a space as `\xXX`.
struct Escaped<'b>(&'b mut Vec<u8>);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        for byte in text.bytes() {
            match byte {
                b'"' | b'\\' | 0..=0x1f | 0x7f..=0xff => {
                    let digit = |at: u8| HEX.get(usize::from(at & 0xf)).copied().unwrap_or(b'0');
                    self.0.extend_from_slice(&[b'\\', b'x', digit(byte >> 4), digit(byte)]);
                }
                byte => self.0.push(byte),
            }
        }
        Ok(())
    }
}

fn write_field(out: &mut Escaped<'_>, field: LogField, record: &AccessRecord) -> fmt::Result {
    let (seconds, millis_of) =
        (record.start_unix_nanos / 1_000_000_000, record.start_unix_nanos / 1_000_000 % 1000);
    match field {
        LogField::RemoteAddr => {
            let connected = record.client.map(|client| client.ip());
            optional(out, record.forwarded_for.or(connected))
        }
        LogField::RemotePort => optional(out, record.client.map(|client| client.port())),
        LogField::TimeLocal => time_local(out, seconds),
        LogField::TimeIso8601 => time_iso8601(out, seconds),
        LogField::Msec => write!(out, "{seconds}.{millis_of:03}"),
        LogField::BodyBytesSent => write!(out, "{}", record.received_bytes),
        LogField::BytesReceived => write!(out, "{}", record.sent_bytes),
        LogField::RequestTime => write!(out, "{:.3}", record.duration.as_secs_f64()),
        LogField::DurationMs => write!(out, "{}", millis(record.duration)),
        LogField::UpstreamAddr => optional(out, record.upstream),
        LogField::Direction => out.write_str(record.direction.as_str()),
        LogField::DestinationService => optional(out, record.destination_service.as_deref()),
        LogField::Tls => out.write_str(record.tls.as_str()),
        LogField::SourceIdentity => optional(out, record.source_identity.as_deref()),
        LogField::DestinationIdentity => optional(out, record.destination_identity.as_deref()),
        LogField::Error => optional(out, record.error),
        of_http => write_http(out, of_http, &record.protocol),
    }
}

/// What only requests have.
fn write_http(out: &mut Escaped<'_>, field: LogField, protocol: &AccessProtocol) -> fmt::Result {
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
    } = protocol
    else {
        return out.write_str(if field == LogField::Protocol { "tcp" } else { NOTHING });
    };
    let version = protocol_version(*version);
    // CONNECT has no path: what it asks for is the authority.
    let target = if path.is_empty() { authority.as_deref().unwrap_or(NOTHING) } else { &**path };
    match field {
        LogField::Protocol => out.write_str(if grpc_status.is_some() { "grpc" } else { "http" }),
        LogField::Request => write!(out, "{method} {target} HTTP/{version}"),
        LogField::RequestMethod => write!(out, "{method}"),
        LogField::Uri => out.write_str(target),
        LogField::ServerProtocol => write!(out, "HTTP/{version}"),
        LogField::Host => optional(out, authority.as_deref()),
        LogField::Status => optional(out, *status),
        LogField::GrpcStatus => optional(out, grpc_status.map(grpc_status_name)),
        LogField::HttpUserAgent => optional(out, user_agent.as_deref()),
        LogField::RequestId => optional(out, request_id.as_deref()),
        LogField::TraceId => optional(out, trace.map(|trace| trace.trace_id)),
        LogField::SpanId => optional(out, trace.map(|trace| trace.span_id)),
        LogField::Retries => write!(out, "{retries}"),
        _ => out.write_str(NOTHING),
    }
}

fn optional(out: &mut Escaped<'_>, value: Option<impl Display>) -> fmt::Result {
    match value {
        Some(value) => write!(out, "{value}"),
        None => out.write_str(NOTHING),
    }
}

/// `31/Jan/2026:23:59:59 +0000`. The log is in UTC wherever it is written.
fn time_local(out: &mut Escaped<'_>, seconds: u64) -> fmt::Result {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (year, month, day) = civil(seconds / 86_400);
    let month = usize::try_from(month).ok().and_then(|month| MONTHS.get(month.checked_sub(1)?));
    write!(out, "{day:02}/{}/{year:04}:{} +0000", month.unwrap_or(&"???"), Clock(seconds))
}

fn time_iso8601(out: &mut Escaped<'_>, seconds: u64) -> fmt::Result {
    let (year, month, day) = civil(seconds / 86_400);
    write!(out, "{year:04}-{month:02}-{day:02}T{}+00:00", Clock(seconds))
}

/// The time of a day.
struct Clock(u64);

impl Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}:{:02}", self.0 / 3_600 % 24, self.0 / 60 % 60, self.0 % 60)
    }
}
