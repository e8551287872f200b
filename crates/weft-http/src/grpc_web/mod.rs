//! gRPC-Web, which is gRPC for those who cannot read trailers: browsers (the protocol's text is PROTOCOL-WEB.md of the gRPC project).
//!
//! A request's body is that of gRPC, or that in base64. So is an answer's, but for its end: the trailers are the last message, told from
//! the others by the first bit of its first octet. [`Web`] is what one call speaks; [`Turned`] is the request's body, and [`Answer`] turns
//! the answer's.

mod answer;
mod messages;
mod request;

use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};

use crate::Body;

pub use answer::Answer;
pub use request::Turned;

const BINARY: &str = "application/grpc-web";
const TEXT: &str = "application/grpc-web-text";
const GRPC: &str = "application/grpc";
/// What clients say that they are in gRPC-Web; to gRPC it means nothing.
const X_GRPC_WEB: HeaderName = HeaderName::from_static("x-grpc-web");

/// How a client speaks gRPC-Web in one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Web {
    /// The request is in base64.
    text: bool,
    /// The answer is to be.
    text_back: bool,
    /// What messages are in: `+proto`, or whatever the client says.
    format: Box<str>,
}

impl Web {
    /// Whether a request is gRPC-Web, and how.
    pub fn of<B>(request: &Request<B>) -> Option<Self> {
        if request.method() != Method::POST {
            return None;
        }
        let (text, format) = kind(request.headers().get(CONTENT_TYPE)?.to_str().ok()?)?;
        let mut wanted = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let wanted = wanted.find_map(|list| list.split(',').find_map(|one| kind(one).map(|(text, _)| text)));
        Some(Self { text, text_back: wanted.unwrap_or(text), format: format.into() })
    }

    /// Makes the request one of gRPC.
    pub fn request(&self, request: &mut Request<Body>) {
        let headers = request.headers_mut();
        if let Ok(kind) = HeaderValue::from_str(&format!("{GRPC}{}", self.format)) {
            headers.insert(CONTENT_TYPE, kind);
        }
        headers.insert(TE, HeaderValue::from_static("trailers"));
        for name in [X_GRPC_WEB, CONTENT_LENGTH, ACCEPT] {
            headers.remove(name);
        }
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = body.turned_to_grpc(self.text);
    }

    /// The type of an answer.
    fn content_type(&self, upstream: Option<&str>) -> Option<HeaderValue> {
        let form = if self.text_back { TEXT } else { BINARY };
        let format = upstream.filter(|format| !format.is_empty()).unwrap_or(&self.format);
        HeaderValue::from_str(&format!("{form}{format}")).ok()
    }
}

/// Whether a media type is gRPC-Web in base64, and its format.
fn kind(value: &str) -> Option<(bool, &str)> {
    let essence = value.split(';').next().unwrap_or("").trim();
    for (name, text) in [(TEXT, true), (BINARY, false)] {
        let begin = essence.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name));
        match essence.get(name.len()..).filter(|_| begin) {
            Some(format) if format.is_empty() || format.starts_with('+') => return Some((text, format)),
            _ => {}
        }
    }
    None
}

/// The format of a type of gRPC, `+proto` or nothing; `None`: it is another type.
fn format_of(headers: &HeaderMap) -> Option<&str> {
    let essence = headers.get(CONTENT_TYPE)?.to_str().ok()?.split(';').next()?.trim();
    essence.strip_prefix(GRPC).filter(|format| format.is_empty() || format.starts_with('+'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web(kind: &str, accept: Option<&str>) -> Option<(bool, bool, String)> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        request.headers_mut().insert(CONTENT_TYPE, kind.parse().unwrap());
        if let Some(accept) = accept {
            request.headers_mut().insert(ACCEPT, accept.parse().unwrap());
        }
        Web::of(&request).map(|web| (web.text, web.text_back, web.format.into()))
    }

    #[test]
    fn the_type_says_what_a_client_speaks() {
        for (kind, read) in [
            ("application/grpc-web", Some((false, false, ""))),
            ("application/grpc-web+proto", Some((false, false, "+proto"))),
            ("Application/gRPC-Web-Text+json; charset=utf-8", Some((true, true, "+json"))),
            ("application/grpc-web-text", Some((true, true, ""))),
            ("application/grpc", None),
            ("application/grpc+proto", None),
            ("application/grpc-webx", None),
            ("application/grpc-web-texts", None),
            ("text/html", None),
        ] {
            let read = read.map(|(text, back, format)| (text, back, format.to_owned()));
            assert_eq!(web(kind, None), read, "{kind}");
        }
        let text = "application/grpc-web-text";
        assert_eq!(web("application/grpc-web+proto", Some(text)), Some((false, true, "+proto".into())));
        assert_eq!(web(text, Some("*/*")), Some((true, true, String::new())));
        assert_eq!(
            web(text, Some("text/html, application/grpc-web+proto")),
            Some((true, false, String::new()))
        );
        let mut get = Request::new(());
        get.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(BINARY));
        assert_eq!(Web::of(&get), None);
    }

    #[test]
    fn a_request_becomes_one_of_grpc() {
        let mut request = Request::new(Body::Full("AAAAAAA=".into()));
        *request.method_mut() = Method::POST;
        for (name, value) in [
            ("content-type", "application/grpc-web-text+proto"),
            ("accept", "application/grpc-web-text"),
            ("x-grpc-web", "1"),
            ("content-length", "8"),
            ("grpc-timeout", "1S"),
        ] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        Web::of(&request).unwrap().request(&mut request);
        let mut names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "grpc-timeout", "te"]);
        assert_eq!(request.headers()[CONTENT_TYPE], "application/grpc+proto");
        assert!(matches!(request.body(), Body::Turned(_)));
    }
}
