//! Answers from bytes to events to bytes: how they are cut changes nothing, and what is written means the same again.
#![no_main]

#[path = "../bodies/http1.rs"]
#[allow(dead_code, reason = "each target uses one of them")]
mod bodies;

libfuzzer_sys::fuzz_target!(|input: &[u8]| bodies::http1_answer(input));
