//! Buffers that belong to a thread.
//!
//! Connections borrow a buffer while bytes are under way and give it back before they wait, so the number of buffers
//! follows the number of connections that move data at one moment, not the number that are open. Three sizes, each a
//! quarter of the next; what is kept per size is bounded, the rest goes back to the allocator.

use std::cell::RefCell;
use std::mem;

/// Sizes of buffers in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SizeClass {
    /// 16 KiB: one full TLS record (RFC 8446 section 5.1).
    Small,
    /// 64 KiB.
    Medium,
    /// 256 KiB.
    Large,
}

impl SizeClass {
    const ALL: usize = 3;

    /// The size in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Small => 16 << 10,
            Self::Medium => 64 << 10,
            Self::Large => 256 << 10,
        }
    }

    /// The next larger class, or the same if there is none.
    pub const fn larger(self) -> Self {
        match self {
            Self::Small => Self::Medium,
            Self::Medium | Self::Large => Self::Large,
        }
    }

    /// The next smaller class, or the same if there is none.
    pub const fn smaller(self) -> Self {
        match self {
            Self::Small | Self::Medium => Self::Small,
            Self::Large => Self::Medium,
        }
    }

    /// How many unused buffers a thread keeps: half a MiB of each class.
    const fn kept(self) -> usize {
        (512 << 10) / self.bytes()
    }
}

#[derive(Default)]
struct Pool {
    free: [Vec<Box<[u8]>>; SizeClass::ALL],
    lent: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// What the calling thread's pool holds; for tests and the admin server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStats {
    /// Buffers in use.
    pub lent: usize,
    /// Bytes kept for later.
    pub kept_bytes: usize,
}

/// What the calling thread's pool holds.
pub fn stats() -> PoolStats {
    POOL.with_borrow(|pool| PoolStats {
        lent: pool.lent,
        kept_bytes: pool.free.iter().flatten().map(|buffer| buffer.len()).sum(),
    })
}

/// A buffer on loan; dropping it gives it back to the pool of the thread it is dropped on. Its content is what the last
/// user left in it.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    class: SizeClass,
}

impl Buffer {
    /// Takes a buffer from the pool of the calling thread, or makes one.
    pub fn take(class: SizeClass) -> Self {
        let pooled = POOL.with_borrow_mut(|pool| {
            pool.lent += 1;
            pool.free.get_mut(class as usize).and_then(Vec::pop)
        });
        let bytes = pooled.unwrap_or_else(|| vec![0; class.bytes()].into_boxed_slice());
        Self { bytes, class }
    }

    /// The size class.
    pub fn class(&self) -> SizeClass {
        self.class
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = mem::take(&mut self.bytes);
        let class = self.class;
        // While a thread ends, its pool may be gone before its last buffer: then the buffer is simply freed.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            // A buffer may be dropped on another thread than the one that took it.
            pool.lent = pool.lent.saturating_sub(1);
            if let Some(free) = pool.free.get_mut(class as usize)
                && free.len() < class.kept()
            {
                free.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_and_is_used_again() {
        let before = stats();
        let mut buffer = Buffer::take(SizeClass::Medium);
        buffer[0] = 7;
        assert_eq!(stats().lent, before.lent + 1);
        let at = buffer.as_ptr();
        drop(buffer);
        assert_eq!(stats().lent, before.lent);
        let again = Buffer::take(SizeClass::Medium);
        assert_eq!((again.as_ptr(), again.len()), (at, SizeClass::Medium.bytes()));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let many: Vec<Buffer> = (0..200).map(|_| Buffer::take(SizeClass::Small)).collect();
        drop(many);
        assert_eq!(stats().kept_bytes, 512 << 10);
    }
}
