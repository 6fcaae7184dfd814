//! An allocator that gives the memory of a freed tensor to the next one.
//!
//! Every operation makes a tensor and frees another. Malloc returns blocks of that size to the system, which hands them
//! out again page by page, each cleared and mapped anew: on large pictures that took longer than the arithmetic.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

/// Smaller blocks are malloc's business.
const SMALLEST: usize = 1 << 20;

/// Sizes per doubling: at most an eighth of a block is unused.
const STEPS: usize = 8;

/// Blocks up to 2^20 (first) 2^44 bytes are recycled.
const CLASSES: usize = 24 * STEPS;

/// Where pages and huge pages begin.
const PAGE: usize = 4096;
const HUGE: usize = 2 << 20;

/// Bytes that may be held beyond the most that was in use: so many, or that most divided by [`SPARE_SHARE`] where it is more. Layers
/// of other sizes take turns, and where each had to give its blocks up to the next, fresh pages took a tenth of the time.
const SPARE: usize = 64 << 20;
const SPARE_SHARE: usize = 4;

/// A program's allocator (`#[global_allocator]`) that keeps freed blocks of a megabyte or more for later tensors. It holds at
/// most a quarter more than the most that was in use at once.
pub struct Recycler {
    state: Mutex<State>,
}

/// Free blocks by size, each beginning with the address of the next.
struct State {
    free: [*mut u8; CLASSES],
    /// Bytes in use, kept, and the most that was in use.
    live: usize,
    kept: usize,
    peak: usize,
}

// SAFETY: the free blocks belong to the state alone, which a lock guards.
unsafe impl Send for State {}

impl Recycler {
    /// An allocator that keeps nothing yet.
    pub const fn new() -> Self {
        Self { state: Mutex::new(State { free: [null_mut(); CLASSES], live: 0, kept: 0, peak: 0 }) }
    }
}

impl Default for Recycler {
    fn default() -> Self {
        Self::new()
    }
}

/// The class of a block and its bytes; nothing for those that are not recycled.
fn class(layout: Layout) -> Option<(usize, Layout)> {
    let size = layout.size();
    if size < SMALLEST || layout.align() > PAGE {
        return None;
    }
    // The power of two below the size, cut into STEPS.
    let octave = (size - 1).checked_ilog2()? as usize;
    let step = 1usize.checked_shl(octave as u32)? / STEPS;
    let steps = size.div_ceil(step);
    let class = (octave + 1).checked_sub(SMALLEST.ilog2() as usize)? * STEPS + (steps - STEPS - 1);
    let layout = Layout::from_size_align(steps * step, alignment(steps * step)).ok()?;
    (class < CLASSES).then_some((class, layout))
}

/// Where a block of this size begins.
fn alignment(size: usize) -> usize {
    if size < HUGE { PAGE } else { HUGE }
}

impl State {
    fn take(&mut self, class: usize, layout: Layout) -> Option<*mut u8> {
        let block = self.free[class];
        self.live += layout.size();
        self.peak = self.peak.max(self.live);
        if block.is_null() {
            self.release();
            return None;
        }
        // SAFETY: a free block begins with the address of the next.
        self.free[class] = unsafe { block.cast::<*mut u8>().read() };
        self.kept -= layout.size();
        Some(block)
    }

    fn put(&mut self, class: usize, layout: Layout, block: *mut u8) {
        self.live -= layout.size();
        // SAFETY: the block is the caller's no more, and larger than an address.
        unsafe { block.cast::<*mut u8>().write(self.free[class]) };
        self.free[class] = block;
        self.kept += layout.size();
    }

    /// Returns free blocks to the system, the largest first, until there is room under the peak.
    fn release(&mut self) {
        let spare = SPARE.max(self.peak / SPARE_SHARE);
        let room = (self.peak + spare).saturating_sub(self.live);
        let mut class = CLASSES;
        while self.kept > room && class > 0 {
            let block = self.free[class - 1];
            if block.is_null() {
                class -= 1;
                continue;
            }
            let (octave, steps) = ((class - 1) / STEPS, (class - 1) % STEPS + STEPS + 1);
            let bytes = ((SMALLEST >> 1) << octave) / STEPS * steps;
            // SAFETY: a free block begins with the address of the next, and was allocated with this layout.
            unsafe {
                self.free[class - 1] = block.cast::<*mut u8>().read();
                System.dealloc(block, Layout::from_size_align_unchecked(bytes, alignment(bytes)));
            }
            self.kept -= bytes;
        }
    }
}

// SAFETY: a block is handed out once until it is freed, as large and aligned as its class, which the layout determines; all
// else is the system's.
unsafe impl GlobalAlloc for Recycler {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((class, rounded)) = class(layout) else {
            // SAFETY: the caller's.
            return unsafe { System.alloc(layout) };
        };
        let found = self.state.lock().unwrap_or_else(PoisonError::into_inner).take(class, rounded);
        found.unwrap_or_else(|| {
            // SAFETY: the size is not 0.
            let block = unsafe { System.alloc(rounded) };
            if block.is_null() {
                self.state.lock().unwrap_or_else(PoisonError::into_inner).live -= rounded.size();
            } else {
                prefer_huge_pages(block, rounded.size());
            }
            block
        })
    }

    // SAFETY: the caller's.
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match class(layout) {
            Some((class, rounded)) => {
                self.state.lock().unwrap_or_else(PoisonError::into_inner).put(class, rounded, block);
            }
            // SAFETY: the caller's.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    // SAFETY: the caller's.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if class(layout).is_none() {
            // SAFETY: the caller's.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the block, if there is one, has the layout's size.
        unsafe {
            let block = self.alloc(layout);
            if !block.is_null() {
                block.write_bytes(0, layout.size());
            }
            block
        }
    }

    // SAFETY: the caller's.
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's; a size that overflows with its alignment is not asked for.
        unsafe {
            let wanted = Layout::from_size_align_unchecked(size, layout.align());
            match (class(layout), class(wanted)) {
                (None, None) => System.realloc(block, layout, size),
                (Some((old, _)), Some((new, _))) if old == new => block,
                _ => {
                    let moved = self.alloc(wanted);
                    if !moved.is_null() {
                        block.copy_to_nonoverlapping(moved, layout.size().min(size));
                        self.dealloc(block, layout);
                    }
                    moved
                }
            }
        }
    }
}

/// Asks for pages of 2 MiB: one fault instead of 512. A system that refuses still gives memory.
#[cfg(target_os = "linux")]
fn prefer_huge_pages(block: *mut u8, size: usize) {
    const MADV_HUGEPAGE: i32 = 14;
    // SAFETY: madvise(2) as the C library declares it.
    unsafe extern "C" {
        fn madvise(address: *mut std::ffi::c_void, length: usize, advice: i32) -> i32;
    }
    // SAFETY: the block is `size` bytes of ours from a page's start on; the advice changes nothing in them.
    unsafe {
        madvise(block.cast(), size, MADV_HUGEPAGE);
    }
}

#[cfg(not(target_os = "linux"))]
fn prefer_huge_pages(_: *mut u8, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_what_they_are_given_and_waste_little() {
        assert!(class(Layout::from_size_align(SMALLEST - 1, 1).unwrap()).is_none());
        let mut last = 0;
        for size in (SMALLEST..64 << 20).step_by(99_991).chain([1 << 20, 2 << 20, 1 << 30, (1 << 30) + 1]) {
            let (class, rounded) = class(Layout::from_size_align(size, 8).unwrap()).unwrap();
            assert!(rounded.size() >= size && rounded.size() - size <= size / STEPS, "{size}");
            assert!(class >= last || size <= 2 << 20);
            last = class;
            // What `release` computes from the class.
            let steps = class % STEPS + STEPS + 1;
            assert_eq!(((SMALLEST >> 1) << (class / STEPS)) / STEPS * steps, rounded.size(), "{size}");
        }
    }

    #[test]
    fn freed_blocks_come_back_and_little_more_is_held_than_was_used() {
        let memory = Recycler::new();
        let layout = |mib: usize| Layout::from_size_align(mib << 20, 64).unwrap();
        // SAFETY: every block is written within its layout, and freed once with it.
        unsafe {
            let (first, second) = (memory.alloc(layout(4)), memory.alloc(layout(8)));
            first.write_bytes(7, 4 << 20);
            second.write_bytes(7, 8 << 20);
            memory.dealloc(second, layout(8));
            let again = memory.alloc_zeroed(layout(8));
            assert_eq!(again, second);
            assert!(std::slice::from_raw_parts(again, 8 << 20).iter().all(|&byte| byte == 0));
            memory.dealloc(again, layout(8));
            memory.dealloc(first, layout(4));
            assert_eq!(memory.state.lock().unwrap().kept, 12 << 20);
            // Sizes that are not there: the others make room, the largest first.
            let sizes = [40, 48, 56, 64];
            let blocks = sizes.map(|mib| memory.alloc(layout(mib)));
            sizes.iter().zip(blocks).for_each(|(&mib, block)| memory.dealloc(block, layout(mib)));
            let peak = memory.state.lock().unwrap().peak;
            assert_eq!(peak, (sizes.iter().sum::<usize>()) << 20);
            let more = memory.alloc(layout(96));
            {
                let state = memory.state.lock().unwrap();
                assert!(state.kept <= peak + SPARE - state.live && state.kept >= 60 << 20);
                assert!(state.free[class(layout(64)).unwrap().0].is_null());
                assert!(!state.free[class(layout(40)).unwrap().0].is_null());
            }
            memory.dealloc(more, layout(96));
            let third = memory.alloc(layout(6));
            third.write_bytes(3, 6 << 20);
            let grown = memory.realloc(third, layout(6), 9 << 20);
            assert_eq!(grown.add((6 << 20) - 1).read(), 3);
            let shrunk = memory.realloc(grown, layout(9), 100);
            assert_eq!(shrunk.add(99).read(), 3);
            memory.dealloc(shrunk, Layout::from_size_align(100, 64).unwrap());
            assert_eq!(memory.state.lock().unwrap().live, 0);
        }
    }
}
