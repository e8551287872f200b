//! Bytes: protocols that the mesh does not read, half-close, volume, and an application's own TLS.

use std::time::Duration;

use anyhow::{Context, Result};
use weft_testbed::apps::{Checksum, piece};
use weft_testbed::story;

use super::pair::{APP, Pair, tls_server};

/// Each way.
const LARGE: u64 = 100 << 20;

#[test]
fn redis_answers_one_by_one_and_pipelined() {
    story("proto-redis", |mesh| {
        let pair = Pair::new(mesh, &[6379])?;
        pair.server.redis()?;
        let cli = |args: &[&str]| -> Result<String> {
            let command = [&["redis-cli", "-h", APP, "--raw"], args].concat();
            Ok(pair.client.exec(&command)?.ok()?.stdout)
        };
        assert_eq!(cli(&["PING"])?, "PONG\n");
        assert_eq!(cli(&["SET", "key", "value"])?, "OK\n");
        assert_eq!(cli(&["GET", "key"])?, "value\n");

        let count = 2_000;
        pair.talk(6379, async |wire| {
            let requests: String = (0..count).map(|n| format!("INCR seen\r\nECHO {n}\r\n")).collect();
            wire.say(requests).await?;
            for n in 0..count {
                let text = n.to_string();
                let expected = format!(":{}\r\n${}\r\n{text}\r\n", n + 1, text.len());
                assert_eq!(wire.take(expected.len()).await?, expected);
            }
            Ok(())
        })?;
        let labels = [("direction", "outbound"), ("tls", "mutual")];
        let opened = pair.client_proxy.metrics()?.sum("weft_tcp_connections_opened_total", &labels);
        assert_eq!(opened, 4.0, "each connection crossed the mesh as bytes over mutual TLS");
        Ok(())
    });
}

#[test]
fn each_half_of_a_connection_closes_by_itself() {
    story("proto-half-close", |mesh| {
        let pair = Pair::new(mesh, &[9, 19])?;
        pair.server.app_of("sink", 9)?;
        let source = pair.server.app_of("source", 19)?;
        // The client ends first: the server answers only then.
        let answer = pair.talk(9, async |wire| {
            wire.say("12345").await?;
            wire.finish().await?;
            wire.rest().await
        })?;
        let mut sum = Checksum::default();
        sum.add(b"12345");
        assert_eq!(answer, format!("5 {:016x}\n", sum.value()));
        // The server ends first: what the client says afterwards still arrives.
        pair.talk(19, async |wire| {
            wire.say("3\n").await?;
            assert_eq!(wire.checksum(3).await?, Checksum::of_pattern(3));
            assert_eq!(wire.rest().await?, "");
            wire.say("still there").await?;
            wire.finish().await
        })?;
        source.wait_for_log("after half-close 11 bytes", Duration::from_secs(5))
    });
}

#[test]
fn a_hundred_megabytes_each_way_are_byte_exact() {
    story("proto-tcp-large", |mesh| {
        let pair = Pair::new(mesh, &[9, 19])?;
        pair.server.app_of("sink", 9)?;
        pair.server.app_of("source", 19)?;
        let sum = Checksum::of_pattern(LARGE);
        let up = pair.talk(9, async |wire| {
            let mut at = 0;
            while at < LARGE {
                let bytes = piece(at, LARGE);
                wire.say(&bytes).await?;
                at += bytes.len() as u64;
            }
            wire.finish().await?;
            wire.rest().await
        })?;
        assert_eq!(up, format!("{LARGE} {sum:016x}\n"));
        let down = pair.talk(19, async |wire| {
            wire.say(format!("{LARGE}\n")).await?;
            wire.checksum(LARGE).await
        })?;
        assert_eq!(down, sum);
        Ok(())
    });
}

/// A refused connection at the far end is seen as a reset at the near one, not as an orderly end.
#[test]
fn a_dead_application_resets() {
    story("proto-reset", |mesh| {
        let pair = Pair::new(mesh, &[9])?;
        let end = pair.talk(9, async |wire| {
            wire.say("x").await?;
            Ok(wire.rest().await.map_err(|error| format!("{error:#}")))
        })?;
        let error = end.err().context("a connection to nobody ended in good order")?;
        assert!(error.contains("reset by peer"), "{error}");
        Ok(())
    });
}

#[test]
fn an_applications_own_tls_passes_untouched() {
    story("proto-own-tls", |mesh| {
        let pair = Pair::new(mesh, &[8443])?;
        let ca = tls_server(&pair.server, APP, 8443)?;

        // The client sees the application's certificate, not one of the mesh, and verifies it itself.
        let hello = format!("openssl s_client -connect {APP}:8443 -servername {APP} </dev/null 2>/dev/null");
        let print = format!("{hello} | openssl x509 -noout -fingerprint -sha256");
        let expected = ["openssl", "x509", "-in", &ca, "-noout", "-fingerprint", "-sha256"];
        let expected = pair.server.exec(&expected)?.ok()?.stdout;
        assert_eq!(pair.client.exec(&["sh", "-c", &print])?.ok()?.stdout, expected);
        let page = pair.curl(&["--cacert", &ca, &format!("https://{APP}:8443/")])?;
        assert!(page.contains("TLSv1.3"), "{page}");
        assert!(pair.curl(&[&format!("https://{APP}:8443/")]).is_err(), "a certificate nobody vouches for");
        assert_eq!(pair.detected("tls")?, 3.0);
        Ok(())
    });
}
