//! The injector: silence, halves, and reviews that are as expensive as they can be made.

use std::rc::Rc;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::{Orders, PATIENCE, dial, over_and_over, tls};

/// As large as it reads.
const LARGEST: usize = 8 << 20;

pub(super) fn begin(orders: &Rc<Orders>) {
    over_and_over(orders, "injector silent TLS", 1024, silent);
    over_and_over(orders, "injector half a head", 64, half_a_head);
    over_and_over(orders, "injector half a body", 32, half_a_body);
    over_and_over(orders, "injector large reviews", 4, large);
    over_and_over(orders, "injector heavy reviews", 8, heavy);
}

async fn silent(orders: &Orders, _: usize) -> Result<()> {
    let mut tls = tls::shake(dial(orders.injector).await?, b"http/1.1").await?;
    orders.counts.add("injector silent TLS open");
    let _ = tls.read_to_end(&mut Vec::new()).await;
    Ok(())
}

async fn half_a_head(orders: &Orders, _: usize) -> Result<()> {
    let mut tls = tls::shake(dial(orders.injector).await?, b"http/1.1").await?;
    tls.write_all(b"POST /inject HTTP/1.1\r\nhost: weft-injector\r\ncontent-le").await?;
    orders.counts.add("injector half a head open");
    let _ = tls.read_to_end(&mut Vec::new()).await;
    Ok(())
}

async fn half_a_body(orders: &Orders, _: usize) -> Result<()> {
    let mut tls = tls::shake(dial(orders.injector).await?, b"http/1.1").await?;
    tls.write_all(head(LARGEST).as_bytes()).await?;
    tls.write_all(&[b'['; 1000]).await?;
    let _ = tls.read_to_end(&mut Vec::new()).await;
    Ok(())
}

fn head(length: usize) -> String {
    format!(
        "POST /inject HTTP/1.1\r\nhost: weft-injector\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

/// 8 MiB that are deep, wide, or text.
async fn large(orders: &Orders, hand: usize) -> Result<()> {
    let piece: &[u8] = match hand % 3 {
        0 => b"[[[[[[[[",
        1 => br#"{"":0},"#,
        _ => b"\\\"\\\"\\\"\\\"",
    };
    let start: &[u8] = if hand % 3 == 2 { b"[\"" } else { b"[" };
    let mut body = start.to_vec();
    while body.len() + piece.len() <= LARGEST {
        body.extend_from_slice(piece);
    }
    ask(orders, &body).await
}

/// A pod of a hundred kilobytes, in which is as much as one review may take of memory.
async fn heavy(orders: &Orders, hand: usize) -> Result<()> {
    let mut body = format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"{hand}","kind":{{"kind":"Pod"}},"operation":"CREATE","namespace":"shop","object":{{"spec":{{"containers":[{{"name":"app"}}],"x":["#
    );
    // Fourteen thousand is nearly all; some ask for a little less, and so are admitted next to others.
    body.push_str(&r#"{"":0},"#.repeat(13_000 / (hand % 4 + 1)));
    body.push_str("0]}}}}");
    ask(orders, body.as_bytes()).await
}

/// Asks over and over on one connection.
async fn ask(orders: &Orders, body: &[u8]) -> Result<()> {
    let mut tls = tls::shake(dial(orders.injector).await?, b"http/1.1").await?;
    loop {
        timeout(PATIENCE, async {
            tls.write_all(head(body.len()).as_bytes()).await?;
            tls.write_all(body).await
        })
        .await??;
        orders.counts.add("injector reviews sent");
        let mut answer = vec![0; 64 << 10];
        let length = timeout(PATIENCE, tls.read(&mut answer)).await??;
        // The rest of an answer is of no interest, and belongs to no next one: so the connection ends with it.
        let whole = answer.get(..length).unwrap_or_default();
        if !whole.starts_with(b"HTTP/1.1 429") {
            return Ok(());
        }
    }
}
