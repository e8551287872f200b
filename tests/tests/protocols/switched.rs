//! Connections that stop being HTTP: upgrades (RFC 9110 section 7.8), WebSocket (RFC 6455), CONNECT.

use weft_testbed::story;

use super::pair::{APP, Pair, header, pods, serve};

#[test]
fn websockets_echo_through_the_mesh() {
    story("proto-websocket", |mesh| {
        let pair = Pair::new(mesh, &[8765])?;
        pair.server.python_server("websocket_server.py", &["8765"])?;
        let seen = pair.client.python_client("websocket_client.py", &[&format!("ws://{APP}:8765/chat")])?;
        assert_eq!(seen["texts"], serde_json::json!(["hello", "", "ünïcödé"]));
        assert_eq!(seen["subprotocol"], "chat");
        assert_eq!(seen["large"], 300_000);
        assert_eq!(seen["pong"], true);
        assert_eq!(seen["close"], serde_json::json!([4000, "enough"]));
        assert!(seen["peer"].as_str().is_some_and(|peer| peer.contains("/sa/client")), "{seen}");
        Ok(())
    });
}

#[test]
fn upgraded_bytes_flow_both_ways_and_end() {
    story("proto-upgrade", |mesh| {
        let pair = Pair::new(mesh, &[8080])?;
        pair.server.app(8080)?;
        let request = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: made-up/1\r\n\r\n";
        pair.talk(8080, async |wire| {
            // The client's first bytes may come with the request, as nothing forbids it.
            wire.say(format!("{request}first ")).await?;
            let head = wire.head().await?;
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            assert_eq!(header(&head, "upgrade"), Some("made-up/1"), "{head}");
            assert_eq!(header(&head, "connection"), Some("upgrade"), "{head}");
            assert_eq!(header(&head, "weft-upgrade"), None, "{head}");
            wire.say("second ").await?;
            assert_eq!(wire.take(13).await?, "first second ");
            wire.say("third").await?;
            wire.finish().await?;
            assert_eq!(wire.rest().await?, "third");
            Ok(())
        })?;
        // An application that does not want to: an ordinary answer, and the connection stays HTTP.
        pair.talk(8080, async |wire| {
            for path in ["/status/426", "/bytes/3"] {
                wire.say(request.replace("/ws", path)).await?;
                let answer = wire.answer(false).await?;
                assert!(!answer.starts_with("HTTP/1.1 101 "), "{answer}");
            }
            Ok(())
        })
    });
}

#[test]
fn connect_opens_a_tunnel_through_the_application() {
    story("proto-connect", |mesh| {
        let (client, server) = pods(mesh, &[8080, 8081])?;
        let ports = serde_json::json!([8080, 8081]);
        let proxied = mesh.sidecar(&server)?.config(|yaml| yaml["inbound"]["connectPorts"] = ports);
        let (client_proxy, server_proxy) = (mesh.sidecar(&client)?.start()?, proxied.start()?);
        let pair = Pair { client, server, client_proxy, server_proxy };
        pair.server.app(8080)?;
        let request = "CONNECT target.example:443 HTTP/1.1\r\nhost: target.example:443\r\n\r\n";
        pair.talk(8080, async |wire| {
            wire.say(request).await?;
            let head = wire.head().await?;
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            // RFC 9110 section 9.3.6: a 2xx to CONNECT has neither.
            assert_eq!((header(&head, "content-length"), header(&head, "transfer-encoding")), (None, None));
            wire.say("through").await?;
            wire.finish().await?;
            assert_eq!(wire.rest().await?, "through");
            Ok(())
        })?;
        // The application, an HTTP proxy in this case, sees the target as it was asked for.
        let seen = serve(&pair.server, 8081, async |mut wire| {
            let head = wire.head().await?;
            wire.say("HTTP/1.1 200 OK\r\n\r\n").await?;
            Ok(head)
        })?;
        pair.talk(8081, async |wire| {
            wire.say(request).await?;
            wire.until("\r\n\r\n").await
        })?;
        let seen = seen.join()?;
        assert!(seen.contains("CONNECT target.example:443 HTTP/1.1\r\n"), "{seen}");
        Ok(())
    });
}
