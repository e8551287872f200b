//! The chunked coding (RFC 9112 section 7.1), read strictly: a line that two readers could end at different places is an
//! error.

use bytes::{Buf, BytesMut};

/// Octets that a chunk's line may have besides its size: extensions, of which nobody has a use.
const MOST_EXTENSION: usize = 1024;

/// Octets of extensions that all chunks of a body may have: a body of nothing else is an attack.
const MOST_EXTENSIONS: usize = 64 * 1024;

/// Reads sizes and ends of chunks; what is between them is data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    state: State,
    extensions: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A size, so many digits of which have come.
    Size(u64, u8),
    /// So many octets behind the size.
    Extension(u64, usize),
    /// The LF behind the size.
    SizeEnd(u64),
    /// So many octets of data are to come.
    Data(u64),
    /// The CR and the LF behind the data.
    DataCr,
    DataLf,
    /// The trailers.
    Trailers,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// So many octets of data, of which some may be there.
    Data(u64),
    /// The last chunk has come: trailers follow.
    Trailers,
    /// Nothing, before more has been read.
    More,
}

impl Chunks {
    pub(super) fn new() -> Self {
        Self { state: State::Size(0, 0), extensions: 0 }
    }

    /// Reads lines off the front of `buf` until there is data.
    pub(super) fn next(&mut self, buf: &mut BytesMut) -> Result<Next, &'static str> {
        loop {
            match self.state {
                State::Data(left) => return Ok(Next::Data(left)),
                State::Trailers => return Ok(Next::Trailers),
                _ => {}
            }
            let Some(byte) = buf.first().copied() else { return Ok(Next::More) };
            self.state = self.step(byte)?;
            buf.advance(1);
        }
    }

    /// So many octets of data have been taken.
    pub(super) fn taken(&mut self, octets: u64) {
        if let State::Data(left) = self.state {
            let left = left.saturating_sub(octets);
            self.state = if left == 0 { State::DataCr } else { State::Data(left) };
        }
    }

    fn step(&mut self, byte: u8) -> Result<State, &'static str> {
        match (self.state, byte) {
            (State::Size(size, digits), byte) if byte.is_ascii_hexdigit() => {
                // Sixteen digits are 64 bits.
                if digits == 16 {
                    return Err("a chunk that is too large");
                }
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                Ok(State::Size(size << 4 | digit, digits + 1))
            }
            (State::Size(_, 0), _) => Err("a chunk without a size"),
            (State::Size(size, _) | State::Extension(size, _), b'\r') => Ok(State::SizeEnd(size)),
            // Section 7.1.1 has white space before a semicolon, which some senders pad sizes with.
            (State::Size(size, _), b';' | b' ' | b'\t') => Ok(State::Extension(size, 1)),
            (State::Extension(size, octets), byte) => {
                self.extensions += 1;
                let legal = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
                if !legal || octets >= MOST_EXTENSION || self.extensions > MOST_EXTENSIONS {
                    return Err("a chunk extension");
                }
                Ok(State::Extension(size, octets + 1))
            }
            (State::SizeEnd(0), b'\n') => Ok(State::Trailers),
            (State::SizeEnd(size), b'\n') => Ok(State::Data(size)),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size(0, 0)),
            _ => Err("a chunk's line"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Data and whether the last chunk has come; `None`: it is malformed.
    fn read(pieces: &[&[u8]]) -> Option<(Vec<u8>, bool)> {
        let (mut chunks, mut buf, mut data) = (Chunks::new(), BytesMut::new(), Vec::new());
        for piece in pieces {
            buf.extend_from_slice(piece);
            loop {
                match chunks.next(&mut buf).ok()? {
                    Next::More => break,
                    Next::Trailers => return Some((data, true)),
                    Next::Data(_) if buf.is_empty() => break,
                    Next::Data(left) => {
                        let octets = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
                        data.extend_from_slice(&buf.split_to(octets));
                        chunks.taken(octets as u64);
                    }
                }
            }
        }
        Some((data, false))
    }

    #[test]
    fn chunks_are_read() {
        assert_eq!(read(&[b"3\r\nabc\r\n0\r\n"]), Some((b"abc".to_vec(), true)));
        assert_eq!(read(&[b"0003;a=\"b\"\r\nabc\r\n00\r\n"]), Some((b"abc".to_vec(), true)));
        assert_eq!(read(&[b"3  \r\nab"]), Some((b"ab".to_vec(), false)));
        assert_eq!(read(&[b"A\r\n0123456789\r\n"]), Some((b"0123456789".to_vec(), false)));
    }

    #[test]
    fn what_two_readers_could_take_differently_is_refused() {
        for bad in [
            &b"\r\n"[..],
            b" 3\r\n",
            b"3\nabc\r\n",
            b"3\r\nabcd\r\n",
            b"3\r\nabc\n0\r\n",
            b"3\r\nabc0\r\n",
            b"-3\r\n",
            b"0x3\r\n",
            b"3;\n\r\n",
            b"3;a\x00\r\n",
            b"3\r\r\n",
            b"3g\r\n",
            b"11111111111111111\r\n",
        ] {
            assert_eq!(read(&[bad]), None, "{}", String::from_utf8_lossy(bad));
        }
        let long = [b"3;".as_slice(), &[b'a'; MOST_EXTENSION + 1]].concat();
        assert_eq!(read(&[&long]), None);
        let many = b"1;aaaaaaaaaaaaaaaa\r\nx\r\n".repeat(MOST_EXTENSIONS / 16 + 1);
        assert!(read(&[&many]).is_none());
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            data in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..5),
            cut in 0usize..100,
        ) {
            let mut wire = Vec::new();
            for piece in &data {
                wire.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                wire.extend_from_slice(piece);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n");
            let (first, second) = wire.split_at(cut.min(wire.len()));
            prop_assert_eq!(read(&[first, second]), Some((data.concat(), true)));
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&[&bytes]);
        }
    }
}
