//! Which answers of a gateway leave in a content coding (`gateway.compression`), and what their heads say then.

use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use weft_config::{Compression, is_message_stream};
use weft_core::ContentCoding;
use weft_http::Body;
use weft_http::coding::{Accepted, Encodings};
use weft_http::headers::has_token;

/// Bodies that one worker encodes at once; those of clients that do not read are among them. What comes beyond passes as it is.
const AT_ONCE: usize = 128;

/// What a sum of the content says of it that is sent: RFC 1864, RFC 3230, RFC 9530.
const SUMS: [HeaderName; 4] = [
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// Compresses the answers of one worker.
pub(crate) struct Compressor {
    settings: Option<Compression>,
    encodings: Encodings,
}

/// What has to be known of a request when its answer comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Whether an answer may be changed at all.
    may: bool,
    /// The coding that its client takes best.
    coding: Option<ContentCoding>,
    head: bool,
}

impl Compressor {
    pub(crate) fn new(settings: Option<Compression>) -> Self {
        Self { settings, encodings: Encodings::new(AT_ONCE) }
    }

    /// Looks at a request.
    pub(crate) fn look<B>(&self, request: &Request<B>) -> Asked {
        let Some(settings) = &self.settings else { return Asked::default() };
        // To HTTP/1.0 a body of unknown length has no end but that of its connection.
        if request.version() < Version::HTTP_11 || may_not_transform(request.headers()) {
            return Asked::default();
        }
        let coding = Accepted::of(request.headers()).best(&settings.algorithms);
        Asked { may: true, coding, head: request.method() == Method::HEAD }
    }

    /// What the client gets of an answer.
    pub(crate) fn apply(&self, asked: Asked, mut response: Response<Body>) -> Response<Body> {
        let Some(settings) = self.settings.as_ref().filter(|_| asked.may) else { return response };
        let unchanged = response.status() == StatusCode::NOT_MODIFIED;
        if !unchanged && !could_be(settings, asked, &response) {
            return response;
        }
        let headers = response.headers_mut();
        vary(headers);
        let Some(coding) = asked.coding else { return response };
        // Of a 304 there is no type to tell by, and of HEAD no content; what they name is what GET has given or would give.
        if unchanged || asked.head {
            weaken(headers);
            forget_octets(headers);
            return response;
        }
        let Some(place) = self.encodings.begin() else { return response };
        weaken(headers);
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
        forget_octets(headers);
        response.map(|body| body.encoded(coding, place))
    }
}

/// Whether this is an answer that clients who take a coding get in it.
fn could_be(settings: &Compression, asked: Asked, response: &Response<Body>) -> bool {
    let headers = response.headers();
    let status = response.status();
    // RFC 9110 section 15: those have no content, or a part of it.
    let whole = !status.is_informational()
        && ![StatusCode::NO_CONTENT, StatusCode::RESET_CONTENT, StatusCode::PARTIAL_CONTENT]
            .contains(&status);
    whole
        && !headers.contains_key(CONTENT_ENCODING)
        && !headers.contains_key(CONTENT_RANGE)
        && !may_not_transform(headers)
        && length(asked, response).is_none_or(|length| length > 0 && length >= settings.minimum_size)
        && headers.get(CONTENT_TYPE).is_some_and(|value| takes(settings, value))
}

/// The length of the content, where it is known.
fn length(asked: Asked, response: &Response<Body>) -> Option<u64> {
    let told = response.headers().get(CONTENT_LENGTH);
    let told = told.and_then(|value| value.to_str().ok()?.parse().ok());
    if asked.head { told } else { told.or(response.body().size_hint().exact()) }
}

fn takes(settings: &Compression, value: &HeaderValue) -> bool {
    let essence = value.to_str().unwrap_or("").split(';').next().unwrap_or("").trim();
    settings.content_types.iter().any(|listed| listed.takes(essence))
        && !is_message_stream(&essence.to_ascii_lowercase())
}

/// RFC 9111 sections 5.2.1.6 and 5.2.2.6.
fn may_not_transform(headers: &HeaderMap) -> bool {
    headers.get_all(CACHE_CONTROL).iter().any(|value| has_token(value, "no-transform"))
}

fn vary(headers: &mut HeaderMap) {
    let told = |value: &HeaderValue| has_token(value, "accept-encoding") || has_token(value, "*");
    if !headers.get_all(VARY).iter().any(told) {
        headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    }
}

/// What is told of the octets of a content is not true of them in a coding.
fn forget_octets(headers: &mut HeaderMap) {
    for name in SUMS.iter().chain([&CONTENT_LENGTH, &ACCEPT_RANGES]) {
        headers.remove(name);
    }
}

/// A validator of the octets is none of them in a coding (RFC 9110 section 8.8.1), but still one of what they mean.
fn weaken(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")) else { return };
    match HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()) {
        Ok(weak) if tag.as_bytes().starts_with(b"\"") => drop(headers.insert(ETAG, weak)),
        // Not a tag at all.
        _ => drop(headers.remove(ETAG)),
    }
}

#[cfg(test)]
#[path = "compress_tests.rs"]
mod tests;
