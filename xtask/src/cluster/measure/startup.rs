//! How much later a pod with a sidecar is ready.
//!
//! The times in a pod's status are whole seconds, so a watch is read and its lines are timed here. The kubelet itself
//! looks at its containers once a second, which is part of what every user waits for: single values come in steps.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::kube::{self, Kube};
use super::{NAMESPACE, SOON, median};
use crate::process;

/// Milliseconds from the request that makes the pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Startup {
    /// The median until the pod is ready: with a sidecar, without.
    pub(super) ready: [f64; 2],
    /// The longest.
    pub(super) slowest: [f64; 2],
    /// How many of each.
    pub(super) count: u32,
}

/// What is printed for each change of a pod: name, and whether it is ready.
const FORM: &str = r#"jsonpath={.metadata.name}|{.status.conditions[?(@.type=="Ready")].status}{"\n"}"#;

/// Starts pods with and without a sidecar in turn.
pub(super) fn measure(kube: &Kube<'_>, count: u32) -> Result<Startup> {
    let watch = Watch::start(kube)?;
    let mut ready: [Vec<f64>; 2] = Default::default();
    // The first of each pays for what the node has not done before, and does not count.
    for number in 0..=count {
        for sidecar in [true, false] {
            let time = one(kube, &watch, &format!("start-{number}-{sidecar}"), sidecar)?;
            if number > 0 {
                ready[usize::from(!sidecar)].push(time);
            }
        }
    }
    let slowest = ready.each_ref().map(|times| times.iter().copied().fold(0.0, f64::max));
    Ok(Startup { ready: ready.map(median), slowest, count })
}

/// Milliseconds until a new pod is ready.
fn one(kube: &Kube<'_>, watch: &Watch, name: &str, sidecar: bool) -> Result<f64> {
    let file = kube.file("pod.json", &kube::pod(name, sidecar).to_string())?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let start = Instant::now();
    process::capture(&mut kube.curl(&["--data-binary", &format!("@{file}")], &path)?)?;
    let ready = format!("{name}|True");
    let time = loop {
        let (at, line) = watch.next().with_context(|| format!("waiting for {name}"))?;
        if line == ready {
            break at.duration_since(start).as_secs_f64() * 1e3;
        }
    };
    kube.run(&["delete", "pod", "-n", NAMESPACE, name, "--timeout=60s"])?;
    Ok(time)
}

/// `kubectl get --watch`, each line with the time when it came; ends with this value.
struct Watch {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Watch {
    fn start(kube: &Kube<'_>) -> Result<Self> {
        let mut command = kube.kubectl(&["get", "pods", "-n", NAMESPACE, "--watch", "-o", FORM])?;
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start kubectl")?;
        let output = child.stdout.take().context("kubectl has no output")?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if send.send((Instant::now(), line)).is_err() {
                    break;
                }
            }
        });
        let watch = Self { child, lines };
        // The pod that is there already: the watch has begun.
        watch.next()?;
        Ok(watch)
    }

    fn next(&self) -> Result<(Instant, String)> {
        match self.lines.recv_timeout(SOON) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("nothing changed for {} s", SOON.as_secs()),
            Err(RecvTimeoutError::Disconnected) => bail!("the watch has ended"),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Both fail only where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
