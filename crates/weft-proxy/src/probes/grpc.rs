//! `grpc.health.v1.Health/Check` (the gRPC health checking protocol), one call on a connection of its own.
//!
//! Both messages have one field, so they are written and read here: a request is field 1, the service's name; a response is
//! field 1, the status as a varint. `h2` carries the call.

use std::net::SocketAddr;

use ::http::{HeaderMap, Request, Response};
use bytes::{BufMut, Bytes, BytesMut};
use h2::{RecvStream, client};
use tokio::net::TcpStream;
use weft_config::KUBELET_USER_AGENT;

use super::Unhealthy;

const SERVING: u8 = 1;
/// A status takes two octets; whoever sends more than this sends something else.
const MOST_ANSWER: usize = 1024;
/// A longer name would need a second octet for its length, and no service has one.
const MOST_NAME: usize = 127;

pub(super) async fn check(stream: TcpStream, address: SocketAddr, service: &str) -> Result<(), Unhealthy> {
    let failed = |error: h2::Error| Unhealthy::Protocol(error.to_string());
    let (sender, connection) = client::handshake(stream).await.map_err(failed)?;
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        checked = call(sender, address, service) => checked,
        ended = connection.as_mut() => Err(ended.err().map_or_else(
            || Unhealthy::Protocol("connection closed".to_owned()),
            failed,
        )),
    }
}

async fn call(
    sender: client::SendRequest<Bytes>,
    address: SocketAddr,
    service: &str,
) -> Result<(), Unhealthy> {
    let failed = |error: h2::Error| Unhealthy::Protocol(error.to_string());
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", KUBELET_USER_AGENT)
        .body(())
        .map_err(|error| Unhealthy::Protocol(error.to_string()))?;
    let mut sender = sender.ready().await.map_err(failed)?;
    let (answer, mut body) = sender.send_request(request, false).map_err(failed)?;
    body.send_data(message(service)?, true).map_err(failed)?;
    let (head, mut body) = answer.await.map_err(failed)?.into_parts();
    let text = read(&mut body).await?;
    let trailers = body.trailers().await.map_err(failed)?;
    judge(&Response::from_parts(head, ()), trailers.as_ref(), &text)
}

/// The request with gRPC's five-octet prefix: not compressed, then the length.
fn message(service: &str) -> Result<Bytes, Unhealthy> {
    let too_long =
        || Unhealthy::Protocol(format!("the name of the service has more than {MOST_NAME} octets"));
    let length = u8::try_from(service.len()).ok().filter(|len| usize::from(*len) <= MOST_NAME);
    let length = length.ok_or_else(too_long)?;
    let mut text = BytesMut::new();
    if length > 0 {
        // Field 1, length-delimited.
        text.put_slice(&[0x0a, length]);
        text.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + text.len());
    framed.put_u8(0);
    framed.put_u32(u32::from(length) + if length > 0 { 2 } else { 0 });
    framed.put(text);
    Ok(framed.freeze())
}

async fn read(body: &mut RecvStream) -> Result<Vec<u8>, Unhealthy> {
    let failed = |error: h2::Error| Unhealthy::Protocol(error.to_string());
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(failed)?;
        body.flow_control().release_capacity(data.len()).map_err(failed)?;
        text.extend_from_slice(&data);
        if text.len() > MOST_ANSWER {
            return Err(Unhealthy::Protocol("the answer is no health status".to_owned()));
        }
    }
    Ok(text)
}

/// The status stands in the trailers, or in the head of an answer without a body.
fn judge(head: &Response<()>, trailers: Option<&HeaderMap>, text: &[u8]) -> Result<(), Unhealthy> {
    if !head.status().is_success() {
        return Err(Unhealthy::NotServing(format!("HTTP {}", head.status())));
    }
    let status = trailers.and_then(|t| t.get("grpc-status")).or_else(|| head.headers().get("grpc-status"));
    match status.map(|status| status.as_bytes()) {
        Some(b"0") => {}
        Some(code) => {
            let code = String::from_utf8_lossy(code).into_owned();
            return Err(Unhealthy::NotServing(format!("grpc-status {code}")));
        }
        None => return Err(Unhealthy::Protocol("no grpc-status".to_owned())),
    }
    match text {
        // The prefix, then field 1 as a varint.
        [0, 0, 0, 0, 2, 0x08, SERVING] => Ok(()),
        // Zero, UNKNOWN, is not written at all.
        [0, 0, 0, 0, 0] => Err(Unhealthy::NotServing("UNKNOWN".to_owned())),
        [0, 0, 0, 0, 2, 0x08, status] => Err(Unhealthy::NotServing(format!("status {status}"))),
        _ => Err(Unhealthy::Protocol("the answer is no health status".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_as_protobuf_writes_it() {
        assert_eq!(&message("").unwrap()[..], [0, 0, 0, 0, 0]);
        assert_eq!(&message("ab").unwrap()[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert!(message(&"x".repeat(128)).is_err());
    }

    #[test]
    fn only_serving_is_healthy() {
        let head = Response::builder().body(()).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let judge = |text: &[u8]| judge(&head, Some(&trailers), text).map_err(|why| why.to_string());
        assert_eq!(judge(&[0, 0, 0, 0, 2, 8, 1]), Ok(()));
        assert!(judge(&[0, 0, 0, 0, 2, 8, 2]).unwrap_err().contains("status 2"));
        assert!(judge(&[0, 0, 0, 0, 0]).unwrap_err().contains("UNKNOWN"));
        assert!(judge(b"junk").unwrap_err().contains("no health status"));
        trailers.insert("grpc-status", "12".parse().unwrap());
        let refused = super::judge(&head, Some(&trailers), &[]).unwrap_err().to_string();
        assert!(refused.contains("grpc-status 12"), "{refused}");
    }
}
