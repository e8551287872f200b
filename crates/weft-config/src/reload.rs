//! Keeps the snapshot fresh while the process runs.
//!
//! A configuration is changed by a person, and people make mistakes: a file that does not check is logged with all its
//! mistakes, counted, and leaves the last good snapshot in force. What cannot change in a running process is named in a
//! warning, never half applied.
//!
//! The directory is watched, not the file. Editors and Kubernetes replace files instead of writing into them; in a
//! ConfigMap volume the file is a symlink through `..data`, which is swapped by a rename in that same directory. Because
//! inotify sees nothing on some network file systems, and may be out of instances on a crowded node, the file is also
//! read again every [`POLL`].

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, watch};

use crate::env::Env;
use crate::error::ConfigErrors;
use crate::read::Effective;
use crate::snapshot::Snapshot;
use crate::types::{CollectorConfig, ProxyConfig};

/// The safety net where inotify sees nothing. kubelet itself takes up to a minute to bring a change.
const POLL: Duration = Duration::from_secs(10);

/// Events are gathered this long: an editor makes several for one save, and a half-written file is read once less.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// The sections and fields that may change while the process runs.
const RELOADABLE: [&str; 7] = [
    "inbound.",
    "log",
    "mesh.",
    "outbound.",
    "services",
    "telemetry.accessLog.mode",
    "telemetry.tracing.sampling",
];

/// Fields of reloadable sections that are not: the workers have bound these addresses before any traffic, each its own
/// socket; and connections to the application are open that began with the header, or without.
const FIXED: [&str; 3] = ["inbound.listeners", "inbound.proxyProtocol", "outbound.listeners"];

/// The reloadable part of the configuration, as it is now.
#[derive(Debug)]
pub struct ConfigHandle {
    current: ArcSwap<Snapshot>,
    changed: watch::Sender<u64>,
    accepted: AtomicU64,
    refused: AtomicU64,
    last_refused: AtomicBool,
    source: Mutex<Source>,
}

/// What a reload compares with.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    env: Env,
    /// The text that was read last: most polls find it again, and need not check it again. Nothing else decides what a
    /// text means, for the environment of a process stays.
    text: Option<String>,
    /// The mistakes that were told last.
    told: Option<String>,
    /// The fields last named as waiting for a restart.
    waiting: Vec<String>,
    headers: [CollectorHeaders; 2],
}

/// A field and its headers. They are compared apart from the others: what a list of fields shows has no values of theirs.
type CollectorHeaders = (&'static str, Vec<(String, String)>);

fn collector_headers(config: &ProxyConfig) -> [CollectorHeaders; 2] {
    let of = |collector: Option<&CollectorConfig>| collector.map(|c| c.headers.clone()).unwrap_or_default();
    let telemetry = &config.telemetry;
    [
        ("telemetry.tracing.headers", of(telemetry.tracing.as_ref().map(|t| &t.collector))),
        ("telemetry.metrics.otlp.headers", of(telemetry.metrics.as_ref().map(|m| &m.collector))),
    ]
}

/// What came of reading the file again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// Nothing that matters is different.
    Unchanged,
    /// A new snapshot is in force.
    Applied {
        /// Its version.
        version: u64,
        /// Fields that are different in the file and need a restart.
        needs_restart: Vec<String>,
    },
    /// The file has mistakes; the last good snapshot stays.
    Refused(ConfigErrors),
}

impl ConfigHandle {
    /// A handle that nothing keeps fresh, for a test or for a process that does not watch.
    pub fn new(initial: &ProxyConfig, env: Env) -> Arc<Self> {
        let source = Source {
            path: initial.path.clone(),
            env,
            text: None,
            told: None,
            waiting: Vec::new(),
            headers: collector_headers(initial),
        };
        Arc::new(Self {
            current: ArcSwap::new(initial.snapshot.clone()),
            changed: watch::Sender::new(initial.snapshot.version),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            last_refused: AtomicBool::new(false),
            source: Mutex::new(source),
        })
    }

    /// The snapshot in force. Cheap; for the way of a request.
    pub fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// The snapshot in force, to keep.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Tells the version of each new snapshot.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Reloads that put a new snapshot in force.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Reloads that were refused because of mistakes.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether the file as it is now was refused.
    pub fn is_stale(&self) -> bool {
        self.last_refused.load(Ordering::Relaxed)
    }

    /// Reads the file again, and puts a new snapshot in force if it is good and different.
    pub async fn reload(&self) -> Reloaded {
        let mut source = self.source.lock().await;
        let loaded = match ProxyConfig::read(&source.path) {
            Ok(text) if source.text.as_ref() == Some(&text) => return Reloaded::Unchanged,
            Ok(text) => {
                let loaded = ProxyConfig::from_text(&source.path, &text, &source.env);
                source.text = Some(text);
                loaded
            }
            Err(errors) => {
                source.text = None;
                Err(errors)
            }
        };
        match loaded {
            Err(errors) => {
                self.last_refused.store(true, Ordering::Relaxed);
                // The same mistakes are told once, not at each poll.
                let told = Some(errors.to_string());
                if source.told == told {
                    return Reloaded::Unchanged;
                }
                source.told = told;
                self.refused.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    code = "config-refused",
                    "the configuration has mistakes and the last good one stays in force:\n{errors}"
                );
                Reloaded::Refused(errors)
            }
            Ok(config) => {
                self.last_refused.store(false, Ordering::Relaxed);
                source.told = None;
                self.apply(config, &mut source)
            }
        }
    }

    fn apply(&self, config: ProxyConfig, source: &mut Source) -> Reloaded {
        let old = self.current.load_full();
        let mut needs_restart = differing(&old.effective, &config.snapshot.effective, false);
        for ((field, new), (_, old)) in collector_headers(&config).into_iter().zip(&source.headers) {
            if new != *old {
                needs_restart.retain(|changed| !changed.starts_with(field));
                needs_restart.push(field.to_owned());
            }
        }
        let changed = differing(&old.effective, &config.snapshot.effective, true);
        // Told once, not at each poll.
        if !needs_restart.is_empty() && needs_restart != source.waiting {
            tracing::warn!(
                code = "config-needs-restart",
                fields = needs_restart.join(", "),
                "these fields changed in the file and take effect at the next start"
            );
        }
        source.waiting.clone_from(&needs_restart);
        if changed.is_empty() {
            return Reloaded::Unchanged;
        }
        let version = old.version + 1;
        let mut snapshot = Arc::unwrap_or_clone(config.snapshot);
        snapshot.version = version;
        // The certificate is of the trust domain that the process started with.
        snapshot.membership = snapshot.membership.within(old.membership.trust_domain().clone());
        snapshot.effective = merged(&old.effective, &snapshot.effective);
        self.current.store(Arc::new(snapshot));
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.changed.send_replace(version);
        tracing::info!(version, fields = changed.join(", "), "new configuration in force");
        Reloaded::Applied { version, needs_restart }
    }
}

/// A handle, and the task that keeps it fresh until the handle is dropped everywhere else. The task belongs on the
/// control thread: it reads files.
pub fn watch(
    initial: &ProxyConfig,
    env: Env,
) -> (Arc<ConfigHandle>, impl Future<Output = ()> + Send + 'static) {
    let handle = ConfigHandle::new(initial, env);
    let (weak, path) = (Arc::downgrade(&handle), initial.path.clone());
    let task = async move {
        let events = match Events::new(&path) {
            Ok(events) => Some(events),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "cannot watch the configuration; it is read every 10 s");
                None
            }
        };
        loop {
            tokio::select! {
                () = changed(events.as_ref()) => tokio::time::sleep(DEBOUNCE).await,
                () = tokio::time::sleep(POLL) => {}
            }
            if let Some(events) = &events {
                events.discard();
            }
            let Some(handle) = weak.upgrade() else { return };
            handle.reload().await;
        }
    };
    (handle, task)
}

async fn changed(events: Option<&Events>) {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// Changes in the directory of a file.
struct Events(AsyncFd<OwnedFd>);

impl Events {
    fn new(path: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // No OPEN and ACCESS: our own reading must not wake us.
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, directory, flags)?;
        #[expect(
            deprecated,
            reason = "sound for an OwnedFd, whose descriptor never changes; `register` is unsafe"
        )]
        let fd = AsyncFd::new(fd)?;
        Ok(Self(fd))
    }

    async fn next(&self) {
        match self.0.readable().await {
            Ok(mut ready) => {
                self.discard();
                ready.clear_ready();
            }
            // Only when the runtime shuts down.
            Err(_) => std::future::pending().await,
        }
    }

    /// Reads all events away; which file they name does not matter.
    fn discard(&self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.0.get_ref(), &mut buffer);
        while reader.next().is_ok() {}
    }
}

fn is_reloadable(field: &str) -> bool {
    RELOADABLE.iter().any(|r| if r.ends_with('.') { field.starts_with(r) } else { field == *r })
        && !FIXED.contains(&field)
}

/// The fields whose value differs, of those that are (or are not) reloadable.
fn differing(old: &[Effective], new: &[Effective], reloadable: bool) -> Vec<String> {
    let value = |list: &[Effective], field: &str| {
        list.binary_search_by(|e| e.field.as_str().cmp(field))
            .ok()
            .and_then(|i| list.get(i))
            .map(|e| e.value.clone())
    };
    let mut fields: Vec<&str> = old.iter().chain(new).map(|e| e.field.as_str()).collect();
    fields.sort_unstable();
    fields.dedup();
    let differs = |field: &&str| is_reloadable(field) == reloadable && value(old, field) != value(new, field);
    fields.into_iter().filter(differs).map(str::to_owned).collect()
}

/// The reloadable fields of `new`, the others of `old`.
fn merged(old: &[Effective], new: &[Effective]) -> Arc<[Effective]> {
    let kept = old.iter().filter(|e| !is_reloadable(&e.field));
    let mut all: Vec<Effective> =
        kept.chain(new.iter().filter(|e| is_reloadable(&e.field))).cloned().collect();
    all.sort_by(|a, b| a.field.cmp(&b.field));
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "identity: {files: {certificate: c, key: k, bundle: b}}\n";

    struct Dir {
        dir: tempfile::TempDir,
    }

    impl Dir {
        fn new(text: &str) -> Self {
            let this = Self { dir: tempfile::tempdir().unwrap() };
            this.write(text);
            this
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("weft.yaml")
        }

        fn write(&self, text: &str) {
            std::fs::write(self.path(), format!("{BASE}{text}")).unwrap();
        }

        fn load(&self) -> ProxyConfig {
            ProxyConfig::load(&self.path(), &Env::empty()).unwrap()
        }
    }

    #[tokio::test]
    async fn a_good_file_is_applied_and_a_bad_one_changes_nothing() {
        let dir = Dir::new("inbound: {mode: strict}\n");
        let handle = ConfigHandle::new(&dir.load(), Env::empty());
        assert_eq!(handle.reload().await, Reloaded::Unchanged);

        dir.write("inbound: {mode: permissive}\n");
        assert_eq!(handle.reload().await, Reloaded::Applied { version: 2, needs_restart: vec![] });
        assert_eq!(handle.load().inbound.mode, weft_core::MtlsMode::Permissive);

        dir.write("inbound: {mode: sometimes}\nmesh: {cidrs: [10.0.0.0/99]}\n");
        let Reloaded::Refused(errors) = handle.reload().await else { panic!("refused") };
        assert_eq!(errors.problems.len(), 2);
        assert_eq!((handle.load().version, handle.refused(), handle.is_stale()), (2, 1, true));
        assert_eq!(handle.reload().await, Reloaded::Unchanged, "the same mistakes are told once");

        std::fs::remove_file(dir.path()).unwrap();
        assert!(matches!(handle.reload().await, Reloaded::Refused(_)));
        dir.write("inbound: {mode: permissive}\n");
        assert_eq!(handle.reload().await, Reloaded::Unchanged);
        assert!(!handle.is_stale());
    }

    #[tokio::test]
    async fn what_needs_a_restart_is_named_and_not_applied() {
        let dir = Dir::new("telemetry: {tracing: {endpoint: \"http://a:4317\", headers: {k: secret1}}}\n");
        let handle = ConfigHandle::new(&dir.load(), Env::empty());
        dir.write(
            "telemetry: {tracing: {endpoint: \"http://b:4317\", headers: {k: secret2}, sampling: 1.0}}\nworkers: 3\n",
        );
        let Reloaded::Applied { needs_restart, .. } = handle.reload().await else { panic!("applied") };
        assert_eq!(needs_restart, ["telemetry.tracing.endpoint", "workers", "telemetry.tracing.headers"]);
        let snapshot = handle.snapshot();
        assert_eq!(snapshot.sampling, 1.0);
        let workers = snapshot.effective.iter().find(|e| e.field == "workers").unwrap();
        assert_eq!(workers.value, "1", "the value in force is that of the start");
        assert!(snapshot.effective.iter().all(|e| !e.value.contains("secret")), "masked");
        assert_eq!(handle.reload().await, Reloaded::Unchanged);
    }

    #[tokio::test]
    async fn listeners_wait_for_a_restart_and_the_rest_of_their_section_does_not() {
        let dir = Dir::new("inbound: {mode: strict, listeners: [\"80=127.0.0.1:8080\"]}\n");
        let handle = ConfigHandle::new(&dir.load(), Env::empty());
        dir.write("inbound: {mode: permissive, listeners: [\"81=127.0.0.1:8080\"]}\n");
        let Reloaded::Applied { needs_restart, .. } = handle.reload().await else { panic!("applied") };
        assert_eq!(needs_restart, ["inbound.listeners"]);
        assert_eq!(handle.load().inbound.mode, weft_core::MtlsMode::Permissive);
        // Nor do connections that began without a header get one.
        dir.write("inbound: {mode: strict, listeners: [\"80=127.0.0.1:8080\"], proxyProtocol: [8080]}\n");
        let Reloaded::Applied { needs_restart, .. } = handle.reload().await else { panic!("applied") };
        assert_eq!(needs_restart, ["inbound.proxyProtocol"]);
        // A destination must not leave the mesh under its listener.
        dir.write("outbound: {listeners: [\"80=a.b.svc.cluster.local:80\"]}\nmesh: {exceptions: [a.b.svc.cluster.local]}\n");
        assert!(matches!(handle.reload().await, Reloaded::Refused(_)));
    }

    #[tokio::test]
    async fn the_trust_domain_stays_that_of_the_start() {
        let text = |td: &str, mode: &str| {
            format!(
                "identity: {{trustDomain: {td}, files: {{certificate: c, key: k, bundle: b}}}}\nmesh: {{mode: {mode}}}\n"
            )
        };
        let dir = Dir::new("");
        std::fs::write(dir.path(), text("one.local", "strict")).unwrap();
        let handle = ConfigHandle::new(&dir.load(), Env::empty());
        std::fs::write(dir.path(), text("two.local", "permissive")).unwrap();
        let Reloaded::Applied { needs_restart, .. } = handle.reload().await else { panic!("applied") };
        assert_eq!(needs_restart, ["identity.trustDomain"]);
        assert_eq!(handle.load().membership.trust_domain().as_str(), "one.local");
    }

    async fn wait_for(handle: &ConfigHandle, version: u64) {
        let mut versions = handle.subscribe();
        let seen = versions.wait_for(|v| *v >= version);
        // Well below POLL, so that this fails when the event itself was not seen.
        tokio::time::timeout(Duration::from_secs(5), seen).await.expect("the change is seen").unwrap();
    }

    #[tokio::test]
    async fn the_watcher_sees_a_write_and_a_rename() {
        let dir = Dir::new("");
        let (handle, task) = watch(&dir.load(), Env::empty());
        let task = tokio::spawn(task);
        tokio::task::yield_now().await;
        dir.write("log: debug\n");
        wait_for(&handle, 2).await;
        let other = dir.dir.path().join("new");
        std::fs::write(&other, format!("{BASE}log: warn\n")).unwrap();
        std::fs::rename(&other, dir.path()).unwrap();
        wait_for(&handle, 3).await;
        assert_eq!(&*handle.load().log, "warn");
        task.abort();
    }

    /// kubelet's way (pkg/volume/util/atomic_writer.go): a new directory, a new symlink, renamed over `..data`.
    #[tokio::test]
    async fn the_watcher_sees_a_config_map_swap() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let version = |name: &str, text: &str| {
            std::fs::create_dir(at(name)).unwrap();
            std::fs::write(at(name).join("weft.yaml"), format!("{BASE}{text}")).unwrap();
            std::os::unix::fs::symlink(name, at("..data_tmp")).unwrap();
            std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        };
        version("..2026_1", "log: info\n");
        std::os::unix::fs::symlink("..data/weft.yaml", at("weft.yaml")).unwrap();
        let initial = ProxyConfig::load(&at("weft.yaml"), &Env::empty()).unwrap();
        let (handle, task) = watch(&initial, Env::empty());
        let task = tokio::spawn(task);
        tokio::task::yield_now().await;
        version("..2026_2", "log: debug\n");
        std::fs::remove_dir_all(at("..2026_1")).unwrap();
        wait_for(&handle, 2).await;
        assert_eq!(&*handle.load().log, "debug");
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_ends_with_its_handle() {
        let dir = Dir::new("");
        let (handle, task) = watch(&dir.load(), Env::empty());
        drop(handle);
        tokio::time::timeout(POLL * 2, task).await.expect("ends");
    }
}
