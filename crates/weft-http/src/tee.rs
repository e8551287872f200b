//! A body that is read twice at once: by whom it is for, and by one who gets a copy.
//!
//! The copy holds up nobody. It is given references to the same bytes; where its reader falls behind by more than a bound, it
//! breaks off, and the body goes on as if there were no copy.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use crate::{Body, BodyError};

/// A body whose frames go into a copy as they pass.
#[derive(Debug)]
pub struct Teed {
    body: Body,
    copy: Weak<RefCell<Queue>>,
}

/// The copy.
#[derive(Debug)]
pub struct Copied(Rc<RefCell<Queue>>);

/// What the copy's reader has not read yet.
#[derive(Debug)]
struct Queue {
    frames: VecDeque<Piece>,
    octets: usize,
    most: usize,
    end: End,
    reader: Option<Waker>,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// How far the copied body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    Whole,
    Broken,
}

impl Queue {
    fn put(&mut self, frame: &Frame<Bytes>) {
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Piece::Data(data.clone()),
            (None, Some(trailers)) => Piece::Trailers(trailers.clone()),
            (None, None) => return,
        };
        if let Piece::Data(data) = &piece {
            self.octets += data.len();
        }
        if self.octets > self.most {
            self.frames.clear();
            return self.close(End::Broken);
        }
        self.frames.push_back(piece);
        self.wake();
    }

    fn close(&mut self, end: End) {
        if self.end == End::Open {
            self.end = end;
        }
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Body {
    /// Makes a copy that is filled as this body is read, and may fall behind by `most` octets. A body that is known to be empty
    /// has an empty copy.
    pub fn copied(&mut self, most: usize) -> Self {
        if self.is_end_stream() {
            return Self::Empty;
        }
        let queue = Queue { frames: VecDeque::new(), octets: 0, most, end: End::Open, reader: None };
        let queue = Rc::new(RefCell::new(queue));
        let body = std::mem::take(self);
        *self = Self::Teed(Box::new(Teed { body, copy: Rc::downgrade(&queue) }));
        Self::Copied(Copied(queue))
    }
}

impl Teed {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = std::task::ready!(std::pin::Pin::new(&mut self.body).poll_frame(cx));
        if let Some(copy) = self.copy.upgrade() {
            let mut copy = copy.borrow_mut();
            match &frame {
                Some(Ok(frame)) if copy.end == End::Open => copy.put(frame),
                Some(Ok(_)) => {}
                Some(Err(_)) => copy.close(End::Broken),
                None => copy.close(End::Whole),
            }
        }
        Poll::Ready(frame)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Teed {
    fn drop(&mut self) {
        if let Some(copy) = self.copy.upgrade() {
            // A reader that trusts `is_end_stream` does not poll for the end.
            let end = if self.body.is_end_stream() { End::Whole } else { End::Broken };
            copy.borrow_mut().close(end);
        }
    }
}

impl Copied {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut queue = self.0.borrow_mut();
        match queue.frames.pop_front() {
            Some(Piece::Data(data)) => {
                queue.octets -= data.len();
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            Some(Piece::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            None => {}
        }
        match queue.end {
            End::Whole => Poll::Ready(None),
            End::Broken => Poll::Ready(Some(Err(BodyError::CopyEnded))),
            End::Open => {
                queue.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let queue = self.0.borrow();
        queue.frames.is_empty() && queue.end == End::Whole
    }
}

/// A body that a test feeds.
#[cfg(test)]
pub(crate) struct Fed(Rc<RefCell<Queue>>);

#[cfg(test)]
impl Fed {
    pub(crate) fn new() -> (Self, Body) {
        let most = usize::MAX;
        let queue = Queue { frames: VecDeque::new(), octets: 0, most, end: End::Open, reader: None };
        let queue = Rc::new(RefCell::new(queue));
        (Self(Rc::clone(&queue)), Body::Copied(Copied(queue)))
    }

    pub(crate) fn data(&self, data: impl Into<Bytes>) {
        self.0.borrow_mut().put(&Frame::data(data.into()));
    }

    pub(crate) fn trailers(&self, trailers: HeaderMap) {
        self.0.borrow_mut().put(&Frame::trailers(trailers));
    }

    pub(crate) fn end(&self) {
        self.0.borrow_mut().close(End::Whole);
    }

    pub(crate) fn break_off(&self) {
        self.0.borrow_mut().close(End::Broken);
    }

    /// What nobody has read yet.
    pub(crate) fn unread(&self) -> usize {
        self.0.borrow().octets
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use super::*;

    fn next(body: &mut Body) -> Poll<Option<Result<Bytes, BodyError>>> {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..10 {
            // An error lets what came before it leave first.
            if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(&mut cx) {
                return Poll::Ready(
                    frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default())),
                );
            }
        }
        Poll::Pending
    }

    fn data(body: &mut Body) -> Bytes {
        match next(body) {
            Poll::Ready(Some(Ok(data))) => data,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_get_all_of_it() {
        let mut body = Body::Full("all of it".into());
        let mut copy = body.copied(100);
        assert!(next(&mut copy).is_pending(), "nothing has passed yet");
        assert_eq!(data(&mut body), "all of it");
        assert_eq!(data(&mut copy), "all of it");
        assert!(next(&mut copy).is_pending() || copy.is_end_stream());
        assert!(matches!(next(&mut body), Poll::Ready(None)));
        assert!(matches!(next(&mut copy), Poll::Ready(None)));
    }

    #[test]
    fn a_copy_that_falls_behind_ends_and_the_body_does_not() {
        let mut body = Body::Full("too much".into());
        let mut copy = body.copied(7);
        assert_eq!(data(&mut body), "too much");
        assert!(matches!(next(&mut copy), Poll::Ready(Some(Err(BodyError::CopyEnded)))));
    }

    #[test]
    fn half_a_body_is_no_whole_copy() {
        let mut body = Body::Full("never read".into());
        let mut copy = body.copied(100);
        drop(body);
        assert!(!copy.is_end_stream());
        assert!(matches!(next(&mut copy), Poll::Ready(Some(Err(BodyError::CopyEnded)))));
    }

    #[test]
    fn nobody_may_want_the_copy() {
        let mut body = Body::Full("all of it".into());
        drop(body.copied(100));
        assert_eq!(data(&mut body), "all of it");
        assert!(matches!(body.copied(100), Body::Empty), "there is nothing left");
    }
}
