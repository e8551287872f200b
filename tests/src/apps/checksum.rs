//! A running checksum over a byte stream, and the pattern that is sent, both cheap enough for hundreds of megabytes.

use bytes::{Bytes, BytesMut};

/// FNV-1a, 64 bits (draft-eastlake-fnv): it sees a lost, doubled, swapped or changed byte.
#[derive(Debug, Clone, Copy)]
pub struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Checksum {
    /// Takes the next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The sum so far.
    pub fn value(self) -> u64 {
        self.0
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
        sum.0
    }
}

/// The next bytes of a pattern of `count` bytes, from `at` on: 64 KiB at the most. The byte at an offset depends on the
/// whole offset, so that a piece in a wrong place changes the sum.
pub fn piece(at: u64, count: u64) -> Bytes {
    let length = count.saturating_sub(at).min(65_536);
    let mut bytes = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
    for offset in at..at + length {
        // The top byte of a multiplicative hash; the constant is 2^64 divided by the golden ratio.
        let [top, ..] = offset.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        bytes.extend_from_slice(&[top]);
    }
    bytes.freeze()
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
        let whole = pattern(200_000);
        assert_eq!(whole.len(), 200_000);
        let mut sum = Checksum::default();
        sum.add(&whole);
        assert_eq!(sum.value(), Checksum::of_pattern(200_000));
        let mut swapped = Checksum::default();
        swapped.add(&whole[65_536..131_072]);
        swapped.add(&whole[..65_536]);
        swapped.add(&whole[131_072..]);
        assert_ne!(swapped.value(), sum.value());
    }
}
