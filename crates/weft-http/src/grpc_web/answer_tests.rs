use std::pin::Pin;
use std::task::{Context, Waker};

use http::{Method, Request};
use http_body::Body as _;
use proptest::prelude::*;

use super::*;
use crate::Refusal;
use crate::tee::Fed;

fn web(kind: &str) -> Web {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    request.headers_mut().insert(CONTENT_TYPE, kind.parse().unwrap());
    Web::of(&request).unwrap()
}

fn grpc(fields: &[(&'static str, &str)]) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    for (name, value) in fields {
        response.headers_mut().insert(*name, value.parse().unwrap());
    }
    response
}

fn message(octets: &[u8]) -> Vec<u8> {
    let length = u32::try_from(octets.len()).unwrap().to_be_bytes();
    [&[0], &length[..], octets].concat()
}

/// All that a client gets, decoded where it is base64.
fn got(answer: &mut Answer, body: &mut Body) -> Result<Vec<u8>, BodyError> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut octets = Vec::new();
    while !answer.is_ended() || !body.is_end_stream() {
        match answer.turn(Pin::new(&mut *body).poll_frame(&mut cx)) {
            Poll::Ready(None) => break,
            Poll::Ready(Some(frame)) => {
                let data = frame?.into_data().expect("gRPC-Web has no trailers of HTTP");
                octets.extend(if answer.text { STANDARD.decode(data).unwrap() } else { data.to_vec() });
            }
            Poll::Pending => {}
        }
    }
    Ok(octets)
}

fn trailers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    pairs.iter().map(pair).collect()
}

#[test]
fn trailers_are_the_last_message() {
    for kind in ["application/grpc-web+proto", "application/grpc-web-text+proto"] {
        let (fed, mut body) = Fed::new();
        fed.data(message(b"one"));
        fed.data(message(b"")[..3].to_vec());
        fed.data([&message(b"")[3..], &message(b"three")].concat());
        fed.trailers(trailers(&[("grpc-status", "0"), ("x-kept", "1")]));
        fed.end();
        let mut response = grpc(&[("content-length", "7"), ("x-head", "1")]);
        let mut answer = web(kind).answer(&mut response);
        assert_eq!(response.headers()[CONTENT_TYPE], kind);
        assert!(
            !response.headers().contains_key(CONTENT_LENGTH) && response.headers().contains_key("x-head")
        );
        let wanted = [
            message(b"one"),
            message(b""),
            message(b"three"),
            b"\x80\x00\x00\x00\x1bgrpc-status: 0\r\nx-kept: 1\r\n".to_vec(),
        ];
        assert_eq!(got(&mut answer, &mut body).unwrap(), wanted.concat());
    }
}

#[test]
fn a_status_in_the_head_moves_into_the_body() {
    let mut response = grpc(&[("grpc-status", "5"), ("grpc-message", "no%20such"), ("x-head", "1")]);
    let mut answer = web("application/grpc-web").answer(&mut response);
    assert_eq!(response.headers().len(), 2, "{:?}", response.headers());
    let told = got(&mut answer, &mut Body::Empty).unwrap();
    assert_eq!(told, b"\x80\x00\x00\x00\x29grpc-status: 5\r\ngrpc-message: no%20such\r\n");
    // Trailers that come all the same are the last word.
    let (fed, mut body) = Fed::new();
    fed.trailers(trailers(&[("grpc-status", "0")]));
    fed.end();
    let mut answer = web("application/grpc-web").answer(&mut grpc(&[("grpc-status", "5")]));
    assert!(got(&mut answer, &mut body).unwrap().ends_with(b"grpc-status: 0\r\n"));
}

#[test]
fn our_own_failures_are_told_so_too() {
    for code in ErrorCode::ALL {
        let mut response = Refusal { code: *code, grpc: true }.response();
        let mut answer = web("application/grpc-web-text").answer(&mut response);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["weft-error"], code.as_str());
        assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc-web-text");
        let told = got(&mut answer, &mut Body::Empty).unwrap();
        let told = String::from_utf8_lossy(&told).into_owned();
        let line = format!("grpc-status: {}\r\ngrpc-message: {}\r\n", code.grpc_status(), code.reason());
        assert!(told.ends_with(&line), "{told}");
    }
}

#[test]
fn what_is_no_grpc_is_the_status_that_it_means() {
    for (status, kind, means) in [
        (503, "text/html", "14"),
        (404, "application/grpc", "12"),
        (200, "application/json", "2"),
        (401, "application/grpc-web", "16"),
        (418, "", "2"),
    ] {
        let mut response = Response::new(Body::Full("<html>".into()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response.headers_mut().insert(CONTENT_TYPE, kind.parse().unwrap());
        let mut answer = web("application/grpc-web").answer(&mut response);
        assert_eq!((response.status(), response.body().is_end_stream()), (StatusCode::OK, true));
        let mut body = response.into_body();
        let told = String::from_utf8(got(&mut answer, &mut body).unwrap()[5..].to_vec()).unwrap();
        assert!(told.starts_with(&format!("grpc-status: {means}\r\n")), "{status} {kind}: {told}");
    }
}

#[test]
fn an_end_that_is_none_is_told_between_messages_and_not_in_one() {
    let whole = [message(b"first"), message(b"second")].concat();
    for cut in 0..=whole.len() {
        for breaks in [true, false] {
            let (fed, mut body) = Fed::new();
            fed.data(whole[..cut].to_vec());
            if breaks {
                fed.break_off();
            } else {
                fed.end();
            }
            let mut answer = web("application/grpc-web").answer(&mut grpc(&[]));
            let told = got(&mut answer, &mut body);
            let between = [0, 10, whole.len()].contains(&cut);
            assert_eq!(told.is_ok(), between, "{cut} {breaks}");
            if let Ok(told) = told {
                let status = if breaks { "grpc-status: 14\r\n" } else { "grpc-status: 2\r\n" };
                assert_eq!(&told[..cut], &whole[..cut]);
                assert_eq!(told[cut], TRAILERS);
                assert!(String::from_utf8_lossy(&told[cut..]).contains(status), "{cut}");
            }
        }
    }
}

#[test]
fn trailers_in_a_message_are_no_end_and_no_message_looks_like_trailers() {
    let whole = message(b"first");
    for cut in 1..whole.len() {
        let (fed, mut body) = Fed::new();
        fed.data(whole[..cut].to_vec());
        fed.trailers(trailers(&[("grpc-status", "0")]));
        fed.end();
        assert!(got(&mut web("application/grpc-web").answer(&mut grpc(&[])), &mut body).is_err(), "{cut}");
    }
    let (fed, mut body) = Fed::new();
    fed.data([&whole[..], b"\x80\0\0\0\x02hi"].concat());
    fed.trailers(trailers(&[("grpc-status", "13")]));
    fed.end();
    assert!(got(&mut web("application/grpc-web").answer(&mut grpc(&[])), &mut body).is_err());
    let (fed, mut body) = Fed::new();
    fed.trailers(trailers(&[("x-other", "1")]));
    fed.end();
    let told = got(&mut web("application/grpc-web").answer(&mut grpc(&[])), &mut body).unwrap();
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(told.contains("grpc-status: 2\r\n") && told.contains("x-other: 1\r\n"), "{told}");
}

#[test]
fn nothing_follows_the_end() {
    let mut answer = web("application/grpc-web").answer(&mut grpc(&[("grpc-status", "0")]));
    assert!(matches!(answer.turn(Poll::Ready(None)), Poll::Ready(Some(Ok(_)))));
    assert!(matches!(answer.turn(Poll::Ready(None)), Poll::Ready(None)));
    let late = Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"late")))));
    assert!(matches!(answer.turn(late), Poll::Ready(None)));
}

proptest! {
    #[test]
    fn any_cuts_of_any_messages(
        messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..6),
        cuts in proptest::collection::vec(1_usize..30, 0..40),
        text: bool,
    ) {
        let whole: Vec<u8> = messages.iter().flat_map(|octets| message(octets)).collect();
        let (fed, mut body) = Fed::new();
        let mut left = &whole[..];
        for cut in cuts {
            let (part, behind) = left.split_at(cut.min(left.len()));
            fed.data(part.to_vec());
            left = behind;
        }
        fed.data(left.to_vec());
        fed.trailers(trailers(&[("grpc-status", "0")]));
        fed.end();
        let kind = if text { "application/grpc-web-text" } else { "application/grpc-web" };
        let mut answer = web(kind).answer(&mut grpc(&[]));
        let got = got(&mut answer, &mut body).unwrap();
        prop_assert!(answer.boundary.is_here());
        prop_assert_eq!(&got[..whole.len()], &whole[..]);
        prop_assert_eq!(&got[whole.len()..], b"\x80\x00\x00\x00\x10grpc-status: 0\r\n");
    }
}
