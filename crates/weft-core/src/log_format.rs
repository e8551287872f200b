//! What a line of the access log says, where it is no JSON: text with fields in it, by the names that nginx has for them where it
//! has any.

use std::fmt;
use std::str::FromStr;

/// `json`, or text with `$field` or `${field}` in it; `$$` is a dollar sign.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One object with everything that there is.
    #[default]
    Json,
    /// These, one after another.
    Line(Vec<LogPiece>),
}

/// A piece of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogPiece {
    /// As it is.
    Text(Box<str>),
    /// What the request or connection has there; `-`: nothing.
    Field(LogField),
}

/// Why a text is no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogFormatError {
    /// There is no such field.
    #[error("has `${0}`, which is no field")]
    Unknown(String),
    /// A brace without an end, or a `$` without a name.
    #[error("has a `$` without the name of a field behind it; a dollar sign is `$$`")]
    Nameless,
    /// Every line would be the same.
    #[error("has no field")]
    Constant,
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What a line may say of a request or connection.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum LogField { $($(#[$doc])* $name,)* }

        impl LogField {
            /// Every field.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name, without the dollar sign.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

fields! {
    /// Whose it is: as trusted proxies tell, or who connects.
    RemoteAddr = "remote_addr";
    /// The port of who connects.
    RemotePort = "remote_port";
    /// When it began: `31/Jan/2026:23:59:59 +0000`.
    TimeLocal = "time_local";
    /// The same as `2026-01-31T23:59:59+00:00`.
    TimeIso8601 = "time_iso8601";
    /// The same in seconds of the epoch, with milliseconds.
    Msec = "msec";
    /// Method, path and version: `GET /orders HTTP/1.1`.
    Request = "request";
    /// The method.
    RequestMethod = "request_method";
    /// The path without the query.
    Uri = "uri";
    /// `HTTP/1.1`.
    ServerProtocol = "server_protocol";
    /// Host or `:authority`.
    Host = "host";
    /// The status.
    Status = "status";
    /// Octets of the answer's body, or to the client.
    BodyBytesSent = "body_bytes_sent";
    /// Octets of the request's body, or from the client.
    BytesReceived = "bytes_received";
    /// How long it took, seconds with milliseconds.
    RequestTime = "request_time";
    /// How long it took, milliseconds with microseconds.
    DurationMs = "duration_ms";
    /// `user-agent`.
    HttpUserAgent = "http_user_agent";
    /// `x-request-id`, or the trace's id.
    RequestId = "request_id";
    /// Who served it.
    UpstreamAddr = "upstream_addr";
    /// `inbound`, `outbound`, `gateway`.
    Direction = "direction";
    /// `http`, `grpc`, `tcp`.
    Protocol = "protocol";
    /// The `grpc-status` by its name.
    GrpcStatus = "grpc_status";
    /// The service that was dialed; at a gateway the listener.
    DestinationService = "destination_service";
    /// `mutual`, `tls`, `none`.
    Tls = "tls";
    /// The caller's identity, or its certificate.
    SourceIdentity = "source_identity";
    /// The callee's identity.
    DestinationIdentity = "destination_identity";
    /// The trace.
    TraceId = "trace_id";
    /// The span.
    SpanId = "span_id";
    /// How often it was sent again.
    Retries = "retries";
    /// The `weft-error` code.
    Error = "error";
}

impl LogField {
    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|field| field.as_str() == name)
    }
}

impl FromStr for LogFormat {
    type Err = LogFormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "json" {
            return Ok(Self::Json);
        }
        let (mut pieces, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some((before, behind)) = rest.split_once('$') {
            plain.push_str(before);
            if let Some(behind) = behind.strip_prefix('$') {
                plain.push('$');
                rest = behind;
                continue;
            }
            let (name, behind) = name(behind).ok_or(LogFormatError::Nameless)?;
            let field = LogField::named(name).ok_or_else(|| LogFormatError::Unknown(name.to_owned()))?;
            if !plain.is_empty() {
                pieces.push(LogPiece::Text(std::mem::take(&mut plain).into()));
            }
            pieces.push(LogPiece::Field(field));
            rest = behind;
        }
        if pieces.is_empty() {
            return Err(LogFormatError::Constant);
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(LogPiece::Text(plain.into()));
        }
        Ok(Self::Line(pieces))
    }
}

/// The name behind a dollar sign, and what stands behind that.
fn name(text: &str) -> Option<(&str, &str)> {
    if let Some(inside) = text.strip_prefix('{') {
        return inside.split_once('}');
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    text.split_at_checked(end).filter(|(name, _)| !name.is_empty())
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Line(pieces) = self else { return f.write_str("json") };
        pieces.iter().try_for_each(|piece| match piece {
            LogPiece::Text(text) => f.write_str(&text.replace('$', "$$")),
            LogPiece::Field(field) => write!(f, "${{{}}}", field.as_str()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_text_with_fields() {
        let read = |text: &str| text.parse::<LogFormat>();
        assert_eq!(read("json"), Ok(LogFormat::Json));
        let text = |text: &str| LogPiece::Text(text.into());
        let expected = vec![
            LogPiece::Field(LogField::RemoteAddr),
            text(" - ["),
            LogPiece::Field(LogField::TimeLocal),
            text("] \""),
            LogPiece::Field(LogField::Request),
            text("\" "),
            LogPiece::Field(LogField::Status),
            text("ms$"),
        ];
        let format = read("$remote_addr - [$time_local] \"$request\" ${status}ms$$").unwrap();
        assert_eq!(format, LogFormat::Line(expected));
        assert_eq!(read(&format.to_string()), Ok(format));
        for field in LogField::ALL {
            assert_eq!(
                read(&format!("${}", field.as_str())),
                Ok(LogFormat::Line(vec![LogPiece::Field(*field)]))
            );
        }
        for (bad, error) in [
            ("$remote_user", LogFormatError::Unknown("remote_user".to_owned())),
            ("$Status", LogFormatError::Unknown("Status".to_owned())),
            ("${status", LogFormatError::Nameless),
            ("$ status", LogFormatError::Nameless),
            ("$status $", LogFormatError::Nameless),
            ("JSON", LogFormatError::Constant),
            ("", LogFormatError::Constant),
            ("$$status", LogFormatError::Constant),
        ] {
            assert_eq!(read(bad), Err(error), "{bad}");
        }
    }
}
