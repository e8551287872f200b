//! Hashing of places in memory, by which a request finds what its kind has found before.
//!
//! The keys are addresses of what the program made, which no client chooses: they need no hash that withstands an attacker, which would
//! cost more than all the rest of such a look-up.

use std::hash::{BuildHasherDefault, Hasher};

/// For maps whose keys are places.
pub(super) type ByPlace = BuildHasherDefault<PlaceHasher>;

#[derive(Debug, Default)]
pub(super) struct PlaceHasher(u64);

/// 2^64 divided by the golden ratio, made odd (Knuth, "The Art of Computer Programming", volume 3, section 6.4): what differs in a few
/// bits is far apart after a multiplication by it.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for PlaceHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(size_of::<u64>()) {
            let mut word = [0; size_of::<u64>()];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.write_u64(u64::from_ne_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(GOLDEN);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        // A map takes its place from the low bits and its tag from the high ones; a multiplication mixes upwards only.
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher as _;

    use super::*;

    #[test]
    fn places_are_told_apart() {
        let hash = |place: [usize; 3]| ByPlace::default().hash_one(place);
        let at = |n: usize| 0x7f00_0000_0000 + n * 64;
        let places =
            (0..20).flat_map(|a| (0..20).flat_map(move |b| (0..20).map(move |c| [at(a), at(b), at(c)])));
        let hashes: Vec<u64> = places.map(hash).collect();
        assert_eq!(hashes.iter().collect::<HashSet<_>>().len(), hashes.len());
        // As a map of 1,024 buckets takes them.
        let mut buckets = vec![0; 1024];
        for hash in &hashes {
            buckets[*hash as usize % 1024] += 1;
        }
        assert!(buckets.iter().all(|bucket| *bucket < 40), "{:?}", buckets.iter().max());
    }
}
