//! Failure answers: one code each, mapped to HTTP and gRPC here and nowhere else.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::Body;

/// The header that tells an answer of the mesh from one of the application.
pub const WEFT_ERROR: HeaderName = HeaderName::from_static("weft-error");

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:ident, $grpc:literal, $reason:literal;)*) => {
        /// Why the mesh answered instead of the application. The text form is the value of the `weft-error` header;
        /// docs/reference/errors.md lists all with cause and cure.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The value of the `weft-error` header.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The status of an HTTP answer.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// The grpc-status of a gRPC answer
            /// (<https://grpc.io/docs/guides/status-codes/>: 4 deadline, 8 exhausted, 12 unimplemented, 14 unavailable).
            pub fn grpc_status(self) -> &'static str {
                match self { $(Self::$name => $grpc,)* }
            }

            /// One line for people.
            pub fn reason(self) -> &'static str {
                match self { $(Self::$name => $reason,)* }
            }
        }
    };
}

codes! {
    /// The endpoint refused the connection.
    ConnectRefused = "connect-refused", SERVICE_UNAVAILABLE, "14", "the endpoint refused the connection";
    /// No connection within the connect timeout.
    ConnectTimeout = "connect-timeout", GATEWAY_TIMEOUT, "14", "the endpoint did not accept a connection in time";
    /// Any other failure to connect.
    ConnectFailed = "connect-failed", SERVICE_UNAVAILABLE, "14", "no connection to the endpoint could be made";
    /// The TLS handshake with the endpoint failed.
    TlsFailed = "tls-failed", BAD_GATEWAY, "14", "TLS with the endpoint failed";
    /// The endpoint's identity is not one that the service may have.
    IdentityMismatch = "identity-mismatch", BAD_GATEWAY, "14", "the endpoint's identity is not allowed for this service";
    /// This proxy has no identity yet.
    NoIdentity = "no-identity", SERVICE_UNAVAILABLE, "14", "this proxy has no certificate, or none that has not expired";
    /// The service has no endpoint.
    NoEndpoints = "no-endpoints", SERVICE_UNAVAILABLE, "14", "the service has no endpoint";
    /// The exchange was reset before an answer.
    UpstreamReset = "upstream-reset", BAD_GATEWAY, "14", "the upstream reset the request";
    /// The upstream refused the request and did not look at it.
    UpstreamRefused = "upstream-refused", SERVICE_UNAVAILABLE, "14", "the upstream takes no more requests now";
    /// The connection closed before an answer.
    UpstreamClosed = "upstream-closed", BAD_GATEWAY, "14", "the upstream closed the connection before an answer";
    /// The upstream's answer was not HTTP.
    UpstreamProtocol = "upstream-protocol", BAD_GATEWAY, "13", "the upstream broke the HTTP protocol";
    /// No answer within the request timeout.
    UpstreamTimeout = "upstream-timeout", GATEWAY_TIMEOUT, "4", "the upstream did not answer in time";
    /// The request leads back to where it came from.
    Loop = "loop-detected", LOOP_DETECTED, "14", "the request would loop";
    /// The request cannot be carried.
    BadRequest = "bad-request", BAD_REQUEST, "3", "the request is malformed";
    /// A head or a body did not go on in time.
    RequestTimeout = "request-timeout", REQUEST_TIMEOUT, "4", "the request did not come in time";
    /// The request target is too long.
    TargetTooLong = "target-too-long", URI_TOO_LONG, "3", "the request target is too long";
    /// The body is larger than the gateway takes.
    BodyTooLarge = "body-too-large", PAYLOAD_TOO_LARGE, "8", "the body is too large";
    /// The head is too large, or has too many fields.
    HeadersTooLarge = "headers-too-large", REQUEST_HEADER_FIELDS_TOO_LARGE, "8", "the header is too large";
    /// Not HTTP/1.0, HTTP/1.1 or HTTP/2.
    VersionNotSupported = "version-not-supported", HTTP_VERSION_NOT_SUPPORTED, "12", "this version of HTTP is not supported";
    /// CONNECT to an application that is no proxy by configuration.
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, "12", "CONNECT is not allowed to this port";
    /// No route of a gateway's listener matches.
    NoRoute = "no-route", NOT_FOUND, "12", "no route matches the request";
    /// The connection was made for another host.
    Misdirected = "misdirected-request", MISDIRECTED_REQUEST, "14", "this connection is not for that host";
    /// The route's backend cannot be used, or it has none. Calls get UNAVAILABLE (GRPCRoute, "backendRefs").
    BackendInvalid = "backend-invalid", INTERNAL_SERVER_ERROR, "14", "the route has no backend that can be used";
}

impl ErrorCode {
    /// Whether no connection was made at all, so that nothing can have been sent.
    pub fn is_connect(self) -> bool {
        matches!(self, Self::ConnectRefused | Self::ConnectFailed | Self::ConnectTimeout)
    }

    /// Whether it was the upstream's doing, and not the client's or this proxy's.
    pub fn blames_upstream(self) -> bool {
        self.is_connect()
            || matches!(
                self,
                Self::UpstreamReset
                    | Self::UpstreamRefused
                    | Self::UpstreamClosed
                    | Self::UpstreamProtocol
                    | Self::UpstreamTimeout
            )
    }
}

/// A failure answer in the making: what went wrong, and in which protocol the client wants to hear it.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// What went wrong.
    pub code: ErrorCode,
    /// Whether the request was gRPC.
    pub grpc: bool,
}

impl Refusal {
    /// The answer: a short plain text for HTTP, a trailers-only response for gRPC (gRPC over HTTP/2, "Responses").
    pub fn response(self) -> Response<Body> {
        let code = HeaderValue::from_static(self.code.as_str());
        let reason = self.code.reason();
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(WEFT_ERROR, code);
        let (status, body) = if self.grpc {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static(self.code.grpc_status()));
            headers.insert("grpc-message", HeaderValue::from_static(reason));
            (StatusCode::OK, Body::Empty)
        } else {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            headers.insert(CONTENT_LENGTH, HeaderValue::from(reason.len() + 1));
            let mut text = String::with_capacity(reason.len() + 1);
            text.push_str(reason);
            text.push('\n');
            (self.code.status(), Body::Full(Bytes::from(text)))
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// Why the mesh has answered, where it says so.
pub fn told(headers: &HeaderMap) -> Option<ErrorCode> {
    let code = headers.get(WEFT_ERROR)?.as_bytes();
    ErrorCode::ALL.iter().find(|told| told.as_str().as_bytes() == code).copied()
}

/// Whether an answer that came over a mesh link is the peer's own word that its application gave none: it took no
/// connection, so that it never saw the request, or it closed the connection, and nobody knows how far it came.
pub fn unanswered(headers: &HeaderMap) -> Option<ErrorCode> {
    let told = told(headers)?;
    (told.is_connect() || told == ErrorCode::UpstreamClosed).then_some(told)
}

/// Whether a request is gRPC: its content type is `application/grpc` or a variant such as `application/grpc+proto`.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_web_is_not_grpc() {
        let is = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            is_grpc(&headers)
        };
        assert!(is("application/grpc"));
        assert!(is("application/grpc+proto"));
        assert!(is("application/grpc;charset=utf-8"));
        assert!(!is("application/grpc-web"));
        assert!(!is("application/json"));
    }

    #[test]
    fn a_peer_tells_that_its_application_gave_no_answer() {
        for code in ErrorCode::ALL {
            let told = unanswered(Refusal { code: *code, grpc: true }.response().headers());
            let expected = code.as_str().starts_with("connect-") || *code == ErrorCode::UpstreamClosed;
            assert_eq!(told, expected.then_some(*code));
        }
        assert_eq!(unanswered(&HeaderMap::new()), None);
    }

    #[test]
    fn codes_are_unique_and_documented() {
        let page = include_str!("../../../docs/reference/errors.md");
        let mut seen = std::collections::HashSet::new();
        for code in ErrorCode::ALL {
            assert!(seen.insert(code.as_str()), "{code:?} repeats");
            assert!(
                page.contains(&format!("| `{}` |", code.as_str())),
                "{code:?} is not in docs/reference/errors.md"
            );
        }
    }

    #[test]
    fn a_grpc_client_gets_a_trailers_only_answer() {
        let response = Refusal { code: ErrorCode::UpstreamTimeout, grpc: true }.response();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "4");
        assert!(http_body::Body::is_end_stream(response.body()));
    }
}
