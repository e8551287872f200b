//! A hostile client of a server in paused time: no panic, no request that was not sent, an end.
#![no_main]

#[path = "../bodies/http1.rs"]
#[allow(dead_code, reason = "each target uses one of them")]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| bodies::http1_client(input));
