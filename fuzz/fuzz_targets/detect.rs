//! Protocol detection on any bytes: no panic, and a verdict that does not depend on how the bytes were cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_net::detect::{Detection, detect};

fuzz_target!(|bytes: &[u8]| {
    let whole = detect(bytes);
    for n in 0..bytes.len() {
        match detect(&bytes[..n]) {
            Detection::NeedMore { at_least } => assert!(at_least > n),
            verdict => assert_eq!(verdict, whole, "after {n} bytes"),
        }
    }
});
