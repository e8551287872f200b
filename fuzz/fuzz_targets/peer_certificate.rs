//! A peer's certificate, on any bytes: no panic, and whoever is found in it has an identity that is well-formed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;
use weft_core::SpiffeId;
use weft_identity::PeerIdentity;

fuzz_target!(|der: &[u8]| {
    if let Ok(peer) = PeerIdentity::from_chain(&[CertificateDer::from(der)]) {
        assert_eq!(peer.id.to_string().parse::<SpiffeId>().as_ref(), Ok(&peer.id));
    }
});
