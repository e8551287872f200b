//! How much a client may send with one request.

use std::pin::Pin;

use http::{HeaderValue, Request};
use weft_http::{Body, Bound, ErrorCode, Excess, Http1Limits};

use crate::failure::Failure;

/// Whether the head of an HTTP/2 request is within what an HTTP/1 head may be: there the limits hold while it is read, here its
/// size is bounded by HTTP/2 and no more. And whether it could be one.
///
/// # Errors
/// `target-too-long`, `headers-too-large`, `bad-request`.
pub(crate) fn head<B>(limits: &Http1Limits, request: &Request<B>) -> Result<(), ErrorCode> {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > limits.max_target_bytes {
        return Err(ErrorCode::TargetTooLong);
    }
    if request.headers().len() > limits.max_headers {
        return Err(ErrorCode::HeadersTooLarge);
    }
    // Malformed (RFC 9113 section 8.2.1). Servers of HTTP/1 would read such a value as another than routes have seen.
    match request.headers().values().any(is_padded) {
        true => Err(ErrorCode::BadRequest),
        false => Ok(()),
    }
}

fn is_padded(value: &HeaderValue) -> bool {
    let is_blank = |octet: Option<&u8>| matches!(octet, Some(b' ' | b'\t'));
    is_blank(value.as_bytes().first()) || is_blank(value.as_bytes().last())
}

/// Bounds a request's body to `most` octets (`gateway.limits.requestBody`). What tells of one whose length nobody knows.
///
/// # Errors
/// `body-too-large`: it has a length that is.
pub(crate) fn body(most: Option<u64>, request: &mut Request<Body>) -> Result<Option<Excess>, ErrorCode> {
    let Some(most) = most else { return Ok(None) };
    match request.body_mut().bound(most) {
        Bound::Fits => Ok(None),
        Bound::TooLarge => Err(ErrorCode::BodyTooLarge),
        Bound::Unknown(excess) => Ok(Some(excess)),
    }
}

/// Carries a request as long as its body is not too large. When it is, the request is given up as if its client had gone, and the
/// client is told.
pub(crate) async fn within<T>(
    excess: Option<Excess>,
    carried: Pin<&mut impl Future<Output = Result<T, Failure>>>,
) -> Result<T, Failure> {
    let Some(excess) = excess else { return carried.await };
    tokio::select! {
        biased;
        () = excess.over() => Err(ErrorCode::BodyTooLarge.into()),
        answer = carried => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_what_servers_of_http1_read() {
        let limits = Http1Limits::default();
        for (value, may) in [
            ("1", true),
            ("a b", true),
            ("", true),
            (" 1", false),
            ("1 ", false),
            ("1\t", false),
            ("\t", false),
            (" ", false),
        ] {
            let request = Request::builder().header("x-c", value).body(()).unwrap();
            let expected = if may { Ok(()) } else { Err(ErrorCode::BadRequest) };
            assert_eq!(head(&limits, &request), expected, "{value:?}");
        }
    }
}
