//! A running checksum over a byte stream, and the pattern that is sent, both cheap enough for hundreds of megabytes in a
//! build without optimization.

use std::sync::OnceLock;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::{Bytes, BytesMut};

/// The pattern repeats after so many bytes: a prime, so that no buffer size divides it and a piece that is lost, doubled
/// or moved by whole buffers shows.
const PERIOD: usize = 1_048_573;

/// The largest piece.
const PIECE: u64 = 65_536;

/// SHA-256: it sees a lost, doubled, moved or changed byte.
#[derive(Clone)]
pub struct Checksum(Context);

impl Default for Checksum {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl std::fmt::Debug for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Checksum({:016x})", self.value())
    }
}

impl Checksum {
    /// Takes the next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The first 64 bits of the sum so far.
    pub fn value(&self) -> u64 {
        let digest = self.0.clone().finish();
        digest.as_ref().iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    /// The sum of the pattern's first `count` bytes.
    pub fn of_pattern(count: u64) -> u64 {
        let mut sum = Self::default();
        let mut at = 0;
        while at < count {
            let piece = piece(at, count);
            sum.add(&piece);
            at += piece.len() as u64;
        }
        sum.value()
    }
}

fn period() -> &'static Bytes {
    static BYTES: OnceLock<Bytes> = OnceLock::new();
    BYTES.get_or_init(|| {
        // The top byte of a multiplicative hash; the constant is 2^64 divided by the golden ratio.
        let byte = |offset: usize| (offset as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0];
        (0..PERIOD).map(byte).collect()
    })
}

/// The next bytes of a pattern of `count` bytes, from `at` on: 64 KiB at the most, at least one unless `at` is the end.
pub fn piece(at: u64, count: u64) -> Bytes {
    let begin = usize::try_from(at % PERIOD as u64).unwrap_or(0);
    let length = usize::try_from(count.saturating_sub(at).min(PIECE)).unwrap_or(0);
    period().slice(begin..PERIOD.min(begin + length))
}

/// The whole pattern at once, for sizes that fit a message.
pub fn pattern(count: u64) -> Bytes {
    let mut bytes = BytesMut::new();
    while (bytes.len() as u64) < count {
        bytes.extend_from_slice(&piece(bytes.len() as u64, count));
    }
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_and_whole_agree_and_order_matters() {
        let whole = pattern(2_000_000);
        assert_eq!(whole.len(), 2_000_000);
        let mut sum = Checksum::default();
        sum.add(&whole);
        assert_eq!(sum.value(), Checksum::of_pattern(2_000_000));
        let mut swapped = Checksum::default();
        swapped.add(&whole[65_536..131_072]);
        swapped.add(&whole[..65_536]);
        swapped.add(&whole[131_072..]);
        assert_ne!(swapped.value(), sum.value());
    }
}
