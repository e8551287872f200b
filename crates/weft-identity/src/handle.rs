//! The handle that workers read and the publisher that a source writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use weft_core::{SpiffeId, TrustDomain};

use crate::{IdentityError, Leaf, TlsGeneration, TrustBundle};

/// The workload's identity as it is now. Clones are cheap and all see the same.
#[derive(Clone, Debug)]
pub struct Identity(Arc<Shared>);

/// The writing end: held by one source.
#[derive(Debug)]
pub struct Publisher(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    trust_domain: TrustDomain,
    current: ArcSwapOption<TlsGeneration>,
    generation: watch::Sender<u64>,
    renewals_ok: AtomicU64,
    renewals_failed: AtomicU64,
    notes: Mutex<Notes>,
}

/// What only the admin page asks for.
#[derive(Debug, Default)]
struct Notes {
    source: String,
    /// Serial number of the leaf that was last noted: the first, and one that is only read again, renew nothing.
    serial: Option<String>,
    last_renewal: Option<SystemTime>,
    last_error: Option<(SystemTime, String)>,
    next_renewal: Option<SystemTime>,
    bundle_error: Option<(SystemTime, String)>,
}

/// A handle without an identity yet, and the publisher that will give it one.
pub fn identity(trust_domain: TrustDomain) -> (Publisher, Identity) {
    let shared = Arc::new(Shared {
        trust_domain,
        current: ArcSwapOption::empty(),
        generation: watch::Sender::new(0),
        renewals_ok: AtomicU64::new(0),
        renewals_failed: AtomicU64::new(0),
        notes: Mutex::default(),
    });
    (Publisher(shared.clone()), Identity(shared))
}

impl Identity {
    /// The configurations to use for the next handshake; `None` until the source has an identity.
    ///
    /// The last good generation stays here even after its leaf has expired: see [`TlsGeneration::is_valid_at`].
    pub fn current(&self) -> Option<Arc<TlsGeneration>> {
        self.0.current.load_full()
    }

    /// Resolves when there is an identity.
    pub async fn ready(&self) -> Arc<TlsGeneration> {
        let mut generations = self.subscribe();
        loop {
            if let Some(current) = self.current() {
                return current;
            }
            // The sender lives in `self`, so the channel cannot be closed here.
            let _ = generations.changed().await;
        }
    }

    /// The number of the current generation, 0 while there is none, and each change of it.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }

    /// The mesh this workload belongs to.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// The state for the admin page and the metrics.
    pub fn status(&self) -> IdentityStatus {
        let current = self.current();
        let notes = self.0.notes();
        IdentityStatus {
            source: notes.source.clone(),
            generation: current.as_ref().map_or(0, |current| current.generation),
            leaf: current.as_ref().map(|current| LeafStatus {
                id: current.own.clone(),
                serial: current.serial.clone(),
                not_before: current.not_before,
                not_after: current.not_after,
            }),
            bundle: current.as_ref().map(|current| BundleStatus {
                hash: current.bundle_hash.clone(),
                roots: current
                    .bundle
                    .subjects()
                    .map(|(subject, not_after)| RootStatus { subject: subject.to_owned(), not_after })
                    .collect(),
            }),
            last_renewal: notes.last_renewal,
            next_renewal: notes.next_renewal,
            last_error: notes.last_error.clone(),
            bundle_error: notes.bundle_error.clone(),
            renewals_ok: self.0.renewals_ok.load(Ordering::Relaxed),
            renewals_failed: self.0.renewals_failed.load(Ordering::Relaxed),
        }
    }
}

impl Shared {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        // Notes are whole after each statement; a panic elsewhere does not spoil them.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Publisher {
    /// Makes leaf and bundle the current generation and returns its number. The same pair again changes nothing.
    ///
    /// # Errors
    /// As [`TlsGeneration::build`]; the current generation stays.
    pub fn publish(&self, leaf: &Leaf, bundle: &TrustBundle) -> Result<u64, IdentityError> {
        let current = self.0.current.load();
        if let Some(current) = current.as_ref()
            && current.is_of(leaf, bundle)
        {
            return Ok(current.generation);
        }
        let generation = current.as_ref().map_or(0, |current| current.generation) + 1;
        let built = TlsGeneration::build(generation, leaf, bundle, &self.0.trust_domain)?;
        self.0.current.store(Some(Arc::new(built)));
        self.0.generation.send_replace(generation);
        tracing::info!(
            generation,
            id = %leaf.id(),
            serial = leaf.serial(),
            not_after = %crate::leaf::rfc3339(leaf.not_after()),
            bundle = bundle.hash(),
            "identity in use"
        );
        Ok(generation)
    }

    /// Notes that the published leaf was just fetched or read, and when the next one is due. It counts as a renewal where
    /// it follows another leaf.
    pub fn renewed(&self, next: Option<SystemTime>) {
        let serial = self.0.current.load().as_ref().map(|current| current.serial.clone());
        let mut notes = self.0.notes();
        if notes.serial.is_some() && notes.serial != serial {
            self.0.renewals_ok.fetch_add(1, Ordering::Relaxed);
        }
        notes.serial = serial;
        notes.last_renewal = Some(SystemTime::now());
        notes.last_error = None;
        notes.next_renewal = next;
    }

    /// Counts an attempt that failed. Logging it is the source's business.
    pub fn failed(&self, error: &IdentityError) {
        self.0.renewals_failed.fetch_add(1, Ordering::Relaxed);
        self.0.notes().last_error = Some((SystemTime::now(), error.to_string()));
    }

    /// Notes that the bundle was heard of, or why not.
    pub fn bundle_heard(&self, heard: Result<(), &IdentityError>) {
        self.0.notes().bundle_error = heard.err().map(|error| (SystemTime::now(), error.to_string()));
    }

    /// Says where the identity comes from, for the admin page.
    pub fn set_source(&self, source: impl Into<String>) {
        self.0.notes().source = source.into();
    }

    /// The mesh this workload belongs to.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }
}

/// The state of an [`Identity`] at one moment.
#[derive(Debug, Clone)]
pub struct IdentityStatus {
    /// Where it comes from: `files ...` or `ca <address>`.
    pub source: String,
    /// The number of the current generation; 0 while there is none.
    pub generation: u64,
    /// The own leaf.
    pub leaf: Option<LeafStatus>,
    /// The roots that peers are verified with.
    pub bundle: Option<BundleStatus>,
    /// When a leaf was last fetched or read.
    pub last_renewal: Option<SystemTime>,
    /// When the next one is due, where the source decides it.
    pub next_renewal: Option<SystemTime>,
    /// The failure since the last renewal that worked.
    pub last_error: Option<(SystemTime, String)>,
    /// The failure since the bundle was last heard of, where it is streamed.
    pub bundle_error: Option<(SystemTime, String)>,
    /// Renewals that worked, since the start: leaves after the first.
    pub renewals_ok: u64,
    /// Attempts to get a leaf that failed, since the start; those for the first included.
    pub renewals_failed: u64,
}

/// The own leaf.
#[derive(Debug, Clone)]
pub struct LeafStatus {
    /// Whose it is.
    pub id: SpiffeId,
    /// Lower-case hex.
    pub serial: String,
    /// The start of its validity.
    pub not_before: SystemTime,
    /// The end of its validity.
    pub not_after: SystemTime,
}

/// The trust bundle.
#[derive(Debug, Clone)]
pub struct BundleStatus {
    /// [`TrustBundle::hash`].
    pub hash: String,
    /// Each certificate in it.
    pub roots: Vec<RootStatus>,
}

/// One CA certificate.
#[derive(Debug, Clone)]
pub struct RootStatus {
    /// Its subject name (RFC 4514 text).
    pub subject: String,
    /// The end of its validity.
    pub not_after: SystemTime,
}
