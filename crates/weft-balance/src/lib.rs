//! Which endpoint takes the next request.
//!
//! The peers put a queue and a task between a request and its balancer; here a pick is a few atomic loads over an
//! immutable array, done inline by the worker that has the request. So what must be shared between workers is only what
//! makes the choice good: per endpoint, the requests in flight, the latency, and whether it can be connected to. All of
//! it is atomics; nothing here locks or allocates while a request waits.
//!
//! * [`Endpoint`] is that shared state, one per address, and [`InFlight`] the guard of one request.
//! * [`EndpointSet`] follows the lists that discovery publishes and keeps the state of addresses that stay.
//! * [`Picker`] chooses. Indexes rather than references are chosen, so that a worker can hold its own connections to an
//!   endpoint at the same index of an array of its own.
//!
//! `docs/design/balancing.md` has the reasons for the numbers.

mod endpoint;
mod ewma;
mod picker;
mod set;
mod time;

pub use endpoint::{Availability, CONNECT_BACKOFF, CONNECT_BACKOFF_MAX, Endpoint, InFlight, Outcome};
pub use ewma::{DECAY, SEED_LATENCY};
pub use picker::Picker;
pub use set::{EndpointSet, Snapshot};
pub use time::Timestamp;
