//! The allocator: mimalloc, without transparent huge pages (an idle sidecar then has 6 MB and not 15).
//!
//! The crate `mimalloc` would do, but it asks for an alignment with every allocation, and above 1 KiB mimalloc then
//! allocates more than it needs to and looks for a place inside. What almost all types ask for is what plain `malloc`
//! gives, in half the instructions; a request makes some 15 allocations in each proxy.
#![expect(unsafe_code, reason = "an allocator hands out memory: its trait and C's functions are unsafe")]

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys as mi;

/// Keeps small allocations cheap, and those of one thread apart from another's.
#[global_allocator]
static ALLOCATOR: Mimalloc = Mimalloc;

struct Mimalloc;

/// The alignment of everything that `malloc` gives of at least that size (C17 section 7.22.3; `MI_MAX_ALIGN_SIZE` in
/// mimalloc's types.h). Smaller pieces are aligned for what fits into them.
const MALLOC_ALIGN: usize = 16;

fn is_plain(align: usize, size: usize) -> bool {
    align <= MALLOC_ALIGN && align <= size
}

// SAFETY: memory comes from mimalloc alone, with the size that the layout asks for and at least its alignment, and goes
// back to it; any of its pointers may be freed and resized by any of its functions, whichever made it.
unsafe impl GlobalAlloc for Mimalloc {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: any size is allowed, and an alignment that is a power of two, as that of a layout is.
        unsafe {
            if is_plain(align, size) { mi::mi_malloc(size) } else { mi::mi_malloc_aligned(size, align) }
                .cast()
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as above.
        unsafe {
            if is_plain(align, size) { mi::mi_zalloc(size) } else { mi::mi_zalloc_aligned(size, align) }
                .cast()
        }
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, _: Layout) {
        // SAFETY: the caller promises that the pointer came from here and is not used again.
        unsafe { mi::mi_free(ptr.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (ptr, align) = (ptr.cast(), layout.align());
        // SAFETY: as for `dealloc`; the new size is not zero, and fits a layout with this alignment.
        unsafe {
            if is_plain(align, size) {
                mi::mi_realloc(ptr, size)
            } else {
                mi::mi_realloc_aligned(ptr, size, align)
            }
            .cast()
        }
    }
}

/// Gives memory that the calling thread has freed back to the system. mimalloc does so by itself only while a thread
/// allocates; a worker whose connections have all gone quiet does not.
pub(crate) fn trim() {
    // SAFETY: mi_collect may be called at any time, on any thread (mimalloc.h).
    unsafe { mi::mi_collect(false) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_is_aligned_before_and_after_it_grows() {
        for align in [1, 2, 4, 8, 16, 32, 4096] {
            for size in [1, 7, 8, 15, 16, 24, 40, 1000, 1025, 5000, 70_000] {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: sizes are not zero; what is written fits; each pointer is freed once, with its own layout.
                unsafe {
                    let first = ALLOCATOR.alloc(layout);
                    assert_eq!(first.addr() % align, 0, "{layout:?}");
                    first.write_bytes(7, size);
                    let second = ALLOCATOR.realloc(first, layout, 3 * size);
                    assert_eq!(second.addr() % align, 0, "{layout:?} grown");
                    assert_eq!(*second.add(size - 1), 7);
                    ALLOCATOR.dealloc(second, Layout::from_size_align(3 * size, align).unwrap());
                    let zeroed = ALLOCATOR.alloc_zeroed(layout);
                    assert_eq!((zeroed.addr() % align, *zeroed.add(size - 1)), (0, 0), "{layout:?} zeroed");
                    ALLOCATOR.dealloc(zeroed, layout);
                }
            }
        }
    }
}
