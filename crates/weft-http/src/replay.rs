//! A request body that can be sent a second time.
//!
//! A peer may refuse a request unseen (GOAWAY, REFUSED_STREAM, an application that takes no connection) after part of the
//! body has been read from the client. What has been read is then kept, as references to the same bytes, until the answer
//! begins or the body grows beyond [`MOST_KEPT`]; from then on it is like any other body.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame};

use crate::{Body, BodyError};

/// What is kept of one body at most: the window that HTTP/2 gives a stream by default (RFC 9113 section 6.9.2), which is
/// as much as an ordinary client sends before it hears anything.
const MOST_KEPT: usize = 65_535;

/// The right to send a body again. While it is held, what has been read is kept.
///
/// A body has one reader: what it is read from lies in a place that both know, and sending again takes it out of there.
/// An earlier sending that still has its end of the body finds the place empty and fails; it can take no frame of the later.
#[derive(Debug)]
pub struct Replay(Place);

/// Reads the kept part from its beginning, then the rest.
#[derive(Debug)]
pub struct Replayed {
    place: Place,
    at: usize,
}

/// Where a body lies while it may be sent again; `None` once a later sending has taken it.
type Place = Rc<RefCell<Option<Kept>>>;

#[derive(Debug)]
struct Kept {
    frames: Vec<Piece>,
    bytes: usize,
    rest: Body,
    /// Something of the beginning is gone.
    lost: bool,
}

#[derive(Debug, Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Replay {
    /// Makes `body` one that can be sent again. One that is known to be empty needs nothing of this.
    pub fn of(body: Body) -> (Self, Body) {
        Self::with(Kept { frames: Vec::new(), bytes: 0, rest: body, lost: false })
    }

    fn with(kept: Kept) -> (Self, Body) {
        let place = Rc::new(RefCell::new(Some(kept)));
        let reader = Replayed { place: Rc::clone(&place), at: 0 };
        (Self(place), Body::Replayed(reader))
    }

    /// The body from its beginning, and the right to send it once more; nothing, if too much of it has passed or it has
    /// failed. Whoever reads the earlier one reads no more of it.
    pub fn again(self) -> Option<(Self, Body)> {
        let kept = self.0.borrow_mut().take_if(|kept| !kept.lost)?;
        Some(Self::with(kept))
    }
}

impl Replayed {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let watched = Rc::strong_count(&self.place) > 1;
        let mut place = self.place.borrow_mut();
        let Some(kept) = place.as_mut() else { return Poll::Ready(Some(Err(BodyError::SentAgain))) };
        if let Some(piece) = kept.frames.get(self.at).cloned() {
            self.at += 1;
            if !watched && self.at == kept.frames.len() {
                kept.forget();
            }
            return Poll::Ready(Some(Ok(piece.into())));
        }
        let frame = ready!(std::pin::Pin::new(&mut kept.rest).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) if watched && !kept.lost => kept.keep(frame),
            Some(Ok(_)) | None => {}
            Some(Err(_)) => kept.forget(),
        }
        self.at = kept.frames.len();
        Poll::Ready(frame)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.place
            .borrow()
            .as_ref()
            .is_some_and(|kept| self.at >= kept.frames.len() && kept.rest.is_end_stream())
    }

    pub(crate) fn size_hint(&self) -> http_body::SizeHint {
        let place = self.place.borrow();
        let Some(kept) = place.as_ref() else { return http_body::SizeHint::default() };
        let unread = kept.frames.get(self.at..).unwrap_or_default();
        // What is told of a length ends with its last octet: trailers would be left out.
        if unread.iter().any(|piece| matches!(piece, Piece::Trailers(_))) {
            return http_body::SizeHint::default();
        }
        let rest = kept.rest.size_hint();
        let unread: usize = unread.iter().map(Piece::len).sum();
        match rest.exact() {
            Some(rest) => http_body::SizeHint::with_exact(rest + unread as u64),
            None => http_body::SizeHint::default(),
        }
    }
}

impl Kept {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Piece::Data(data.clone()),
            (None, Some(trailers)) => Piece::Trailers(trailers.clone()),
            (None, None) => return,
        };
        self.bytes += piece.len();
        if self.bytes > MOST_KEPT {
            self.forget();
        } else {
            self.frames.push(piece);
        }
    }

    fn forget(&mut self) {
        self.frames = Vec::new();
        self.lost = true;
    }
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(_) => 0,
        }
    }
}

impl From<Piece> for Frame<Bytes> {
    fn from(piece: Piece) -> Self {
        match piece {
            Piece::Data(data) => Self::data(data),
            Piece::Trailers(trailers) => Self::trailers(trailers),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::Waker;

    use super::*;

    fn next(body: &mut Body) -> Option<Bytes> {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(body).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().ok(),
            Poll::Ready(None) => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_body_comes_again_from_its_beginning() {
        let (replay, mut first) = Replay::of(Body::Full(Bytes::from_static(b"all of it")));
        assert!(!first.is_end_stream());
        assert_eq!(first.size_hint().exact(), Some(9));
        assert_eq!(next(&mut first).unwrap(), "all of it");
        assert!(first.is_end_stream());
        drop(first);
        let (_, mut second) = replay.again().unwrap();
        assert_eq!(second.size_hint().exact(), Some(9));
        assert!(!second.is_end_stream());
        assert_eq!(next(&mut second).unwrap(), "all of it");
        assert_eq!(next(&mut second), None);
    }

    #[test]
    fn what_was_not_read_the_first_time_is_read_the_second() {
        let (replay, first) = Replay::of(Body::Full(Bytes::from_static(b"later")));
        drop(first);
        assert_eq!(next(&mut replay.again().unwrap().1).unwrap(), "later");
    }

    #[test]
    fn an_earlier_sending_takes_nothing_of_a_later_one() {
        let (replay, mut first) = Replay::of(Body::Full(Bytes::from_static(b"for the second")));
        let (replay, mut second) = replay.again().unwrap();
        assert!(!first.is_end_stream(), "half a body is not a whole one");
        let mut cx = Context::from_waker(Waker::noop());
        let read = loop {
            // An error lets what came before it leave first.
            if let Poll::Ready(read) = Pin::new(&mut first).poll_frame(&mut cx) {
                break read;
            }
        };
        assert!(matches!(read, Some(Err(BodyError::SentAgain))), "{read:?}");
        assert_eq!(next(&mut second).unwrap(), "for the second");
        assert_eq!(next(&mut replay.again().unwrap().1).unwrap(), "for the second", "and once more");
    }

    /// A length would have the peer take the last octet for the end.
    #[test]
    fn what_has_trailers_tells_no_length() {
        let (replay, mut first) = Replay::of(Body::Full(Bytes::from_static(b"data")));
        assert_eq!(next(&mut first).unwrap(), "data");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", http::HeaderValue::from_static("1"));
        replay.0.borrow_mut().as_mut().unwrap().frames.push(Piece::Trailers(trailers));
        let (_, mut second) = replay.again().unwrap();
        assert_eq!(second.size_hint().exact(), None);
        assert_eq!(next(&mut second).unwrap(), "data");
        assert!(!second.is_end_stream());
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(Ok(last))) = Pin::new(&mut second).poll_frame(&mut cx) else {
            panic!("trailers")
        };
        assert_eq!(last.into_trailers().unwrap()["x-sum"], "1");
        assert!(second.is_end_stream());
    }

    #[test]
    fn a_large_body_cannot_come_again() {
        let (replay, mut first) = Replay::of(Body::Full(Bytes::from(vec![0; MOST_KEPT + 1])));
        assert_eq!(next(&mut first).unwrap().len(), MOST_KEPT + 1);
        assert!(replay.again().is_none());
        assert!(first.is_end_stream());
    }

    #[test]
    fn nothing_is_kept_once_nobody_may_ask() {
        let (replay, mut first) = Replay::of(Body::Full(Bytes::from_static(b"once")));
        drop(replay);
        assert_eq!(next(&mut first).unwrap(), "once");
        let Body::Replayed(reader) = &first else { panic!("{first:?}") };
        assert!(reader.place.borrow().as_ref().unwrap().frames.is_empty());
        assert_eq!(next(&mut first), None);
    }
}
