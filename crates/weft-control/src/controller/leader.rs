//! Which replica writes: election by a Lease.
//!
//! Two replicas that both wrote would not harm anything for long, since both compute the same state; but both would
//! remember, each on its own, which Services have become strict. So one leads. The rules are those that all of
//! Kubernetes uses: the Lease names a holder that renews it; who sees it unchanged for its whole duration, *by the own
//! clock* since it was last seen to change, may take it; who cannot renew stops in time before that. Every write names
//! the version of the Lease that it saw, so of two that take it at once one fails.
//!
//! The duration is 15 s, renewed every 2 s, given up after 10 s without success: the five seconds between are the room
//! for a write that was under way when the leader lost its connection.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// How long a Lease holds without being renewed.
const DURATION: Duration = Duration::from_secs(15);
/// How long a leader goes on without renewing it.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Time between two tries.
const RETRY: Duration = Duration::from_secs(2);
/// Limit of one request: several fit into [`GIVE_UP`].
const REQUEST: Duration = Duration::from_secs(3);

/// What is done about a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There is none.
    Create,
    /// It is ours, or free: write it.
    Write,
    /// Another holds it.
    Wait,
}

/// Remembers when the Lease was last seen to change.
#[derive(Debug, Default)]
struct Observer {
    seen: Option<(Option<String>, Instant)>,
}

impl Observer {
    fn step(&mut self, lease: Option<&Lease>, me: &str, now: Instant) -> Step {
        let Some(lease) = lease else { return Step::Create };
        let version = lease.metadata.resource_version.clone();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => now,
        };
        self.seen = Some((version, since));
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or("");
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
        let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let free = holder.is_empty() || now.saturating_duration_since(since) >= duration;
        if holder == me || free { Step::Write } else { Step::Wait }
    }
}

/// The Lease as it is to be written.
fn written(old: Option<Lease>, name: &str, me: &str, now: Timestamp) -> Lease {
    let old_spec = old.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let mine = old_spec.holder_identity.as_deref() == Some(me);
    let now = MicroTime(now);
    let transitions = old_spec.lease_transitions.unwrap_or(0);
    let spec = LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: if mine { old_spec.acquire_time } else { Some(now.clone()) },
        renew_time: Some(now),
        lease_transitions: Some(if mine || old.is_none() {
            transitions
        } else {
            transitions.saturating_add(1)
        }),
        ..old_spec
    };
    let named = || ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    Lease { metadata: old.map_or_else(named, |lease| lease.metadata), spec: Some(spec) }
}

/// Takes part in the election of one Lease.
pub(crate) struct Elector {
    api: Api<Lease>,
    name: &'static str,
    me: String,
}

impl Elector {
    pub(crate) fn new(api: Api<Lease>, name: &'static str, me: String) -> Self {
        Self { api, name, me }
    }

    /// Takes part until dropped; `leads` follows.
    pub(crate) async fn run(&self, leads: &watch::Sender<bool>) {
        let mut observer = Observer::default();
        let mut renewed = Instant::now();
        loop {
            let begun = Instant::now();
            // The time limit holds for the whole turn: nothing in it may outlive the right to lead.
            let turn = timeout(REQUEST, self.turn(&mut observer)).await;
            match turn {
                Ok(Ok(true)) => {
                    renewed = begun;
                    self.tell(leads, true, "holds the lease");
                }
                Ok(Ok(false)) => self.tell(leads, false, "another replica holds the lease"),
                Ok(Err(error)) => tracing::warn!(%error, lease = self.name, "cannot read or write the lease"),
                Err(_) => tracing::warn!(lease = self.name, "no answer about the lease in {REQUEST:?}"),
            }
            let left = GIVE_UP.saturating_sub(renewed.elapsed());
            if *leads.borrow() && left.is_zero() {
                self.tell(leads, false, "the lease could not be renewed");
            }
            // Replicas that start together do not ask together.
            let jitter = Duration::from_millis(fastrand::u64(0..400));
            let pause = RETRY + jitter;
            sleep(if *leads.borrow() { pause.min(left) } else { pause }).await;
        }
    }

    fn tell(&self, leads: &watch::Sender<bool>, now: bool, why: &str) {
        let changed = leads.send_if_modified(|leads| std::mem::replace(leads, now) != now);
        if changed {
            tracing::info!(lease = self.name, identity = self.me, leads = now, "{why}");
        }
    }

    /// One try; whether this replica holds the Lease after it.
    async fn turn(&self, observer: &mut Observer) -> Result<bool, kube::Error> {
        let found = self.api.get_opt(self.name).await?;
        let step = observer.step(found.as_ref(), &self.me, Instant::now());
        let lease = written(found, self.name, &self.me, Timestamp::now());
        let params = PostParams::default();
        let answer = match step {
            Step::Wait => return Ok(false),
            Step::Create => self.api.create(&params, &lease).await,
            Step::Write => self.api.replace(self.name, &params, &lease).await,
        };
        match answer {
            Ok(_) => Ok(true),
            // Another one was first.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives the Lease up, so that another replica need not wait for its end. What fails is left to run out.
    pub(crate) async fn release(&self) {
        let release = async {
            let Some(mut lease) = self.api.get_opt(self.name).await? else { return Ok(()) };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(&self.me) {
                return Ok(());
            }
            spec.holder_identity = Some(String::new());
            self.api.replace(self.name, &PostParams::default(), &lease).await.map(|_| ())
        };
        match timeout(REQUEST, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the lease is not given up; it runs out"),
            Err(_) => tracing::debug!("the lease is not given up in time; it runs out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        let mut lease = written(None, "weft-controller", holder, Timestamp::UNIX_EPOCH);
        lease.metadata.resource_version = Some(version.to_owned());
        lease
    }

    #[test]
    fn a_lease_that_is_missing_ours_or_given_up_is_written() {
        let now = Instant::now();
        assert_eq!(Observer::default().step(None, "a", now), Step::Create);
        assert_eq!(Observer::default().step(Some(&lease("a", "1")), "a", now), Step::Write);
        assert_eq!(Observer::default().step(Some(&lease("", "1")), "a", now), Step::Write);
    }

    #[test]
    fn another_ones_lease_is_waited_for_until_it_stands_still_for_its_duration() {
        let start = Instant::now();
        let mut observer = Observer::default();
        // Whatever its renewTime says: the holder's clock is not looked at.
        assert_eq!(observer.step(Some(&lease("b", "1")), "a", start), Step::Wait);
        let almost = start + DURATION - Duration::from_millis(1);
        assert_eq!(observer.step(Some(&lease("b", "1")), "a", almost), Step::Wait);
        assert_eq!(observer.step(Some(&lease("b", "2")), "a", start + DURATION), Step::Wait);
        assert_eq!(observer.step(Some(&lease("b", "2")), "a", start + DURATION * 2), Step::Write);
    }

    #[test]
    fn a_leader_stops_before_another_may_begin() {
        // The last success is counted from before the request; the last sleep ends with GIVE_UP; a request may be under
        // way then.
        assert!(GIVE_UP + REQUEST < DURATION);
        assert!(REQUEST + RETRY < GIVE_UP);
    }

    #[test]
    fn taking_over_counts_and_renewing_does_not() {
        let taken = written(Some(lease("b", "1")), "weft-controller", "a", Timestamp::UNIX_EPOCH);
        let spec = taken.spec.clone().unwrap();
        assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("a"), Some(1)));
        let renewed = written(Some(taken), "weft-controller", "a", Timestamp::now()).spec.unwrap();
        assert_eq!((renewed.lease_transitions, renewed.acquire_time), (Some(1), spec.acquire_time));
    }
}
