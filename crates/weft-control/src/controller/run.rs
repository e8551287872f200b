//! The loop: watch, wait until things calm down, look, decide, write what differs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use kube::Api;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use weft_core::Drain;

use super::apply::{Teller, Writer};
use super::budget::{Held, look};
use super::evict::{Evictor, Recreator};
use super::facts::{Facts as _, Inject, Key, NamespaceFacts};
use super::leader::Elector;
use super::memory::{Recall, recall};
use super::metrics::{Fault, Metrics, Recreated};
use super::modes::{self, Modes};
use super::notices::Notice;
use super::outbox::Outbox;
use super::pace::Kind;
use super::pass::{Work, work};
use super::settings::Settings;
use super::stores::Stores;
use super::world::{Seen, World};
use super::writes::{Outcome, WRITE, Writes, limited};
use super::{LEASE, Parts, STATE_CONFIG};
use crate::error::KubeError;
use crate::names::CONTROL_CONFIG;

/// Changes come in bursts: a rollout, a relist. A pass waits until none has come for this long,
const QUIET: Duration = Duration::from_millis(200);
/// but no longer than this.
const PATIENCE: Duration = Duration::from_secs(2);
/// First and longest pause after a failed pass.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Remembered Services that are asked for at once, where the watch does not show them.
const ASK: usize = 50;

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
    let (outbox, teller) = (Outbox::new(Instant::now()), Teller::new(client.clone(), &identity));
    let elector = Elector::new(Api::namespaced(client.clone(), &namespace), LEASE, identity.clone());
    let (recreator, evictor) =
        (Recreator::default(), Evictor::new(client.clone(), &namespace, roots.clone()));
    let mut controller = Controller {
        stores: &stores,
        writer: Writer::new(client.clone()),
        writes: Writes::new(Instant::now()),
        namespace: &namespace,
        settings: Followed { source: settings, good: now, refused: None },
        roots,
        metrics: &metrics,
        outbox: &outbox,
        recreator: &recreator,
        evictor: &evictor,
        held: BTreeSet::new(),
    };
    let watching: BoxFuture<'_, ()> = Box::pin(stores.follow(&client, &namespace));
    let election: BoxFuture<'_, ()> = Box::pin(elector.run(&leads));
    let telling: BoxFuture<'_, ()> = Box::pin(outbox.run(&teller, &metrics));
    let working: BoxFuture<'_, ()> = Box::pin(controller.work(leads.subscribe()));
    tokio::select! {
        () = watching => {}
        () = election => {}
        () = telling => {}
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

struct Controller<'a> {
    stores: &'a Stores,
    writer: Writer,
    writes: Writes,
    namespace: &'a str,
    settings: Followed,
    roots: watch::Receiver<Arc<str>>,
    metrics: &'a Metrics,
    outbox: &'a Outbox,
    recreator: &'a Recreator,
    evictor: &'a Evictor,
    /// Namespaces of which something was held back in the pass before.
    held: BTreeSet<String>,
}

impl Controller<'_> {
    /// Leads whenever this replica is the leader.
    async fn work(&mut self, mut leads: watch::Receiver<bool>) {
        // The sender outlives this; were it gone, so would be everything else.
        while leads.wait_for(|leads| *leads).await.is_ok() {
            self.recreator.clear();
            let (recreator, evictor, stores) = (self.recreator, self.evictor, self.stores);
            let recreating = recreator.run(evictor, &stores.changed, (self.metrics, self.outbox));
            tokio::select! {
                _ = leads.wait_for(|leads| !*leads) => {}
                () = recreating => {}
                () = self.lead() => {}
            }
            self.metrics.lead(false);
            self.outbox.clear();
        }
    }

    async fn lead(&mut self) {
        self.metrics.lead(true);
        self.outbox.clear();
        self.held.clear();
        self.stores.ready().await;
        // What the leader before has remembered, once it could be read.
        let mut modes: Option<Modes> = None;
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
            self.wait(wake).await;
        }
    }

    /// What the leader before has remembered; a notice, where there is something to be told, if that is not known.
    async fn remembered(&self) -> Result<Modes, Option<Notice>> {
        let text = limited(self.writer.read_state(self.namespace)).await.map_err(|error| {
            tracing::warn!(error, "weft-state cannot be read; membership waits, and it is tried again");
            None
        })?;
        let Some(text) = text else { return Ok(Modes::default()) };
        let read =
            modes::read(&text.strict).and_then(|strict| Ok((strict, modes::read_namespaces(&text.by_pods)?)));
        let (strict, mut by_pods) = read.map_err(|reason| self.unreadable(&reason))?;
        let late = self.late(&strict).await.map_err(|error| {
            tracing::warn!(error, "namespaces cannot be read; membership waits, and it is tried again");
            None
        })?;
        // They stay members until their label is seen.
        by_pods.extend(late);
        Ok(Modes::remembering(strict, by_pods))
    }

    /// Those namespaces of these Services that the watch does not show as the API server does. A replica that becomes the
    /// leader while its watch is late would take one that was labelled a moment ago for one whose label was taken away.
    async fn late(&self, strict: &BTreeSet<Key>) -> Result<BTreeSet<String>, String> {
        let names: BTreeSet<&str> = strict.iter().map(|key| key.namespace.as_str()).collect();
        let seen = self.stores.namespaces.all();
        let mut asked = Vec::with_capacity(names.len());
        for name in names {
            let key = Key::new("", name);
            let seen = seen.get(&key).map(|facts| facts.inject);
            asked.push(is_late(&self.writer, key, seen));
        }
        let mut asked = stream::iter(asked).buffer_unordered(8);
        let mut late = BTreeSet::new();
        while let Some(answer) = asked.next().await {
            late.extend(answer?);
        }
        Ok(late)
    }

    fn unreadable(&self, reason: &str) -> Option<Notice> {
        // To write membership would be to forget who is strict.
        tracing::error!(
            reason,
            "weft-state cannot be read; membership is not written until it is corrected or removed"
        );
        let note = format!(
            "it cannot be read, and membership is not written: correct it, or remove the ConfigMap: {reason}"
        );
        let key = Key::new(self.namespace, STATE_CONFIG);
        Some(Notice::own(&key, "StateUnreadable", note.chars().take(500).collect()))
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

    async fn pass(&mut self, modes: &mut Option<Modes>) -> Outcome {
        self.settings.update();
        let settings = Arc::clone(&self.settings.good);
        let roots = Arc::clone(&self.roots.borrow_and_update());
        let mut outcome = Outcome::default();
        let mut notices = Vec::new();
        if modes.is_none() {
            match self.remembered().await {
                Ok(read) => *modes = Some(read),
                Err(notice) => {
                    self.metrics.fault(Fault::State, 1);
                    outcome.failed += 1;
                    notices.extend(notice);
                }
            }
        }
        let mut work = self.decide(modes.as_mut(), (&settings, &roots), &mut outcome).await;
        notices.append(&mut work.notices);
        if let Some(reason) = &self.settings.refused {
            let key = Key::new(self.namespace, CONTROL_CONFIG);
            notices.push(Notice::own(&key, "SettingsRefused", reason.chars().take(900).collect()));
        }
        self.metrics.tell(std::mem::take(&mut work.figures));
        self.count(&work);
        self.metrics.fault(Fault::EventLost, self.outbox.offer(notices) as u64);
        let written = self.writes.write(&work, &roots, &self.writer, (self.metrics, self.outbox)).await;
        outcome.failed += written.failed;
        outcome.moved += written.moved;
        outcome.wake(written.next);
        outcome
    }

    /// Looks, remembers, and decides what is to be written.
    async fn decide(
        &mut self,
        mut modes: Option<&mut Modes>,
        (settings, roots): (&Settings, &str),
        outcome: &mut Outcome,
    ) -> Work {
        let mut world = World::new(self.namespace, Seen::from(self.stores));
        if let Some(modes) = modes.as_deref_mut() {
            self.ask(&world, modes).await;
            modes.settle(&world);
            world.keep(modes.by_pods());
        }
        let plan = self.recreator.plan(&world, settings, Instant::now());
        outcome.wake(plan.wake);
        self.metrics.recreated(Some(Recreated::GivenUp), plan.gave_up);
        world.given_up = plan.given_up;
        let looks = look(&world);
        let Some(modes) = modes else {
            let mut work = work(&world, &looks, settings, roots, None, Held::default());
            work.notices.extend(plan.notices);
            return work;
        };
        let mut recall = recall(&world, &looks, modes, Instant::now());
        outcome.wake(recall.next);
        if self.remember(&recall, outcome).await {
            modes.confirm(&recall.due, std::mem::take(&mut recall.by_pods));
        } else {
            // Nobody is told of what would be forgotten with this leader. All else goes on.
            recall.due.clear();
        }
        let mut work = work(&world, &looks, settings, roots, Some(modes), recall.held);
        work.notices.extend(plan.notices);
        for key in &recall.due {
            tracing::info!(service = %key, "clients are strict from now on");
            let uid = world.seen.services.get(key).map(|service| service.uid.as_str());
            if uid.is_some_and(|uid| !self.outbox.once(Notice::strict(key, uid))) {
                self.metrics.fault(Fault::EventLost, 1);
            }
        }
        work
    }

    /// Asks for remembered Services that this leader has never seen: a watch that is late must not make them forgotten.
    async fn ask(&self, world: &World, modes: &mut Modes) {
        let missing = modes.unseen().filter(|key| !world.seen.services.contains_key(*key));
        let mut asked = Vec::new();
        for key in missing.take(ASK).cloned() {
            asked.push(is_gone(&self.writer, key));
        }
        let asked = stream::iter(asked).buffer_unordered(8);
        let gone = asked.filter_map(std::future::ready).collect::<Vec<Key>>();
        // Without an answer they are remembered.
        for key in timeout(WRITE, gone).await.unwrap_or_default() {
            modes.gone(&key);
        }
    }

    /// Writes `weft-state` where it differs; whether what is due is written down.
    async fn remember(&mut self, recall: &Recall, outcome: &mut Outcome) -> bool {
        let Some(text) = &recall.state else { return true };
        let octets = text.strict.len() + text.by_pods.len();
        if let Err(when) = self.writes.pace.take(Kind::State, octets, Instant::now()) {
            outcome.wake(Some(when));
            return false;
        }
        match limited(self.writer.state(self.namespace, text)).await {
            Ok(_) => {
                self.metrics.wrote(Kind::State, octets);
                true
            }
            Err(error) => {
                tracing::warn!(error, "weft-state cannot be written; nobody becomes strict until it is");
                self.metrics.fault(Fault::State, 1);
                outcome.failed += 1;
                false
            }
        }
    }

    /// Counts what went wrong in this pass; a namespace that is held back, when it begins to be.
    fn count(&mut self, work: &Work) {
        let began = work.held.difference(&self.held).count();
        self.metrics.fault(Fault::Budget, began as u64);
        self.held.clone_from(&work.held);
        self.metrics.fault(Fault::Membership, u64::from(work.stuck));
        self.metrics.fault(Fault::Settings, u64::from(self.settings.refused.is_some()));
    }
}

/// The namespace, if the API server says that it takes part and the watch does not. One that is gone is no matter: so are
/// its Services.
fn is_late(writer: &Writer, key: Key, seen: Option<Inject>) -> BoxFuture<'_, Result<Option<String>, String>> {
    Box::pin(async move {
        let found = limited(writer.namespace(&key.name)).await?;
        let now = found.map(|object| NamespaceFacts::take(&object).1.inject);
        let late = now == Some(Inject::Enabled) && seen != now;
        Ok(late.then_some(key.name))
    })
}

/// The Service, if the API server has none such.
fn is_gone(writer: &Writer, key: Key) -> BoxFuture<'_, Option<Key>> {
    Box::pin(async move {
        let gone = writer.is_gone(&key).await.unwrap_or(false);
        gone.then_some(key)
    })
}

/// Resolves when the value has changed; never where nobody can change it any more.
async fn changed<T>(value: &mut watch::Receiver<T>) {
    if value.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
