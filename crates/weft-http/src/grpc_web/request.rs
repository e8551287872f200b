//! The body of a request.
//!
//! It is that of gRPC, or that in base64. A message with the trailers' mark is the server's to write: a request breaks off before one, for
//! what a backend makes of it nobody knows. So does one that is no base64.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};

use super::messages::Boundary;
use crate::{Body, BodyError};

/// A body that came as gRPC-Web.
#[derive(Debug)]
pub struct Turned {
    body: Body,
    /// Where it is in base64.
    letters: Option<Letters>,
    boundary: Boundary,
}

/// Base64. Clients encode each message by itself, so that padding may stand anywhere between them.
#[derive(Debug, Default)]
struct Letters {
    /// Up to three of a group of four that is not whole yet.
    rest: BytesMut,
}

impl Body {
    /// What a body stands for in gRPC; `text`: it is in base64. One that stands for nothing breaks off where that is seen.
    #[must_use]
    pub(super) fn turned_to_grpc(self, text: bool) -> Self {
        if self.is_end_stream() {
            return Self::Empty;
        }
        let letters = text.then(Letters::default);
        Self::Turned(Box::new(Turned { body: self, letters, boundary: Boundary::default() }))
    }
}

impl Turned {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let data = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None if self.is_whole() => return Poll::Ready(None),
                None => {
                    self.letters = None;
                    return Poll::Ready(Some(Err(BodyError::Unfit)));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    // gRPC has no trailers of requests.
                    Err(_) => continue,
                },
            };
            match self.read(data) {
                Some(data) if data.is_empty() => {}
                Some(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                None => return Poll::Ready(Some(Err(BodyError::Unfit))),
            }
        }
    }

    /// What octets of the client stand for, if for anything.
    fn read(&mut self, data: Bytes) -> Option<Bytes> {
        let data = match &mut self.letters {
            None => data,
            Some(letters) => decode(&mut letters.rest, &data)?,
        };
        self.boundary.pass(&data).then_some(data)
    }

    /// Whether no group of letters is begun.
    fn is_whole(&self) -> bool {
        self.letters.as_ref().is_none_or(|letters| letters.rest.is_empty())
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.is_whole() && self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        if self.letters.is_some() { SizeHint::default() } else { self.body.size_hint() }
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

    /// What is read of a body, and how it ended.
    fn turned(parts: &[&[u8]], text: bool) -> (Vec<u8>, Result<(), BodyError>) {
        let (fed, body) = Fed::new();
        for part in parts {
            fed.data(part.to_vec());
        }
        let mut body = body.turned_to_grpc(text);
        fed.end();
        let mut cx = Context::from_waker(Waker::noop());
        let mut octets = Vec::new();
        loop {
            match Pin::new(&mut body).poll_frame(&mut cx) {
                Poll::Ready(None) => return (octets, Ok(())),
                Poll::Ready(Some(Ok(frame))) => octets.extend_from_slice(frame.data_ref().unwrap()),
                Poll::Ready(Some(Err(error))) => return (octets, Err(error)),
                Poll::Pending => {}
            }
        }
    }

    fn read(parts: &[&[u8]]) -> Result<Vec<u8>, BodyError> {
        let (octets, ended) = turned(parts, true);
        ended.map(|()| octets)
    }

    fn message(flags: u8, octets: &[u8]) -> Vec<u8> {
        let length = u32::try_from(octets.len()).unwrap().to_be_bytes();
        [&[flags], &length[..], octets].concat()
    }

    #[test]
    fn trailers_are_the_servers_to_write() {
        let (good, trailers) = (message(0, b"one"), message(0x80, b"grpc-status: 0\r\n"));
        let both = [&good[..], &trailers].concat();
        for text in [false, true] {
            let form =
                |octets: &[u8]| if text { STANDARD.encode(octets).into_bytes() } else { octets.to_vec() };
            let refused = |parts: &[&[u8]]| {
                let (octets, ended) = turned(parts, text);
                assert!(matches!(ended, Err(BodyError::Unfit)), "{ended:?}");
                octets
            };
            assert!(refused(&[&form(&trailers)]).is_empty());
            assert!(refused(&[&form(&both)]).is_empty(), "nothing of the piece that has them");
            assert_eq!(refused(&[&form(&good), &form(&trailers)]), good);
            assert!(refused(&[&form(&message(0x81, b""))]).is_empty(), "compressed");
            // Wherever the pieces are cut.
            let whole = form(&both);
            for cut in 1..whole.len() {
                let (begin, rest) = whole.split_at(cut);
                assert!(both.starts_with(&refused(&[begin, rest])), "{cut}");
            }
            // The mark is one where a message begins, and other flags are for the backend to judge.
            for others in [message(0, &[0x80; 6]), message(1, b"z"), message(0x40, b"?")] {
                let (octets, ended) = turned(&[&form(&others)], text);
                assert!(ended.is_ok() && octets == others, "{octets:?} {ended:?}");
            }
        }
        assert!(turned(&[], false).1.is_ok());
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
            let messages: Vec<_> = messages.iter().map(|octets| message(0, octets)).collect();
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
