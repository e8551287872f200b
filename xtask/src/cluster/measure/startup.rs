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

/// Medians in milliseconds from the request that makes the pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Startup {
    /// Until the application's container runs.
    pub(super) started: [f64; 2],
    /// Until the pod is ready.
    pub(super) ready: [f64; 2],
    /// The longest until ready.
    pub(super) slowest: [f64; 2],
    /// How many of each.
    pub(super) count: u32,
}

/// What is printed for each change of a pod: name, whether it is ready, when the application's container started.
const FORM: &str = r#"jsonpath={.metadata.name}|{.status.conditions[?(@.type=="Ready")].status}|{.status.containerStatuses[?(@.name=="app")].state.running.startedAt}{"\n"}"#;

/// Starts pods with and without a sidecar in turn.
pub(super) fn measure(kube: &Kube<'_>, count: u32) -> Result<Startup> {
    let watch = Watch::start(kube)?;
    let mut started: [Vec<f64>; 2] = Default::default();
    let mut ready: [Vec<f64>; 2] = Default::default();
    // The first of each pays for what the node has not done before, and does not count.
    for number in 0..=count {
        for sidecar in [true, false] {
            let times = one(kube, &watch, &format!("start-{number}-{sidecar}"), sidecar)?;
            if number > 0 {
                started[usize::from(!sidecar)].push(times.0);
                ready[usize::from(!sidecar)].push(times.1);
            }
        }
    }
    let slowest = ready.each_ref().map(|times| times.iter().copied().fold(0.0, f64::max));
    Ok(Startup { started: started.map(median), ready: ready.map(median), slowest, count })
}

/// Milliseconds until the application of a pod runs, and until the pod is ready.
fn one(kube: &Kube<'_>, watch: &Watch, name: &str, sidecar: bool) -> Result<(f64, f64)> {
    let file = kube.file("pod.json", &kube::pod(name, sidecar).to_string())?;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let start = Instant::now();
    process::capture(&mut kube.curl(&["--data-binary", &format!("@{file}")], &path))?;
    let (mut started, mut ready) = (None, None);
    let (started, ready) = loop {
        let (at, line) = watch.next().with_context(|| format!("waiting for {name}"))?;
        let mut fields = line.split('|');
        if fields.next() != Some(name) {
            continue;
        }
        let is_ready = fields.next() == Some("True");
        let passed = at.duration_since(start).as_secs_f64() * 1e3;
        if fields.next().is_some_and(|since| !since.is_empty()) {
            started.get_or_insert(passed);
        }
        if is_ready {
            ready.get_or_insert(passed);
        }
        if let (Some(started), Some(ready)) = (started, ready) {
            break (started, ready);
        }
    };
    kube.run(&["delete", "pod", "-n", NAMESPACE, name, "--timeout=60s"])?;
    Ok((started, ready))
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

impl Startup {
    /// What the sidecar adds to a median, in milliseconds.
    pub(super) fn adds(times: [f64; 2]) -> f64 {
        times[0] - times[1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_the_difference() {
        assert!((Startup::adds([30.0, 10.0]) - 20.0).abs() < 1e-9);
        assert_eq!(FORM.matches('|').count(), 2, "the fields that are read from a line");
    }
}
