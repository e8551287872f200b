//! Protocols in which the server speaks first. A proxy that waits for the client's first byte would wait for ever.
//!
//! The delay that two sidecars add is measured and printed (`--nocapture`), not asserted: a busy machine would fail a
//! test that finds nothing wrong. What is asserted is how the sidecar came to its verdict, which is what makes the
//! difference between milliseconds and a stall.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use weft_testbed::{Mesh, Pod, Sidecar, story};

use super::pair::{APP, Pair, Wire, pods};

/// Far above any delay here and far below any timeout that could be waited for (the shortest is the client's own).
const STALL: Duration = Duration::from_secs(1);

/// From the dial to the greeting, and the same once more for a dialogue after it.
fn greeting(client: &Pod, to: SocketAddr) -> Result<Duration> {
    client.run(async || {
        let begun = Instant::now();
        let mut wire = Wire::connect(to).await?;
        let greeting = wire.until("\r\n").await?;
        let took = begun.elapsed();
        assert_eq!(greeting, "220 mail ready\r\n");
        wire.say("NOOP\r\nQUIT\r\n").await?;
        assert_eq!(wire.rest().await?, "250 NOOP\r\n250 QUIT\r\n");
        Ok(took)
    })
}

#[test]
fn a_greeting_comes_at_once_and_is_remembered() {
    story("proto-smtp", |mesh| {
        let (client, server) = pods(mesh, &[25])?;
        server.app_as("greet", 25, "mail")?;
        // Directly, before there are sidecars: the best of several.
        let direct = SocketAddr::new(server.ip(), 25);
        let direct = (0..5).map(|_| greeting(&client, direct)).collect::<Result<Vec<_>>>()?;
        let direct = direct.into_iter().min().context("no measurement")?;

        let pair = Pair::meshed(mesh, client, server)?;
        let to = SocketAddr::new(pair.client.resolve(APP)?[0], 25);
        let first = greeting(&pair.client, to)?;
        assert_eq!((pair.detected("server_first")?, pair.detected("remembered_server_first")?), (1.0, 0.0));
        let mut later = (0..9).map(|_| greeting(&pair.client, to)).collect::<Result<Vec<_>>>()?;
        later.sort();
        assert_eq!((pair.detected("server_first")?, pair.detected("remembered_server_first")?), (1.0, 9.0));
        report("SMTP greeting", direct, first, later[later.len() / 2]);
        assert!(first < STALL && later.iter().all(|took| *took < STALL), "{first:?}, {later:?}");
        Ok(())
    });
}

/// What is declared is not looked at: no wait even for the first connection.
#[test]
fn a_declared_port_is_dialed_at_once() {
    story("proto-declared", |mesh| {
        let (client, server) = pods(mesh, &[25])?;
        server.app_as("greet", 25, "mail")?;
        let opaque = serde_json::json!({ "opaquePorts": [25] });
        let client_proxy = mesh.sidecar(&client)?.config(|yaml| yaml["outbound"] = opaque).start()?;
        let server_proxy = mesh.sidecar(&server)?.start()?;
        let pair = Pair { client, server, client_proxy, server_proxy };
        greeting(&pair.client, SocketAddr::new(pair.client.resolve(APP)?[0], 25))?;
        assert_eq!((pair.detected("configured")?, pair.detected("server_first")?), (1.0, 0.0));
        Ok(())
    });
}

/// Half a line could still become a request. A client that waits for an answer to it speaks something else.
#[test]
fn half_a_line_that_wants_an_answer_gets_one() {
    story("proto-half-line", |mesh| {
        let pair = Pair::new(mesh, &[7])?;
        pair.server.app_of("echo", 7)?;
        let to = SocketAddr::new(pair.client.resolve(APP)?[0], 7);
        let answer = pair.client.run(async || {
            let mut wire = Wire::connect(to).await?;
            wire.say("ruok").await?;
            wire.until("ruok").await
        })?;
        assert_eq!(answer, "ruok");
        assert_eq!(pair.detected("opaque")?, 1.0);
        Ok(())
    });
}

/// A pair whose server has no sidecar, so that its first word reaches the client's.
fn plain(mesh: &Mesh, port: u16, app: impl FnOnce(&Pod) -> Result<()>) -> Result<(Pod, Sidecar, SocketAddr)> {
    let (client, server) = pods(mesh, &[port])?;
    app(&server)?;
    let proxy = mesh.sidecar(&client)?.config(|yaml| yaml["mesh"]["mode"] = "permissive".into()).start()?;
    let to = SocketAddr::new(client.resolve(APP)?[0], port);
    Ok((client, proxy, to))
}

fn detected(proxy: &Sidecar, outcome: &str) -> Result<f64> {
    let labels = [("direction", "outbound"), ("outcome", outcome)];
    Ok(proxy.metrics()?.sum("weft_protocol_detections_total", &labels))
}

/// Servers of HTTP/2 send SETTINGS as soon as they are dialed. A client that is late is a client of HTTP/2 all the same.
#[test]
fn settings_make_nobody_a_server_that_speaks_first() {
    story("proto-settings", |mesh| {
        let (client, proxy, to) = plain(mesh, 8080, |server| {
            let nghttpd = server.spawn("nghttpd", &["nghttpd", "-v", "--no-tls", "-d", "/etc", "8080"])?;
            nghttpd.wait_for_log("listen", Duration::from_secs(20))
        })?;
        for asked in 1..=3 {
            client.run(async || {
                let stream = tokio::net::TcpStream::connect(to).await?;
                // Longer than anybody waits for a client to begin.
                tokio::time::sleep(Duration::from_millis(300)).await;
                let (mut sender, connection) = h2::client::handshake(stream).await?;
                let driver = tokio::spawn(connection);
                let request = http::Request::get("http://app.shop/hostname").body(())?;
                let answer = sender.send_request(request, true)?.0.await?;
                assert_eq!(answer.status(), 200);
                driver.abort();
                Ok(())
            })?;
            assert_eq!(detected(&proxy, "http2")?, f64::from(asked));
        }
        assert_eq!(
            (detected(&proxy, "server_first")?, detected(&proxy, "remembered_server_first")?),
            (0.0, 0.0)
        );
        Ok(())
    });
}

/// A server that says something to clients that are silent, and otherwise serves HTTP.
async fn impatient(mut stream: tokio::net::TcpStream) -> Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut request = [0; 1024];
    let read = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut request)).await;
    let answer = match read {
        Ok(_) => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        Err(_) => "are you there?\r\n",
    };
    stream.write_all(answer.as_bytes()).await?;
    anyhow::ensure!(stream.read(&mut request).await? > 0, "the client has left");
    Ok(())
}

#[test]
fn what_was_learned_of_a_server_is_learned_anew() {
    story("proto-relearned", |mesh| {
        let (_running, mut over) = tokio::sync::watch::channel(());
        let (client, proxy, to) = plain(mesh, 8080, |server| {
            let bind =
                async || std::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, 8080)).context("listening");
            let listener = server.run(bind)?;
            listener.set_nonblocking(true)?;
            server.start(async move || {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                loop {
                    tokio::select! {
                        accepted = listener.accept() => drop(tokio::spawn(impatient(accepted?.0))),
                        // Only ever an error: the story is over.
                        _ = over.changed() => return Ok(()),
                    }
                }
            })?;
            Ok(())
        })?;
        client.run(async || {
            let mut silent = Wire::connect(to).await?;
            assert_eq!(silent.until("\r\n").await?, "are you there?\r\n");
            Ok(())
        })?;
        assert_eq!(detected(&proxy, "server_first")?, 1.0);
        for asked in 1..=2 {
            client.run(async || {
                let mut wire = Wire::connect(to).await?;
                wire.say("GET / HTTP/1.1\r\nhost: app.shop\r\n\r\n").await?;
                assert!(wire.answer(false).await?.ends_with("ok"));
                Ok(())
            })?;
            assert_eq!(detected(&proxy, "http1")?, f64::from(asked));
        }
        Ok(())
    });
}

#[test]
fn mariadb_serves_its_client() {
    story("proto-mariadb", |mesh| {
        let pair = Pair::new(mesh, &[3306])?;
        mariadb(&pair.server)?;
        let select = |text: &str| -> Result<(String, Duration)> {
            let begun = Instant::now();
            let client =
                ["mariadb", "--no-defaults", "-h", APP, "-P", "3306", "-u", "root", "-N", "-B", "-e", text];
            Ok((pair.client.exec(&client)?.ok()?.stdout, begun.elapsed()))
        };
        let (one, first) = select("select 1")?;
        assert_eq!(one, "1\n");
        let (answer, later) = select("select repeat('x', 1000000) regexp '^x+$', 6 * 7")?;
        assert_eq!(answer, "1\t42\n");
        assert_eq!((pair.detected("server_first")?, pair.detected("remembered_server_first")?), (1.0, 1.0));
        show(&format!("MariaDB, the whole client: first {first:?}, later {later:?}"));
        Ok(())
    });
}

/// A real server on a data directory of its own, in memory as far as it can be.
fn mariadb(pod: &Pod) -> Result<()> {
    let dir = pod.dir().join("mariadb");
    std::fs::create_dir(&dir).context("a data directory")?;
    let data = format!("--datadir={}", dir.display());
    let socket = format!("--socket={}/socket", dir.display());
    let install = ["mariadb-install-db", "--no-defaults", "--user=root", "--skip-test-db", &data];
    pod.exec(&install)?.ok().context("mariadb-install-db")?;
    let server = [
        "mariadbd",
        "--no-defaults",
        "--user=root",
        &data,
        &socket,
        "--port=3306",
        "--bind-address=*",
        // Nobody has a password here, and the client's address has no name.
        "--skip-grant-tables",
        "--skip-name-resolve",
        "--innodb-flush-log-at-trx-commit=0",
    ];
    pod.spawn("mariadbd", &server)?.wait_for_log("ready for connections", Duration::from_secs(30))
}

fn report(what: &str, direct: Duration, first: Duration, later: Duration) {
    let [first, later] = [first, later].map(|took| took.saturating_sub(direct));
    show(&format!(
        "{what}: {direct:?} directly; two sidecars add {first:?} to the first connection and {later:?} to a later one"
    ));
}

#[expect(clippy::print_stderr, reason = "measurements are for whoever runs the story")]
fn show(line: &str) {
    eprintln!("{line}");
}
