//! The writes of a pass: in which order, and how many of them now.
//!
//! Membership comes first, for proxies follow it with a delay, and all else at once. Each kind of object has its pace;
//! what has to wait is decided anew by the next pass, so that what is written is always the newest.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, timeout};

use super::MESH_CONFIG;
use super::apply::{Writer, Written};
use super::budget::in_turn;
use super::facts::{Key, Reported};
use super::metrics::{Fault, Metrics};
use super::notices::Notice;
use super::outbox::Outbox;
use super::pace::{Kind, Pace};
use super::pass::Work;

/// Writes under way at once.
const AT_ONCE: usize = 8;
/// Twins, and conditions of pods, in one pass: one large namespace must not hold up everything else.
const AT_MOST: usize = 200;
/// Octets of a condition, about.
const CONDITION: usize = 320;
/// Limit of one write.
pub(crate) const WRITE: Duration = Duration::from_secs(10);
/// When those that are left over have their turn.
const SOON: Duration = Duration::from_secs(1);

/// How the writes ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) failed: usize,
    pub(crate) moved: usize,
    /// When there is something to do although nothing changes.
    pub(crate) next: Option<Instant>,
}

impl Outcome {
    /// There is something to do at `when`.
    pub(crate) fn wake(&mut self, when: Option<Instant>) {
        self.next = match (self.next, when) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
}

/// Remembers between passes who was written when.
#[derive(Debug)]
pub(crate) struct Writes {
    pub(crate) pace: Pace,
    /// The pass in which membership was last written, by namespace: who waited longest is next.
    written: HashMap<String, u64>,
    pass: u64,
}

/// What is done to which object.
enum Do<'w> {
    Mesh(&'w super::pass::MeshWrite),
    RemoveMesh(&'w str, &'w str),
    CreateTwin(&'w super::twins::Twin),
    UpdateTwin(&'w super::twins::Twin),
    RemoveTwin(&'w Key, &'w str),
    Report(&'w Key, &'w str, Reported),
    Clear(&'w Key, &'w str),
}

impl Do<'_> {
    fn namespace(&self) -> &str {
        match self {
            Self::Mesh(mesh) => &mesh.namespace,
            Self::RemoveMesh(namespace, _) => namespace,
            Self::CreateTwin(twin) | Self::UpdateTwin(twin) => &twin.key.namespace,
            Self::RemoveTwin(key, _) | Self::Report(key, ..) | Self::Clear(key, _) => &key.namespace,
        }
    }

    /// The object, for the log.
    fn of(&self) -> String {
        match self {
            Self::Mesh(_) | Self::RemoveMesh(..) => format!("{}/{MESH_CONFIG}", self.namespace()),
            Self::CreateTwin(twin) | Self::UpdateTwin(twin) => twin.key.to_string(),
            Self::RemoveTwin(key, _) | Self::Report(key, ..) | Self::Clear(key, _) => key.to_string(),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Mesh(_) | Self::RemoveMesh(..) => Kind::Mesh,
            Self::CreateTwin(_) | Self::UpdateTwin(_) | Self::RemoveTwin(..) => Kind::Twin,
            Self::Report(..) | Self::Clear(..) => Kind::Condition,
        }
    }

    /// What is told once it is written.
    fn notice(&self) -> Option<Notice> {
        match self {
            Self::Report(key, uid, Reported::Missing) => Some(Notice::slipped(key, uid)),
            Self::Report(key, uid, Reported::GivenUp) => Some(Notice::given_up(key, uid)),
            _ => None,
        }
    }

    fn octets(&self, roots: &str) -> usize {
        match self {
            Self::Mesh(mesh) => mesh.yaml.as_ref().map_or(0, |yaml| yaml.len()) + roots.len(),
            // A request without a body is not free either.
            Self::RemoveMesh(..) | Self::RemoveTwin(..) => 200,
            Self::CreateTwin(twin) | Self::UpdateTwin(twin) => twin.octets(),
            Self::Report(..) | Self::Clear(..) => CONDITION,
        }
    }

    async fn write(&self, writer: &Writer, roots: &str) -> Result<Written, kube::Error> {
        match self {
            Self::Mesh(mesh) => writer.mesh(mesh, roots).await,
            Self::RemoveMesh(namespace, uid) => writer.remove_mesh(namespace, uid).await,
            Self::CreateTwin(twin) => writer.create_twin(twin).await,
            Self::UpdateTwin(twin) => writer.update_twin(twin).await,
            Self::RemoveTwin(key, uid) => writer.remove_twin(key, uid).await,
            Self::Report(key, uid, reported) => writer.report(key, uid, *reported).await,
            Self::Clear(key, uid) => writer.clear(key, uid).await,
        }
    }
}

/// A write under way: what it is, and how it ended.
type Job<'w> = BoxFuture<'w, (Do<'w>, Result<Written, String>)>;

fn job<'w>(what: Do<'w>, writer: &'w Writer, roots: &'w str) -> Job<'w> {
    Box::pin(async move {
        let answer = limited(what.write(writer, roots)).await;
        (what, answer)
    })
}

impl Writes {
    pub(crate) fn new(now: Instant) -> Self {
        Self { pace: Pace::new(now), written: HashMap::new(), pass: 0 }
    }

    /// Writes what there is room for now.
    pub(crate) async fn write(
        &mut self,
        work: &Work,
        roots: &str,
        writer: &Writer,
        (metrics, outbox): (&Metrics, &Outbox),
    ) -> Outcome {
        let (now, next) = self.choose(work, roots, Instant::now());
        let mut outcome = Outcome { next, ..Outcome::default() };
        let mut jobs = Vec::with_capacity(now.len());
        for what in now {
            jobs.push(job(what, writer, roots));
        }
        let mut jobs = stream::iter(jobs).buffer_unordered(AT_ONCE);
        while let Some((what, answer)) = jobs.next().await {
            match answer {
                Ok(Written::Done) => {
                    tracing::debug!(what = what.kind().name(), of = what.of(), "written");
                    metrics.wrote(what.kind(), what.octets(roots));
                    if what.notice().is_some_and(|notice| !outbox.once(notice)) {
                        metrics.fault(Fault::EventLost, 1);
                    }
                }
                Ok(Written::Moved) => outcome.moved += 1,
                Err(error) => {
                    tracing::warn!(
                        what = what.kind().name(),
                        of = what.of(),
                        error,
                        "cannot be written; tried again"
                    );
                    metrics.fault(Fault::Write, 1);
                    outcome.failed += 1;
                }
            }
        }
        outcome
    }

    /// Those that are written now, and when the rest may be.
    fn choose<'w>(&mut self, work: &'w Work, roots: &str, now: Instant) -> (Vec<Do<'w>>, Option<Instant>) {
        self.pass += 1;
        let mut outcome = Outcome::default();
        let mut chosen = Vec::new();
        for group in self.groups(work) {
            let left = group.len() > AT_MOST && group.first().is_some_and(|what| what.kind() != Kind::Mesh);
            let most = if left { AT_MOST } else { group.len() };
            outcome.wake(left.then(|| now + SOON));
            for what in group.into_iter().take(most) {
                if let Err(when) = self.pace.take(what.kind(), what.octets(roots), now) {
                    // A pass for each write would be a pass every few milliseconds.
                    outcome.wake(Some(when.max(now + SOON)));
                    break;
                }
                if let Do::Mesh(mesh) = &what {
                    self.written.insert(mesh.namespace.clone(), self.pass);
                }
                chosen.push(what);
            }
        }
        (chosen, outcome.next)
    }

    /// Everything, by kind, in the order in which it has its turn.
    fn groups<'w>(&mut self, work: &'w Work) -> [Vec<Do<'w>>; 3] {
        let mut meshes: Vec<Do<'_>> = work.meshes.iter().map(Do::Mesh).collect();
        // A namespace whose ConfigMap is edited again and again goes to the end each time.
        meshes.sort_by_key(|what| self.written.get(what.namespace()).copied().unwrap_or(0));
        let gone = work.remove_meshes.iter().map(|(namespace, uid)| Do::RemoveMesh(namespace, uid));
        meshes.extend(gone);
        let removed: Vec<&str> = work.remove_meshes.iter().map(|(namespace, _)| namespace.as_str()).collect();
        self.written.retain(|namespace, _| !removed.contains(&namespace.as_str()));
        let twins = work.twins.create.iter().map(Do::CreateTwin);
        let twins = twins.chain(work.twins.update.iter().map(Do::UpdateTwin));
        let twins = twins.chain(work.twins.remove.iter().map(|(key, uid)| Do::RemoveTwin(key, uid)));
        let conditions = work.slips.report.iter().map(|(key, uid)| Do::Report(key, uid, Reported::Missing));
        let given_up = work.slips.give_up.iter().map(|(key, uid)| Do::Report(key, uid, Reported::GivenUp));
        let conditions = conditions.chain(given_up);
        let conditions = conditions.chain(work.slips.clear.iter().map(|(key, uid)| Do::Clear(key, uid)));
        let first = usize::try_from(self.pass).unwrap_or_default();
        let mix = |all: Vec<Do<'w>>| in_turn(all, |what| what.namespace(), first);
        [meshes, mix(twins.collect()), mix(conditions.collect())]
    }
}

/// A write with its limit.
pub(crate) async fn limited<T>(write: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match timeout(WRITE, write).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer in {WRITE:?}")),
    }
}

#[cfg(test)]
#[path = "writes_tests.rs"]
mod tests;
