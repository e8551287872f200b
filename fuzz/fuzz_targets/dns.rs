//! DNS packets of the application and of an upstream server, on any bytes: no panic, and every reply is an answer to the
//! query that it belongs to.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_discovery::exercise_wire;

// The application's packet with its length in front, as in DNS over TCP, and then the server's.
fuzz_target!(|packets: &[u8]| {
    let Some((length, packets)) = packets.split_first_chunk() else { return };
    let (request, answer) = packets.split_at(usize::from(u16::from_be_bytes(*length)).min(packets.len()));
    for reply in exercise_wire(request, answer) {
        assert!(reply.len() >= 12, "a header at least: {reply:?}");
        assert_eq!(reply[..2], request[..2], "the id of the query");
        assert_eq!(reply[2] & 0x80, 0x80, "a response");
    }
});
