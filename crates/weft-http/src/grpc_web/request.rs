//! The body of a request in base64.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame};

use crate::{Body, BodyError};

/// A body that came in base64. Clients encode each message by itself, so that padding may stand anywhere between them.
#[derive(Debug)]
pub struct Decoded {
    body: Body,
    /// Up to three letters of a group of four that is not whole yet.
    rest: BytesMut,
}

impl Body {
    /// What a body in base64 stands for. One that is no base64 breaks off where that is seen.
    #[must_use]
    pub fn from_base64(self) -> Self {
        if self.is_end_stream() {
            return Self::Empty;
        }
        Self::Decoded(Box::new(Decoded { body: self, rest: BytesMut::new() }))
    }
}

impl Decoded {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let data = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None if self.rest.is_empty() => return Poll::Ready(None),
                None => {
                    self.rest.clear();
                    return Poll::Ready(Some(Err(BodyError::Unfit)));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    // gRPC has no trailers of requests.
                    Err(_) => continue,
                },
            };
            match decode(&mut self.rest, &data) {
                Some(data) if data.is_empty() => {}
                Some(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                None => return Poll::Ready(Some(Err(BodyError::Unfit))),
            }
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }
}

/// Decodes all whole groups of four letters; what is left waits in `rest`.
fn decode(rest: &mut BytesMut, data: &[u8]) -> Option<Bytes> {
    rest.extend_from_slice(data);
    let whole = rest.len() / 4 * 4;
    let letters = rest.split_to(whole);
    let mut decoded = Vec::with_capacity(whole / 4 * 3);
    let mut left: &[u8] = &letters;
    while !left.is_empty() {
        // As far as the next padding, which ends its group.
        let padded = left.iter().position(|letter| *letter == b'=');
        let end = padded.map_or(left.len(), |at| (at / 4 + 1) * 4).min(left.len());
        let (run, behind) = left.split_at_checked(end)?;
        STANDARD.decode_vec(run, &mut decoded).ok()?;
        left = behind;
    }
    Some(decoded.into())
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;
    use crate::tee::Fed;

    fn read(parts: &[&[u8]]) -> Result<Vec<u8>, BodyError> {
        let (fed, body) = Fed::new();
        for part in parts {
            fed.data(part.to_vec());
        }
        let mut body = body.from_base64();
        fed.end();
        let mut cx = Context::from_waker(Waker::noop());
        let mut octets = Vec::new();
        loop {
            match Pin::new(&mut body).poll_frame(&mut cx) {
                Poll::Ready(None) => return Ok(octets),
                Poll::Ready(Some(frame)) => octets.extend_from_slice(frame?.data_ref().unwrap()),
                Poll::Pending => {}
            }
        }
    }

    #[test]
    fn padding_may_stand_between_messages() {
        assert_eq!(read(&[b"AA==AQI=AwQF"]).unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(read(&[b"A", b"A=", b"=AQ", b"I=AwQF"]).unwrap(), [0, 1, 2, 3, 4, 5]);
        assert!(read(&[]).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_base64_breaks_off() {
        for text in ["AA=", "A", "A===", "====", "AA=A", "AA!A", "AAA\n", "AA==A", "AB=="] {
            assert!(matches!(read(&[text.as_bytes()]), Err(BodyError::Unfit)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_pieces_of_any_messages(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..6),
            cuts in proptest::collection::vec(1_usize..20, 0..60),
        ) {
            let text: String = messages.iter().map(|message| STANDARD.encode(message)).collect();
            let mut left = text.as_bytes();
            let mut parts = Vec::new();
            for cut in cuts {
                let (part, behind) = left.split_at(cut.min(left.len()));
                parts.push(part);
                left = behind;
            }
            parts.push(left);
            prop_assert_eq!(read(&parts).unwrap(), messages.concat());
        }
    }
}
