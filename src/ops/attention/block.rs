//! Attention of a block of queries, with the queries side by side in vectors.
//!
//! Keys and values are packed once for all blocks. Keys are taken [`KEYS`] at a time: their scores stay in the innermost cache
//! between the two products, and what has been summed is scaled down when a larger score turns up (Milakov & Gimelshein 2018,
//! arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135). A query lies in a lane from its scores to its result, so no sum runs
//! across a vector.

// Loops over registers are written with indices.
#![allow(clippy::needless_range_loop)]

use super::super::micro::micro;
use super::super::scratch::Scratch;
#[cfg(target_arch = "x86_64")]
use super::super::simd::{Avx2, Avx512};
use super::super::simd::{Isa, MOST_LANES, Portable, Simd};

/// Keys whose scores are held at a time: a multiple of every panel.
const KEYS: usize = 128;

/// Rows of a matrix, by the distance between them.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) data: &'a [f32],
    pub(super) row: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn get(&self, row: usize, width: usize) -> &'a [f32] {
        &self.data[row * self.row..][..width]
    }
}

/// The sizes of an attention and how it is cut on this machine.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    isa: Isa,
    keys: usize,
    width: usize,
    /// Queries of a block.
    pub(super) queries: usize,
    /// Keys, and elements of a value, of an innermost product.
    panel: usize,
}

/// The queries of a block and where their results go.
pub(super) struct Block<'a> {
    pub(super) q: Rows<'a>,
    /// At most [`Shape::queries`].
    pub(super) count: usize,
    pub(super) scale: f32,
    /// What is added to the scores, `[count, keys]`.
    pub(super) mask: Option<&'a [f32]>,
    pub(super) out: &'a mut [f32],
    /// Floats between two queries' results.
    pub(super) out_row: usize,
}

impl Shape {
    pub(super) fn new(isa: Isa, keys: usize, width: usize) -> Self {
        let (panel, queries) = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => (8, 3 * Avx512::LANES),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => (4, 3 * Avx2::LANES),
            Isa::Portable => (4, 2 * Portable::LANES),
        };
        Self { isa, keys, width, queries, panel }
    }

    /// Floats of a head's packed keys.
    fn packed_keys(&self) -> usize {
        self.keys.next_multiple_of(self.panel) * self.width
    }

    /// Floats of a head's packed keys and values.
    pub(super) fn packed(&self) -> usize {
        self.packed_keys() + self.keys * self.width.next_multiple_of(self.panel)
    }

    /// Packs a head: keys as `[panel of keys][element][key]`, behind them values as `[panel of elements][key][element]`.
    pub(super) fn pack(&self, k: Rows<'_>, v: Rows<'_>, to: &mut [f32]) {
        let panel = self.panel;
        let (keys, values) = to.split_at_mut(self.packed_keys());
        for (at, to) in keys.chunks_exact_mut(self.width * panel).enumerate() {
            let first = at * panel;
            let count = panel.min(self.keys - first);
            to.fill(0.0);
            for key in 0..count {
                turn(k.get(first + key, self.width), &mut to[key..], panel, 1.0);
            }
        }
        for (at, to) in values.chunks_exact_mut(self.keys * panel).enumerate() {
            let elements = panel.min(self.width - at * panel);
            for (key, to) in to.chunks_exact_mut(panel).enumerate() {
                let (to, beyond) = to.split_at_mut(elements);
                to.copy_from_slice(&v.get(key, self.width)[at * panel..][..elements]);
                beyond.fill(0.0);
            }
        }
    }

    /// Computes a block against a packed head.
    pub(super) fn attend(&self, packed: &[f32], block: Block<'_>) {
        // SAFETY: `Isa::best` found the set on this machine.
        #[allow(unsafe_code)]
        unsafe {
            match self.isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => avx512(self, packed, block),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2(self, packed, block),
                Isa::Portable => perform::<Portable, 4, 2>(self, packed, block),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[allow(unsafe_code)]
fn avx512(shape: &Shape, packed: &[f32], block: Block<'_>) {
    // SAFETY: the attribute's instructions are what the vectors need.
    unsafe { perform::<Avx512, 8, 3>(shape, packed, block) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[allow(unsafe_code)]
fn avx2(shape: &Shape, packed: &[f32], block: Block<'_>) {
    // SAFETY: the attribute's instructions are what the vectors need.
    unsafe { perform::<Avx2, 4, 3>(shape, packed, block) }
}

/// # Safety
/// The vectors' instruction set is there.
#[inline(always)]
#[allow(unsafe_code)]
unsafe fn perform<S: Simd, const ROWS: usize, const VECTORS: usize>(shape: &Shape, packed: &[f32], block: Block<'_>) {
    let &Shape { keys, width, .. } = shape;
    let queries = VECTORS * S::LANES;
    let Block { q, count, scale, mask, out, out_row } = block;
    assert!(shape.panel == ROWS && shape.queries == queries && count <= queries);
    assert!(packed.len() >= shape.packed(), "packed head outside its slice");
    let (packed_keys, packed_values) = packed.split_at(shape.packed_keys());
    let padded = width.next_multiple_of(ROWS);
    let mut scratch = Scratch::new((width + KEYS + padded) * queries);
    let (columns, rest) = scratch.split_at_mut(width * queries);
    let (scores, sums) = rest.split_at_mut(KEYS * queries);
    if count < queries {
        columns.fill(0.0);
    }
    for query in 0..count {
        turn(q.get(query, width), &mut columns[query..], queries, scale);
    }
    // SAFETY: the instruction set is there.
    let mut running = unsafe { [Running { top: S::splat(f32::MIN), total: S::splat(0.0) }; VECTORS] };
    for first in (0..keys).step_by(KEYS) {
        let here = KEYS.min(keys - first);
        for panel in 0..here.div_ceil(ROWS) {
            // SAFETY: packed keys hold whole panels of `width` steps, and so do the scores, of which KEYS are a multiple.
            unsafe {
                let left = packed_keys.as_ptr().add((first + panel * ROWS) * width);
                let to = scores.as_mut_ptr().add(panel * ROWS * queries);
                micro::<S, ROWS, VECTORS>(width, left, columns.as_ptr(), to, queries, false);
            }
        }
        let scores = &mut scores[..here * queries];
        if let Some(mask) = mask {
            for (query, mask) in mask.chunks_exact(keys).enumerate().take(count) {
                for (scores, more) in scores.chunks_exact_mut(queries).zip(&mask[first..]) {
                    scores[query] += more;
                }
            }
        }
        for (vector, running) in running.iter_mut().enumerate() {
            // SAFETY: scores and sums are lines of `queries` floats, this vector's among them.
            unsafe {
                let at = vector * S::LANES;
                let factor = running.exponentials(scores.as_mut_ptr().add(at), here, queries);
                if first > 0 {
                    for element in 0..padded {
                        let sum = sums.as_mut_ptr().add(element * queries + at);
                        S::load(sum).mul(factor).store(sum);
                    }
                }
            }
        }
        for panel in 0..padded / ROWS {
            // SAFETY: packed values hold `keys` steps of every panel, the scores `here` of them, the sums whole panels.
            unsafe {
                let left = packed_values.as_ptr().add((panel * keys + first) * ROWS);
                let to = sums.as_mut_ptr().add(panel * ROWS * queries);
                micro::<S, ROWS, VECTORS>(here, left, scores.as_ptr(), to, queries, first > 0);
            }
        }
    }
    let mut totals = [0f32; MOST_LANES];
    for (vector, running) in running.iter().enumerate() {
        // SAFETY: no vector is longer.
        unsafe { running.total.store(totals.as_mut_ptr()) }
        let rows = out.chunks_mut(out_row).take(count).skip(vector * S::LANES);
        for (lane, (out, total)) in rows.zip(&totals[..S::LANES]).enumerate() {
            turn_back(&sums[vector * S::LANES + lane..], queries, &mut out[..width], 1.0 / total);
        }
    }
}

/// Writes a row as a column: floats `apart` from each other.
#[inline(always)]
#[allow(unsafe_code)]
fn turn(row: &[f32], column: &mut [f32], apart: usize, factor: f32) {
    assert!(row.is_empty() || (row.len() - 1) * apart < column.len(), "a column outside its slice");
    for (at, value) in row.iter().enumerate() {
        // SAFETY: the last lies inside the slice.
        unsafe { *column.get_unchecked_mut(at * apart) = value * factor }
    }
}

/// Writes a column as a row.
#[inline(always)]
#[allow(unsafe_code)]
fn turn_back(column: &[f32], apart: usize, row: &mut [f32], factor: f32) {
    assert!(row.is_empty() || (row.len() - 1) * apart < column.len(), "a column outside its slice");
    for (at, value) in row.iter_mut().enumerate() {
        // SAFETY: the last lies inside the slice.
        *value = unsafe { *column.get_unchecked(at * apart) } * factor;
    }
}

/// What is known of a vector of queries so far.
#[derive(Clone, Copy)]
struct Running<S> {
    top: S,
    total: S,
}

impl<S: Simd> Running<S> {
    /// Turns the queries' scores for `count` keys into exponentials, takes them into account, and says what older sums are to
    /// be multiplied by.
    ///
    /// # Safety
    /// As [`Simd`]: there are `count` vectors of scores, so many floats apart.
    #[inline(always)]
    #[allow(unsafe_code)]
    unsafe fn exponentials(&mut self, scores: *mut f32, count: usize, apart: usize) -> S {
        // SAFETY: the caller's.
        unsafe {
            let mut top = self.top;
            for key in 0..count {
                top = S::load(scores.add(key * apart)).max(top);
            }
            let mut total = S::splat(0.0);
            for key in 0..count {
                let at = scores.add(key * apart);
                let value = S::load(at).sub(top).exp_below();
                value.store(at);
                total = total.add(value);
            }
            let factor = self.top.sub(top).exp_below();
            *self = Self { top, total: self.total.mul_add(factor, total) };
            factor
        }
    }
}
