//! Steady traffic, for stories in which no request may fail.
//!
//! The load is open: requests start by the clock, whether or not earlier ones have been answered, so that a stall shows
//! as latency and not as a pause in the traffic. Connections are kept alive and used again as any client does: a request
//! that meets a connection which was closed before it took the request goes to another one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until, timeout};

use crate::http::{Client, Connection, Request, Response};
use crate::pod::{Pod, Task};

/// A request without an answer for this long has failed.
const DEADLINE: Duration = Duration::from_secs(10);

/// Load about to be started; see [`Pod::load`].
#[derive(Debug)]
#[must_use = "call start()"]
pub struct LoadBuilder {
    pod: Pod,
    request: Request,
    rate: u32,
    connections: u32,
    keep: bool,
}

/// Load that runs.
#[derive(Debug)]
#[must_use = "call stop() for the report"]
pub struct Load {
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<Report>>,
    task: Task<()>,
}

/// What became of the requests.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Requests sent.
    pub sent: u64,
    /// Requests with a 2xx answer, read to its end.
    pub ok: u64,
    /// The others, by reason.
    pub failed: BTreeMap<String, u64>,
    /// Answers by the application that gave them (`x-served-by`).
    pub served_by: BTreeMap<String, u64>,
    #[serde(skip)]
    latencies: Vec<Duration>,
}

impl Report {
    /// How many failed.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// The latency that this share of the good answers stayed within; zero where there is none.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let rank = (sorted.len() as f64 * share).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// An error that shows the reasons, unless at least `least` requests were sent and all were answered well.
    ///
    /// # Errors
    /// A request failed, or there were too few to say anything.
    pub fn all_ok(&self, least: u64) -> Result<()> {
        if self.failures() > 0 {
            bail!("{} of {} requests failed: {:?}", self.failures(), self.sent, self.failed);
        }
        if self.ok < least {
            bail!("only {} requests were made, {least} are needed to say anything", self.ok);
        }
        Ok(())
    }

    /// Adds what another client of the same load saw; latencies stay with whoever measured them.
    pub fn join(&mut self, other: Self) {
        self.sent += other.sent;
        self.ok += other.ok;
        for (reason, count) in other.failed {
            *self.failed.entry(reason).or_default() += count;
        }
        for (name, count) in other.served_by {
            *self.served_by.entry(name).or_default() += count;
        }
    }

    fn add(&mut self, result: Result<Response>, took: Duration) {
        self.sent += 1;
        match result {
            Ok(response) if response.status.is_success() => {
                self.ok += 1;
                self.latencies.push(took);
                *self.served_by.entry(response.header("x-served-by").to_owned()).or_default() += 1;
            }
            Ok(response) => {
                let error = response.header("weft-error");
                let reason = format!("{} {error} {}", response.status, response.text().trim());
                *self.failed.entry(reason).or_default() += 1;
            }
            Err(error) => *self.failed.entry(format!("{error:#}")).or_default() += 1,
        }
    }
}

impl LoadBuilder {
    pub(crate) fn new(pod: Pod, request: Request) -> Self {
        Self { pod, request, rate: 100, connections: 8, keep: true }
    }

    /// Requests a second; 100 unless said.
    pub fn rate(mut self, rate: u32) -> Self {
        self.rate = rate.max(1);
        self
    }

    /// Connections that share the rate; 8 unless said.
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// Each request over a connection of its own, its host resolved anew: what the name server and the handshakes of a
    /// mesh see of an application that keeps nothing.
    pub fn fresh_connections(mut self) -> Self {
        self.keep = false;
        self
    }

    /// Starts it in the background.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start(self) -> Result<Load> {
        let client = Client::new(self.pod.resolver());
        let lanes = Lanes::new(client, self.request, self.rate, self.connections, self.keep);
        let (stop, report) = (lanes.stop(), lanes.report());
        let task = self.pod.start(async move || {
            lanes.run().await;
            Ok(())
        })?;
        Ok(Load { stop, report, task })
    }

    /// Runs it for some time.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn run_for(self, time: Duration) -> Result<Report> {
        let load = self.start()?;
        crate::rest(time);
        load.stop()
    }
}

impl Load {
    /// What has happened so far.
    pub fn so_far(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until `more` further requests have been answered well: a story's "and traffic goes on".
    ///
    /// # Errors
    /// It takes longer than 20 s.
    pub fn wait_for(&self, more: u64) -> Result<()> {
        let goal = self.so_far().ok + more;
        let what = format!("{more} further good answers");
        crate::eventually(&what, Duration::from_secs(20), || Ok((self.so_far().ok >= goal).then_some(())))
            .with_context(|| format!("failures so far: {:?}", self.so_far().failed))
    }

    /// Ends it: no request is started any more, those under way are waited for.
    ///
    /// # Errors
    /// The thread failed.
    pub fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.join()?;
        Ok(self.report.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// The connections of a load, each a lane of requests.
pub(crate) struct Lanes {
    client: Client,
    request: Request,
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<Report>>,
    interval: Duration,
    count: u32,
    keep: bool,
}

impl Lanes {
    /// `rate` requests a second over `count` connections; a load that is to be read through `report`.
    pub(crate) fn new(client: Client, request: Request, rate: u32, count: u32, keep: bool) -> Self {
        Self {
            client,
            request,
            stop: Arc::default(),
            report: Arc::default(),
            interval: Duration::from_secs(1) / rate.max(1),
            count: count.max(1),
            keep,
        }
    }

    /// Set to end it.
    pub(crate) fn stop(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// What has happened so far, kept up to date.
    pub(crate) fn report(&self) -> Arc<Mutex<Report>> {
        self.report.clone()
    }

    /// Until it is stopped and every request has had its answer.
    pub(crate) async fn run(self) {
        let shared = Arc::new(self);
        let start = Instant::now();
        let lanes: Vec<_> =
            (0..shared.count).map(|lane| tokio::spawn(Self::lane(shared.clone(), start, lane))).collect();
        for lane in lanes {
            let _ = lane.await;
        }
    }

    /// Every `count`-th request: at `start + (lane + n * count) * interval`.
    async fn lane(self: Arc<Self>, start: Instant, lane: u32) {
        let mut connection = None;
        let mut due = start + self.interval * lane;
        loop {
            sleep_until(due).await;
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let result = timeout(DEADLINE, self.send(&mut connection)).await;
            let result = result.unwrap_or_else(|_| {
                connection = None;
                Err(anyhow::anyhow!("no answer in {DEADLINE:?}"))
            });
            // From when it was due, not from when it was sent: waiting for the lane is latency as well.
            let took = due.elapsed();
            self.report.lock().unwrap_or_else(PoisonError::into_inner).add(result, took);
            due += self.interval * self.count;
        }
    }

    async fn send(&self, kept: &mut Option<Connection>) -> Result<Response> {
        if let Some(mut connection) = kept.take()
            && connection.is_usable().await
        {
            match connection.send(&self.request).await {
                Ok(response) => {
                    *kept = Some(connection);
                    return Ok(response);
                }
                Err(error) if !was_not_taken(&error) => return Err(error),
                Err(_) => {}
            }
        }
        let mut connection = self.client.open(&self.request).await?;
        let response = connection.send(&self.request).await?;
        *kept = self.keep.then_some(connection);
        Ok(response)
    }
}

/// Whether the connection was closed before the request went out (the race that keep-alive has by design).
fn was_not_taken(error: &anyhow::Error) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(|error| error.is_canceled() || error.is_closed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_ranks() {
        let latencies = (1..=100).rev().map(Duration::from_millis).collect();
        let report = Report { latencies, ..Report::default() };
        assert_eq!(report.quantile(0.5), Duration::from_millis(50));
        assert_eq!(report.quantile(0.99), Duration::from_millis(99));
        assert_eq!(report.quantile(1.0), Duration::from_millis(100));
        assert_eq!(Report::default().quantile(0.5), Duration::ZERO);
    }

    #[test]
    fn a_failure_and_too_few_requests_are_errors() {
        let mut report = Report { sent: 10, ok: 10, ..Report::default() };
        assert!(report.all_ok(10).is_ok());
        assert!(report.all_ok(11).is_err());
        report.failed.insert("reset".into(), 1);
        assert!(report.all_ok(1).is_err());
    }
}
