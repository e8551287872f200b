//! Bytes to the frames of a body.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::chunked::{Chunks, Next};
use super::parse;
use super::table::Framing;
use crate::Http1Limits;

/// Reads one body.
#[derive(Debug)]
pub(super) struct Decoder(State);

#[derive(Debug)]
enum State {
    Length(u64),
    /// So many octets of the trailers were looked at in vain.
    Chunked(Chunks, usize),
    UntilClose,
    Ended,
}

/// A piece of a body.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The last: nothing of this message is left unread.
    End,
    /// More must be read first.
    More,
}

impl Decoder {
    pub(super) fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::None | Framing::Length(0) => State::Ended,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(Chunks::new(), 0),
            Framing::UntilClose => State::UntilClose,
        })
    }

    /// Octets that are still to come, where that is known.
    pub(super) fn left(&self) -> Option<u64> {
        match self.0 {
            State::Length(left) => Some(left),
            State::Ended => Some(0),
            State::Chunked(..) | State::UntilClose => None,
        }
    }

    pub(super) fn is_ended(&self) -> bool {
        matches!(self.0, State::Ended)
    }

    /// Takes a piece off the front of `buf`.
    pub(super) fn next(&mut self, buf: &mut BytesMut, limits: &Http1Limits) -> Result<Piece, &'static str> {
        match &mut self.0 {
            State::Ended => Ok(Piece::End),
            State::Length(_) | State::UntilClose if buf.is_empty() => Ok(Piece::More),
            State::Length(left) => {
                let data = split(buf, *left);
                *left -= data.len() as u64;
                if *left == 0 {
                    self.0 = State::Ended;
                }
                Ok(Piece::Data(data))
            }
            State::UntilClose => Ok(Piece::Data(buf.split().freeze())),
            State::Chunked(chunks, seen) => match chunks.next(buf)? {
                Next::More => Ok(Piece::More),
                Next::Data(_) if buf.is_empty() => Ok(Piece::More),
                Next::Data(left) => {
                    let data = split(buf, left);
                    chunks.taken(data.len() as u64);
                    // The end is most likely there as well, and who reads to the last byte of data need not ask again.
                    if let Ok(Next::Trailers) = chunks.next(buf)
                        && buf.starts_with(b"\r\n")
                    {
                        let _ = buf.split_to(2);
                        self.0 = State::Ended;
                    }
                    Ok(Piece::Data(data))
                }
                // Looking costs as much as what is there, and they end with a line.
                Next::Trailers if !parse::is_worth_a_look(buf, *seen, limits) => Ok(Piece::More),
                Next::Trailers => Ok(match parse::trailers(buf, limits)? {
                    None => {
                        *seen = buf.len();
                        Piece::More
                    }
                    Some(trailers) => {
                        self.0 = State::Ended;
                        if trailers.is_empty() { Piece::End } else { Piece::Trailers(trailers) }
                    }
                }),
            },
        }
    }

    /// The peer has closed. Whether that was the end of the message.
    pub(super) fn close(&mut self) -> bool {
        let ended = matches!(self.0, State::UntilClose | State::Ended);
        if ended {
            self.0 = State::Ended;
        }
        ended
    }
}

fn split(buf: &mut BytesMut, most: u64) -> Bytes {
    let octets = usize::try_from(most).unwrap_or(usize::MAX).min(buf.len());
    buf.split_to(octets).freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(framing: Framing, wire: &[u8]) -> (Vec<u8>, Option<HeaderMap>, bool, BytesMut) {
        let mut decoder = Decoder::new(framing);
        let mut buf = BytesMut::from(wire);
        let (mut data, mut trailers) = (Vec::new(), None);
        loop {
            match decoder.next(&mut buf, &Http1Limits::default()).unwrap() {
                Piece::Data(piece) => data.extend_from_slice(&piece),
                Piece::Trailers(map) => trailers = Some(map),
                Piece::End => return (data, trailers, true, buf),
                Piece::More => return (data, trailers, false, buf),
            }
        }
    }

    #[test]
    fn a_body_ends_where_its_framing_says_and_the_next_message_stays() {
        let (data, _, ended, rest) = read(Framing::Length(3), b"abcGET");
        assert_eq!((data.as_slice(), ended, &rest[..]), (&b"abc"[..], true, &b"GET"[..]));
        let (data, trailers, ended, rest) = read(Framing::Chunked, b"3\r\nabc\r\n0\r\n\r\nGET");
        assert_eq!((data.as_slice(), trailers, ended, &rest[..]), (&b"abc"[..], None, true, &b"GET"[..]));
        let (data, _, ended, _) = read(Framing::UntilClose, b"abc");
        assert_eq!((data.as_slice(), ended), (&b"abc"[..], false));
        let (_, _, ended, _) = read(Framing::Chunked, b"3\r\nabc\r\n0\r\n");
        assert!(!ended, "the empty line behind the trailers is missing");
    }

    #[test]
    fn trailers_pass_without_what_may_not_be_one() {
        let wire = b"0\r\nX-Sum: 1\r\ncontent-length: 5\r\nhost: x\r\nx-forwarded-client-cert: y\r\nweft-x: z\r\n\r\n";
        let (_, trailers, ended, _) = read(Framing::Chunked, wire);
        let trailers = trailers.unwrap();
        assert!(ended && trailers.len() == 1 && trailers["x-sum"] == "1", "{trailers:?}");
    }
}
