//! What is open: counted, and bounded.

use std::cell::Cell;
use std::rc::Rc;

use weft_telemetry::metrics::Direction;

use crate::telemetry::WorkerTelemetry;

/// The accepted connections of a worker that are open.
#[derive(Default)]
pub(crate) struct OpenConnections(Rc<Cell<usize>>);

impl OpenConnections {
    /// Counts one more in.
    pub(crate) fn guard(&self, telemetry: &Rc<WorkerTelemetry>, direction: Direction) -> OpenGuard {
        self.0.set(self.0.get() + 1);
        let counters = telemetry.of(direction);
        counters.accepted.inc();
        counters.open.inc();
        OpenGuard { open: Rc::clone(&self.0), telemetry: Rc::clone(telemetry), direction }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.get()
    }
}

/// Counts an accepted connection while it is open.
pub(crate) struct OpenGuard {
    open: Rc<Cell<usize>>,
    telemetry: Rc<WorkerTelemetry>,
    direction: Direction,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
        self.telemetry.of(self.direction).open.dec();
    }
}
