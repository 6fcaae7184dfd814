//! F(4x4, 3x3): a vector's worth of tiles at a time.

// Loops over the vectors of a tile are written with indices: they unroll into registers.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::super::simd::{MOST_LANES, Portable, Simd};
use super::block::{Piece, Plan};
use super::{NOWHERE, transform};

/// Room for the samples of a vector of tiles, and a vector more.
const LINE: usize = 5 * MOST_LANES;

/// Transforms six samples below each other, of a vector of columns or of one, to `lines` from `at` on.
///
/// # Safety
/// As [`Simd`]; the column or columns can be read, and the lines hold as many from `at` on.
#[inline(always)]
#[allow(unsafe_code)]
unsafe fn vertical<S: Simd>(from: [*const f32; 6], lines: &mut [[f32; LINE]; 6], at: usize, count: usize) {
    // SAFETY: the caller's.
    unsafe {
        let mut d = [S::splat(0.0); 6];
        for i in 0..6 {
            d[i] = if count == 1 { S::splat(*from[i]) } else { S::load(from[i]) };
        }
        let d = transform::input(d);
        for i in 0..6 {
            let to = lines[i].as_mut_ptr().add(at);
            if count == 1 { d[i].store_first(to, 1) } else { d[i].store(to) }
        }
    }
}

/// Transforms channels of a block's tiles.
///
/// # Safety
/// The set of S is there, and the slices are those of a task of [`Plan::run`].
#[inline(always)]
#[allow(unsafe_code)]
pub(super) unsafe fn inputs<S: Simd>(plan: &Plan<'_>, block: usize, channels: Range<usize>, to: *mut f32) {
    static ZEROS: [f32; LINE] = [0.0; LINE];
    let conv = plan.conv;
    let plane = conv.height * conv.width;
    let column = |x: usize| conv.columns.get(x).copied().unwrap_or(NOWHERE);
    let mut lines = [[0f32; LINE]; 6];
    for piece in plan.pieces(block) {
        let Piece { vector, lane, count, image, tile_y, tile_x } = piece;
        let rows: [u32; 6] = std::array::from_fn(|i| conv.rows.get(4 * tile_y + i).copied().unwrap_or(NOWHERE));
        let (left, samples) = (4 * tile_x, 4 * count + 2);
        let inside = plan.run.start.max(left)..plan.run.end.min(left + samples);
        let regular = inside.end >= inside.start + S::LANES;
        // Where the regular columns begin in their lines.
        let seen = if regular { plan.first_seen + inside.start - plan.run.start } else { 0 };
        // Where the others are.
        let mut offsets = [[0; MOST_LANES]; LINE / Portable::LANES];
        let mut empty = false;
        if !regular {
            for x in 0..samples {
                let column = column(left + x);
                empty |= column == NOWHERE;
                offsets[x / S::LANES][x % S::LANES] = if column == NOWHERE { 0 } else { column as i32 };
            }
        }
        let lane_offset = (vector * S::LANES + lane) % plan.strip;
        let strip = (vector * S::LANES + lane) / plan.strip;
        for channel in channels.clone() {
            let xs = &conv.xs[(image * conv.inputs + channel) * plane..][..plane];
            // SAFETY: the regular columns lie inside their lines, `samples` and a vector more inside LINE; the values of
            // a vector, from its lane on, inside the block's.
            unsafe {
                if regular {
                    let mut from = [ZEROS.as_ptr(); 6];
                    for i in 0..6 {
                        if rows[i] != NOWHERE {
                            from[i] = xs.as_ptr().add(rows[i] as usize * conv.width + seen);
                        }
                    }
                    let last = inside.len() - S::LANES;
                    let mut at = 0;
                    loop {
                        let mut here = from;
                        for i in 0..6 {
                            here[i] = from[i].add(at);
                        }
                        vertical::<S>(here, &mut lines, inside.start - left + at, S::LANES);
                        if at == last {
                            break;
                        }
                        at = (at + S::LANES).min(last);
                    }
                    for x in (left..inside.start).chain(inside.end..left + samples) {
                        let column = column(x);
                        let mut from = [ZEROS.as_ptr(); 6];
                        if column != NOWHERE {
                            for i in 0..6 {
                                if rows[i] != NOWHERE {
                                    from[i] = &raw const xs[rows[i] as usize * conv.width + column as usize];
                                }
                            }
                        }
                        vertical::<S>(from, &mut lines, x - left, 1);
                    }
                } else {
                    let mut from = [ZEROS.as_ptr(); 6];
                    for i in 0..6 {
                        if rows[i] != NOWHERE {
                            from[i] = xs.as_ptr().add(rows[i] as usize * conv.width);
                        }
                    }
                    for (at, offsets) in offsets.iter().enumerate().take(samples.div_ceil(S::LANES)) {
                        let mut d = [S::splat(0.0); 6];
                        for i in 0..6 {
                            if rows[i] != NOWHERE {
                                d[i] = S::gather(from[i], offsets);
                            }
                        }
                        let d = transform::input(d);
                        for i in 0..6 {
                            d[i].store(lines[i].as_mut_ptr().add(at * S::LANES));
                        }
                    }
                    if empty {
                        for x in (0..samples).filter(|&x| column(left + x) == NOWHERE) {
                            for i in 0..6 {
                                lines[i][x] = 0.0;
                            }
                        }
                    }
                }
                let to = to.add((strip * conv.inputs + channel) * plan.strip + lane_offset);
                for i in 0..6 {
                    let line = lines[i].as_ptr();
                    let mut quarters = [S::splat(0.0); 4];
                    for q in 0..4 {
                        quarters[q] = S::load(line.add(q * S::LANES));
                    }
                    let [a, b, c, d] = S::unzip4(quarters);
                    let (e, f) = (a.shift(*line.add(4 * S::LANES)), b.shift(*line.add(4 * S::LANES + 1)));
                    let values = transform::input([a, b, c, d, e, f]);
                    if count == S::LANES {
                        for j in 0..6 {
                            values[j].store(to.add((6 * i + j) * plan.spacing));
                        }
                    } else {
                        for j in 0..6 {
                            values[j].store_first(to.add((6 * i + j) * plan.spacing), count);
                        }
                    }
                }
            }
        }
    }
}

/// Turns sums to pixels.
///
/// # Safety
/// The set of S is there, and the slices are those of a task of [`Plan::run`].
#[inline(always)]
#[allow(unsafe_code)]
pub(super) unsafe fn outputs<S: Simd>(plan: &Plan<'_>, block: usize, outputs: Range<usize>, sums: &[f32]) {
    let conv = plan.conv;
    let pieces = plan.pieces(block);
    let (width, height) = (plan.out_width, plan.out_height);
    let plane = width * height;
    let mut lines = [[0f32; 4 * MOST_LANES]; 4];
    for (output, sums) in outputs.zip(sums.chunks_exact(plan.points * plan.block)) {
        let bias = conv.bias.map_or(0.0, |bias| bias[output]);
        for pieces in pieces.chunk_by(|a, b| a.vector == b.vector) {
            let Some(first) = pieces.first() else { continue };
            // SAFETY: a vector of every point lies inside the sums; pixels are written inside the result's lines only.
            unsafe {
                let from = sums.as_ptr().add(first.vector * S::LANES);
                let mut columns = [[S::splat(0.0); 6]; 4];
                for x in 0..6 {
                    let mut m = [S::splat(0.0); 6];
                    for y in 0..6 {
                        m[y] = S::load(from.add((6 * y + x) * plan.block));
                    }
                    let column = transform::output(m);
                    for y in 0..4 {
                        columns[y][x] = column[y];
                    }
                }
                let whole = first.count == S::LANES && 4 * (first.tile_x + S::LANES) <= width;
                let lines_left = (height - 4 * first.tile_y).min(4);
                let to = plan.out.add((first.image * conv.outputs + output) * plane);
                let to = to.add(4 * first.tile_y * width + 4 * first.tile_x);
                for y in 0..4 {
                    let mut line = transform::output(columns[y]);
                    for x in 0..4 {
                        line[x] = line[x].add(line[x].all(bias));
                        if conv.relu {
                            // In this order, not-a-number stays what it is.
                            line[x] = line[x].all(0.0).max(line[x]);
                        }
                    }
                    let line = S::zip4(line);
                    if whole && y < lines_left {
                        for q in 0..4 {
                            line[q].store(to.add(y * width + q * S::LANES));
                        }
                    } else if !whole {
                        for q in 0..4 {
                            line[q].store(lines[y].as_mut_ptr().add(q * S::LANES));
                        }
                    }
                }
                if !whole {
                    for piece in pieces {
                        let to = plan.out.add((piece.image * conv.outputs + output) * plane);
                        let length = (4 * piece.count).min(width - 4 * piece.tile_x);
                        for y in 0..4.min(height - 4 * piece.tile_y) {
                            let to = to.add((4 * piece.tile_y + y) * width + 4 * piece.tile_x);
                            std::ptr::copy_nonoverlapping(lines[y].as_ptr().add(4 * piece.lane), to, length);
                        }
                    }
                }
            }
        }
    }
}
