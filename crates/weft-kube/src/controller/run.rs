//! The loop: watch, wait until things calm down, look, decide, write what differs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use kube::Api;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use weft_core::Drain;

use super::apply::{Writer, Written};
use super::facts::Key;
use super::leader::Elector;
use super::metrics::Metrics;
use super::modes::{self, Modes};
use super::notices::Notice;
use super::pass::{Work, work};
use super::settings::Settings;
use super::stores::Stores;
use super::world::{Seen, World};
use super::{LEASE, Parts, STATE_CONFIG};
use crate::error::KubeError;
use crate::names::{CONTROL_CONFIG, MESH_CONFIG};

/// Changes come in bursts: a rollout, a relist. A pass waits until none has come for this long,
const QUIET: Duration = Duration::from_millis(200);
/// but no longer than this.
const PATIENCE: Duration = Duration::from_secs(2);
/// Writes under way at once.
const AT_ONCE: usize = 8;
/// Pods whose condition is set in one pass: labelling a large namespace must not hold up everything else.
const CONDITIONS: usize = 200;
/// Limit of one write.
const WRITE: Duration = Duration::from_secs(10);
/// First and longest pause after a failed pass.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Octets of membership a second that are written on average: etcd carries them all.
const MESH_RATE: usize = 1 << 20;

/// Runs the controller until the drain begins; then gives the Lease up.
///
/// Every replica watches; the leader alone writes. Whatever fails at the API server is logged and tried again.
///
/// # Errors
/// [`KubeError::Settings`] where the settings cannot be followed at the start. Settings that come later and cannot be
/// followed are reported, and the last good ones stay.
pub async fn run(parts: Parts, mut drain: Drain) -> Result<(), KubeError> {
    let Parts { client, identity, settings, roots, metrics } = parts;
    let now = settings.borrow().clone();
    now.check()?;
    let namespace = now.namespace.to_string();
    let stores = Stores::default();
    let leads = watch::Sender::new(false);
    let elector = Elector::new(Api::namespaced(client.clone(), &namespace), LEASE, identity.clone());
    let mut controller = Controller {
        stores: &stores,
        writer: Writer::new(client.clone(), &identity),
        namespace: &namespace,
        settings: Followed { source: settings, good: now, refused: None },
        roots,
        metrics: &metrics,
        told: HashSet::new(),
    };
    let watching: BoxFuture<'_, ()> = Box::pin(stores.follow(&client, &namespace));
    let election: BoxFuture<'_, ()> = Box::pin(elector.run(&leads));
    let working: BoxFuture<'_, ()> = Box::pin(controller.work(leads.subscribe()));
    tokio::select! {
        () = watching => {}
        () = election => {}
        () = working => {}
        () = drain.draining() => {}
    }
    metrics.lead(false);
    elector.release().await;
    Ok(())
}

/// Settings, of which the last good ones stay.
struct Followed {
    source: watch::Receiver<Arc<Settings>>,
    good: Arc<Settings>,
    refused: Option<String>,
}

impl Followed {
    fn update(&mut self) {
        let new = Arc::clone(&self.source.borrow_and_update());
        if new == self.good {
            self.refused = None;
            return;
        }
        match new.check() {
            Ok(()) => {
                tracing::info!("the settings have changed");
                self.good = new;
                self.refused = None;
            }
            Err(error) => {
                let reason = error.to_string();
                if self.refused.as_ref() != Some(&reason) {
                    tracing::error!(%error, "the settings cannot be followed; the last good ones stay");
                }
                self.refused = Some(reason);
            }
        }
    }
}

/// How a pass ended.
#[derive(Default)]
struct Outcome {
    failed: usize,
    moved: usize,
    /// Octets of membership that were written.
    octets: usize,
    next: Option<Instant>,
}

struct Controller<'a> {
    stores: &'a Stores,
    writer: Writer,
    namespace: &'a str,
    settings: Followed,
    roots: watch::Receiver<Arc<str>>,
    metrics: &'a Metrics,
    /// What is told already and goes on.
    told: HashSet<Notice>,
}

impl Controller<'_> {
    /// Leads whenever this replica is the leader.
    async fn work(&mut self, mut leads: watch::Receiver<bool>) {
        // The sender outlives this; were it gone, so would be everything else.
        while leads.wait_for(|leads| *leads).await.is_ok() {
            tokio::select! {
                _ = leads.wait_for(|leads| !*leads) => {}
                () = self.lead() => {}
            }
            self.metrics.lead(false);
        }
    }

    async fn lead(&mut self) {
        self.metrics.lead(true);
        self.told.clear();
        self.stores.ready().await;
        let mut modes = self.remembered().await;
        let mut pause = RETRY.0;
        loop {
            let begun = Instant::now();
            let outcome = self.pass(&mut modes).await;
            self.metrics.pass(begun.elapsed(), outcome.failed == 0);
            let mut wake = outcome.next;
            if outcome.failed + outcome.moved > 0 {
                let retry = Instant::now() + pause;
                wake = Some(wake.map_or(retry, |wake| wake.min(retry)));
            }
            pause = if outcome.failed > 0 { (pause * 2).min(RETRY.1) } else { RETRY.0 };
            let earliest = begun + Duration::from_secs((outcome.octets / MESH_RATE).min(10) as u64);
            self.wait(wake).await;
            sleep_until(earliest).await;
        }
    }

    /// What the leader before has remembered.
    async fn remembered(&mut self) -> Modes {
        loop {
            match self.writer.read_state(self.namespace).await {
                Ok(None) => return Modes::default(),
                Ok(Some(text)) => match modes::read(&text) {
                    Ok(strict) => return Modes::remembering(strict),
                    Err(reason) => {
                        // To go on would be to forget who is strict.
                        tracing::error!(
                            reason,
                            "weft-state cannot be read; nothing is written until it is corrected or removed"
                        );
                        let note = format!(
                            "strict.yaml cannot be read, correct it or remove the ConfigMap: {reason}"
                        );
                        let key = Key::new(self.namespace, STATE_CONFIG);
                        self.tell(vec![Notice::own(
                            &key,
                            "StateUnreadable",
                            note.chars().take(500).collect(),
                        )])
                        .await;
                    }
                },
                Err(error) => tracing::warn!(%error, "weft-state cannot be read; tried again"),
            }
            sleep(RETRY.0 * 5).await;
        }
    }

    /// Waits for a change, or until `wake`, and then for calm.
    async fn wait(&mut self, wake: Option<Instant>) {
        let stores = self.stores;
        let alarm = async {
            match wake {
                Some(wake) => sleep_until(wake).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = alarm => return,
            () = stores.changed.notified() => {}
            () = changed(&mut self.settings.source) => {}
            () = changed(&mut self.roots) => {}
        }
        let calm = async { while timeout(QUIET, stores.changed.notified()).await.is_ok() {} };
        let _ = timeout(PATIENCE, calm).await;
    }

    async fn pass(&mut self, modes: &mut Modes) -> Outcome {
        self.settings.update();
        let settings = Arc::clone(&self.settings.good);
        let roots = Arc::clone(&self.roots.borrow_and_update());
        let world = World::new(self.namespace, Seen::from(self.stores));
        let mut work = work(&world, &settings, &roots, modes, Instant::now());
        drop(world);
        if let Some(reason) = &self.settings.refused {
            let note = reason.chars().take(900).collect();
            work.notices.push(Notice::own(
                &Key::new(self.namespace, CONTROL_CONFIG),
                "SettingsRefused",
                note,
            ));
        }
        self.metrics.tell(std::mem::take(&mut work.figures));
        let notices = std::mem::take(&mut work.notices);
        let mut outcome = self.write(&work, &roots).await;
        outcome.failed += self.tell(notices).await;
        outcome.next = work.next;
        outcome
    }

    async fn write(&self, work: &Work, roots: &str) -> Outcome {
        let mut outcome = Outcome::default();
        let count =
            |outcome: &mut Outcome, what: &str, of: &str, answer: Result<Written, String>| match answer {
                Ok(Written::Done) => {
                    tracing::debug!(what, of, "written");
                    self.metrics.wrote();
                }
                Ok(Written::Moved) => outcome.moved += 1,
                Err(error) => {
                    tracing::warn!(what, of, error, "cannot be written; tried again");
                    outcome.failed += 1;
                }
            };
        if let Some(text) = &work.state {
            let answer = limited(self.writer.state(self.namespace, text)).await;
            let failed = answer.is_err();
            count(&mut outcome, "ConfigMap", STATE_CONFIG, answer);
            if failed {
                return outcome;
            }
        }
        let mut all = stream::iter(jobs(&self.writer, work, roots)).buffer_unordered(AT_ONCE);
        while let Some((what, of, answer)) = all.next().await {
            count(&mut outcome, what, &of, answer);
        }
        outcome.octets = work.meshes.iter().map(|mesh| mesh.yaml.len() + roots.len()).sum();
        outcome
    }

    /// Tells what was not told yet; how many failed.
    async fn tell(&mut self, notices: Vec<Notice>) -> usize {
        let now: HashSet<Notice> = notices.into_iter().collect();
        self.told.retain(|notice| now.contains(notice));
        let mut failed = 0;
        for notice in now {
            if self.told.contains(&notice) {
                continue;
            }
            match limited(self.writer.tell(&notice)).await {
                Ok(_) => {
                    self.told.insert(notice);
                }
                Err(error) => {
                    tracing::warn!(about = %notice.key, reason = notice.reason, error, "the event cannot be written");
                    failed += 1;
                }
            }
        }
        failed
    }
}

/// Resolves when the value has changed; never where nobody can change it any more.
async fn changed<T>(value: &mut watch::Receiver<T>) {
    if value.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A write under way: what, of which object, and how it ended.
type Job<'a> = BoxFuture<'a, (&'static str, String, Result<Written, String>)>;

/// The writes of a pass but for the state. Membership comes first: proxies follow it with a delay, and all else at once.
fn jobs<'a>(writer: &'a Writer, work: &'a Work, roots: &'a str) -> Vec<Job<'a>> {
    fn job<'a>(
        what: &'static str,
        of: &(impl ToString + ?Sized),
        write: impl Future<Output = Result<Written, kube::Error>> + Send + 'a,
    ) -> Job<'a> {
        let of = of.to_string();
        Box::pin(async move { (what, of, limited(write).await) })
    }
    let mut jobs = Vec::new();
    for mesh in &work.meshes {
        let write = writer.mesh(&mesh.namespace, &mesh.yaml, roots, &mesh.extra);
        jobs.push(job(MESH_CONFIG, &mesh.namespace, write));
    }
    for (namespace, uid) in &work.remove_meshes {
        jobs.push(job(MESH_CONFIG, namespace, writer.remove_mesh(namespace, uid)));
    }
    for twin in &work.twins.create {
        jobs.push(job("twin", &twin.key, writer.create_twin(twin)));
    }
    for twin in &work.twins.update {
        jobs.push(job("twin", &twin.key, writer.update_twin(twin)));
    }
    for (key, uid) in &work.twins.remove {
        jobs.push(job("twin", key, writer.remove_twin(key, uid)));
    }
    for (key, uid) in work.slips.report.iter().take(CONDITIONS) {
        jobs.push(job("condition", key, writer.report(key, uid)));
    }
    for (key, uid) in work.slips.clear.iter().take(CONDITIONS) {
        jobs.push(job("condition", key, writer.clear(key, uid)));
    }
    jobs
}

async fn limited(write: impl Future<Output = Result<Written, kube::Error>>) -> Result<Written, String> {
    match timeout(WRITE, write).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer in {WRITE:?}")),
    }
}
