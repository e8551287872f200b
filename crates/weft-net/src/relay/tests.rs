use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::*;
use crate::{Prefixed, pool, reset};

const KEEP_TO_BUFFERS: RelayOptions = RelayOptions { idle_timeout: None, splice_after: None };
const SPLICE_AT_ONCE: RelayOptions = RelayOptions { idle_timeout: None, splice_after: Some(1) };

/// Two connected sockets: the application's end, and the proxy's.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (app, proxy) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (app.unwrap(), proxy.unwrap().0)
}

/// Runs two applications with a relay between them.
async fn between<A, B, FA, FB>(
    options: RelayOptions,
    client: impl FnOnce(TcpStream) -> FA,
    server: impl FnOnce(TcpStream) -> FB,
) -> (A, B, RelayOutcome)
where
    FA: Future<Output = A>,
    FB: Future<Output = B>,
{
    let (client_app, mut client_proxy) = pair().await;
    let (server_app, mut server_proxy) = pair().await;
    let relaying = async move {
        let counters = RelayCounters::default();
        relay_plain(&mut client_proxy, &mut server_proxy, &options, &counters).await
    };
    let all = async { tokio::join!(client(client_app), server(server_app), relaying) };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("the relay hangs")
}

/// A sequence that repeats after a prime number of bytes, so that a piece lost, doubled or swapped shows.
fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    (0..65_521)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_be_bytes()[0]
        })
        .collect()
}

async fn send(writer: &mut (impl AsyncWrite + Unpin), total: usize) {
    let pattern = pattern();
    let mut left = total;
    while left > 0 {
        let n = left.min(pattern.len());
        writer.write_all(&pattern[..n]).await.unwrap();
        left -= n;
    }
    writer.shutdown().await.unwrap();
}

async fn receive(reader: &mut (impl AsyncRead + Unpin), total: usize) {
    let pattern = pattern();
    let mut block = vec![0; pattern.len()];
    let mut left = total;
    while left > 0 {
        let n = left.min(pattern.len());
        reader.read_exact(&mut block[..n]).await.unwrap();
        assert!(block[..n] == pattern[..n], "bytes differ with {left} to go");
        left -= n;
    }
    assert_eq!(reader.read(&mut block).await.unwrap(), 0, "more than was sent");
}

async fn exchange(mut stream: TcpStream, outgoing: usize, incoming: usize) {
    let (mut reader, mut writer) = stream.split();
    tokio::join!(send(&mut writer, outgoing), receive(&mut reader, incoming));
}

async fn carries(options: RelayOptions, up: usize, down: usize) {
    let ((), (), outcome) =
        between(options, |client| exchange(client, up, down), |server| exchange(server, down, up)).await;
    assert_eq!((outcome.to_upstream_bytes, outcome.to_client_bytes), (up as u64, down as u64));
    assert!(outcome.error.is_none() && !outcome.aborted && !outcome.failed(), "{outcome:?}");
}

const HUNDRED_MB: usize = 100_000_000;

#[tokio::test]
async fn a_hundred_megabytes_each_way_by_buffers() {
    carries(KEEP_TO_BUFFERS, HUNDRED_MB, HUNDRED_MB).await;
    assert_eq!(splice::kept_pipes(), 0, "no pipe was asked for");
}

#[tokio::test]
async fn a_hundred_megabytes_each_way_by_splice() {
    carries(RelayOptions::default(), HUNDRED_MB, HUNDRED_MB).await;
    assert_eq!(splice::kept_pipes(), 2, "both directions went over to the kernel and gave their pipes back");
}

#[tokio::test]
async fn sizes_around_every_boundary() {
    let splice_after = 64 << 10;
    let options = RelayOptions { splice_after: Some(splice_after as u64), ..RelayOptions::default() };
    for size in [0, 1, (16 << 10) - 1, 16 << 10, splice_after - 1, splice_after, splice_after + 1, 300_000] {
        carries(options, size, 0).await;
        carries(options, 0, size).await;
        carries(KEEP_TO_BUFFERS, size, size).await;
    }
    carries(SPLICE_AT_ONCE, 1, 1_000_000).await;
}

#[tokio::test]
async fn the_client_ends_first_and_is_answered() {
    for options in [KEEP_TO_BUFFERS, SPLICE_AT_ONCE] {
        let (answer, asked, outcome) = between(
            options,
            async |mut client: TcpStream| {
                client.write_all(b"question").await.unwrap();
                client.shutdown().await.unwrap();
                let mut answer = String::new();
                client.read_to_string(&mut answer).await.unwrap();
                answer
            },
            async |mut server: TcpStream| {
                let mut asked = String::new();
                server.read_to_string(&mut asked).await.unwrap();
                server.write_all(b"answer").await.unwrap();
                asked
            },
        )
        .await;
        assert_eq!((asked.as_str(), answer.as_str()), ("question", "answer"));
        assert_eq!((outcome.closed_by, outcome.aborted), (ClosedBy::Client, false));
    }
}

#[tokio::test]
async fn the_server_ends_first_and_goes_on_reading() {
    for options in [KEEP_TO_BUFFERS, SPLICE_AT_ONCE] {
        let ((), got, outcome) = between(
            options,
            async |mut client: TcpStream| {
                let mut greeting = String::new();
                client.read_to_string(&mut greeting).await.unwrap();
                assert_eq!(greeting, "greeting");
                client.write_all(b"much later").await.unwrap();
            },
            async |mut server: TcpStream| {
                server.write_all(b"greeting").await.unwrap();
                server.shutdown().await.unwrap();
                let mut got = String::new();
                server.read_to_string(&mut got).await.unwrap();
                got
            },
        )
        .await;
        assert_eq!(got, "much later");
        assert_eq!((outcome.closed_by, outcome.aborted), (ClosedBy::Upstream, false));
    }
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset() {
    for options in [KEEP_TO_BUFFERS, SPLICE_AT_ONCE] {
        let (seen_tx, seen_rx) = tokio::sync::oneshot::channel();
        let ((), error, outcome) = between(
            options,
            async |mut client: TcpStream| {
                client.write_all(b"half an upl").await.unwrap();
                seen_rx.await.unwrap();
                reset(client);
            },
            async |mut server: TcpStream| {
                let mut got = [0; 11];
                server.read_exact(&mut got).await.unwrap();
                seen_tx.send(()).unwrap();
                server.read(&mut got).await.unwrap_err().kind()
            },
        )
        .await;
        assert_eq!(
            error,
            io::ErrorKind::ConnectionReset,
            "an abort must not look like the end of the upload"
        );
        assert!(outcome.aborted && !outcome.failed(), "{outcome:?}");
        assert_eq!(outcome.closed_by, ClosedBy::Client);
        let error = outcome.error.unwrap();
        assert_eq!((error.side, error.kind), (Side::Client, ErrorKind::Reset));
    }
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let (answer, (), _) = between(
        KEEP_TO_BUFFERS,
        async |mut client: TcpStream| {
            let (mut reader, mut writer) = client.split();
            let sending = async {
                // Far more than all socket buffers hold; ends with an error once nobody takes it.
                for _ in 0..2000 {
                    if writer.write_all(&[0; 65536]).await.is_err() {
                        break;
                    }
                }
            };
            let reading = async {
                let mut answer = vec![0; 13];
                reader.read_exact(&mut answer).await.unwrap();
                answer
            };
            // The reset comes right behind the answer and may stop the sender first; the answer is there all the same.
            tokio::join!(sending, reading).1
        },
        async |mut server: TcpStream| {
            let mut some = [0; 1000];
            server.read_exact(&mut some).await.unwrap();
            server.write_all(b"413 too large").await.unwrap();
            // Closing with unread data makes the kernel send RST.
        },
    )
    .await;
    assert_eq!(answer, b"413 too large");
}

#[tokio::test]
async fn an_idle_relay_holds_no_buffer_and_no_pipe() {
    for (options, pipes_back) in [(KEEP_TO_BUFFERS, 0), (RelayOptions::default(), 1)] {
        let (mut client_app, mut client_proxy) = pair().await;
        let (mut server_app, mut server_proxy) = pair().await;
        let counters = RelayCounters::default();
        let mut relaying = pin!(relay_plain(&mut client_proxy, &mut server_proxy, &options, &counters));
        let traffic = async {
            let sent = vec![7; 1 << 20];
            let mut got = vec![0; 1 << 20];
            tokio::join!(async { client_app.write_all(&sent).await.unwrap() }, async {
                server_app.read_exact(&mut got).await.unwrap()
            });
            // One more turn of the relay, so that it has seen the empty socket.
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        tokio::select! {
            outcome = &mut relaying => panic!("ended: {outcome:?}"),
            () = traffic => {}
        }
        assert_eq!(counters.to_upstream(), 1 << 20);
        assert_eq!(pool::stats().lent, 0);
        assert_eq!(splice::kept_pipes(), pipes_back);
    }
}

#[tokio::test]
async fn the_state_of_a_relay_is_small() {
    let ((_a, mut client), (_b, mut upstream)) = (pair().await, pair().await);
    let (options, counters) = (RelayOptions::default(), RelayCounters::default());
    let relaying = relay_plain(&mut client, &mut upstream, &options, &counters);
    let size = size_of_val(&relaying);
    assert!(size < 1024, "{size} bytes per connection");
}

#[tokio::test]
async fn a_prefix_goes_first_also_when_spliced() {
    let (mut client_app, client_proxy) = pair().await;
    let (mut server_app, mut server_proxy) = pair().await;
    client_app.write_all(b" and the rest").await.unwrap();
    client_app.shutdown().await.unwrap();
    let mut client_proxy = Prefixed::new(Bytes::from(vec![b'x'; 100_000]), client_proxy);
    let counters = RelayCounters::default();
    let relaying = relay_plain(&mut client_proxy, &mut server_proxy, &SPLICE_AT_ONCE, &counters);
    let server = async {
        let mut got = Vec::new();
        server_app.read_to_end(&mut got).await.unwrap();
        drop(server_app);
        got
    };
    let (_, got) = tokio::join!(relaying, server);
    assert_eq!(got.len(), 100_013);
    assert!(got.ends_with(b"x and the rest"));
}

#[tokio::test]
async fn what_is_in_the_pipe_survives_giving_up() {
    let (mut app, proxy) = pair().await;
    let (mut sink_app, mut sink) = pair().await;
    app.write_all(b"spliced in, buffered out").await.unwrap();
    app.shutdown().await.unwrap();
    proxy.readable().await.unwrap();
    let mut splice = splice::Splice::new();
    let mut flow = flow::Flow::new(None);
    let mut reader = tokio::io::empty();
    let counter = Cell::new(0);
    std::future::poll_fn(|cx| splice.poll_in(cx, &proxy)).await.unwrap();
    splice.give_up(&mut flow).unwrap();
    std::future::poll_fn(|cx| flow.poll(cx, &mut reader, &mut sink, &counter)).await.unwrap();
    let mut got = String::new();
    sink_app.read_to_string(&mut got).await.unwrap();
    assert_eq!((got.as_str(), counter.get()), ("spliced in, buffered out", 24));
}

#[tokio::test(start_paused = true)]
async fn the_idle_timeout_counts_from_the_last_byte() {
    let (mut client_app, mut client) = duplex(1024);
    let (_server_app, mut upstream) = duplex(1024);
    let options = RelayOptions { idle_timeout: Some(Duration::from_secs(40)), ..RelayOptions::default() };
    let counters = RelayCounters::default();
    let started = Instant::now();
    let relaying = relay(&mut client, &mut upstream, &options, &counters);
    let chatting = async {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(35)).await;
            client_app.write_all(b"still here").await.unwrap();
        }
        std::future::pending::<()>().await;
    };
    let outcome = tokio::select! { outcome = relaying => outcome, () = chatting => unreachable!() };
    let after_last_byte = started.elapsed() - Duration::from_secs(5 * 35);
    assert!((40..=50).contains(&after_last_byte.as_secs()), "{after_last_byte:?}");
    assert_eq!(
        (outcome.closed_by, outcome.aborted, outcome.to_upstream_bytes),
        (ClosedBy::IdleTimeout, true, 50)
    );
}

/// Gives what it holds, then fails; remembers whether it was shut down.
struct Scripted {
    data: &'static [u8],
    then: Option<io::ErrorKind>,
    written: Vec<u8>,
    /// What writing fails with; reading ends in order then.
    refuses: Option<io::ErrorKind>,
    shut_down: bool,
}

impl Scripted {
    fn new(data: &'static [u8], then: Option<io::ErrorKind>) -> Self {
        Self { data, then, written: Vec::new(), refuses: None, shut_down: false }
    }
}

impl AsyncRead for Scripted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let data = std::mem::take(&mut self.data);
        if data.is_empty() {
            return match self.then.take() {
                Some(kind) => Poll::Ready(Err(kind.into())),
                None if self.refuses.is_some() => Poll::Ready(Ok(())),
                None => Poll::Pending,
            };
        }
        buf.put_slice(data);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.refuses {
            return Poll::Ready(Err(kind.into()));
        }
        self.written.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut_down = true;
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_truncated_session_is_no_end_of_data() {
    let mut client = Scripted::new(b"the beginning", Some(io::ErrorKind::UnexpectedEof));
    let mut upstream = Scripted::new(b"", None);
    let counters = RelayCounters::default();
    let outcome = relay(&mut client, &mut upstream, &RelayOptions::default(), &counters).await;
    assert_eq!(upstream.written, b"the beginning", "what came before the failure is delivered");
    assert!(!upstream.shut_down, "a clean end would say that the data is complete");
    assert!(outcome.aborted);
    assert_eq!(
        outcome.error.map(|error| (error.side, error.kind)),
        Some((Side::Client, ErrorKind::Truncated))
    );
}

/// Once a write has reported the reset, the kernel tells readers of an ordinary end.
#[tokio::test]
async fn a_server_that_resets_while_it_is_written_to_has_not_ended_its_data() {
    for (kind, aborted) in [
        (io::ErrorKind::ConnectionReset, true),
        (io::ErrorKind::TimedOut, true),
        (io::ErrorKind::BrokenPipe, false),
    ] {
        let mut client = Scripted::new(b"a request", None);
        let mut upstream = Scripted::new(b"half an ans", None);
        upstream.refuses = Some(kind);
        let counters = RelayCounters::default();
        let outcome = relay(&mut client, &mut upstream, &RelayOptions::default(), &counters).await;
        assert_eq!(client.written, b"half an ans", "what came is delivered");
        assert_eq!((outcome.aborted, client.shut_down), (aborted, !aborted), "{kind:?}");
    }
}

#[tokio::test]
async fn failures_are_told_from_ends() {
    for (kind, data, failed) in [
        (io::ErrorKind::ConnectionReset, b"x".as_slice(), false),
        (io::ErrorKind::NotConnected, b"x", false),
        (io::ErrorKind::BrokenPipe, b"x", false),
        (io::ErrorKind::UnexpectedEof, b"x", false),
        (io::ErrorKind::InvalidData, b"x", true),
        (io::ErrorKind::ConnectionReset, b"", true),
    ] {
        let mut client = Scripted::new(data, Some(kind));
        let mut upstream = Scripted::new(b"", None);
        let counters = RelayCounters::default();
        let outcome = relay(&mut client, &mut upstream, &RelayOptions::default(), &counters).await;
        assert_eq!(outcome.failed(), failed, "{kind:?} after {} bytes", data.len());
    }
}
