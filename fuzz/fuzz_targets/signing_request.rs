//! What a workload asks the CA to sign, on any bytes: no panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|der: &[u8]| {
    let _ = weft_ca::accepts_signing_request(der);
});
