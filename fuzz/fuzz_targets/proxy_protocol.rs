//! PROXY protocol headers from any octets: no panic, a verdict that does not depend on how they were cut, and no header that
//! is longer than it may be. What was read is read again from what is written of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_core::ProxyProtocol;
use weft_net::proxy_protocol::{MAX_HEADER, MAX_LINE, Parsed, ProxyHeader, parse};

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    for n in 0..bytes.len() {
        match parse(&bytes[..n]) {
            Ok(Parsed::NeedMore) => {}
            verdict => assert_eq!(verdict, whole, "after {n} octets"),
        }
    }
    match whole {
        Ok(Parsed::NeedMore) => assert!(bytes.len() < MAX_HEADER),
        Ok(Parsed::Done { header, length }) => {
            assert!(length <= bytes.len() && length <= MAX_HEADER);
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let written = header.encode(version);
                assert!(written.len() <= MAX_LINE);
                // Version 1 has no word of its own for a connection that its maker opened for itself.
                let header = match (version, header) {
                    (ProxyProtocol::V1, ProxyHeader::Local) => ProxyHeader::Unknown,
                    (_, header) => header,
                };
                assert_eq!(parse(&written), Ok(Parsed::Done { header, length: written.len() }));
            }
        }
        Err(_) => {}
    }
});
