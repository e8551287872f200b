//! The demo: a shop behind a gateway, in ten pods, live in the terminal. Where nobody may make namespaces, the pods are on loopback, and
//! what is not shown then is said first.
//!
//! It is built from the same parts as the tests, and it is a test itself: with `--once` it exits 0 only if everything
//! that it shows held: mutual TLS on every hop as seen on the wire (on loopback, where there is no wire, as both ends of
//! each link saw it), spans joined in one trace, and no failed request,
//! also while a replica is killed.

mod edge;
mod facts;
mod shop;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::demo::facts::Fact;
use crate::demo::shop::Shop;
use crate::demo::view::{Picture, draw, is_terminal, print};
use crate::{Collector, Load, Mesh, Metrics};

/// Requests a second of the shopper: enough for percentiles, little enough for two cores.
const RATE: u32 = 50;

/// How long traffic runs before the kill, and after it, with `--once`.
const BEFORE: Duration = Duration::from_secs(4);
const AFTER: Duration = Duration::from_secs(4);

/// The same in the live view: time to read the screen.
const LIVE_BEFORE: Duration = Duration::from_secs(12);
const LIVE_AFTER: Duration = Duration::from_secs(8);

/// How often the screen is drawn, and over how many drawings rates are taken.
const TICK: Duration = Duration::from_millis(500);
const WINDOW: usize = 8;

/// Set when the demo runs inside the user namespace it made for itself.
const INSIDE: &str = "WEFT_DEMO_USERNS";

/// What is asked for on the command line.
#[derive(Clone, Copy, Debug)]
struct Asked {
    once: bool,
    loopback: bool,
}

/// Where the pods can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In network namespaces that this process makes.
    Namespaces,
    /// In those of a user namespace.
    UserNamespace,
    /// On loopback.
    Loopback,
}

/// The entry point of `weft-demo`: exit 0 if everything held, 1 if not, 2 if it could not be set up.
pub fn main() -> ExitCode {
    let mut asked = Asked { once: false, loopback: false };
    for word in std::env::args().skip(1) {
        match word.as_str() {
            "--once" => asked.once = true,
            "--loopback" => asked.loopback = true,
            other => {
                print(&format!("usage: weft-demo [--once] [--loopback] (not {other})\n"));
                return ExitCode::from(2);
            }
        }
    }
    let place = place(asked);
    if place == Place::UserNamespace {
        return in_user_namespace(asked);
    }
    match tell(asked, place == Place::Loopback) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.is::<Interrupted>() => {
            print("\ninterrupted; nothing is left behind\n");
            ExitCode::from(130)
        }
        Err(error) => {
            print(&format!("\nthe demo could not run: {error:#}\n"));
            ExitCode::from(2)
        }
    }
}

/// The arguments of `unshare` that make this user root of a user namespace, with users for the proxies in it.
const USER_NAMESPACE: [&str; 5] = ["--user", "--map-root-user", "--map-auto", "--mount", "--"];

/// The best place that is allowed here, found out by trying.
fn place(asked: Asked) -> Place {
    let works = |words: &[&str]| {
        let output = Command::new("unshare").args(words).output();
        output.is_ok_and(|output| output.status.success())
    };
    if asked.loopback {
        Place::Loopback
    } else if std::env::var_os(INSIDE).is_some()
        || (rustix::process::geteuid().is_root() && works(&["--net", "--mount", "true"]))
    {
        Place::Namespaces
    } else if works(&[&USER_NAMESPACE[..], &["unshare", "--net", "true"]].concat()) {
        Place::UserNamespace
    } else {
        Place::Loopback
    }
}

/// Without root: the same program again, as root of a user namespace of its own.
fn in_user_namespace(asked: Asked) -> ExitCode {
    let Ok(exe) = std::env::current_exe() else { return ExitCode::from(2) };
    let mut command = Command::new("unshare");
    command.args(USER_NAMESPACE).arg(exe).env(INSIDE, "1");
    if asked.once {
        command.arg("--once");
    }
    let code =
        command.status().ok().and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

/// What a viewer of loopback pods must know before anything is shown.
fn notice(asked: Asked) -> String {
    let why = if asked.loopback {
        "Loopback pods, as asked for (--loopback)."
    } else {
        "This user may make no network namespaces, so the pods are addresses of the loopback interface."
    };
    format!(
        "{why}\n\
         NOT shown here:\n\
         \x20 - interception: nothing is redirected (iptables, weft init). Each application dials its own sidecar\n\
         \x20   instead of the service, and each sidecar listens in the place of its application\n\
         \x20   (outbound.listeners and inbound.listeners of weft.yaml).\n\
         \x20 - the wire: what goes between the pods is not captured, so that it is TLS is told by the proxies alone.\n\
         \x20 - DNS interception: the sidecars ask the mesh's name server, the applications ask none.\n\
         \x20 - isolation: every program of this machine reaches the applications past their sidecars.\n\
         Shown: mutual TLS with the identities that both ends verified, plaintext refused at each sidecar, balance,\n\
         \x20 a trace through all services, and a replica killed without a failed request.\n{}\n\n",
        if asked.loopback {
            "The whole of it: cargo xtask demo as root, or where user namespaces are allowed.".to_owned()
        } else {
            format!("For the whole of it: {}", crate::needs_root())
        }
    )
}

#[derive(Debug)]
struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Set by SIGINT and SIGTERM. The loop looks at it, so that everything is taken down in order.
fn watch_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let both = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
            let (Ok(mut interrupt), Ok(mut terminate)) = both else { return };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            flag.store(true, Ordering::Relaxed);
        });
    });
    Ok(stop)
}

fn tell(asked: Asked, loopback: bool) -> Result<bool> {
    let once = asked.once;
    let stop = watch_signals()?;
    if loopback {
        print(&notice(asked));
    }
    let begun = Instant::now();
    let told = |line: &str| -> Result<()> {
        print(&format!("{:6.1}s  {line}\n", begun.elapsed().as_secs_f64()));
        if stop.load(Ordering::Relaxed) { Err(Interrupted.into()) } else { Ok(()) }
    };
    let mesh = if loopback {
        told("an authoritative name server on loopback")?;
        Mesh::on_loopback("demo")?
    } else {
        told("a bridge in a network namespace, an authoritative name server")?;
        Mesh::start("demo")?
    };
    let (collector, missing) = mesh.any_collector(|line| {
        let _ = told(line);
    })?;
    let receiver = match missing {
        None => "a real OpenTelemetry Collector".to_owned(),
        Some(reason) => {
            told(&format!("no OpenTelemetry Collector ({reason})"))?;
            "Weft's own small OTLP receiver".to_owned()
        }
    };
    told(&format!("spans go to {receiver}"))?;
    let shop = Shop::open(&mesh, told).inspect_err(|error| {
        if !error.is::<Interrupted>() {
            print(&mesh.report_failure());
        }
    })?;
    told(&format!("steady traffic: {RATE} requests a second from the shopper, by HTTPS"))?;
    told(&format!("try it from another terminal:  {}", shop.edge.curl()))?;
    let live = !once && is_terminal();
    let mut demo =
        Demo { mesh: &mesh, collector, receiver, stop: stop.clone(), live, history: VecDeque::new() };
    let held = demo.run(shop, once)?;
    if !held {
        print(&mesh.report_failure());
    }
    Ok(held)
}

struct Demo<'a> {
    mesh: &'a Mesh,
    collector: &'a Collector,
    receiver: String,
    stop: Arc<AtomicBool>,
    live: bool,
    history: VecDeque<(Instant, BTreeMap<String, Metrics>)>,
}

impl Demo<'_> {
    /// Traffic, the kill, the verdict; the live view then goes on until Ctrl-C.
    fn run(&mut self, mut shop: Shop, once: bool) -> Result<bool> {
        // The first request meets cold caches and handshakes; it is part of the claim all the same.
        let load = shop.shopper.load_of(shop.edge.request()?).rate(RATE).start()?;
        let (before, after) = if once { (BEFORE, AFTER) } else { (LIVE_BEFORE, LIVE_AFTER) };
        self.watch(&shop, &load, before, "all replicas are up", &[])?;

        let balance = facts::balance(&replica_counts(&shop, &self.scrape(&shop)));
        let killed = shop.kill_replica(self.mesh)?;
        self.watch(&shop, &load, after, &format!("{killed} was killed; its requests go to the others"), &[])?;
        load.wait_for(20)?;

        let scrapes = self.scrape(&shop);
        let first = if self.mesh.is_loopback() { facts::doors(&shop) } else { facts::wire(&mut shop)? };
        let mut facts =
            vec![facts::edge(&shop, &scrapes), first, facts::identities(&scrapes), facts::callers(&scrapes)];
        facts.extend([balance, facts::canary(&scrapes)]);
        facts.push(facts::trace(self.collector));
        if !once {
            facts.push(facts::requests(&load.so_far(), u64::from(RATE), &killed));
            self.watch(&shop, &load, Duration::MAX, "the verdict:", &facts)?;
            facts.pop();
        }
        let report = load.stop()?;
        facts.push(facts::requests(&report, u64::from(RATE), &killed));
        if once {
            let picture = self.picture(&shop, &report, "", &facts);
            print(&format!("\n{picture}"));
        } else {
            facts.iter().for_each(|fact| print(&format!("{fact}\n")));
        }
        Ok(facts.iter().all(|fact| fact.held))
    }

    /// Draws until the time is over; Ctrl-C before the verdict is an interruption, after it the end.
    fn watch(&mut self, shop: &Shop, load: &Load, time: Duration, event: &str, facts: &[Fact]) -> Result<()> {
        let begun = Instant::now();
        if self.live {
            print("\x1b[2J");
        }
        while begun.elapsed() < time {
            if self.stop.load(Ordering::Relaxed) {
                if facts.is_empty() {
                    return Err(Interrupted.into());
                }
                return Ok(());
            }
            let scrape = self.scrape(shop);
            self.history.push_back((Instant::now(), scrape));
            if self.history.len() > WINDOW {
                self.history.pop_front();
            }
            if self.live {
                draw(&self.picture(shop, &load.so_far(), event, facts));
            }
            crate::rest(TICK);
        }
        if load.so_far().ok == 0 {
            bail!("no request was answered: {:?}", load.so_far().failed);
        }
        Ok(())
    }

    fn picture(&self, shop: &Shop, report: &crate::Report, event: &str, facts: &[Fact]) -> String {
        let empty = BTreeMap::new();
        let (first, last) = (self.history.front(), self.history.back());
        let now = last.map_or(&empty, |(_, scrape)| scrape);
        let earlier = first.map_or(&empty, |(_, scrape)| scrape);
        let none = Metrics::default();
        let change = now
            .iter()
            .map(|(pod, metrics)| (pod.clone(), metrics.since(earlier.get(pod).unwrap_or(&none))))
            .collect();
        let window = match (first, last) {
            (Some((first, _)), Some((last, _))) => *last - *first,
            _ => TICK,
        };
        let spans = self.collector.recent_spans().unwrap_or_default();
        let receiver = &self.receiver;
        let loopback = self.mesh.is_loopback();
        Picture { receiver, loopback, report, now, change: &change, window, spans: &spans, event, facts }
            .text(shop)
    }

    /// The metrics of every sidecar; of one that is gone, the last that were seen.
    fn scrape(&self, shop: &Shop) -> BTreeMap<String, Metrics> {
        let last = self.history.back().map(|(_, scrape)| scrape);
        let of = |member: &shop::Member| {
            let name = member.pod.name().to_owned();
            let alive = member.sidecar.process().is_running();
            let now = alive.then(|| member.sidecar.metrics().ok()).flatten();
            let metrics = now.or_else(|| last?.get(&name).cloned()).unwrap_or_default();
            (name, metrics)
        };
        shop.members().map(of).collect()
    }
}

fn replica_counts(shop: &Shop, scrape: &BTreeMap<String, Metrics>) -> BTreeMap<String, f64> {
    let count = |name: &str| {
        scrape.get(name).map_or(0.0, |m| m.sum("http_server_request_duration_seconds_count", &[]))
    };
    shop.orders.iter().map(|member| (member.pod.name().to_owned(), count(member.pod.name()))).collect()
}
