//! Makes the shared mappings: anonymous, before the first fork, zeroed by the kernel, never unmapped.
//! Forbidden here: what is inside them.
//!
//! **Why Rust's atomics are valid between processes.** Rust's atomics are those of C++20, whose standard asks that
//! operations that are lock-free be address-free as well ([atomics.lockfree]): the same memory mapped into two
//! processes, at the same or at different addresses, is operated on atomically. Every `AtomicU64` of x86-64 and
//! aarch64 is lock-free: it is eight bytes and an instruction, with no state besides. The kernel maps the same
//! physical page into every forked child, so cache coherence does the rest, as it does between threads. What must
//! not be mixed in: plain (non-atomic) accesses to the same bytes, and anything that knows its own process, as
//! references, `Box`, `Vec`, `std::sync::Mutex` and thread identities do. Hence [`SharedZeroable`].

use std::io;
use std::ptr::NonNull;

/// Alignment that every mapping has: the smallest page of the supported machines.
const PAGE: usize = 4096;

/// A type that may live in a shared mapping.
///
/// # Safety
/// All of the type's fields are atomics (or arrays, or types of this kind, of them): every shared access is atomic,
/// nothing in it belongs to one process, all-zero bytes are a valid value, and it needs no drop. What is no atomic is
/// touched by one process at a time only ([`crate::shared::parts::kept`]).
/// In a model build (loom) nothing is ever mapped, so the promise is about the standard atomics only.
pub unsafe trait SharedZeroable: Sync + 'static {}

// SAFETY: an atomic integer; zero is a value of it.
unsafe impl SharedZeroable for crate::shared::parts::sync::AtomicU64 {}
// SAFETY: elements of an array follow each other without anything between them.
unsafe impl<T: SharedZeroable, const N: usize> SharedZeroable for [T; N] {}

/// Maps zeroed bytes that this process and all of its later children share, for as long as one of them lives.
///
/// `MAP_NORESERVE`: pages cost memory when they are first written, not now (with `vm.overcommit_memory` 2 the
/// kernel counts them now all the same).
///
/// # Errors
/// What mmap(2) says; `InvalidInput` for no bytes; `Unsupported` in a model build.
pub fn map_shared(bytes: usize) -> io::Result<NonNull<u8>> {
    if cfg!(loom) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    map(bytes, libc::MAP_SHARED | libc::MAP_NORESERVE)
}

/// Maps zeroed bytes of no file.
fn map(bytes: usize, flags: libc::c_int) -> io::Result<NonNull<u8>> {
    if bytes == 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_ANONYMOUS | flags,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// Zeroed bytes of this process alone, outside of any heap, for as long as it is kept: where a heap may have no memory,
/// this says so instead of ending the process.
pub struct Scratch {
    start: NonNull<u8>,
    length: usize,
}

impl Scratch {
    /// Maps them.
    ///
    /// # Errors
    /// What mmap(2) says; `InvalidInput` for no bytes.
    pub fn of(length: usize) -> io::Result<Scratch> {
        let start = map(length, libc::MAP_PRIVATE)?;
        Ok(Scratch { start, length })
    }

    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is that long, initialised by the kernel, and this one's alone while it lives.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: the mapping that `of` made; nobody refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Has the processor fetch the value's first cache line, without waiting for it.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint about an address that is valid anyway; SSE is part of x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>((&raw const *value).cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = value;
}

/// Gives the memory of a shared mapping back; it reads as zeros from now on, in every process. A kernel that cannot
/// keeps it.
pub fn give_back<T: SharedZeroable>(values: &'static [T]) {
    let length = std::mem::size_of_val(values);
    // SAFETY: a whole mapping of `map_slice`, which starts at a page; zeroed values are valid by SharedZeroable.
    unsafe { libc::madvise(values.as_ptr().cast_mut().cast(), length, libc::MADV_REMOVE) };
}

/// Maps one value in its zeroed state.
///
/// # Errors
/// As [`map_shared`].
pub fn map_one<T: SharedZeroable>() -> io::Result<&'static T> {
    const { assert!(align_of::<T>() <= PAGE && !std::mem::needs_drop::<T>()) };
    let address = map_shared(size_of::<T>())?.cast::<T>();
    // SAFETY: the mapping is that large, page-aligned, zeroed (valid by SharedZeroable) and is never unmapped.
    Ok(unsafe { address.as_ref() })
}

/// Maps `count` values in their zeroed state, one after the other.
///
/// # Errors
/// As [`map_shared`]; `InvalidInput` also when the bytes cannot be counted.
pub fn map_slice<T: SharedZeroable>(count: usize) -> io::Result<&'static [T]> {
    const { assert!(align_of::<T>() <= PAGE && !std::mem::needs_drop::<T>()) };
    let bytes = count
        .checked_mul(size_of::<T>())
        .filter(|bytes| isize::try_from(*bytes).is_ok());
    let address = map_shared(bytes.ok_or(io::ErrorKind::InvalidInput)?)?.cast::<T>();
    // SAFETY: as in map_one, for `count` elements that together are no larger than isize::MAX.
    Ok(unsafe { std::slice::from_raw_parts(address.as_ptr(), count) })
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;
    use crate::shared::parts::sync::{AtomicU64, Ordering::Relaxed};

    #[test]
    fn a_new_mapping_is_zero_and_writable_to_its_last_word() {
        let words = map_slice::<AtomicU64>(1000).unwrap();
        assert!(words.iter().all(|word| word.load(Relaxed) == 0));
        words[999].store(7, Relaxed);
        assert_eq!(words[999].load(Relaxed), 7);
    }

    #[test]
    fn impossible_sizes_are_errors() {
        assert_eq!(
            map_slice::<AtomicU64>(0).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(
            map_slice::<AtomicU64>(usize::MAX).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert!(map_slice::<AtomicU64>(isize::MAX as usize / 8).is_err());
    }
}
