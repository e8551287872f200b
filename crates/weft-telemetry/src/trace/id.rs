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
                read_hex(text, &mut bytes, upper)?;
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

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Writes two digits per byte, as many as fit.
pub(super) fn write_hex(bytes: &[u8], out: &mut [u8]) {
    for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        if let [high, low] = pair {
            *high = DIGITS[usize::from(byte >> 4)];
            *low = DIGITS[usize::from(byte & 15)];
        }
    }
}

/// The value of two hexadecimal digits.
pub(super) fn read_pair(pair: &[u8], upper: bool) -> Option<u8> {
    let mut byte = [0];
    read_hex(pair, &mut byte, upper)?;
    Some(byte[0])
}

/// Reads two digits for each byte. All are looked up before the first is judged: every request has 48 of them.
fn read_hex(text: &[u8], bytes: &mut [u8], upper: bool) -> Option<()> {
    let digits = if upper { &ANY_CASE } else { &LOWER_CASE };
    let mut all = if text.len() == 2 * bytes.len() { 0 } else { NO_DIGIT };
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        if let [high, low] = pair {
            let (high, low) = (digits[usize::from(*high)], digits[usize::from(*low)]);
            all |= high | low;
            *byte = (high << 4) | low;
        }
    }
    (all < NO_DIGIT).then_some(())
}

/// Marks what is no digit; the values of digits have none of its bits.
const NO_DIGIT: u8 = 0xf0;
const LOWER_CASE: [u8; 256] = digits(false);
const ANY_CASE: [u8; 256] = digits(true);

const fn digits(upper: bool) -> [u8; 256] {
    let mut table = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        let digit = DIGITS[value];
        table[digit as usize] = value as u8;
        if upper {
            table[digit.to_ascii_uppercase() as usize] = value as u8;
        }
        value += 1;
    }
    table
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
