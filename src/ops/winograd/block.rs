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
use super::{NOWHERE, POINTS, Winograd, longest_run, transform};

/// Channels summed between two visits to the sums: their values stay in the innermost cache.
const DEPTH: usize = 256;

/// Tiles and outputs of a block, at most: with 64 channels its values, weights and sums fill a core's second cache.
const BLOCK: usize = 64;
const ROWS: usize = 64;

/// Room for the samples of a vector of tiles, and a vector more.
const LINE: usize = 5 * MOST_LANES;

/// Outputs of a job that makes its own weights: DEPTH channels of them stay in a core's second cache.
const JOB_ROWS: usize = 16;

/// Blocks whose sums stay there as well.
const FEW_BLOCKS: usize = 4;

/// Working memory shared by all threads, in floats: 64 MiB.
const MAX_SHARED: usize = 16 << 20;

/// Tiles of one line that lie side by side in a vector.
#[derive(Clone, Copy)]
struct Piece {
    /// The vector's number in its block, and the first lane taken.
    vector: usize,
    lane: usize,
    count: usize,
    image: usize,
    tile_y: usize,
    tile_x: usize,
}

/// How a convolution is cut.
pub(super) struct Plan<'a> {
    conv: &'a Winograd<'a>,
    isa: Isa,
    /// Columns that see the picture's `first_seen`, `first_seen + 1`, ...
    run: Range<usize>,
    first_seen: usize,
    tiles_x: usize,
    tiles_y: usize,
    tiles: usize,
    lanes: usize,
    /// Outputs and tiles of the innermost product.
    panel: usize,
    strip: usize,
    /// Tiles and outputs of a block.
    block: usize,
    rows: usize,
    /// Floats between two points' values.
    spacing: usize,
    out: *mut f32,
    out_height: usize,
    out_width: usize,
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
    pub(super) fn new(conv: &'a Winograd<'a>, isa: Isa, out: *mut f32) -> Self {
        let (out_height, out_width) = (conv.rows.len() - 2, conv.columns.len() - 2);
        let (tiles_y, tiles_x) = (out_height.div_ceil(4), out_width.div_ceil(4));
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
        let per_block = POINTS * self.spacing;
        let sums_of = |panels: usize| panels * self.panel * POINTS * self.block;
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
        POINTS * self.weight_spacing(channels)
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
    fn pieces(&self, block: usize) -> Vec<Piece> {
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
            Task::Weights { panels, channels, to } => weights::<S, ROWS>(plan, panels, channels, to),
            Task::Inputs { block, channels, to } => inputs::<S>(plan, block, channels, to.0),
            Task::Products { block, channels, weights, values, sums } => {
                products::<S, ROWS, VECTORS>(plan, block, channels, weights, values, sums);
            }
            Task::Outputs { block, panels, sums } => {
                outputs::<S>(plan, block, panels.start * ROWS..plan.conv.outputs.min(panels.end * ROWS), sums);
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
unsafe fn weights<S: Simd, const ROWS: usize>(
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
    for (panel, to) in panels.zip(to.chunks_exact_mut(POINTS * spacing)) {
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
                let mut columns = [[S::splat(0.0); 3]; 6];
                for x in 0..3 {
                    let column = transform::weight([taps[x], taps[3 + x], taps[6 + x]]);
                    for y in 0..6 {
                        columns[y][x] = column[y];
                    }
                }
                for y in 0..6 {
                    let line = transform::weight(columns[y]);
                    for x in 0..6 {
                        let to = to.as_mut_ptr().add((6 * y + x) * spacing + first);
                        if count == S::LANES { line[x].store(to) } else { line[x].store_first(to, count) }
                    }
                }
            }
        }
    }
}

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
/// As [`perform`].
#[inline(always)]
#[allow(unsafe_code)]
unsafe fn inputs<S: Simd>(plan: &Plan<'_>, block: usize, channels: Range<usize>, to: *mut f32) {
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
    let inputs = plan.conv.inputs;
    let strip = VECTORS * S::LANES;
    let strips = (plan.tiles - block * plan.block).min(plan.block).div_ceil(strip);
    let weight_spacing = plan.weight_spacing(channels.len());
    let panels = sums.len() / (ROWS * POINTS * plan.block);
    assert!(weight_spacing >= channels.len() * ROWS && weights.len() >= panels * POINTS * weight_spacing);
    assert!(channels.end <= inputs && values.len() >= POINTS * plan.spacing && plan.spacing >= strips * inputs * strip);
    for point in 0..POINTS {
        for first in channels.clone().step_by(DEPTH) {
            let depth = DEPTH.min(channels.end - first);
            for panel in 0..panels {
                let weights_from = (panel * POINTS + point) * weight_spacing + (first - channels.start) * ROWS;
                for at in 0..strips {
                    // SAFETY: the assertions above, and the number of panels.
                    unsafe {
                        micro::<S, ROWS, VECTORS>(
                            depth,
                            weights.as_ptr().add(weights_from),
                            values.as_ptr().add(point * plan.spacing + (at * inputs + first) * strip),
                            sums.as_mut_ptr().add((panel * ROWS * POINTS + point) * plan.block + at * strip),
                            POINTS * plan.block,
                            first > 0,
                        );
                    }
                }
            }
        }
    }
}

/// Turns sums to pixels.
///
/// # Safety
/// As [`perform`].
#[inline(always)]
#[allow(unsafe_code)]
unsafe fn outputs<S: Simd>(plan: &Plan<'_>, block: usize, outputs: Range<usize>, sums: &[f32]) {
    let conv = plan.conv;
    let pieces = plan.pieces(block);
    let (width, height) = (plan.out_width, plan.out_height);
    let plane = width * height;
    let mut lines = [[0f32; 4 * MOST_LANES]; 4];
    for (output, sums) in outputs.zip(sums.chunks_exact(POINTS * plan.block)) {
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
