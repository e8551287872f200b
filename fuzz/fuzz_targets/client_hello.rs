//! The ClientHello parser: the input is the body of the message, wrapped here into a message and into records, so that
//! no effort of the fuzzer goes into lengths. However it is cut into records, the verdict is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_net::detect::{Detected, Detection, detect};

fn records(message: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in message.chunks(size) {
        bytes.extend_from_slice(&[22, 3, 1]);
        bytes.extend_from_slice(&(part.len() as u16).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

fuzz_target!(|body: &[u8]| {
    let body = &body[..body.len().min(4096)];
    let mut message = vec![1];
    message.extend_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
    message.extend_from_slice(body);

    let whole = detect(&records(&message, 1 << 14));
    assert_eq!(detect(&records(&message, 100)), whole);
    if let Detection::Done(Detected::Tls(hello)) = whole {
        assert!(hello.server_name().is_none_or(|name| !name.is_empty() && name.is_ascii()));
        assert!(hello.alpn().all(|name| !name.is_empty()));
    }
});
