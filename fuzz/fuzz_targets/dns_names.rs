//! Answers with chains of aliases, from upstream servers into the store of names: no sequence of answers for names outside
//! changes what is known of a mesh address.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_discovery::exercise_names;

// Packets, each with its length in front, as in DNS over TCP.
fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    let mut packets = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let (packet, next) = after.split_at(usize::from(u16::from_be_bytes(*length)).min(after.len()));
        packets.push(packet);
        rest = next;
    }
    assert_eq!(exercise_names(&packets), exercise_names(&[]));
});
