//! The answer to a gRPC-Web call.

use std::task::Poll;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::Frame;

use super::messages::{Boundary, PREFIX, TRAILERS};
use super::{Web, format_of};
use crate::{Body, BodyError, ErrorCode};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
/// `UNKNOWN`: what a client of gRPC takes for the status of an answer that has none.
const UNKNOWN: &str = "2";

type FramePoll = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

/// Turns the frames of a gRPC answer into those of gRPC-Web.
#[derive(Debug)]
pub struct Answer {
    text: bool,
    /// The status that the head has told already, for an answer without trailers.
    told: Option<HeaderMap>,
    boundary: Boundary,
    ended: bool,
}

impl Web {
    /// Makes the head of an answer one of gRPC-Web, and says how its body follows. An answer that is not gRPC becomes the status that it
    /// means to a client of gRPC.
    pub fn answer(&self, response: &mut Response<Body>) -> Answer {
        let grpc = format_of(response.headers()).filter(|_| response.status() == StatusCode::OK);
        let kind = self.content_type(grpc);
        let told = match grpc {
            Some(_) => take_status(response.headers_mut()),
            None => {
                let status = response.status();
                *response.body_mut() = Body::Empty;
                *response.status_mut() = StatusCode::OK;
                let why = format!("the backend answered {} and no gRPC", status.as_u16());
                Some(end(meaning(status), &why))
            }
        };
        let headers = response.headers_mut();
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRAILER);
        if let Some(kind) = kind {
            headers.insert(CONTENT_TYPE, kind);
        }
        Answer { text: self.text_back, told, boundary: Boundary::default(), ended: false }
    }
}

impl Answer {
    /// What the client gets for a frame.
    pub fn turn(&mut self, frame: FramePoll) -> FramePoll {
        let Poll::Ready(frame) = frame else { return Poll::Pending };
        let told = match frame {
            _ if self.ended => return Poll::Ready(None),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    // What a backend says of the end would end the answer.
                    if !self.boundary.pass(&data) {
                        return Poll::Ready(Some(Err(BodyError::Unfit)));
                    }
                    return Poll::Ready(Some(Ok(Frame::data(self.form(data)))));
                }
                Err(_) if !self.boundary.is_here() => return Poll::Ready(Some(Err(BodyError::Unfit))),
                Err(frame) => frame.into_trailers().ok().map(with_status),
            },
            // Whoever has half a message would take for the rest of it what is said now.
            Some(Err(error)) if !self.boundary.is_here() => return Poll::Ready(Some(Err(error))),
            Some(Err(error)) => Some(broken(&error)),
            None if !self.boundary.is_here() => return Poll::Ready(Some(Err(BodyError::Unfit))),
            None => None,
        };
        self.ended = true;
        let told = told.or(self.told.take());
        let told = told.unwrap_or_else(|| end(UNKNOWN, "the backend ended the call without a status"));
        let last = self.form(block(&told));
        Poll::Ready(Some(Ok(Frame::data(last))))
    }

    /// Whether all of it has been given.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Each piece is padded by itself: it can leave at once, and clients decode group by group.
    fn form(&self, data: Bytes) -> Bytes {
        if self.text { Bytes::from(STANDARD.encode(data)) } else { data }
    }
}

/// The status that a head tells of an answer without messages ("Trailers-Only"). It moves into the body, where pages of other origins
/// may read it without being allowed each header.
fn take_status(headers: &mut HeaderMap) -> Option<HeaderMap> {
    headers.contains_key(STATUS).then(|| {
        let told = [STATUS, MESSAGE, DETAILS].into_iter();
        told.filter_map(|name| headers.remove(&name).map(|value| (name, value))).collect()
    })
}

fn end(status: &'static str, why: &str) -> HeaderMap {
    let mut told = HeaderMap::with_capacity(2);
    told.insert(STATUS, HeaderValue::from_static(status));
    if let Ok(why) = HeaderValue::from_str(why) {
        told.insert(MESSAGE, why);
    }
    told
}

/// Trailers without a status are those of a call that has none.
fn with_status(mut told: HeaderMap) -> HeaderMap {
    if !told.contains_key(STATUS) {
        told.extend(end(UNKNOWN, "the backend ended the call without a status"));
    }
    told
}

/// What the end of a body that broke off means to a client of gRPC.
fn broken(error: &BodyError) -> HeaderMap {
    match error {
        BodyError::TimedOut => end(
            ErrorCode::UpstreamTimeout.grpc_status(),
            "the time of the request was over before the end of its answer",
        ),
        _ => end(
            ErrorCode::UpstreamClosed.grpc_status(),
            "the upstream broke off before the end of its answer",
        ),
    }
}

/// What a status of HTTP means in gRPC (its text http-grpc-status-mapping.md).
fn meaning(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502 | 503 | 504 => "14",
        _ => UNKNOWN,
    }
}

/// Trailers as the last message: lines as of HTTP/1, names in lower case, which they are.
fn block(trailers: &HeaderMap) -> Bytes {
    let length: usize = trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let mut block = BytesMut::with_capacity(PREFIX + length);
    block.put_u8(TRAILERS);
    block.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    for (name, value) in trailers {
        block.put_slice(name.as_str().as_bytes());
        block.put_slice(b": ");
        block.put_slice(value.as_bytes());
        block.put_slice(b"\r\n");
    }
    block.freeze()
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
