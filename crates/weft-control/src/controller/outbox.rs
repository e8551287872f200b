//! Events on their way: a queue beside the pass.
//!
//! An Event is a help to people and no part of what the controller is for. So a pass only hands them over, and what the
//! API server cannot take in time is counted as lost. Tenants cause Events; each namespace has its own room and its own
//! number a minute, and there is one for all together.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::apply::Teller;
use super::metrics::{Fault, Metrics};
use super::notices::Notice;
use super::pace::{Bucket, Kind};

/// Events that wait, of one namespace and of all.
const WAITING: (usize, usize) = (32, 1_024);
/// Events a minute, of one namespace and of all; a minute's worth at once after a rest.
const A_MINUTE: (u32, u32) = (20, 300);
/// Limit of one write.
const WRITE: Duration = Duration::from_secs(10);
/// Octets of an Event beside its note, about.
const EVENT: usize = 700;

/// The queue.
#[derive(Debug)]
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    news: Notify,
}

#[derive(Debug)]
struct Inner {
    /// What is told, or on its way, and goes on.
    told: HashSet<Notice>,
    /// What was counted as lost and goes on: it is counted once, and told when there is room.
    lost: HashSet<Notice>,
    /// By namespace; whose turn it is goes round.
    queues: BTreeMap<String, VecDeque<Notice>>,
    last: String,
    of_namespace: HashMap<String, Bucket>,
    of_all: Bucket,
    octets: Bucket,
}

fn bucket(a_minute: u32, now: Instant) -> Bucket {
    Bucket::new(f64::from(a_minute) / 60.0, a_minute.into(), now)
}

/// What is to be sent next.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Send(Notice),
    Wait(Instant),
    Empty,
}

impl Outbox {
    pub(crate) fn new(now: Instant) -> Self {
        let inner = Inner {
            told: HashSet::new(),
            lost: HashSet::new(),
            queues: BTreeMap::new(),
            last: String::new(),
            of_namespace: HashMap::new(),
            of_all: bucket(A_MINUTE.1, now),
            octets: Kind::Event.bucket(now),
        };
        Self { inner: Mutex::new(inner), news: Notify::new() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new leader tells everything that goes on, once.
    pub(crate) fn clear(&self) {
        let mut inner = self.inner();
        inner.told.clear();
        inner.lost.clear();
        inner.queues.clear();
    }

    /// Takes all that is to be told now; how many were lost. What is told already and goes on is not told again.
    pub(crate) fn offer(&self, notices: Vec<Notice>) -> usize {
        let mut inner = self.inner();
        let now: HashSet<Notice> = notices.into_iter().collect();
        inner.told.retain(|notice| now.contains(notice));
        inner.lost.retain(|notice| now.contains(notice));
        let mut new: Vec<Notice> = now.into_iter().filter(|notice| !inner.told.contains(notice)).collect();
        new.sort_unstable();
        let mut lost = 0;
        for notice in new {
            let known = inner.lost.contains(&notice);
            if inner.queue(notice.clone()) {
                inner.lost.remove(&notice);
                inner.told.insert(notice);
            } else if !known {
                inner.lost.insert(notice);
                lost += 1;
            }
        }
        drop(inner);
        self.news.notify_one();
        lost
    }

    /// Takes one that has no duration; whether there was room.
    pub(crate) fn once(&self, notice: Notice) -> bool {
        let queued = self.inner().queue(notice);
        self.news.notify_one();
        queued
    }

    /// Sends until dropped.
    pub(crate) async fn run(&self, teller: &Teller, metrics: &Metrics) {
        loop {
            let turn = self.inner().turn(Instant::now());
            match turn {
                Turn::Empty => self.news.notified().await,
                Turn::Wait(when) => sleep_until(when).await,
                Turn::Send(notice) => self.send(teller, metrics, notice).await,
            }
        }
    }

    async fn send(&self, teller: &Teller, metrics: &Metrics, notice: Notice) {
        let reason = match timeout(WRITE, teller.tell(&notice)).await {
            Ok(Ok(())) => {
                metrics.wrote(Kind::Event, EVENT + notice.note.len());
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer in {WRITE:?}"),
        };
        tracing::warn!(about = %notice.key, reason = notice.reason, error = reason, "the event cannot be written");
        metrics.fault(Fault::Event, 1);
        // While its reason lasts it is offered again, and then sent again.
        self.inner().told.remove(&notice);
    }
}

impl Inner {
    fn queue(&mut self, notice: Notice) -> bool {
        let all: usize = self.queues.values().map(VecDeque::len).sum();
        let of = self.queues.entry(notice.tenant().to_owned()).or_default();
        let room = all < WAITING.1 && of.len() < WAITING.0;
        if room {
            of.push_back(notice);
        }
        room
    }

    fn turn(&mut self, now: Instant) -> Turn {
        self.queues.retain(|_, queue| !queue.is_empty());
        self.of_namespace.retain(|_, bucket| !bucket.is_full(now));
        if self.queues.is_empty() {
            return Turn::Empty;
        }
        if let Some(when) = self.of_all.wait(now).max(self.octets.wait(now)) {
            return Turn::Wait(when);
        }
        let mut order: Vec<String> = self.queues.keys().cloned().collect();
        let after = order.partition_point(|namespace| *namespace <= self.last);
        order.rotate_left(after);
        let mut soonest: Option<Instant> = None;
        for namespace in order {
            let limit = self.of_namespace.entry(namespace.clone()).or_insert_with(|| bucket(A_MINUTE.0, now));
            if let Some(when) = limit.wait(now) {
                soonest = Some(soonest.map_or(when, |soonest| soonest.min(when)));
                continue;
            }
            let Some(notice) = self.queues.get_mut(&namespace).and_then(VecDeque::pop_front) else {
                continue;
            };
            limit.take(1.0);
            self.of_all.take(1.0);
            self.octets.take((EVENT + notice.note.len()) as f64);
            self.last = namespace;
            return Turn::Send(notice);
        }
        soonest.map_or(Turn::Empty, Turn::Wait)
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
