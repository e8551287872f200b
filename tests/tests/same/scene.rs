//! The two meshes, and running a table in both.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weft_testbed::scripted::{ClientRecord, Ending, ScriptedServer, talk};
use weft_testbed::{Mesh, Pod, Service, eventually, story};

use crate::case::{APP, Case, Expected, Known};
use crate::documented::{page_has, settle};
use crate::view::{View, diff};

/// Conversations at a time: they wait more than they work.
const AT_ONCE: usize = 6;

/// How often a conversation is held in which a fault is known, before the fault counts as gone.
const TRIES: usize = 4;

/// The port of the first conversation; each has its own, so that none finds what another left.
const FIRST_PORT: u16 = 8000;

/// One way from a client to `app.shop`: two pods with the same addresses and names in each mesh.
pub(crate) struct Way {
    pub(crate) client: Pod,
    pub(crate) server: Pod,
}

/// Both ways.
pub(crate) struct Scene {
    pub(crate) direct: Way,
    pub(crate) pair: Way,
}

impl Scene {
    /// Two meshes with `app.shop` on these ports. Without sidecars the name leads to the pod, with them to a virtual address.
    pub(crate) fn start(plain: &Mesh, meshed: &Mesh, ports: &[u16]) -> Result<Self> {
        let direct = Way::start(plain, Service::headless(APP), ports)?;
        let pair = Way::start(meshed, Service::virtual_ip(APP), ports)?;
        meshed.sidecar(&pair.client)?.start()?;
        meshed.sidecar(&pair.server)?.start()?;
        Ok(Self { direct, pair })
    }
}

impl Way {
    fn start(mesh: &Mesh, service: Service, ports: &[u16]) -> Result<Self> {
        // The CA in both, so that the pods behind it have the same addresses.
        mesh.ca()?;
        let client = mesh.pod("client.shop").ipv4_only().start()?;
        let server = mesh.pod(APP).ipv4_only().start()?;
        let service = ports.iter().fold(service, |service, port| service.port(*port, *port));
        mesh.dns().set(service.on(&[&server]))?;
        Ok(Self { client, server })
    }

    /// Holds one conversation; with a goal, waits until both sides saw as much as there.
    fn hold(&self, case: &Case, port: u16, goal: Option<&Held>) -> Result<Held> {
        let server = ScriptedServer::start(&self.server, port, case.server.clone())?;
        let to = SocketAddr::new(self.client.resolve(APP)?[0], port);
        // Directly, what was sent must have arrived before silence means anything.
        let idle = || server.is_idle() && (goal.is_some() || !server.connections().is_empty());
        let client =
            self.client.run(async || talk(to, &case.client, goal.map(|goal| &goal.client), idle).await)?;
        let arrived = || {
            let connections = server.connections();
            let bytes: usize = connections.iter().map(|connection| connection.bytes.len()).sum();
            let ended = !connections.is_empty() && connections.iter().all(|one| one.ending != Ending::Open);
            ended || bytes >= client.sent.len()
        };
        let held = || Held { view: View::new(&client, &server.connections()), client: client.clone() };
        // The client's connection has ended; the server hears of it a moment later.
        let enough = || {
            // Before it is looked at: what a script does while it is being looked at would be missing.
            let over = server.is_idle();
            let now = held();
            let there = goal.map_or_else(arrived, |goal| now.has_as_much(goal)) && over && server.is_idle();
            Ok(there.then_some(now))
        };
        Ok(eventually("the server to have seen it all", Duration::from_secs(4), enough)
            .unwrap_or_else(|_| held()))
    }
}

/// A conversation that was held.
struct Held {
    client: ClientRecord,
    view: View,
}

impl Held {
    /// Whether the server saw as much as there.
    fn has_as_much(&self, other: &Self) -> bool {
        let size = |held: &Self| {
            let bytes: usize = held.view.requests.iter().map(|seen| seen.message.body.len()).sum();
            let left = held.view.requests.iter().filter(|seen| seen.left).count();
            (held.view.requests.len(), bytes + held.view.odd.concat().len(), left)
        };
        let ((requests, bytes, left), goal) = (size(self), size(other));
        requests >= goal.0 && bytes >= goal.1 && left >= goal.2
    }
}

/// What came of one line.
#[derive(Default)]
struct Outcome {
    /// What is wrong with it.
    problem: Option<String>,
    /// How the ways differ, problem or not.
    difference: Option<String>,
}

/// Holds every conversation of a table both ways.
///
/// # Panics
/// The test's verdict.
pub(crate) fn run_table(label: &str, cases: &[Case]) {
    story(&format!("same-{label}"), |meshed| {
        let plain = Mesh::start(&format!("same-{label}-direct"))?;
        let ports: Vec<u16> = (FIRST_PORT..).take(cases.len()).collect();
        let scene = Scene::start(&plain, meshed, &ports)?;
        let next = AtomicUsize::new(0);
        let outcomes = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let (Some(case), Some(port)) = (cases.get(index), ports.get(index)) else { return };
                        let outcome = judge(&scene, case, *port).unwrap_or_else(|error| Outcome {
                            problem: Some(format!("{}: {error:#}", case.what)),
                            difference: None,
                        });
                        outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((index, outcome));
                    }
                });
            }
        });
        let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcomes.sort_by_key(|(index, _)| *index);
        report(label, cases, &outcomes)?;
        let problems: Vec<String> = outcomes.into_iter().filter_map(|(_, outcome)| outcome.problem).collect();
        ensure!(problems.is_empty(), "{} of {}:\n\n{}", problems.len(), cases.len(), problems.join("\n"));
        Ok(())
    });
}

fn judge(scene: &Scene, case: &Case, port: u16) -> Result<Outcome> {
    let Case { what, known, .. } = case;
    let tries = if matches!(known, Known::Fault(_)) { TRIES } else { 1 };
    let mut outcome = Outcome::default();
    for _ in 0..tries {
        let mut direct = scene.direct.hold(case, port, None).context("directly")?;
        let mut pair = scene.pair.hold(case, port, Some(&direct)).context("through the pair")?;
        ensure!(
            direct.view.note.as_ref().is_none_or(|note| !note.contains("in vain")),
            "the script does not go on without Weft either: {:?}",
            direct.view.lines()
        );
        settle(&mut direct.view);
        settle(&mut pair.view);
        outcome.difference = diff(&direct.view.lines(), &pair.view.lines());
        outcome.problem = problem(case, &outcome, &pair.view);
        if outcome.problem.is_some() {
            break;
        }
    }
    outcome.problem = match (known, outcome.problem.take()) {
        (Known::Fault(number), None) => Some(format!("passes now: remove the mark of fault {number}")),
        (Known::Good, problem) => problem,
        (Known::Fault(_), _) => None,
    };
    outcome.problem = outcome.problem.map(|problem| format!("{what}: {problem}"));
    Ok(outcome)
}

/// What is not as expected.
fn problem(case: &Case, outcome: &Outcome, pair: &View) -> Option<String> {
    match (case.expected, &outcome.difference) {
        (Expected::Same, None) => None,
        (Expected::Same, Some(difference)) => Some(format!("not the same\n{difference}")),
        (Expected::Documented(..), None) => Some("the same now: remove what it is documented by".to_owned()),
        (Expected::Documented(words, _), Some(_)) if !page_has(words) => {
            Some(format!("not in docs/guide/protocols.md: {words:?}"))
        }
        (Expected::Documented(words, seen), Some(difference)) => {
            (!seen(pair)).then(|| format!("not as the guide says by {words:?}\n{difference}"))
        }
    }
}

/// Tells of every difference, known or not.
fn report(label: &str, cases: &[Case], outcomes: &[(usize, Outcome)]) -> Result<()> {
    let mut text = String::new();
    for (index, outcome) in outcomes {
        let (Some(case), difference) = (cases.get(*index), outcome.difference.as_deref()) else { continue };
        if difference.is_some() || outcome.problem.is_some() {
            let told = if let Expected::Documented(words, _) = case.expected { words } else { "" };
            let _ = writeln!(text, "## {label}: {} [{:?}] {told}", case.what, case.known);
            let _ = writeln!(text, "{}", difference.or(outcome.problem.as_deref()).unwrap_or_default());
        }
    }
    append_report(&text)
}

/// Writes to the end of the file that `WEFT_SAME_REPORT` names, if it does.
pub(crate) fn append_report(text: &str) -> Result<()> {
    let Some(path) = std::env::var_os("WEFT_SAME_REPORT") else { return Ok(()) };
    // One write: several tables may end at once.
    let mut file = OpenOptions::new().create(true).append(true).open(path).context("WEFT_SAME_REPORT")?;
    file.write_all(text.as_bytes()).context("WEFT_SAME_REPORT")
}
