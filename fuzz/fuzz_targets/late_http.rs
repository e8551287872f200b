//! The watch over connections of bytes: pieces do not matter, and whatever detection takes for HTTP, the watch refuses.
#![no_main]

use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use weft_net::detect::{Detected, Detection, MAX_REQUEST_LINE, Watched, detect};

/// Reads to the end or to the first refusal; says whether HTTP was seen, and checks that nothing is handed on after it.
fn is_refused(stream: impl AsyncRead + Unpin) -> bool {
    let mut watched = Watched::new(stream);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        let mut bytes = [0; 64];
        let mut buffer = ReadBuf::new(&mut bytes);
        match Pin::new(&mut watched).poll_read(&mut context, &mut buffer) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => return watched.is_http(),
            Poll::Ready(Ok(())) => assert!(!watched.is_http(), "bytes of a request were handed on"),
            Poll::Ready(Err(error)) => {
                assert_eq!(error.kind(), ErrorKind::InvalidData);
                assert!(buffer.filled().is_empty() && watched.is_http());
                return true;
            }
            Poll::Pending => unreachable!("a slice is always ready"),
        }
    }
}

// Where to cut, and then the bytes.
fuzz_target!(|input: &[u8]| {
    let Some((at, bytes)) = input.split_first() else { return };
    let (first, second) = bytes.split_at(usize::from(*at).min(bytes.len()));
    let whole = is_refused(bytes);
    assert_eq!(is_refused(first.chain(second)), whole);
    // A line that reaches the limit without a target or a version is HTTP to detection, for the parser to answer 414.
    let detected = detect(&bytes[..bytes.len().min(MAX_REQUEST_LINE)]);
    if matches!(detected, Detection::Done(Detected::Http1 | Detected::Http2)) && bytes.len() < MAX_REQUEST_LINE {
        assert!(whole);
    }
});
