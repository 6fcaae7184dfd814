//! The work of a Winograd convolution cut into blocks, and the three kernels a block is made of.

// Loops over the vectors of a tile are written with indices: they unroll into registers.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use rayon::prelude::*;

use super::super::micro::micro;
use super::super::scratch::Scratch;
#[cfg(target_arch = "x86_64")]
use super::super::simd::{Avx2, Avx512};
use super::super::simd::{Isa, MOST_LANES, Portable, Simd};
use super::transform::Points;
use super::{Tile, Winograd, four, longest_run, transform, two};

/// Channels summed between two visits to the sums: their values stay in the innermost cache.
const DEPTH: usize = 256;

/// Tiles and outputs of a block, at most: with 64 channels its values, weights and sums fill a core's second cache.
const BLOCK: usize = 64;
const ROWS: usize = 64;

/// Outputs of a job that makes its own weights: DEPTH channels of them stay in a core's second cache.
const JOB_ROWS: usize = 16;

/// Blocks whose sums stay there as well.
const FEW_BLOCKS: usize = 4;

/// Working memory shared by all threads, in floats: 64 MiB.
const MAX_SHARED: usize = 16 << 20;

/// Tiles of one line that lie side by side in a vector.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    /// The vector's number in its block, and the first lane taken.
    pub(super) vector: usize,
    pub(super) lane: usize,
    pub(super) count: usize,
    pub(super) image: usize,
    pub(super) tile_y: usize,
    pub(super) tile_x: usize,
}

/// How a convolution is cut.
pub(super) struct Plan<'a> {
    pub(super) conv: &'a Winograd<'a>,
    isa: Isa,
    tile: Tile,
    /// Values per tile and channel.
    pub(super) points: usize,
    /// Columns that see the picture's `first_seen`, `first_seen + 1`, ...
    pub(super) run: Range<usize>,
    pub(super) first_seen: usize,
    pub(super) tiles_x: usize,
    pub(super) tiles_y: usize,
    pub(super) tiles: usize,
    lanes: usize,
    /// Outputs and tiles of the innermost product.
    panel: usize,
    pub(super) strip: usize,
    /// Tiles and outputs of a block.
    pub(super) block: usize,
    rows: usize,
    /// Floats between two points' values.
    pub(super) spacing: usize,
    pub(super) out: *mut f32,
    pub(super) out_height: usize,
    pub(super) out_width: usize,
}

// SAFETY: threads write to the pixels of different tiles only.
#[allow(unsafe_code)]
unsafe impl Sync for Plan<'_> {}

/// One kernel's share of the work.
enum Task<'m> {
    /// Weights of panels and some channels to their points: `[panel][point][input][row of the panel]`.
    Weights { panels: Range<usize>, channels: Range<usize>, to: &'m mut [f32] },
    /// Channels of a block of tiles to their points, written from several threads: `[point][strip][input][tile]`.
    Inputs { block: usize, channels: Range<usize>, to: Shared },
    /// Products of both, over the channels of the weights, to sums or added to them: `[output][point][tile]`.
    Products { block: usize, channels: Range<usize>, weights: &'m [f32], values: &'m [f32], sums: &'m mut [f32] },
    /// Pixels from the sums.
    Outputs { block: usize, panels: Range<usize>, sums: &'m [f32] },
}

/// A slice that several threads write to, each its own part.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: see the type.
#[allow(unsafe_code)]
unsafe impl Send for Shared {}
// SAFETY: see the type.
#[allow(unsafe_code)]
unsafe impl Sync for Shared {}

/// An odd number of cache lines that holds as many floats: what lies this far apart does not fall into the same set of the cache.
fn odd_lines(floats: usize) -> usize {
    const LINE: usize = 16;
    let lines = floats.div_ceil(LINE);
    LINE * (lines + usize::from(lines.is_multiple_of(2)))
}

impl<'a> Plan<'a> {
    pub(super) fn new(conv: &'a Winograd<'a>, isa: Isa, tile: Tile, out: *mut f32) -> Self {
        let (out_height, out_width) = (conv.rows.len() - 2, conv.columns.len() - 2);
        let (tiles_y, tiles_x) = (out_height.div_ceil(tile.side()), out_width.div_ceil(tile.side()));
        let tiles = conv.batch * tiles_y * tiles_x;
        let (lanes, panel, strip) = match isa {
            // One vector of few tiles rather than two that are half empty.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if tiles < 48 && (tiles - 1) % 32 < 16 => (Avx512::LANES, 16, Avx512::LANES),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => (Avx512::LANES, 8, 2 * Avx512::LANES),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => (Avx2::LANES, 6, 2 * Avx2::LANES),
            Isa::Portable => (Portable::LANES, 4, 2 * Portable::LANES),
        };
        let run = longest_run(conv.columns);
        let first_seen = conv.columns.get(run.start).map_or(0, |&x| x as usize);
        let block = BLOCK.next_multiple_of(strip).min(tiles.next_multiple_of(strip));
        let rows = ROWS.next_multiple_of(panel).min(conv.outputs.next_multiple_of(panel));
        let spacing = odd_lines(block * conv.inputs);
        Self {
            conv,
            isa,
            tile,
            points: tile.points(),
            run,
            first_seen,
            tiles_x,
            tiles_y,
            tiles,
            lanes,
            panel,
            strip,
            block,
            rows,
            spacing,
            out,
            out_height,
            out_width,
        }
    }

    /// Computes every pixel.
    pub(super) fn run(&self) {
        let threads = rayon::current_num_threads();
        let blocks = self.tiles.div_ceil(self.block);
        let panels = self.conv.outputs.div_ceil(self.panel);
        let inputs = self.conv.inputs;
        let per_panel = self.panel_floats(inputs);
        let per_block = self.points * self.spacing;
        let sums_of = |panels: usize| panels * self.panel * self.points * self.block;
        let panels_per_block = self.rows / self.panel;
        let row_blocks = |all: Range<usize>| {
            all.clone().step_by(panels_per_block).map(move |first| first..all.end.min(first + panels_per_block))
        };
        if blocks >= 2 * threads && panels * per_panel <= MAX_SHARED {
            let mut weights = Scratch::new(panels * per_panel);
            weights.par_chunks_mut(per_panel).enumerate().for_each(|(panel, to)| {
                self.compute(Task::Weights { panels: panel..panel + 1, channels: 0..inputs, to });
            });
            (0..blocks).into_par_iter().with_max_len(1).for_each(|block| {
                let (mut values, mut sums) = (Scratch::new(per_block), Scratch::new(sums_of(panels_per_block)));
                let to = Shared(values.as_mut_ptr());
                self.compute(Task::Inputs { block, channels: 0..inputs, to });
                for panels in row_blocks(0..panels) {
                    let weights = &weights[panels.start * per_panel..panels.end * per_panel];
                    let sums = &mut sums[..sums_of(panels.len())];
                    self.compute(Task::Products { block, channels: 0..inputs, weights, values: &values, sums });
                    self.compute(Task::Outputs { block, panels, sums });
                }
            });
            return;
        }
        // Few tiles: the threads share the inputs' values and take the outputs in turn. Weights are needed once, so they stay in
        // a core's second cache from the transform to the product.
        let at_once = (MAX_SHARED / per_block).clamp(1, blocks);
        let mut values = Scratch::new(at_once * per_block);
        let shares = (2 * threads).div_ceil(at_once).min(inputs);
        let share = inputs.div_ceil(shares);
        let panels_per_job = (JOB_ROWS / self.panel).min(panels.div_ceil(2 * threads)).max(1);
        for first in (0..blocks).step_by(at_once) {
            let count = at_once.min(blocks - first);
            let start = Shared(values.as_mut_ptr());
            (0..count * shares).into_par_iter().with_max_len(1).for_each(|job| {
                let (block, share_first) = (job / shares, job % shares * share);
                let channels = share_first.min(inputs)..(share_first + share).min(inputs);
                // SAFETY: `count` blocks' values lie in the buffer; a job writes those of its block and channels.
                #[allow(unsafe_code)]
                let to = Shared(unsafe { { start }.0.add(block * per_block) });
                self.compute(Task::Inputs { block: first + block, channels, to });
            });
            (0..panels.div_ceil(panels_per_job)).into_par_iter().with_max_len(1).for_each(|job| {
                let panels = job * panels_per_job..panels.min((job + 1) * panels_per_job);
                let per_job = sums_of(panels.len());
                // The sums of many blocks do not stay in the cache: they are visited once.
                let depth = if count <= FEW_BLOCKS { DEPTH.min(inputs) } else { inputs };
                let mut weights = Scratch::new(panels.len() * self.panel_floats(depth));
                let mut sums = Scratch::new(count * per_job);
                for start in (0..inputs).step_by(depth) {
                    let channels = start..inputs.min(start + depth);
                    let weights = &mut weights[..panels.len() * self.panel_floats(channels.len())];
                    self.compute(Task::Weights { panels: panels.clone(), channels: channels.clone(), to: weights });
                    let blocks = values.chunks(per_block).zip(sums.chunks_mut(per_job)).take(count);
                    for (block, (values, sums)) in blocks.enumerate() {
                        let (block, channels) = (first + block, channels.clone());
                        self.compute(Task::Products { block, channels, weights, values, sums });
                    }
                }
                for (block, sums) in sums.chunks(per_job).take(count).enumerate() {
                    self.compute(Task::Outputs { block: first + block, panels: panels.clone(), sums });
                }
            });
        }
    }

    /// Floats between two points' weights in a panel of so many channels.
    fn weight_spacing(&self, channels: usize) -> usize {
        odd_lines(self.panel * channels)
    }

    /// Floats of a panel's weights.
    fn panel_floats(&self, channels: usize) -> usize {
        self.points * self.weight_spacing(channels)
    }

    fn compute(&self, task: Task<'_>) {
        // SAFETY: `Isa::best` found the set on this machine.
        #[allow(unsafe_code)]
        unsafe {
            match self.isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => avx512(self, task),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2(self, task),
                Isa::Portable => perform::<Portable, 4, 2>(self, task),
            }
        }
    }

    /// The tiles of a block, vector by vector.
    pub(super) fn pieces(&self, block: usize) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let end = self.tiles.min((block + 1) * self.block);
        let mut tile = block * self.block;
        while tile < end {
            let (vector, lane) = ((tile - block * self.block) / self.lanes, tile % self.lanes);
            let (line, tile_x) = (tile / self.tiles_x, tile % self.tiles_x);
            let count = (self.tiles_x - tile_x).min(self.lanes - lane).min(end - tile);
            let (image, tile_y) = (line / self.tiles_y, line % self.tiles_y);
            pieces.push(Piece { vector, lane, count, image, tile_y, tile_x });
            tile += count;
        }
        pieces
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[allow(unsafe_code)]
fn avx512(plan: &Plan<'_>, task: Task<'_>) {
    // SAFETY: the attribute's instructions are what the vectors need.
    unsafe { if plan.panel == 16 { perform::<Avx512, 16, 1>(plan, task) } else { perform::<Avx512, 8, 2>(plan, task) } }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[allow(unsafe_code)]
fn avx2(plan: &Plan<'_>, task: Task<'_>) {
    // SAFETY: the attribute's instructions are what the vectors need.
    unsafe { perform::<Avx2, 6, 2>(plan, task) }
}

/// # Safety
/// The vectors' instruction set is there, and the task's slices are those of [`Plan::run`].
#[inline(always)]
#[allow(unsafe_code)]
unsafe fn perform<S: Simd, const ROWS: usize, const VECTORS: usize>(plan: &Plan<'_>, task: Task<'_>) {
    // SAFETY: the caller's.
    unsafe {
        match task {
            Task::Weights { panels, channels, to } => match plan.tile {
                Tile::Four => weights::<S, ROWS, 6, transform::Four>(plan, panels, channels, to),
                Tile::Two => weights::<S, ROWS, 4, two::Two>(plan, panels, channels, to),
            },
            Task::Inputs { block, channels, to } => match plan.tile {
                Tile::Four => four::inputs::<S>(plan, block, channels, to.0),
                Tile::Two => two::inputs(plan, block, channels, to.0),
            },
            Task::Products { block, channels, weights, values, sums } => {
                products::<S, ROWS, VECTORS>(plan, block, channels, weights, values, sums);
            }
            Task::Outputs { block, panels, sums } => {
                let rows = panels.start * ROWS..plan.conv.outputs.min(panels.end * ROWS);
                match plan.tile {
                    Tile::Four => four::outputs::<S>(plan, block, rows, sums),
                    Tile::Two => two::outputs(plan, block, rows, sums),
                }
            }
        }
    }
}

/// Transforms the taps of panels of outputs.
///
/// # Safety
/// As [`perform`].
#[inline(always)]
#[allow(unsafe_code)]
unsafe fn weights<S: Simd, const ROWS: usize, const SIDE: usize, P: Points<SIDE>>(
    plan: &Plan<'_>,
    panels: Range<usize>,
    channels: Range<usize>,
    to: &mut [f32],
) {
    let Winograd { inputs, outputs, weight, turned, .. } = *plan.conv;
    let count = channels.len();
    let (length, spacing) = (count * ROWS, plan.weight_spacing(count));
    // The panel's taps, together: `[row][input]`, or turned `[input][row]`.
    let mut panel_taps = Scratch::new(9 * length);
    let (row_step, input_step) = if turned { (9, 9 * ROWS) } else { (9 * count, 9) };
    for (panel, to) in panels.zip(to.chunks_exact_mut(SIDE * SIDE * spacing)) {
        let rows = panel * ROWS..outputs.min((panel + 1) * ROWS);
        if turned {
            for (input, to) in channels.clone().zip(panel_taps.chunks_exact_mut(input_step)) {
                let taps = (input * outputs + rows.start) * 9..(input * outputs + rows.end) * 9;
                weight.widen(taps.clone(), &mut to[..taps.len()]);
            }
        } else {
            for (row, to) in rows.clone().zip(panel_taps.chunks_exact_mut(row_step)) {
                weight.widen((row * inputs + channels.start) * 9..(row * inputs + channels.end) * 9, to);
            }
        }
        // What lies beyond the last output or input is read from the last and never looked at.
        let last_row = rows.len() - 1;
        let offsets_from = |first: usize| -> [i32; MOST_LANES] {
            std::array::from_fn(|lane| {
                let (input, row) = ((first + lane) / ROWS, (first + lane) % ROWS);
                (input.min(count - 1) * input_step + row.min(last_row) * row_step) as i32
            })
        };
        // Where vectors are whole inputs, all look alike.
        let alike = offsets_from(0);
        for first in (0..length).step_by(S::LANES) {
            let count = S::LANES.min(length - first);
            let (start, offsets) = if S::LANES.is_multiple_of(ROWS) && count == S::LANES {
                (first / ROWS * input_step, alike)
            } else {
                (0, offsets_from(first))
            };
            let from = &panel_taps[start..];
            // SAFETY: the offsets are those of taps of outputs and inputs that exist, where the slice holds nine taps
            // each; `count` floats from `first` on lie inside the point's `spacing`.
            unsafe {
                let from = from.as_ptr();
                let mut taps = [S::splat(0.0); 9];
                for tap in 0..9 {
                    taps[tap] = S::gather(from.add(if turned { 8 - tap } else { tap }), &offsets);
                }
                let mut columns = [[S::splat(0.0); 3]; SIDE];
                for x in 0..3 {
                    let column = P::weight([taps[x], taps[3 + x], taps[6 + x]]);
                    for y in 0..SIDE {
                        columns[y][x] = column[y];
                    }
                }
                for y in 0..SIDE {
                    let line = P::weight(columns[y]);
                    for x in 0..SIDE {
                        let to = to.as_mut_ptr().add((SIDE * y + x) * spacing + first);
                        if count == S::LANES { line[x].store(to) } else { line[x].store_first(to, count) }
                    }
                }
            }
        }
    }
}

/// Multiplies every point's weights by its values: `sums[output][point][tile]`, begun with the first channels.
///
/// # Safety
/// As [`perform`].
#[inline(always)]
#[allow(unsafe_code)]
unsafe fn products<S: Simd, const ROWS: usize, const VECTORS: usize>(
    plan: &Plan<'_>,
    block: usize,
    channels: Range<usize>,
    weights: &[f32],
    values: &[f32],
    sums: &mut [f32],
) {
    let (inputs, points) = (plan.conv.inputs, plan.points);
    let strip = VECTORS * S::LANES;
    let strips = (plan.tiles - block * plan.block).min(plan.block).div_ceil(strip);
    let weight_spacing = plan.weight_spacing(channels.len());
    let panels = sums.len() / (ROWS * points * plan.block);
    assert!(weight_spacing >= channels.len() * ROWS && weights.len() >= panels * points * weight_spacing);
    assert!(channels.end <= inputs && values.len() >= points * plan.spacing && plan.spacing >= strips * inputs * strip);
    for point in 0..points {
        for first in channels.clone().step_by(DEPTH) {
            let depth = DEPTH.min(channels.end - first);
            for panel in 0..panels {
                let weights_from = (panel * points + point) * weight_spacing + (first - channels.start) * ROWS;
                for at in 0..strips {
                    // SAFETY: the assertions above, and the number of panels.
                    unsafe {
                        micro::<S, ROWS, VECTORS>(
                            depth,
                            weights.as_ptr().add(weights_from),
                            values.as_ptr().add(point * plan.spacing + (at * inputs + first) * strip),
                            sums.as_mut_ptr().add((panel * ROWS * points + point) * plan.block + at * strip),
                            points * plan.block,
                            first > 0,
                        );
                    }
                }
            }
        }
    }
}
