//! Ids as bytes, their hexadecimal form without formatting machinery, and where new ones come from.

use std::fmt;

/// A trace's id; never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// A span's id; never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

macro_rules! id {
    ($name:ident, $len:literal) => {
        impl $name {
            /// An id from its bytes; `None` for all zero, which means "no id" everywhere.
            pub fn new(bytes: [u8; $len]) -> Option<Self> {
                (bytes != [0; $len]).then_some(Self(bytes))
            }

            /// The bytes, most significant first.
            pub fn bytes(self) -> [u8; $len] {
                self.0
            }

            /// Lower-case hexadecimal.
            pub fn hex(self) -> [u8; 2 * $len] {
                let mut out = [0; 2 * $len];
                write_hex(&self.0, &mut out);
                out
            }

            /// Reads exactly the right number of hexadecimal digits. `upper` admits capital letters.
            pub(super) fn from_hex(text: &[u8], upper: bool) -> Option<Self> {
                let mut bytes = [0; $len];
                if text.len() != 2 * $len {
                    return None;
                }
                for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
                    *byte = read_pair(pair, upper)?;
                }
                Self::new(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(std::str::from_utf8(&self.hex()).unwrap_or(""))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(TraceId, 16);
id!(SpanId, 8);

/// Writes two digits per byte, as many as fit.
pub(super) fn write_hex(bytes: &[u8], out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        if let [high, low] = pair {
            *high = DIGITS[usize::from(byte >> 4)];
            *low = DIGITS[usize::from(byte & 15)];
        }
    }
}

/// The value of two hexadecimal digits.
pub(super) fn read_pair(pair: &[u8], upper: bool) -> Option<u8> {
    match pair {
        [high, low] => Some((digit(*high, upper)? << 4) | digit(*low, upper)?),
        _ => None,
    }
}

fn digit(c: u8, upper: bool) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        b'A'..=b'F' if upper => Some(c - b'A' + 10),
        _ => None,
    }
}

/// A fast generator for ids, one per worker. Ids need to be unique, not secret: a wyrand seeded from the system's
/// randomness is enough, and costs a nanosecond.
#[derive(Debug)]
pub struct IdRng(fastrand::Rng);

impl IdRng {
    /// A generator with a seed of its own.
    pub fn new() -> Self {
        Self(fastrand::Rng::with_seed(seed()))
    }

    /// A repeatable generator, for tests.
    pub fn with_seed(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// A new trace id.
    pub fn trace_id(&mut self) -> TraceId {
        loop {
            if let Some(id) = TraceId::new(self.0.u128(..).to_be_bytes()) {
                return id;
            }
        }
    }

    /// A new span id.
    pub fn span_id(&mut self) -> SpanId {
        loop {
            if let Some(id) = SpanId::new(self.0.u64(..).to_be_bytes()) {
                return id;
            }
        }
    }
}

impl Default for IdRng {
    fn default() -> Self {
        Self::new()
    }
}

/// 64 bits of system randomness: every replica of a workload starts at the same moment with the same addresses in its
/// memory, so neither clock nor layout may be what tells their ids apart.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // RandomState is keyed from the operating system's generator once per thread; the hash mixes in what differs between
    // two calls on one thread.
    RandomState::new().hash_one((std::process::id(), fastrand::u64(..)))
}
