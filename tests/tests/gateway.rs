//! A gateway as its clients meet it: names and certificates, bytes, and listeners that come and go.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use weft_testbed::{Echo, Gateway, PublicCa, eventually, rest};

const PATIENCE: Duration = Duration::from_secs(10);

/// A directory with the CA that clients trust, and one of staff.
fn certified(issued: &[(&str, &[&str])]) -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    let ca = PublicCa::new(dir.path(), "ca")?;
    for (file, names) in issued {
        ca.issue(file, names)?;
    }
    Ok(dir)
}

fn certificate(name: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: Certificate\nmetadata: {{name: {name}, namespace: edge}}\n\
         spec: {{certificateFile: \"{{dir}}/{name}.pem\", keyFile: \"{{dir}}/{name}.key\"}}\n---\n"
    )
}

/// A certificate authority, by the file that [`certified`] has made.
fn authority(name: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: Certificate\nmetadata: {{name: {name}, namespace: edge}}\n\
         spec: {{caFile: \"{{dir}}/{name}.pem\"}}\n---\n"
    )
}

/// A backend over TLS that is to be `server` by the authority `ca`.
fn secured_backend(name: &str, addr: SocketAddr, server: &str) -> String {
    let text = backend(name, addr);
    let tls =
        format!("spec: {{tls: {{serverName: {server}, caCertificateRefs: [{}]}}, ", certificate_ref("ca"));
    text.replace("spec: {", &tls)
}

/// A Gateway of these listeners, each a line of YAML.
fn gateway(tls: &str, listeners: &[String]) -> String {
    let listeners: String = listeners.iter().map(|listener| format!("    - {listener}\n")).collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: public, namespace: edge}}\n\
         spec:\n  gatewayClassName: weft\n  addresses: [{{value: \"{{ip}}\"}}]\n{tls}  listeners:\n{listeners}---\n"
    )
}

fn https(name: &str, hostname: Option<&str>, certificates: &[&str]) -> String {
    let refs: Vec<String> = certificates.iter().map(|name| certificate_ref(name)).collect();
    let hostname = hostname.map(|name| format!("hostname: \"{name}\", ")).unwrap_or_default();
    format!(
        "{{name: {name}, port: 8443, protocol: HTTPS, {hostname}tls: {{certificateRefs: [{}]}}}}",
        refs.join(", ")
    )
}

fn certificate_ref(name: &str) -> String {
    format!("{{group: weft.dev, kind: Certificate, name: {name}}}")
}

fn http(name: &str, port: u16) -> String {
    format!("{{name: {name}, port: {port}, protocol: HTTP}}")
}

fn backend(name: &str, addr: SocketAddr) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: Backend\nmetadata: {{name: {name}, namespace: edge}}\n\
         spec: {{protocol: tcp, endpoints: [{{host: \"{}\", port: {}}}]}}\n---\n",
        addr.ip(),
        addr.port()
    )
}

fn route(kind: &str, name: &str, section: &str, hostname: Option<&str>, backends: &[(&str, u32)]) -> String {
    let version = if kind == "TCPRoute" { "v1alpha2" } else { "v1" };
    let hostnames = hostname.map(|name| format!("hostnames: [\"{name}\"], ")).unwrap_or_default();
    let backends: Vec<String> = backends
        .iter()
        .map(|(name, weight)| format!("{{group: weft.dev, kind: Backend, name: {name}, weight: {weight}}}"))
        .collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: edge}}\n\
         spec: {{parentRefs: [{{name: public, sectionName: {section}}}], {hostnames}rules: [{{backendRefs: [{}]}}]}}\n---\n",
        backends.join(", ")
    )
}

/// Connects, says something, and reads until the other side has said so much.
fn talk(addr: SocketAddr, said: &str, expected: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    say(&mut stream, said, expected)?;
    Ok(stream)
}

fn say(stream: &mut TcpStream, said: &str, expected: &str) -> Result<()> {
    stream.write_all(said.as_bytes())?;
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got)?;
    assert_eq!(String::from_utf8_lossy(&got), expected);
    Ok(())
}

/// How a connection ends that is not to be served.
fn ends(addr: SocketAddr) -> Result<bool> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // It may be over before that.
    let _ = stream.write_all(b"hello");
    Ok(stream
        .read(&mut [0; 64])
        .map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, |n| n == 0))
}

const GET: &str = "GET / HTTP/1.1\r\nhost: a.shop.example\r\n\r\n";

#[test]
fn each_server_name_is_shown_its_certificate() -> Result<()> {
    let dir = certified(&[
        ("exact", &["a.shop.example"]),
        ("wild", &["*.shop.example"]),
        ("deep", &["x.deep.shop.example"]),
        ("any", &["any.test"]),
    ])?;
    let listeners = [
        https("any", None, &["any"]),
        https("wild", Some("*.shop.example"), &["wild", "deep"]),
        https("exact", Some("a.shop.example"), &["exact"]),
    ];
    let certificates: String = ["exact", "wild", "deep", "any"].map(certificate).concat();
    let gateway = Gateway::start(dir, &format!("{certificates}{}", gateway("", &listeners)))?;
    for (name, subject) in [
        ("a.shop.example", "exact"),
        ("b.shop.example", "wild"),
        ("x.deep.shop.example", "deep"),
        ("y.deep.shop.example", "wild"),
        ("other.test", "any"),
    ] {
        for version in ["-tls1_2", "-tls1_3"] {
            let shaken = gateway.s_client(8443, &["-servername", name, version])?;
            assert_eq!(shaken.subject(), Some(subject), "{name} {version}: {}", shaken.said);
        }
    }
    let without = gateway.s_client(8443, &["-noservername"])?;
    assert_eq!(without.subject(), Some("any"), "{}", without.said);
    Ok(())
}

#[test]
fn a_name_without_a_listener_is_refused_and_nothing_old_is_spoken() -> Result<()> {
    let dir = certified(&[("exact", &["a.shop.example"])])?;
    let resources = format!(
        "{}{}",
        certificate("exact"),
        gateway("", &[https("exact", Some("a.shop.example"), &["exact"])])
    );
    let gateway = Gateway::start(dir, &resources)?;
    let asked = ["-servername", "a.shop.example"];
    for (args, alert) in [
        (&["-servername", "b.shop.example"][..], "unrecognized name"),
        (&["-noservername"], "missing extension"),
        (&["-servername", "a.shop.example", "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"], "handshake failure"),
        (
            &["-servername", "a.shop.example", "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"],
            "handshake failure",
        ),
        (&["-servername", "a.shop.example", "-alpn", "spdy/3"], "no application protocol"),
    ] {
        let shaken = gateway.s_client(8443, args)?;
        assert!(!shaken.done && shaken.said.contains(alert), "{args:?}: {}", shaken.said);
    }
    for (offered, agreed) in [("h2,http/1.1", "h2"), ("http/1.1", "http/1.1"), ("http/1.1,h2", "h2")] {
        let shaken = gateway.s_client(8443, &[&asked[..], &["-alpn", offered]].concat())?;
        let expected = format!("ALPN protocol: {agreed}");
        assert!(shaken.said.contains(&expected), "{offered}: {}", shaken.said);
    }
    let shaken = gateway.s_client(
        8443,
        &[&asked[..], &["-verify_return_error", "-verify_hostname", "a.shop.example"]].concat(),
    )?;
    assert!(shaken.done && shaken.said.contains("Verify return code: 0"), "{}", shaken.said);
    assert!(gateway.metric("weft_gateway_handshakes_total{outcome=\"failed_unknown_name\"}")? >= 1.0);
    Ok(())
}

#[test]
fn clients_show_certificates_where_the_gateway_asks() -> Result<()> {
    let dir = certified(&[("exact", &["a.shop.example"])])?;
    let staff = PublicCa::new(dir.path(), "staff")?;
    staff.issue("alice", &["alice"])?;
    PublicCa::new(dir.path(), "foreign")?.issue("mallory", &["mallory"])?;
    let roots = "apiVersion: weft.dev/v1alpha1\nkind: Certificate\nmetadata: {name: staff, namespace: edge}\n\
                 spec: {caFile: \"{dir}/staff.pem\"}\n---\n";
    let with_mode = |mode: &str| {
        let validation = format!("{{caCertificateRefs: [{}], mode: {mode}}}", certificate_ref("staff"));
        let tls = format!("  tls: {{frontend: {{default: {{validation: {validation}}}}}}}\n");
        format!(
            "{}{roots}{}",
            certificate("exact"),
            gateway(&tls, &[https("exact", Some("a.shop.example"), &["exact"])])
        )
    };
    let gateway = Gateway::start(dir, &with_mode("AllowValidOnly"))?;
    let shake = |own: Option<&str>, version: &[&str]| -> Result<bool> {
        let (file, key) = own.map(|name| (format!("{name}.pem"), format!("{name}.key"))).unwrap_or_default();
        let own: &[&str] = if own.is_some() { &["-cert", &file, "-key", &key] } else { &[] };
        // TLS 1.3 tells a client of its certificate after the handshake: a request shows it.
        let at = gateway.at(8443).to_string();
        let fixed = [
            "-sk",
            "--connect-to",
            &format!("a.shop.example:8443:{at}"),
            "https://a.shop.example:8443/",
            "-o",
            "/dev/null",
        ];
        let curl_own: Vec<&str> = own
            .iter()
            .map(|arg| match *arg {
                "-cert" => "--cert",
                "-key" => "--key",
                other => other,
            })
            .collect();
        let output =
            gateway.run("curl", &[&fixed[..], &curl_own, version, &["-w", "%{http_code}"]].concat())?;
        Ok(output.stdout == "404")
    };
    for version in [&["--tlsv1.3"][..], &["--tls-max", "1.2"]] {
        assert!(shake(Some("alice"), version)?, "{version:?}");
        assert!(!shake(Some("mallory"), version)?, "{version:?}");
        assert!(!shake(None, version)?, "{version:?}");
    }
    gateway.change("all.yaml", &with_mode("AllowInsecureFallback"))?;
    for own in [Some("alice"), Some("mallory"), None] {
        assert!(shake(own, &["--tlsv1.3"])?, "{own:?}");
    }
    Ok(())
}

#[test]
fn bytes_go_to_the_backend_of_their_name_or_port() -> Result<()> {
    let dir = certified(&[("exact", &["a.shop.example"]), ("inner", &["b.shop.example"])])?;
    let (echo, other) = (Echo::start("echo:")?, Echo::start("other:")?);
    // A TLS server of its own, which the gateway does not end TLS for.
    let own = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let listeners = [
        format!(
            "{{name: ends, port: 8443, protocol: TLS, hostname: a.shop.example, tls: {{certificateRefs: [{}]}}}}",
            certificate_ref("exact")
        ),
        "{name: through, port: 8443, protocol: TLS, hostname: b.shop.example, tls: {mode: Passthrough}}"
            .to_owned(),
        "{name: bytes, port: 9000, protocol: TCP}".to_owned(),
        "{name: nowhere, port: 9001, protocol: TCP}".to_owned(),
        "{name: missing, port: 9002, protocol: TCP}".to_owned(),
        "{name: secured, port: 9003, protocol: TCP}".to_owned(),
        "{name: mistaken, port: 9004, protocol: TCP}".to_owned(),
    ];
    let resources = [
        certificate("exact"),
        authority("ca"),
        secured_backend("secured", own, "b.shop.example"),
        secured_backend("mistaken", own, "a.shop.example"),
        route("TCPRoute", "secured", "secured", None, &[("secured", 1)]),
        route("TCPRoute", "mistaken", "mistaken", None, &[("mistaken", 1)]),
        gateway("", &listeners),
        backend("echo", echo.addr),
        backend("other", other.addr),
        backend("own", own),
        route("TLSRoute", "ends", "ends", Some("a.shop.example"), &[("echo", 1)]),
        route("TLSRoute", "through", "through", Some("b.shop.example"), &[("own", 1)]),
        route("TCPRoute", "bytes", "bytes", None, &[("echo", 0), ("other", 1)]),
        route("TCPRoute", "missing", "missing", None, &[("nobody", 1)]),
    ];
    let gateway = Gateway::start(dir, &resources.concat())?;
    let port = own.port().to_string();
    let server = ["s_server", "-accept", &port, "-cert", "inner.pem", "-key", "inner.key", "-www", "-4"];
    let mut command = std::process::Command::new("openssl");
    let mut server =
        command.args(server).current_dir(gateway.dir()).stdout(std::process::Stdio::null()).spawn()?;
    let told = eventually("the server behind", PATIENCE, || {
        let shaken = gateway.s_client(8443, &["-servername", "b.shop.example"])?;
        Ok((shaken.subject() == Some("inner")).then_some(()))
    });
    // The gateway secures what comes in plaintext; a server that is not who it is to be gets nothing.
    let page = talk(gateway.at(9003), "GET / HTTP/1.0\r\n\r\n", "HTTP/1.0 200 ok");
    let refused = ends(gateway.at(9004));
    server.kill()?;
    server.wait()?;
    told?;
    page?;
    assert!(refused?);
    let shaken = gateway.s_client(8443, &["-servername", "a.shop.example", "-ign_eof"]);
    // openssl reads until its timeout: what counts is what it was told.
    let said = shaken.map(|shaken| shaken.said).unwrap_or_default();
    assert!(said.is_empty() || said.contains("echo:"), "{said}");
    let mut stream = talk(gateway.at(9000), "", "other:")?;
    say(&mut stream, "and on", "and on")?;
    for port in [9001, 9002] {
        assert!(ends(gateway.at(port))?, "{port}");
    }
    let counted = |labels: &str| {
        gateway.metric(&format!("weft_gateway_connections_total{{listener=\"edge/public/{labels}"))
    };
    assert_eq!(counted("bytes\",route=\"edge/bytes\",backend=\"edge/other\",outcome=\"relayed\"")?, 1.0);
    assert_eq!(
        counted("secured\",route=\"edge/secured\",backend=\"edge/secured\",outcome=\"relayed\"")?,
        1.0
    );
    let refused = "mistaken\",route=\"edge/mistaken\",backend=\"edge/mistaken\",outcome=\"unreachable\"";
    assert_eq!(counted(refused)?, 1.0);
    assert_eq!(counted("nowhere\",outcome=\"no_route\"")?, 1.0);
    assert_eq!(counted("missing\",route=\"edge/missing\",outcome=\"invalid_backend\"")?, 1.0);
    Ok(())
}

#[test]
fn listeners_come_and_go_and_the_others_do_not_notice() -> Result<()> {
    let echo = Echo::start("echo:")?;
    let with = |listeners: &[String]| {
        let routes = [route("TCPRoute", "bytes", "bytes", None, &[("echo", 1)]), backend("echo", echo.addr)];
        format!("{}{}", gateway("", listeners), routes.concat())
    };
    let bytes = "{name: bytes, port: 9000, protocol: TCP}".to_owned();
    let gateway = Gateway::start(tempfile::tempdir()?, &with(&[bytes.clone(), http("old", 8080)]))?;
    let mut stays = talk(gateway.at(9000), "one", "echo:one")?;
    let mut goes = talk(gateway.at(8080), GET, "HTTP/1.1 404")?;
    gateway.change("all.yaml", &with(&[bytes, http("new", 8081)]))?;
    talk(gateway.at(8081), GET, "HTTP/1.1 404")?;
    eventually("the old port to be closed", PATIENCE, || {
        Ok(TcpStream::connect(gateway.at(8080)).is_err().then_some(()))
    })?;
    // Between two requests a connection of the old one ends.
    let mut rest_of_it = Vec::new();
    goes.read_to_end(&mut rest_of_it).context("the old connection")?;
    say(&mut stays, "two", "two")?;
    // Longer than what is gone may take to end.
    rest(Duration::from_secs(6));
    say(&mut stays, "three", "three")?;
    Ok(())
}

#[test]
fn a_port_that_is_taken_is_told_and_the_others_serve() -> Result<()> {
    let gateway = Gateway::start(tempfile::tempdir()?, &gateway("", &[http("one", 8080)]))?;
    let taken = TcpListener::bind(gateway.at(8081))?;
    gateway.change("all.yaml", &self::gateway("", &[http("one", 8080), http("two", 8081)]))?;
    talk(gateway.at(8080), GET, "HTTP/1.1 404")?;
    gateway.process().wait_for_log("listen-failed", PATIENCE)?;
    let told = gateway.process().log();
    assert!(told.contains(&format!("{} for edge/public/two", gateway.at(8081))), "{told}");
    assert_eq!(gateway.admin("/ready")?.0, 200, "it takes traffic on the port that it has");
    assert_eq!(gateway.metric(&format!("weft_gateway_port_bound{{port=\"{}\"}}", gateway.at(8081)))?, 0.0);
    drop(taken);
    eventually("the port to be had", PATIENCE, || Ok(talk(gateway.at(8081), GET, "HTTP/1.1 404").ok()))?;
    Ok(())
}

#[test]
fn a_gateway_whose_first_port_is_taken_is_not_ready() -> Result<()> {
    let listeners = gateway("", &[http("admin", 15_000)]);
    let gateway = Gateway::begin(tempfile::tempdir()?, &listeners)?;
    eventually("the reason to be told", PATIENCE, || {
        let (status, why) = gateway.admin("/ready").unwrap_or_default();
        Ok((status == 503 && why.contains("cannot listen on") && why.contains("edge/public/admin"))
            .then_some(()))
    })
}

#[test]
fn a_drain_ends_what_is_idle_and_lets_bytes_go_on_for_a_while() -> Result<()> {
    let echo = Echo::start("echo:")?;
    let resources = [
        gateway("", &["{name: bytes, port: 9000, protocol: TCP}".to_owned(), http("web", 8080)]),
        route("TCPRoute", "bytes", "bytes", None, &[("echo", 1)]),
        backend("echo", echo.addr),
    ];
    let gateway = Gateway::start(tempfile::tempdir()?, &resources.concat())?;
    let mut bytes = talk(gateway.at(9000), "one", "echo:one")?;
    let mut idle = talk(gateway.at(8080), GET, "HTTP/1.1 404")?;
    gateway.process().sigterm();
    let mut rest_of_it = Vec::new();
    idle.read_to_end(&mut rest_of_it)?;
    say(&mut bytes, "two", "two")?;
    let closed = || Ok(TcpStream::connect(gateway.at(9000)).is_err().then_some(()));
    eventually("nothing more to be accepted", PATIENCE, closed)?;
    bytes.shutdown(std::net::Shutdown::Write)?;
    let status = gateway.process().wait_exit(PATIENCE)?;
    assert!(status.success(), "{status}");
    Ok(())
}
