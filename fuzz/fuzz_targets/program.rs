//! Resources to a program, and requests to that: whatever a file says, it compiles to something that answers.
#![no_main]

#[path = "../bodies/program.rs"]
mod bodies;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| bodies::program(text));
