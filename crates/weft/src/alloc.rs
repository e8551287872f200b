//! The allocator: mimalloc, without transparent huge pages (an idle sidecar then has 6 MB and not 15).

/// Keeps small allocations cheap, and those of one thread apart from another's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives memory that the calling thread has freed back to the system. mimalloc does so by itself only while a thread
/// allocates; a worker whose connections have all gone quiet does not.
pub(crate) fn trim() {
    #[expect(
        unsafe_code,
        reason = "a call without arguments that point anywhere; the crate has no safe wrapper"
    )]
    // SAFETY: mi_collect may be called at any time, on any thread (mimalloc.h).
    unsafe {
        libmimalloc_sys::mi_collect(false);
    }
}
