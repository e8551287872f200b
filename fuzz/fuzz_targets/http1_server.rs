//! A hostile application behind a pool in paused time: no panic, nothing left in the pool, an end.
#![no_main]

#[path = "../bodies/http1.rs"]
#[allow(dead_code, reason = "each target uses one of them")]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| bodies::http1_server(input));
