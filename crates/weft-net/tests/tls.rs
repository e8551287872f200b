//! Relays with TLS on one side, over [`ReadAhead`].

use std::io;
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weft_net::relay::{ErrorKind, Side};
use weft_net::{ReadAhead, RelayCounters, RelayOptions, RelayOutcome, pool, relay, reset_on_drop};

fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let made = rcgen::generate_simple_self_signed(vec!["test.example".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (Arc::new(client), Arc::new(server))
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (app, proxy) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (app.unwrap(), proxy.unwrap().0)
}

/// A TLS client, a relay that ends its session, and a plain server.
async fn between<A, B>(
    client: impl AsyncFnOnce(TlsStream<TcpStream>) -> A,
    server: impl AsyncFnOnce(TcpStream) -> B,
) -> (A, B, RelayOutcome) {
    let (client_config, server_config) = configs();
    let (client_app, client_proxy) = pair().await;
    let (server_app, mut server_proxy) = pair().await;
    let dialing = async {
        let name = ServerName::try_from("test.example").unwrap();
        client(TlsConnector::from(client_config).connect(name, client_app).await.unwrap()).await
    };
    let relaying = async {
        let ahead = ReadAhead::new(client_proxy);
        let mut session = TlsAcceptor::from(server_config).accept(ahead).await.unwrap();
        let counters = RelayCounters::default();
        let outcome = relay(&mut session, &mut server_proxy, &RelayOptions::default(), &counters).await;
        if outcome.aborted {
            reset_on_drop(&server_proxy);
        }
        drop((session, server_proxy));
        outcome
    };
    tokio::join!(dialing, server(server_app), relaying)
}

const TOTAL: u32 = 5_000_000;

/// Numbers, so that a piece lost, doubled or swapped shows.
async fn send(writer: &mut (impl AsyncWrite + Unpin)) {
    let numbers: Vec<u8> = (0..TOTAL).flat_map(u32::to_be_bytes).collect();
    writer.write_all(&numbers).await.unwrap();
    writer.shutdown().await.unwrap();
}

async fn receive(reader: &mut (impl AsyncRead + Unpin)) {
    let mut got = Vec::new();
    reader.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), TOTAL as usize * 4);
    for (i, number) in (0..TOTAL).zip(got.chunks(4)) {
        assert_eq!(number, i.to_be_bytes());
    }
}

#[tokio::test]
async fn bulk_both_ways_with_clean_ends() {
    let ((), (), outcome) = between(
        async |client| {
            let (mut reader, mut writer) = tokio::io::split(client);
            tokio::join!(send(&mut writer), receive(&mut reader));
        },
        async |mut server| {
            let (mut reader, mut writer) = server.split();
            tokio::join!(send(&mut writer), receive(&mut reader));
        },
    )
    .await;
    assert!(outcome.error.is_none() && !outcome.aborted, "{outcome:?}");
    assert_eq!(outcome.to_upstream_bytes, u64::from(TOTAL) * 4);
    assert_eq!(outcome.to_client_bytes, u64::from(TOTAL) * 4);
    assert_eq!(pool::stats().lent, 0);
}

#[tokio::test]
async fn a_session_cut_off_without_close_notify_reaches_the_server_as_a_reset() {
    let ((), error, outcome) = between(
        async |mut client| {
            client.write_all(b"half an upl").await.unwrap();
            client.flush().await.unwrap();
            // Waits for the answer, then closes TCP under the session.
            client.read_u8().await.unwrap();
            drop(client);
        },
        async |mut server| {
            let mut got = [0; 11];
            server.read_exact(&mut got).await.unwrap();
            server.write_all(b"!").await.unwrap();
            server.read(&mut got).await.unwrap_err().kind()
        },
    )
    .await;
    assert_eq!(error, io::ErrorKind::ConnectionReset);
    let error = outcome.error.unwrap();
    assert_eq!((error.side, error.kind), (Side::Client, ErrorKind::Truncated));
}
