//! Resources that are written again and again, as controllers and people do: every version comes into force, nobody's request fails,
//! what did not change keeps what it had, a file that is wrong holds nothing up, and memory stays what it was.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_testbed::{Echo, Gateway, PublicCa, eventually};

use super::crowd::Crowd;
use super::doors::{DOORS, PATIENCE, backend, curl, field, route};

/// Files written.
const RELOADS: usize = 1_000;
/// After so many, everything that is made once has been made.
const WARM: usize = 200;
/// Files of a burst. So many others follow it, each of which is seen in force before the next.
const BURST: usize = 20;
/// How much more memory may be in use after 800 reloads than after the first 200, octets. One program of the story has about 100 KB:
/// kept by anything, they would be 80 MB.
const GROWTH: f64 = 6e6;

/// A backend at every address of 127.0.0.0/8 that counts its connections.
struct Counting {
    port: u16,
    accepted: Arc<AtomicUsize>,
}

impl Counting {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("0.0.0.0:0")?;
        let (port, accepted) = (listener.local_addr()?.port(), Arc::<AtomicUsize>::default());
        let count = Arc::clone(&accepted);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || serve(stream));
            }
        });
        Ok(Self { port, accepted })
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    fn at(&self, address: &str) -> Result<SocketAddr> {
        Ok(SocketAddr::new(address.parse()?, self.port))
    }
}

/// Answers every request with the host that it names.
fn serve(stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    let (mut line, mut host) = (String::new(), String::new());
    while reader.read_line(&mut line)? > 0 {
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("host") => value.clone_into(&mut host),
            None if line.trim_end().is_empty() => {
                let length = host.len();
                write!(writer, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{host}")?;
            }
            _ => {}
        }
        line.clear();
    }
    Ok(())
}

/// What changes: a backend, a route with filters whose answers tell the version, more routes beside it, a listener that comes and goes
/// and one whose certificate turns.
fn version(n: usize, moving: &Counting) -> Result<String> {
    let address = format!("127.{}.{}.1", 10 + n / 250, 1 + n % 250);
    let (port, turned) = (8090 + n / 5 % 3, ["turn0", "turn1"][n / 5 % 2]);
    let mut all = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: second, namespace: edge}}\nspec:\n  \
         gatewayClassName: weft\n  addresses: [{{value: \"{{ip}}\"}}]\n  listeners:\n    \
         - {{name: comes, port: {port}, protocol: HTTP}}\n    \
         - {{name: turns, port: 8444, protocol: HTTPS, tls: {{certificateRefs: [{{group: weft.dev, kind: Certificate, name: turning}}]}}}}\n\
         ---\napiVersion: weft.dev/v1alpha1\nkind: Certificate\nmetadata: {{name: turning, namespace: edge}}\n\
         spec: {{certificateFile: \"{{dir}}/{turned}.pem\", keyFile: \"{{dir}}/{turned}.key\"}}\n"
    );
    all += &backend("moving", moving.at(&address)?, "");
    let to = "backendRefs: [{group: weft.dev, kind: Backend, name: moving}]";
    let told = |name: &str| {
        format!(
            "{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-{name}, value: \"{n}\"}}]}}}}"
        )
    };
    for number in 0..5 {
        let (name, more) = match number {
            0 => ("moving".to_owned(), String::new()),
            _ => (
                format!("extra-{number}"),
                format!(
                    "matches: [{{path: {{type: PathPrefix, value: /{number}/{n}}}, headers: [{{name: x-n, value: \"{n}\"}}]}}], "
                ),
            ),
        };
        all += &format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: edge}}\n\
             spec:\n  parentRefs: [{{name: public}}, {{name: second}}]\n  hostnames: [{name}.test]\n  rules:\n    \
             - {{{more}filters: [{}, {{type: URLRewrite, urlRewrite: {{hostname: v{n}.internal}}}}], {to}}}\n",
            told("version")
        );
    }
    Ok(all)
}

/// A route that a team writes by hand.
fn team(backends: &str, says: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: team, namespace: edge}}\nspec:\n  \
         parentRefs: [{{name: public}}]\n  hostnames: [team.test]\n  rules:\n  \
         - filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-team, value: {says}}}]}}}}]\n    \
         backendRefs: {backends}\n"
    )
}

const KEPT: &str = "[{group: weft.dev, kind: Backend, name: kept}]";

/// One connection that asks as often as it is told to.
struct Asking(BufReader<TcpStream>);

impl Asking {
    fn new(at: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(at)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The head of an answer with 200, and its body.
    fn ask(&mut self, host: &str) -> Result<(String, String)> {
        write!(self.0.get_mut(), "GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            ensure!(self.0.read_line(&mut head)? > 0, "closed: {head}");
        }
        ensure!(head.starts_with("HTTP/1.1 200 "), "{host}: {head}");
        let head = head.replace('\r', "");
        let mut body = vec![0; field(&head, "content-length").context("no length")?.parse()?];
        self.0.read_exact(&mut body)?;
        Ok((head, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Asks until this version answers. Each answer is of one version as a whole, and none is older than one that was seen.
    fn until(&mut self, version: usize, seen: &mut usize) -> Result<()> {
        eventually("the version to be in force", PATIENCE, || {
            let (head, body) = self.ask("moving.test")?;
            let now: usize = field(&head, "x-version").context("no version")?.parse()?;
            ensure!(body == format!("v{now}.internal") && now >= *seen, "{now} after {seen}: {body}");
            *seen = now;
            Ok((now == version).then_some(()))
        })
    }
}

fn start(kept: &Counting, moving: &Counting, echo: &Echo) -> Result<Gateway> {
    let dir = tempfile::tempdir()?;
    let ca = PublicCa::new(dir.path(), "ca")?;
    for (file, name) in [("shop", "a.shop.test"), ("turn0", "turning.test"), ("turn1", "turning.test")] {
        ca.issue(file, &[name])?;
    }
    let resources = [
        DOORS.to_owned(),
        backend("kept", kept.at("127.0.0.1")?, ""),
        backend("echo", echo.addr, ", protocol: tcp"),
        route("HTTPRoute", "stays", &["web", "shop"], "kept"),
        route("TCPRoute", "bytes", &["one"], "echo"),
    ];
    let gateway =
        Gateway::start_with(dir, &resources.concat(), &[("WEFT_TELEMETRY_ACCESS_LOG_MODE", "errors")])?;
    gateway.put("team.yaml", &team(KEPT, "first"))?;
    gateway.change("moving.yaml", &version(0, moving)?)?;
    Ok(gateway)
}

#[derive(Debug)]
struct Used {
    memory: f64,
    descriptors: f64,
}

fn used(gateway: &Gateway) -> Result<Used> {
    Ok(Used {
        memory: gateway.metric("process_resident_memory_bytes ")?,
        descriptors: gateway.metric("process_open_fds ")?,
    })
}

/// Where the story is with the file that is wrong.
fn team_at(gateway: &Gateway, n: usize, asking: &mut Asking) -> Result<()> {
    let is = |asking: &mut Asking, says: &str| -> Result<()> {
        let (head, _) = asking.ask("team.test")?;
        ensure!(field(&head, "x-team") == Some(says), "{n}: {head}");
        Ok(())
    };
    match n {
        // A value of another type: told with its line and column, the resource, the field.
        300 => gateway.put("team.yaml", &team("7", "wrong"))?,
        310 => {
            let file = gateway.dir().join("resources/team.yaml");
            let told = format!("{}:9:18: HTTPRoute edge/team: spec.rules[0].backendRefs: ", file.display());
            gateway.process().wait_for_log(&told, PATIENCE)?;
        }
        // Not even YAML.
        400 => gateway.put("team.yaml", &team("[{name: kept", "wrong"))?,
        500 => return gateway.put("team.yaml", &team(KEPT, "mended")),
        510 => {
            return eventually("what is right again to be in force", PATIENCE, || {
                Ok(is(asking, "mended").is_ok().then_some(()))
            });
        }
        _ => {}
    }
    is(asking, if n < 500 { "first" } else { "mended" })
}

#[test]
fn a_thousand_reloads_cost_nothing_that_stays() -> Result<()> {
    let (kept, moving, echo) = (Counting::start()?, Counting::start()?, Echo::start("echo:")?);
    let gateway = start(&kept, &moving, &echo)?;
    let crowd = Crowd::paced(
        gateway.at(8080),
        gateway.at(8443),
        &gateway.dir().join("ca.pem"),
        Duration::from_millis(150),
    )?;
    let mut bytes = TcpStream::connect(gateway.at(9000))?;
    bytes.set_read_timeout(Some(PATIENCE))?;
    let mut asking = Asking::new(gateway.at(8080))?;
    let mut team = Asking::new(gateway.at(8080))?;
    crowd.wait_for(50)?;

    let (mut seen, mut warm) = (0, None);
    for n in 1..=RELOADS {
        gateway.put("moving.yaml", &version(n, &moving)?)?;
        // In a burst they come faster than they can be taken over, and the last one counts.
        if n % (2 * BURST) >= BURST {
            asking.until(n, &mut seen)?;
        }
        if n % 10 == 0 {
            team_at(&gateway, n, &mut team)?;
        }
        if n == WARM {
            asking.until(n, &mut seen)?;
            warm = Some((used(&gateway)?, kept.accepted()));
        }
    }
    asking.until(RELOADS, &mut seen)?;
    let (before, connections) = warm.context("it was never warm")?;
    let after = used(&gateway)?;
    ensure!(after.memory <= before.memory + GROWTH, "{before:?}, then {after:?}");
    ensure!(after.descriptors <= before.descriptors + 12.0, "{before:?}, then {after:?}");

    // What did not change has what it had: connections to its backend, the client's own, its counts.
    ensure!(kept.accepted() <= connections + 2, "{connections}, then {}", kept.accepted());
    bytes.write_all(b"still here")?;
    let mut said = [0; 15];
    bytes.read_exact(&mut said)?;
    ensure!(&said == b"echo:still here");
    crowd.stop();
    let answered = crowd.ended()?;
    let counted: f64 = ["web", "shop"]
        .into_iter()
        .map(|listener| {
            let labels =
                format!("parent=\"edge/public/{listener}\",route=\"edge/stays\",backend=\"edge/kept\"");
            gateway.metric(&format!("weft_route_requests_total{{{labels}}}"))
        })
        .sum::<Result<f64>>()?;
    ensure!(counted >= answered as f64, "{counted} counted of {answered}");
    mistakes_were_told_once(&gateway)?;
    // And what changed is as the last file has it.
    ensure!(gateway.metric("weft_program_version")? >= 500.0);
    let turned = gateway.s_client(8444, &["-servername", "turning.test"])?;
    ensure!(turned.subject() == Some("turn0"), "{}", turned.said);
    let said = curl(
        &gateway,
        gateway.at(8090 + u16::try_from(RELOADS / 5 % 3)?),
        "/",
        &["-H", "host: moving.test"],
    )?;
    ensure!(said.contains(&format!("x-version: {RELOADS}")), "{said}");
    Ok(())
}

fn mistakes_were_told_once(gateway: &Gateway) -> Result<()> {
    let log = gateway.process().log();
    let times = log.matches("/resources/team.yaml:").count();
    ensure!(times == 2, "told {times} times: {log}");
    ensure!(!log.contains("listen-failed") && !log.contains("panicked"), "{log}");
    Ok(())
}
