//! Working memory that kernels hand back, so that the pages of a buffer are mapped once and not at every layer.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Floats kept at most: 128 MiB.
const MAX_KEPT: usize = 32 << 20;

static KEPT: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// A slice of floats of any content, aligned to a cache line.
pub(super) struct Scratch {
    buffer: Vec<f32>,
    start: usize,
    length: usize,
}

impl Scratch {
    /// Takes a buffer from those handed back, or a new one.
    pub(super) fn new(length: usize) -> Self {
        const LINE: usize = 16;
        let needed = length + LINE;
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough.
        let fitting = (0..kept.len()).filter(|&i| kept[i].len() >= needed).min_by_key(|&i| kept[i].len());
        let found = fitting.map(|i| kept.swap_remove(i));
        drop(kept);
        let buffer = found.unwrap_or_else(|| vec![0f32; needed]);
        let start = buffer.as_ptr().align_offset(64).min(LINE);
        Self { buffer, start, length }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer[self.start..][..self.length]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[self.start..][..self.length]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.buffer.len() > MAX_KEPT {
            return;
        }
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(std::mem::take(&mut self.buffer));
        while kept.iter().map(Vec::len).sum::<usize>() > MAX_KEPT {
            // The smallest is the cheapest to make again.
            let Some(smallest) = (0..kept.len()).min_by_key(|&i| kept[i].len()) else { break };
            kept.swap_remove(smallest);
        }
    }
}
