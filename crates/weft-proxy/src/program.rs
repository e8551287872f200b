//! The program in force: which listeners there are, and where requests and connections go.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;
use weft_route::Program;

/// The program in force, for all threads. Whoever compiles resources publishes here; nobody who reads ever waits.
#[derive(Debug)]
pub struct ProgramHandle {
    current: ArcSwap<Program>,
    /// How often one was published.
    versions: watch::Sender<u64>,
}

impl ProgramHandle {
    /// With an empty program, as long as none is published.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { current: ArcSwap::default(), versions: watch::Sender::new(0) })
    }

    /// The program in force. Cheap; for the way of a request.
    pub fn load(&self) -> Guard<Arc<Program>> {
        self.current.load()
    }

    /// The program in force, to keep.
    pub fn program(&self) -> Arc<Program> {
        self.current.load_full()
    }

    /// Puts a program in force.
    pub fn publish(&self, program: Program) {
        self.current.store(Arc::new(program));
        self.versions.send_modify(|version| *version += 1);
    }

    /// How often one was published; 0: not yet.
    pub fn version(&self) -> u64 {
        *self.versions.borrow()
    }

    /// Tells each new version.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.versions.subscribe()
    }
}
