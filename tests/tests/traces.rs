//! Traces as a real collector gets them: one tree for a request through several pods, headers that fit, decisions that
//! hold, failures that are told; access log lines that lead to the trace; and metrics as the same collector gets them.

#[path = "traces/access.rs"]
mod access;
#[path = "traces/context.rs"]
mod context;
#[path = "traces/failures.rs"]
mod failures;
#[path = "traces/metrics.rs"]
mod metrics;
#[path = "traces/sampling.rs"]
mod sampling;
#[path = "traces/shop.rs"]
mod shop;
#[path = "traces/tree.rs"]
mod tree;
