//! A load balancer in front that says for whom it connects (PROXY protocol): a real HAProxy; and behind, servers that want to be
//! told: a real nginx.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use weft_testbed::{Gateway, Process, Teller, eventually};

use super::doors::{PATIENCE, all, backend, connect_from, curl, field, gateway, route, say};

/// Who sits behind the load balancer.
const CLIENT: &str = "127.77.1.2";
/// Somebody whom nobody trusts.
const STRANGER: &str = "127.0.0.9";

/// HAProxy in front of a port of the gateway, on the same address.
fn listen(name: &str, ip: IpAddr, port: u16, to: u16, how: &str) -> String {
    format!("listen {name}\n  bind {ip}:{port}\n  server gateway {ip}:{to} {how}\n")
}

/// A real HAProxy: version 1 on ports that begin with 1, version 2 with 2. It looks after the TCP listener by LOCAL headers.
fn haproxy(gateway: &Gateway) -> Result<Process> {
    let ip = gateway.ip();
    let mut config =
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n".to_owned();
    for (version, how) in [(1, "send-proxy"), (2, "send-proxy-v2")] {
        for (name, to) in [("web", 8080), ("tls", 8443), ("one", 9000), ("two", 9001)] {
            let how = if (version, to) == (2, 9000) { "send-proxy-v2 check inter 200ms" } else { how };
            config += &listen(&format!("{name}{version}"), ip, version * 10_000 + to, to, how);
        }
    }
    std::fs::write(gateway.dir().join("haproxy.cfg"), config)?;
    let haproxy = gateway.beside("haproxy", "haproxy", &["-db", "-f", "haproxy.cfg"])?;
    listens(SocketAddr::new(ip, 29_001), &haproxy)?;
    Ok(haproxy)
}

fn listens(at: SocketAddr, process: &Process) -> Result<()> {
    eventually("it to listen", PATIENCE, || {
        ensure!(process.is_running(), "{} ended", process.name());
        Ok(TcpStream::connect(at).is_ok().then_some(()))
    })
    .with_context(|| process.log())
}

/// nginx that says by what address it is called, as the PROXY protocol tells it, and whatever else at each address.
fn nginx(gateway: &Gateway, servers: &[(SocketAddr, &str, &str)]) -> Result<Process> {
    let dir = gateway.dir().display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {dir}/{what};"))
        .concat();
    let server = |(at, how, said): &(SocketAddr, &str, &str)| {
        format!(
            "server {{ listen {at} {how} proxy_protocol; location / {{ return 200 \"$proxy_protocol_addr {said}\\n\"; }} }}\n"
        )
    };
    let all: String = servers.iter().map(server).collect();
    let config = format!(
        "daemon off; pid {dir}/nginx.pid; events {{}}\nhttp {{ access_log off; {temporary}\n{all} }}\n"
    );
    std::fs::write(gateway.dir().join("nginx.conf"), config)?;
    let file = gateway.dir().join("nginx.conf").display().to_string();
    let nginx = gateway.beside("nginx", "nginx", &["-e", "stderr", "-c", &file])?;
    for (at, ..) in servers {
        listens(*at, &nginx)?;
    }
    Ok(nginx)
}

fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

#[test]
fn the_address_behind_a_load_balancer_is_the_clients_everywhere() -> Result<()> {
    let (teller, server) = (Teller::start("teller")?, free()?);
    let resources = [
        backend("teller", teller.addr, ""),
        backend("told1", server, ", protocol: tcp, proxyProtocol: v1"),
        backend("told2", server, ", protocol: tcp, proxyProtocol: v2"),
        route("HTTPRoute", "all", &["web", "shop"], "teller"),
        route("TCPRoute", "one", &["one"], "told1"),
        route("TCPRoute", "two", &["two"], "told2"),
    ];
    let gateway = gateway(&resources, &[("WEFT_GATEWAY_PROXY_PROTOCOL_TRUSTED", "127.0.0.1")])?;
    let (_haproxy, _nginx) =
        (haproxy(&gateway)?, nginx(&gateway, &[(server, "", "to $proxy_protocol_server_port")])?);
    let from = ["--interface", CLIENT];
    for version in [10_000, 20_000] {
        for (port, proto) in [(8080, "http"), (8443, "https")] {
            for spoken in [&["--http1.1"][..], &["--http2"]] {
                let at = gateway.at(version + port);
                let said = curl(&gateway, at, "/", &[&from, spoken].concat())?;
                ensure!(field(&said, "x-forwarded-for") == Some(CLIENT), "{at}: {said}");
                ensure!(field(&said, "x-forwarded-proto") == Some(proto), "{at}: {said}");
                let port = at.port().to_string();
                ensure!(field(&said, "x-forwarded-port") == Some(&port), "{at}: {said}");
            }
        }
        // And on: from the client through HAProxy and the gateway to nginx.
        for port in [9000, 9001] {
            let at = gateway.at(version + port);
            let said = curl(&gateway, at, "/", &from)?;
            ensure!(said.ends_with(&format!("{CLIENT} to {}\n", at.port())), "{at}: {said}");
        }
    }
    let logged = format!("\"client\":\"{CLIENT}:");
    // Lines come up to 50 ms after the fact, and those of bytes when the connection has ended.
    eventually("the log to have the client", PATIENCE, || {
        Ok((gateway.process().log().matches(&logged).count() >= 12).then_some(()))
    })?;
    let counted = |outcome: &str| {
        gateway.metric(&format!("weft_gateway_proxy_protocol_total{{outcome=\"{outcome}\"}}"))
    };
    ensure!(counted("proxied")? >= 12.0);
    eventually("a check of HAProxy", PATIENCE, || Ok((counted("local")? >= 1.0).then_some(())))?;
    Ok(())
}

/// One request over a connection that is kept, and what nginx says to it.
fn ask(client: &mut TcpStream, host: &str) -> Result<String> {
    client.write_all(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes())?;
    let mut answer = BufReader::new(client);
    let (mut length, mut line) = (0, String::new());
    while answer.read_line(&mut line)? > 2 {
        if let Some(("content-length", value)) = line.to_ascii_lowercase().trim_end().split_once(": ") {
            length = value.parse()?;
        }
        line.clear();
    }
    let mut body = vec![0; length];
    answer.read_exact(&mut body)?;
    Ok(String::from_utf8(body)?.trim_end().to_owned())
}

#[test]
fn backends_of_requests_are_told_whose_each_connection_is() -> Result<()> {
    const SAID: &str = "$proxy_protocol_port to $proxy_protocol_server_port by $connection";
    let servers = [(free()?, "", SAID), (free()?, "http2", SAID)];
    let named = |kind: &str, host: &str| {
        route(kind, host, &["web"], host).replace("spec: {", &format!("spec: {{hostnames: [{host}.test], "))
    };
    let resources = [
        backend("lines", servers[0].0, ", proxyProtocol: v1"),
        backend("frames", servers[1].0, ", protocol: h2, proxyProtocol: v2"),
        named("HTTPRoute", "lines"),
        named("HTTPRoute", "frames"),
    ];
    let gateway = gateway(&resources, &[])?;
    let _nginx = nginx(&gateway, &servers)?;
    let at = gateway.at(8080);
    for host in ["lines.test", "frames.test"] {
        let mut clients = Vec::new();
        for from in [CLIENT, STRANGER, CLIENT] {
            clients.push(connect_from(from.parse()?, at)?);
        }
        let mut connections = Vec::new();
        // By turns, so that what one has left idle is there for the others.
        for round in 0..3 {
            for (place, client) in clients.iter_mut().enumerate() {
                let said = ask(client, host)?;
                let (who, connection) = said.split_once(" by ").with_context(|| said.clone())?;
                let own = client.local_addr()?;
                ensure!(who == format!("{} {} to {}", own.ip(), own.port(), at.port()), "{host}: {said}");
                if round == 0 {
                    ensure!(
                        !connections.iter().any(|known| known == connection),
                        "{host}: {connections:?}, and {said}"
                    );
                    connections.push(connection.to_owned());
                } else {
                    ensure!(connections.get(place).is_some_and(|kept| kept == connection), "{host}: {said}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn who_is_trusted_must_say_and_who_is_not_cannot() -> Result<()> {
    let teller = Teller::start("teller")?;
    let resources =
        [backend("teller", teller.addr, ""), route("HTTPRoute", "all", &["web", "shop"], "teller")];
    let fields = [
        ("WEFT_GATEWAY_PROXY_PROTOCOL_TRUSTED", "127.0.0.1"),
        ("WEFT_GATEWAY_PROXY_PROTOCOL_PORTS", "8080,8443"),
        ("WEFT_TIMEOUTS_HANDSHAKE", "1s"),
    ];
    let gateway = gateway(&resources, &fields)?;
    let (trusted, stranger): (IpAddr, IpAddr) = ("127.0.0.1".parse()?, STRANGER.parse()?);
    let (web, tls) = (gateway.at(8080), gateway.at(8443));
    let get = b"GET / HTTP/1.1\r\nhost: a.shop.test\r\nconnection: close\r\n\r\n";
    let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n";

    // A stranger's word is bytes, and no request.
    let said = say(&mut connect_from(stranger, web)?, get)?;
    ensure!(field(&said, "x-forwarded-for") == Some(STRANGER), "{said}");
    let said = say(&mut connect_from(stranger, web)?, &[&line[..], get].concat())?;
    ensure!(said.starts_with("HTTP/1.1 505 ") && !said.contains("192.0.2.7"), "{said}");
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x9c\x40\x01\xbb";
    let said = say(&mut connect_from(stranger, web)?, &[&binary[..], get].concat())?;
    ensure!(!said.contains(" 200 "), "{said}");
    ensure!(!say(&mut connect_from(stranger, tls)?, line)?.contains("HTTP"));

    // One whose word is needed gives it whole and in time, octet by octet if it must be.
    let mut slow = connect_from(trusted, web)?;
    for octet in line.iter().chain(get.iter().take(5)) {
        slow.write_all(&[*octet])?;
    }
    let said = say(&mut slow, &get[5..])?;
    ensure!(field(&said, "x-forwarded-for") == Some("192.0.2.7"), "{said}");
    let unix = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8"[..], &[b'/'; 216], get].concat();
    let said = say(&mut connect_from(trusted, web)?, &unix)?;
    ensure!(field(&said, "x-forwarded-for") == Some("127.0.0.1"), "{said}");
    let large = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; 65_535]].concat();
    for nothing in [&get[..], &b"PROXY TCP4 nobody\r\n"[..], &large] {
        ensure!(say(&mut connect_from(trusted, web)?, nothing)?.is_empty());
    }
    let mut half = connect_from(trusted, tls)?;
    half.write_all(&line[..20])?;
    ensure!(all(&mut half)?.is_empty());
    for (reason, least) in [("malformed", 3.0), ("timeout", 1.0)] {
        let counted =
            gateway.metric(&format!("weft_gateway_proxy_protocol_total{{outcome=\"{reason}\"}}"))?;
        ensure!(counted >= least, "{reason}: {counted}");
    }
    let log = gateway.process().log();
    ensure!(log.contains("proxy-protocol") && log.contains("malformed"), "{log}");
    // A port that is not among them has no load balancer: whoever connects is the client. No route is there, so that it is reset.
    ensure!(say(&mut connect_from(trusted, gateway.at(9000))?, get)?.is_empty());
    ensure!(gateway.metric("weft_gateway_connections_total{listener=\"edge/public/one\"")? >= 1.0);
    Ok(())
}
