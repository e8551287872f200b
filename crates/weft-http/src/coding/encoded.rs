//! A body in a content coding.
//!
//! The encoder works in pieces and is asked only when somebody reads, so that what is in memory is bounded and a client that does
//! not read holds up the source. A source that pauses is no reason to hold back what it has sent: after [`IDLE`] the encoder gives all it
//! has. One that breaks off leaves an end that no decoder takes for one.

use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use compression_codecs::EncodeV2;
use compression_codecs::brotli::params::EncoderParams;
use compression_codecs::core::Level;
use compression_codecs::core::util::{PartialBuffer, WriteBuffer};
use compression_codecs::flate::params::FlateEncoderParams;
use compression_codecs::zstd::params::CParameter;
use compression_codecs::{BrotliEncoder, GzipEncoder, ZstdEncoder};
use http::HeaderMap;
use http_body::{Body as _, Frame};
use tokio::time::{Instant, Sleep};
use weft_core::ContentCoding;

use crate::{Body, BodyError};

/// How long a source may say nothing before what the encoder has leaves. One that is read in several pieces without a pause is not cut at
/// each of them, which would cost much of what is saved; nobody notices two milliseconds who waits for the next part of a page.
const IDLE: Duration = Duration::from_millis(2);
/// What leaves in one piece: as much as one record of TLS holds (RFC 8446 section 5.1).
const PIECE: usize = 16 * 1024;
/// What is encoded before others have their turn. Brotli as it is set here takes about a millisecond for it.
const TURN: usize = 32 * 1024;

/// zstd's default is 3, brotli's for what is compressed once and for all is 11; nginx's modules take 6 of brotli and 1 of gzip. These are
/// where each of them still keeps up with a network.
const GZIP_LEVEL: i32 = 5;
const BROTLI_LEVEL: i32 = 4;
const ZSTD_LEVEL: i32 = 3;
/// Windows of 128 KiB (gzip has 32 KiB by its format): what bounds the memory of an answer. Clients need not take more than 8 MiB of zstd
/// (RFC 9659 section 3).
const WINDOW_BITS: u32 = 17;
/// The smallest that all of them take.
const LEAST_WINDOW_BITS: u32 = 10;

/// A body that leaves in a coding.
pub struct Encoded {
    body: Body,
    encoder: Box<dyn EncodeV2>,
    /// What the encoder has not taken of the last frame.
    input: Bytes,
    output: Box<Output>,
    doing: Doing,
    /// The encoder may have something to give that it keeps for more.
    dirty: bool,
    /// What was encoded in this turn.
    worked: usize,
    trailers: Option<HeaderMap>,
    /// The source has broken off; what it had sent before leaves first.
    broken: Option<BodyError>,
    idle: Idle,
    _place: Encoding,
}

/// How many bodies are encoded at once, at most: each holds its encoder's tables and windows, up to about two mebibytes, for as long
/// as its client reads.
#[derive(Debug)]
pub struct Encodings {
    most: usize,
    now: Rc<Cell<usize>>,
}

/// A place among them.
#[derive(Debug)]
pub struct Encoding(Rc<Cell<usize>>);

impl Encodings {
    /// None yet, and at most so many.
    pub fn new(most: usize) -> Self {
        Self { most, now: Rc::default() }
    }

    /// A place, if there is one.
    pub fn begin(&self) -> Option<Encoding> {
        let now = self.now.get();
        (now < self.most).then(|| {
            self.now.set(now + 1);
            Encoding(Rc::clone(&self.now))
        })
    }
}

impl Drop for Encoding {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What the encoder has given, and has not left yet.
struct Output {
    octets: [u8; PIECE],
    filled: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Encoding,
    Flushing,
    Finishing,
    Ended,
}

/// How long the source has said nothing.
#[derive(Debug, Default)]
struct Idle {
    timer: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl Idle {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = Instant::now() + IDLE;
        match &mut self.timer {
            Some(timer) if !self.running => timer.as_mut().reset(until),
            Some(_) => {}
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(until))),
        }
        self.running = true;
        let over = self.timer.as_mut().map_or(Poll::Ready(()), |timer| timer.as_mut().poll(cx));
        self.running = over.is_pending();
        over
    }
}

impl Output {
    fn has_room(&self) -> bool {
        self.filled < PIECE
    }

    /// Has the encoder write behind what is there.
    fn with<T>(&mut self, write: impl FnOnce(&mut WriteBuffer<'_>) -> T) -> T {
        let room = self.octets.get_mut(self.filled..).unwrap_or_default();
        let mut room = WriteBuffer::new_initialized(room);
        let done = write(&mut room);
        self.filled += room.written_len();
        done
    }

    fn take(&mut self) -> Option<Bytes> {
        let filled = std::mem::take(&mut self.filled);
        let octets = self.octets.get(..filled).filter(|octets| !octets.is_empty());
        octets.map(Bytes::copy_from_slice)
    }
}

/// An encoder for so many octets, or for nobody knows how many.
fn encoder(coding: ContentCoding, octets: Option<u64>) -> Box<dyn EncodeV2> {
    let bits = octets.map_or(WINDOW_BITS, window_bits);
    match coding {
        ContentCoding::Gzip => {
            Box::new(GzipEncoder::new(FlateEncoderParams::from(Level::Precise(GZIP_LEVEL))))
        }
        ContentCoding::Brotli => {
            let params = EncoderParams::default().quality(Level::Precise(BROTLI_LEVEL));
            Box::new(BrotliEncoder::new(params.window_size(bits.cast_signed()).size_hint(1 << bits)))
        }
        ContentCoding::Zstd => {
            // As level 3 has its tables for windows of this size; zstd fits them only to a size that it is told.
            let tables = [CParameter::hash_log(bits), CParameter::chain_log(bits - 1)];
            let [hashes, chains] = tables;
            Box::new(ZstdEncoder::new_with_params(
                ZSTD_LEVEL,
                &[CParameter::window_log(bits), hashes, chains],
            ))
        }
    }
}

/// The smallest window that holds a body, in bits.
fn window_bits(octets: u64) -> u32 {
    octets.checked_next_power_of_two().map_or(WINDOW_BITS, u64::ilog2).clamp(LEAST_WINDOW_BITS, WINDOW_BITS)
}

impl Body {
    /// The body in a content coding. What its head says of it ([`http::header::CONTENT_ENCODING`] and the like) is the caller's.
    #[must_use]
    pub fn encoded(self, coding: ContentCoding, place: Encoding) -> Self {
        Self::Encoded(Box::new(Encoded {
            encoder: encoder(coding, self.size_hint().exact()),
            body: self,
            input: Bytes::new(),
            output: Box::new(Output { octets: [0; PIECE], filled: 0 }),
            doing: Doing::Encoding,
            dirty: false,
            worked: 0,
            trailers: None,
            broken: None,
            idle: Idle::default(),
            _place: place,
        }))
    }
}

/// What a reader gets; `None`: that was all.
type Told = Option<Result<Frame<Bytes>, BodyError>>;

impl Encoded {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if !self.output.has_room() {
                return self.give();
            }
            match self.doing {
                Doing::Ended => {
                    return match self.output.take() {
                        Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
                        None => {
                            Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
                        }
                    };
                }
                Doing::Finishing => match self.output.with(|room| self.encoder.finish(room)) {
                    Ok(true) => self.doing = Doing::Ended,
                    Ok(false) => {}
                    Err(_) => return self.fail(),
                },
                Doing::Flushing => match self.output.with(|room| self.encoder.flush(room)) {
                    Ok(true) => {
                        (self.doing, self.dirty) = (Doing::Encoding, false);
                        if self.output.filled > 0 {
                            return self.give();
                        }
                    }
                    Ok(false) => {}
                    Err(_) => return self.fail(),
                },
                Doing::Encoding if !self.input.is_empty() => {
                    if self.worked >= TURN {
                        self.worked = 0;
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    if self.encode().is_err() {
                        return self.fail();
                    }
                }
                Doing::Encoding => {
                    if let Some(done) = std::task::ready!(self.poll_source(cx)) {
                        return Poll::Ready(done);
                    }
                }
            }
        }
    }

    /// Has the encoder take some of the input.
    fn encode(&mut self) -> std::io::Result<()> {
        let piece = self.input.get(..PIECE).unwrap_or(&self.input);
        let mut input = PartialBuffer::new(piece);
        self.output.with(|room| self.encoder.encode(&mut input, room))?;
        let taken = input.written_len();
        bytes::Buf::advance(&mut self.input, taken);
        self.worked += taken;
        self.dirty = true;
        Ok(())
    }

    /// Looks for more from the source. Ready with `Some`: that is what the reader gets.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Told>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Some(Err(error))));
        }
        if self.body.is_end_stream() {
            self.doing = Doing::Finishing;
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            self.worked = 0;
            if !self.dirty {
                return Poll::Pending;
            }
            return self.idle.poll(cx).map(|()| {
                self.doing = Doing::Flushing;
                None
            });
        };
        self.idle.running = false;
        match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => self.input = data,
            Some(Ok(Err(frame))) => {
                self.trailers = frame.into_trailers().ok();
                self.doing = Doing::Finishing;
            }
            Some(Err(error)) => (self.broken, self.doing) = (Some(error), Doing::Flushing),
            None => self.doing = Doing::Finishing,
        }
        Poll::Ready(None)
    }

    fn give(&mut self) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(self.output.take().map(|data| Ok(Frame::data(data))))
    }

    fn fail(&mut self) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(Some(Err(BodyError::Unfit)))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.doing == Doing::Ended && self.output.filled == 0 && self.trailers.is_none()
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoded")
            .field("body", &self.body)
            .field("doing", &self.doing)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "encoded_tests.rs"]
mod tests;
