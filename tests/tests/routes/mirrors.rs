//! Mirrors that are dead, slow or failing, each in its own way: the request never waits for one and never fails with it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
use weft_testbed::{Teller, eventually, rest};

use super::{PATIENCE, gateway_of, to};

/// Octets of a body: more than a copy may be behind its original.
const BODY: usize = 600_000;
/// Requests by each way.
const EACH: usize = 6;
/// A request that waited for a mirror would take 15 s.
const SOON: Duration = Duration::from_secs(3);

/// A mirror that does this with each connection.
fn mirror(serve: fn(TcpStream) -> std::io::Result<()>) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    Ok(addr)
}

/// It takes connections and reads nothing.
fn mute(stream: TcpStream) -> std::io::Result<()> {
    rest(PATIENCE * 3);
    drop(stream);
    Ok(())
}

/// It reads octet by octet.
fn slow(mut stream: TcpStream) -> std::io::Result<()> {
    while stream.read(&mut [0])? > 0 {
        rest(Duration::from_millis(20));
    }
    Ok(())
}

/// It reads everything and says nothing.
fn silent(mut stream: TcpStream) -> std::io::Result<()> {
    std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
}

/// It fails before it has read the body, and is gone.
fn failing(mut stream: TcpStream) -> std::io::Result<()> {
    let _ = stream.read(&mut [0; 100])?;
    stream.write_all(b"HTTP/1.1 500 Failed\r\ncontent-length: 6\r\n\r\nfailed")
}

/// It breaks off in its answer.
fn broken(mut stream: TcpStream) -> std::io::Result<()> {
    let _ = stream.read(&mut [0; 100])?;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 600\r\n\r\nhalf")
}

/// Its answer is none.
fn odd(mut stream: TcpStream) -> std::io::Result<()> {
    let _ = stream.read(&mut [0; 100])?;
    stream.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n")?;
    silent(stream)
}

/// Its answer has no end.
fn endless(mut stream: TcpStream) -> std::io::Result<()> {
    let _ = stream.read(&mut [0; 100])?;
    stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
    loop {
        stream.write_all(b"4\r\nmore\r\n")?;
        rest(Duration::from_millis(1));
    }
}

/// Nobody takes connections there, nor refuses them: the queue is full. What fills it must be kept.
fn hole() -> Result<(SocketAddr, Vec<TcpStream>)> {
    let listener = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&listener, &"127.0.0.1:0".parse::<SocketAddr>()?)?;
    listen(&listener, 0)?;
    let addr = SocketAddr::try_from(getsockname(&listener)?).context("no address")?;
    let mut kept = vec![TcpStream::connect(addr)?, TcpStream::from(listener)];
    // One that does not come about shows that it is full.
    while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(200)) {
        kept.push(stream);
    }
    Ok((addr, kept))
}

/// A request over a connection that may have been used before: how long it took. The answer has the body once more.
fn ask(stream: &mut TcpStream, path: &str, body: &str) -> Result<Duration> {
    let began = Instant::now();
    let mut writer = stream.try_clone()?;
    let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
    let said = thread::scope(|scope| -> Result<String> {
        let sending = scope.spawn(move || writer.write_all(format!("{head}{body}").as_bytes()));
        let (mut said, mut some) = (Vec::new(), vec![0; 65_536]);
        let end = format!("\n\n{body}");
        while said.len() < end.len() || !said.ends_with(end.as_bytes()) {
            let read = stream.read(&mut some)?;
            ensure!(read > 0, "closed: {}", String::from_utf8_lossy(said.get(..300).unwrap_or(&said)));
            said.extend_from_slice(some.get(..read).unwrap_or_default());
        }
        sending.join().ok().context("sending")??;
        Ok(String::from_utf8_lossy(&said).into_owned())
    })?;
    ensure!(said.starts_with("HTTP/1.1 200 "), "{path}: {}", said.get(..300).unwrap_or(&said));
    Ok(began.elapsed())
}

fn rule(path: &str, mirrors: &[&str]) -> String {
    let mirrors: Vec<String> = mirrors
        .iter()
        .map(|name| format!("{{type: RequestMirror, requestMirror: {{backendRef: {}}}}}", to(name)))
        .collect();
    format!(
        "    - matches: [{{path: {{value: /{path}}}}}]\n      filters: [{}]\n      backendRefs: [{}]\n",
        mirrors.join(", "),
        to("a")
    )
}

#[test]
fn no_mirror_slows_a_request_or_fails_it() -> Result<()> {
    let a = Teller::start("a")?;
    let (hole, _full) = hole()?;
    let mirrors = [
        ("dead", "127.0.0.1:1".parse()?),
        ("hole", hole),
        ("mute", mirror(mute)?),
        ("slow", mirror(slow)?),
        ("silent", mirror(silent)?),
        ("failing", mirror(failing)?),
        ("broken", mirror(broken)?),
        ("odd", mirror(odd)?),
        ("endless", mirror(endless)?),
    ];
    let names = mirrors.map(|(name, _)| name);
    let mut rules: String = names.iter().map(|name| rule(name, &[name])).collect();
    rules += &rule("all", &names);
    let backends: Vec<(&str, SocketAddr)> = [("a", a.addr)].into_iter().chain(mirrors).collect();
    let gateway = gateway_of(&backends, &rules, &[("WEFT_TELEMETRY_ACCESS_LOG_MODE", "off")])?;
    let mut stream = TcpStream::connect(gateway.at(8080))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    for name in names.into_iter().chain(["all"]) {
        for size in [BODY, 1].repeat(EACH) {
            let body = format!("{}.", &name[..1].repeat(size - 1));
            let took =
                ask(&mut stream, &format!("/{name}/{size}"), &body).with_context(|| name.to_owned())?;
            ensure!(took < SOON, "{name}: {took:?}");
        }
    }
    // Nobody is asked twice because of a mirror.
    ensure!(a.seen().len() == 2 * EACH * (names.len() + 1), "{}", a.seen().len());
    let count =
        |outcome: &str| gateway.metric(&format!("weft_route_mirrored_total{{outcome=\"{outcome}\"}}"));
    eventually("what became of the copies", PATIENCE, || {
        // The dead one, the broken one and the odd one, alone and among all.
        let failed = count("failed")? >= (3 * 2 * 2 * EACH) as f64;
        Ok((failed && count("answered")? >= (2 * EACH) as f64).then_some(()))
    })
}

#[test]
fn mirrors_that_hang_are_left_out_when_there_are_too_many() -> Result<()> {
    let a = Teller::start("a")?;
    let rules = rule("all", &["mute"]);
    let gateway = gateway_of(
        &[("a", a.addr), ("mute", mirror(mute)?)],
        &rules,
        &[("WEFT_TELEMETRY_ACCESS_LOG_MODE", "off")],
    )?;
    let before = gateway.metric("process_resident_memory_bytes ")?;
    let mut stream = TcpStream::connect(gateway.at(8080))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // One connection is one worker's, which has 256 copies under way at most.
    for _ in 0..400 {
        let took = ask(&mut stream, "/all", "a body")?;
        ensure!(took < SOON, "{took:?}");
    }
    let count =
        |outcome: &str| gateway.metric(&format!("weft_route_mirrored_total{{outcome=\"{outcome}\"}}"));
    let left_out = count("left_out")?;
    ensure!(
        (400.0 - 256.0 - 5.0..=400.0 - 256.0).contains(&left_out) || count("timeout")? > 0.0,
        "{left_out}"
    );
    let taken = gateway.metric("process_resident_memory_bytes ")? - before;
    ensure!(taken < 40e6, "{taken} bytes");
    ensure!(a.seen().len() == 400);
    // A copy has 15 s: then there is room again.
    eventually("the copies to be given up", PATIENCE, || Ok((count("timeout")? >= 256.0).then_some(())))?;
    ask(&mut stream, "/all", "a body")?;
    ensure!(count("left_out")? <= left_out, "there is no room");
    Ok(())
}
