//! The test applications without a mesh: what a story through sidecars is compared with.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_testbed::apps::{Checksum, pattern};
use weft_testbed::{Pod, Request, Service, story};

/// Sends bytes, half-closes where asked, and reads to the end.
fn talk(pod: &Pod, to: (&Pod, u16), say: &[u8], half_close: bool) -> Result<String> {
    Ok(String::from_utf8_lossy(&talk_bytes(pod, to, say, half_close)?).into_owned())
}

fn talk_bytes(pod: &Pod, to: (&Pod, u16), say: &[u8], half_close: bool) -> Result<Vec<u8>> {
    let address = (to.0.ip(), to.1);
    pod.run(async || {
        let mut stream = TcpStream::connect(address).await.context("connecting")?;
        stream.write_all(say).await.context("writing")?;
        if half_close {
            stream.shutdown().await.context("half-close")?;
        }
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.context("reading")?;
        Ok(bytes)
    })
}

#[test]
fn http_behaviours() {
    story("apps-http", |mesh| {
        let client = mesh.pod("client").start()?;
        let server = mesh.pod("server").start()?;
        server.app(8080)?;
        let url = |path: &str| format!("http://{}:8080{path}", server.ip());
        assert_eq!(client.get(&url("/status/503"))?.status, 503);
        assert_eq!(client.get(&url("/chunked/3"))?.text(), "chunk 0\nchunk 1\nchunk 2\n");
        assert_eq!(client.send(Request::post(&url("/early"), "x"))?.status, 413);
        assert_eq!(client.get(&url("/sse"))?.text().matches("data: event").count(), 3);
        for request in [Request::get(&url("/trailers")), Request::get(&url("/trailers")).http2()] {
            assert_eq!(client.send(request.header("te", "trailers"))?.trailers["x-checksum"], "ok");
        }
        let count = client.send(Request::post(&url("/count"), pattern(100_000)).http2())?;
        assert_eq!(count.text(), format!("100000 {:016x}\n", Checksum::of_pattern(100_000)));
        let echo = talk(
            &client,
            (&server, 8080),
            b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nbytes",
            true,
        )?;
        assert!(echo.starts_with("HTTP/1.1 101 ") && echo.ends_with("\r\n\r\nbytes"), "{echo}");
        let tunnel =
            talk(&client, (&server, 8080), b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\nthrough", true)?;
        assert!(tunnel.starts_with("HTTP/1.1 200 ") && tunnel.ends_with("through"), "{tunnel}");
        Ok(())
    });
}

#[test]
fn raw_http_behaviours() {
    story("apps-raw", |mesh| {
        let client = mesh.pod("client").start()?;
        let server = mesh.pod("server").start()?;
        server.app_of("raw", 8081)?;
        let say = |text: &str| talk(&client, (&server, 8081), text.as_bytes(), true);
        let hints = say("GET /hints HTTP/1.1\r\nhost: a\r\n\r\n")?;
        assert!(hints.starts_with("HTTP/1.1 103 ") && hints.contains("HTTP/1.1 200 "), "{hints}");
        let go_on =
            say("POST /continue HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nhi")?;
        assert!(go_on.starts_with("HTTP/1.1 100 ") && go_on.ends_with("body=2\n"), "{go_on}");
        assert!(say("POST /refuse HTTP/1.1\r\nhost: a\r\n\r\n")?.starts_with("HTTP/1.1 417 "));
        assert!(say("GET /until-close HTTP/1.0\r\n\r\n")?.ends_with("until the end\n"));
        let head = "GET /head HTTP/1.1\r\nhost: a\r\nX-Odd: Case\r\n\r\n";
        assert!(say(head)?.ends_with(head));
        let two = say("GET /split HTTP/1.1\r\nhost: a\r\n\r\nGET /split HTTP/1.1\r\nhost: a\r\n\r\n")?;
        assert_eq!(two.matches("piece by piece").count(), 2);
        Ok(())
    });
}

#[test]
fn tcp_behaviours() {
    story("apps-tcp", |mesh| {
        let client = mesh.pod("client").start()?;
        let server = mesh.pod("server").start()?;
        for (kind, port) in [("echo", 7), ("greet", 25), ("sink", 9)] {
            server.app_of(kind, port)?;
        }
        let source = server.app_of("source", 19)?;
        assert_eq!(talk(&client, (&server, 7), b"abc", true)?, "abc");
        let greeting = talk(&client, (&server, 25), b"HELO\r\nQUIT\r\n", false)?;
        assert_eq!(greeting, "220 server ready\r\n250 HELO\r\n250 QUIT\r\n");
        let sum = Checksum::of_pattern(70_000);
        assert_eq!(talk(&client, (&server, 9), &pattern(70_000), true)?, format!("70000 {sum:016x}\n"));
        assert_eq!(talk_bytes(&client, (&server, 19), b"100000\nlater", true)?, pattern(100_000));
        source.wait_for_log("after half-close 5 bytes", Duration::from_secs(5))?;
        Ok(())
    });
}

/// The demo's services, without sidecars: by headless names, as the pods' own addresses.
#[test]
fn the_shop_sells() {
    story("apps-shop", |mesh| {
        let shopper = mesh.pod("shopper.shop").start()?;
        let mut pods = Vec::new();
        // Without a mesh nothing maps port 80 to 8080: the pods listen on the ports that are dialed.
        for (name, port) in [("web", 80), ("orders", 80), ("inventory", 50051)] {
            let pod = mesh.pod(&format!("{name}.shop")).start()?;
            pod.app_of(name, port)?;
            mesh.dns().set(Service::headless(&format!("{name}.shop")).on(&[&pod]))?;
            pods.push(pod);
        }
        let redis = mesh.pod("redis.shop").start()?;
        redis.redis()?;
        mesh.dns().set(Service::headless("redis.shop").on(&[&redis]))?;
        let answer = shopper.get("http://web.shop/checkout")?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.text(), "checkout by web with order by orders, 1 reserved\n");
        let report = shopper.load("http://web.shop/checkout").rate(100).run_for(Duration::from_secs(1))?;
        report.all_ok(50)
    });
}
