//! What a server says before its client has.

/// The frame type of SETTINGS (RFC 9113 section 6.5).
const SETTINGS: u8 = 4;

/// The size of one setting, of which a frame's payload is made.
const SETTING: u32 = 6;

/// The largest payload before the peer has allowed more (RFC 9113 section 4.2).
const MAX_FRAME: u32 = 1 << 14;

/// The version that an answer begins with (RFC 9112 section 4).
const STATUS_LINE: &[u8] = b"HTTP/1.";

/// What a server that speaks first says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// It may still become one of the others.
    NeedMore,
    /// HTTP/2: servers may send their preface, a SETTINGS frame, at once (RFC 9113 section 3.4), and many do.
    Http2,
    /// An answer of HTTP/1 that nobody asked for, such as 408 to a client that is silent for too long.
    Http1,
    /// Another protocol, in which servers speak first.
    Other,
}

/// Looks at the first bytes that a server says. As with [`detect`](super::detect), a verdict is not changed by more bytes.
///
/// ```
/// use weft_net::detect::{Greeting, greeting};
///
/// assert_eq!(greeting(b"220 mail.example ESMTP\r\n"), Greeting::Other);
/// assert_eq!(greeting(&[0, 0, 6, 4, 0, 0, 0, 0, 0]), Greeting::Http2);
/// ```
pub fn greeting(bytes: &[u8]) -> Greeting {
    match bytes.first() {
        None => Greeting::NeedMore,
        Some(0) => settings(bytes),
        Some(_) if !STATUS_LINE.iter().zip(bytes).all(|(a, b)| a == b) => Greeting::Other,
        Some(_) if bytes.len() < STATUS_LINE.len() => Greeting::NeedMore,
        Some(_) => Greeting::Http1,
    }
}

/// The header of a frame: length, type, flags, stream. The first one acknowledges nothing and is about no stream.
fn settings(bytes: &[u8]) -> Greeting {
    if let Some(&[a, b, c]) = bytes.first_chunk() {
        let length = u32::from_be_bytes([0, a, b, c]);
        if !length.is_multiple_of(SETTING) || length > MAX_FRAME {
            return Greeting::Other;
        }
    }
    // The uppermost bit of the stream is reserved, to be ignored.
    let fits = bytes.iter().skip(3).take(6).zip([SETTINGS, 0, 0, 0, 0, 0]).enumerate();
    let fits = fits.into_iter().all(|(at, (got, wanted))| got & if at == 2 { 0x7f } else { 0xff } == wanted);
    match bytes.len() {
        _ if !fits => Greeting::Other,
        length if length < 9 => Greeting::NeedMore,
        _ => Greeting::Http2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_speak_first() {
        let cases: &[(&[u8], Greeting)] = &[
            (b"\0\0\0\x04\0\0\0\0\0", Greeting::Http2),
            (b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0d", Greeting::Http2),
            (b"\0\0\x12\x04\0\x80\0\0\0", Greeting::Http2),
            (b"HTTP/1.1 408 Request Timeout\r\n", Greeting::Http1),
            (b"HTTP/1.0 400 Bad\r\n", Greeting::Http1),
            (b"\0\0\x07\x04\0\0\0\0\0", Greeting::Other),
            (b"\0\0\0\x04\x01\0\0\0\0", Greeting::Other),
            (b"\0\0\0\x04\0\0\0\0\x01", Greeting::Other),
            (b"\0\0\0\x06\0\0\0\0\0", Greeting::Other),
            (b"\0\x50\0\x04\0\0\0\0\0", Greeting::Other),
            (b"220 mail ready\r\n", Greeting::Other),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Greeting::Other),
            (b"HELLO\r\n", Greeting::Other),
            (b"\x4a\0\0\0\x0a5.5.5-10.11.6-MariaDB\0", Greeting::Other),
            (b"+OK ready\r\n", Greeting::Other),
            (b"INFO {\"server_id\":\"x\"}\r\n", Greeting::Other),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(greeting(bytes), *wanted, "{:?}", String::from_utf8_lossy(bytes));
            for at in 0..bytes.len() {
                let part = greeting(&bytes[..at]);
                assert!(part == Greeting::NeedMore || part == *wanted, "{bytes:?} to {at}: {part:?}");
            }
        }
    }
}
