use std::future::poll_fn;
use std::task::Waker;

use compression_codecs::{BrotliDecoder, DecodeV2, GzipDecoder, ZstdDecoder};
use http::HeaderValue;
use proptest::prelude::*;

use super::*;
use crate::tee::Fed;

/// What a decoder makes of it so far, and whether it has seen the end.
fn decoded(coding: ContentCoding, octets: &[u8]) -> (Vec<u8>, bool) {
    let mut decoder: Box<dyn DecodeV2> = match coding {
        ContentCoding::Gzip => Box::new(GzipDecoder::new()),
        ContentCoding::Brotli => Box::new(BrotliDecoder::new()),
        ContentCoding::Zstd => Box::new(ZstdDecoder::new()),
    };
    let (mut text, mut some) = (Vec::new(), vec![0; 64 * 1024]);
    let mut input = PartialBuffer::new(octets);
    loop {
        let mut room = WriteBuffer::new_initialized(&mut some);
        let before = input.written_len();
        let ended = decoder.decode(&mut input, &mut room).unwrap();
        let stuck = input.written_len() == before && room.written_len() == 0;
        text.extend_from_slice(room.written());
        if ended || stuck {
            return (text, ended);
        }
        if input.unwritten().is_empty() {
            let mut room = WriteBuffer::new_initialized(&mut some);
            decoder.flush(&mut room).unwrap();
            text.extend_from_slice(room.written());
            if room.written_len() == 0 {
                return (text, false);
            }
        }
    }
}

fn place() -> Encoding {
    Encodings::new(1).begin().unwrap()
}

async fn next(body: &mut Body) -> Option<Result<Frame<Bytes>, BodyError>> {
    poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

/// All of a body, and its trailers.
async fn whole(body: &mut Body) -> Result<(Vec<u8>, Option<HeaderMap>), BodyError> {
    let (mut octets, mut trailers) = (Vec::new(), None);
    while !body.is_end_stream()
        && let Some(frame) = next(body).await
    {
        match frame?.into_data() {
            Ok(data) => {
                assert!(!data.is_empty() && data.len() <= PIECE);
                octets.extend_from_slice(&data);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((octets, trailers))
}

/// Something with repetitions, and so long.
fn text(length: usize) -> Vec<u8> {
    let line = |n: usize| format!("{n}: the quick brown fox has {} lives\n", n * 7919 % 97);
    (0..).flat_map(|n| line(n).into_bytes()).take(length).collect()
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_goes_in_comes_out_and_is_smaller() {
    for coding in ContentCoding::ALL {
        for length in [0, 1, 1024, PIECE, TURN + 1, 1_000_000] {
            let text = text(length);
            let mut body = Body::Full(text.clone().into()).encoded(coding, place());
            let (octets, trailers) = whole(&mut body).await.unwrap();
            assert_eq!(decoded(coding, &octets), (text, true), "{coding} {length}");
            assert!(length < 1024 || octets.len() < length * 2 / 3, "{coding} {length}: {}", octets.len());
            assert_eq!((trailers, body.is_end_stream()), (None, true));
        }
        let noise = noise(300_000);
        let mut body = Body::Full(noise.clone().into()).encoded(coding, place());
        let (octets, _) = whole(&mut body).await.unwrap();
        assert_eq!(decoded(coding, &octets), (noise, true), "{coding}");
    }
}

#[tokio::test(start_paused = true)]
async fn trailers_come_behind_the_end() {
    for coding in ContentCoding::ALL {
        let (fed, body) = Fed::new();
        fed.data("some of it");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        fed.trailers(trailers.clone());
        fed.end();
        let mut body = body.encoded(coding, place());
        let (octets, told) = whole(&mut body).await.unwrap();
        assert_eq!((decoded(coding, &octets), told), ((b"some of it".to_vec(), true), Some(trailers)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_pauses_holds_nothing_back() {
    for coding in ContentCoding::ALL {
        let (fed, body) = Fed::new();
        let mut body = body.encoded(coding, place());
        let mut octets = Vec::new();
        for part in ["a", "second part", "and the third"] {
            fed.data(part);
            let begun = Instant::now();
            let frame = next(&mut body).await.unwrap().unwrap();
            octets.extend_from_slice(frame.data_ref().unwrap());
            assert!(begun.elapsed() <= IDLE * 2, "{:?}", begun.elapsed());
            let (text, ended) = decoded(coding, &octets);
            assert!(text.ends_with(part.as_bytes()) && !ended, "{coding}: {part}");
            // And it says nothing until there is more.
            let more = tokio::time::timeout(Duration::from_secs(60), next(&mut body)).await;
            assert!(more.is_err(), "{coding}: {more:?}");
        }
        fed.end();
        octets.extend(whole(&mut body).await.unwrap().0);
        assert_eq!(decoded(coding, &octets), (b"asecond partand the third".to_vec(), true), "{coding}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_without_a_pause_is_not_cut() {
    for coding in ContentCoding::ALL {
        let (fed, body) = Fed::new();
        let mut body = body.encoded(coding, place());
        let text = text(20_000);
        let feeding = async {
            for part in text.chunks(100) {
                fed.data(part.to_vec());
                tokio::task::yield_now().await;
            }
            fed.end();
        };
        let ((), read) = tokio::join!(feeding, whole(&mut body));
        let pieces = read.unwrap().0;
        let mut at_once = Body::Full(text.clone().into()).encoded(coding, place());
        let at_once = whole(&mut at_once).await.unwrap().0;
        assert_eq!(decoded(coding, &pieces), (text, true));
        assert!(pieces.len() < at_once.len() * 11 / 10, "{coding}: {} and {}", pieces.len(), at_once.len());
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_breaks_off_has_no_end() {
    for coding in ContentCoding::ALL {
        for length in [0, 10, 100_000] {
            let (fed, body) = Fed::new();
            let mut body = body.encoded(coding, place());
            let text = text(length);
            if length > 0 {
                fed.data(text.clone());
            }
            fed.break_off();
            let mut octets = Vec::new();
            let error = loop {
                match next(&mut body).await.unwrap() {
                    Ok(frame) => octets.extend_from_slice(frame.data_ref().unwrap()),
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, BodyError::CopyEnded), "{error}");
            // All that had come is there, and no decoder takes it for whole.
            if length > 0 {
                assert_eq!(decoded(coding, &octets), (text, false), "{coding} {length}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_that_nobody_wants() {
    for coding in ContentCoding::ALL {
        let (fed, body) = Fed::new();
        let mut body = body.encoded(coding, place());
        for _ in 0..1000 {
            fed.data(noise(PIECE));
        }
        let before = fed.unread();
        drop(next(&mut body).await.unwrap().unwrap());
        // What does not get smaller comes out as fast as it goes in, but for what the encoder looks at together.
        assert!(before - fed.unread() < 1 << 20, "{coding}: {}", before - fed.unread());
    }
}

#[tokio::test(start_paused = true)]
async fn others_have_their_turn() {
    for coding in ContentCoding::ALL {
        // It gets so small that hardly anything leaves.
        let mut body = Body::Full(vec![b'a'; 100 * TURN].into()).encoded(coding, place());
        let mut cx = Context::from_waker(Waker::noop());
        let mut turns = 0;
        while Pin::new(&mut body).poll_frame(&mut cx).is_pending() {
            turns += 1;
        }
        assert!(turns > 50, "{coding}: {turns}");
    }
}

#[test]
fn places_are_counted() {
    let places = Encodings::new(2);
    let one = places.begin().unwrap();
    let _two = places.begin().unwrap();
    assert!(places.begin().is_none());
    drop(one);
    assert!(places.begin().is_some());
}

#[test]
fn a_window_is_no_larger_than_what_is_in_it() {
    for (octets, bits) in [(0, 10), (1024, 10), (1025, 11), (100_000, 17), (1 << 40, 17), (u64::MAX, 17)] {
        assert_eq!(window_bits(octets), bits, "{octets}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Data(Vec<u8>),
    Pause,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let data = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        (0_usize..70_000).prop_map(text),
        (0_usize..70_000).prop_map(noise),
    ];
    proptest::collection::vec(prop_oneof![3 => data.prop_map(Step::Data), 1 => Just(Step::Pause)], 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_chunks_decode_to_what_they_were(steps in steps(), coding in 0_usize..3) {
        let coding = ContentCoding::ALL[coding];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (octets, sent) = runtime.block_on(async {
            let (fed, body) = Fed::new();
            let mut body = body.encoded(coding, place());
            let feeding = async {
                let mut sent = Vec::new();
                for step in &steps {
                    match step {
                        Step::Data(data) => {
                            sent.extend_from_slice(data);
                            fed.data(data.clone());
                        }
                        Step::Pause => tokio::time::sleep(IDLE * 3).await,
                    }
                }
                fed.end();
                sent
            };
            let (sent, read) = tokio::join!(feeding, whole(&mut body));
            (read.unwrap().0, sent)
        });
        prop_assert_eq!(decoded(coding, &octets), (sent, true));
    }
}
