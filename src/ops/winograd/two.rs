//! F(2x2, 3x3), for pictures of few pixels: channel by channel, for the products and the weights are what takes time there.

use std::ops::Range;

use super::super::simd::Simd;
use super::NOWHERE;
use super::block::Plan;
use super::transform::Points;

/// Samples of a tile's side, and their number.
const SIDE: usize = 4;
const POINTS: usize = SIDE * SIDE;

/// Polynomials of degree 3 through 0, 1, -1 and infinity.
pub(super) struct Two;

impl Points<SIDE> for Two {
    #[inline(always)]
    fn weight<S: Simd>(w: [S; 3]) -> [S; SIDE] {
        let half = w[0].all(0.5);
        let (even, odd) = (w[0].add(w[2]).mul(half), w[1].mul(half));
        [w[0], even.add(odd), even.sub(odd), w[2]]
    }
}

/// The points' values of four samples in a row.
#[inline(always)]
fn input([a, b, c, d]: [f32; SIDE]) -> [f32; SIDE] {
    [a - c, b + c, c - b, b - d]
}

/// The two results of four products.
#[inline(always)]
fn output([a, b, c, d]: [f32; SIDE]) -> [f32; 2] {
    [a + b + c, b - c - d]
}

/// A map of lines, then one of columns.
#[inline(always)]
fn twice<const OUT: usize>(values: &[f32; POINTS], map: impl Fn([f32; SIDE]) -> [f32; OUT]) -> [[f32; OUT]; OUT] {
    let mut columns = [[0f32; SIDE]; OUT];
    for x in 0..SIDE {
        let column = map(std::array::from_fn(|y| values[SIDE * y + x]));
        for y in 0..OUT {
            columns[y][x] = column[y];
        }
    }
    columns.map(map)
}

/// A tile's image, line and column.
fn place(plan: &Plan<'_>, tile: usize) -> (usize, usize, usize) {
    let line = tile / plan.tiles_x;
    (line / plan.tiles_y, line % plan.tiles_y, tile % plan.tiles_x)
}

/// The tiles of a block.
fn tiles(plan: &Plan<'_>, block: usize) -> Range<usize> {
    block * plan.block..plan.tiles.min((block + 1) * plan.block)
}

/// Transforms channels of a block's tiles.
///
/// # Safety
/// `to` holds a block's values, and no other thread touches those of these channels.
#[allow(unsafe_code)]
pub(super) unsafe fn inputs(plan: &Plan<'_>, block: usize, channels: Range<usize>, to: *mut f32) {
    let conv = plan.conv;
    let plane = conv.height * conv.width;
    for (at, tile) in tiles(plan, block).enumerate() {
        let (image, tile_y, tile_x) = place(plan, tile);
        // Where each sample lies in a plane.
        let of = |list: &[u32], at: usize| list.get(at).copied().filter(|&source| source != NOWHERE);
        let sources: [Option<usize>; POINTS] = std::array::from_fn(|sample| {
            let (y, x) = (of(conv.rows, 2 * tile_y + sample / SIDE)?, of(conv.columns, 2 * tile_x + sample % SIDE)?);
            Some(y as usize * conv.width + x as usize)
        });
        let (strip, lane) = (at / plan.strip, at % plan.strip);
        for channel in channels.clone() {
            let xs = &conv.xs[(image * conv.inputs + channel) * plane..][..plane];
            let samples = sources.map(|source| source.map_or(0.0, |at| xs[at]));
            let values = twice(&samples, input);
            for (point, &value) in values.as_flattened().iter().enumerate() {
                // SAFETY: the tile's place in the block's values.
                unsafe {
                    *to.add(point * plan.spacing + (strip * conv.inputs + channel) * plan.strip + lane) = value;
                }
            }
        }
    }
}

/// Turns sums to pixels.
///
/// # Safety
/// No other thread touches these outputs of the block's tiles.
#[allow(unsafe_code)]
pub(super) unsafe fn outputs(plan: &Plan<'_>, block: usize, outputs: Range<usize>, sums: &[f32]) {
    let conv = plan.conv;
    for (output, sums) in outputs.zip(sums.chunks_exact(POINTS * plan.block)) {
        let bias = conv.bias.map_or(0.0, |bias| bias[output]);
        for (at, tile) in tiles(plan, block).enumerate() {
            let (image, tile_y, tile_x) = place(plan, tile);
            let products = std::array::from_fn(|point| sums[point * plan.block + at]);
            for (y, line) in (2 * tile_y..plan.out_height).zip(twice(&products, self::output)) {
                for (x, sum) in (2 * tile_x..plan.out_width).zip(line) {
                    let sum = sum + bias;
                    // In this order, not-a-number stays what it is.
                    let sum = if conv.relu && sum < 0.0 { 0.0 } else { sum };
                    let plane = (image * conv.outputs + output) * plan.out_height * plan.out_width;
                    // SAFETY: a pixel of the result.
                    unsafe { *plan.out.add(plane + y * plan.out_width + x) = sum }
                }
            }
        }
    }
}
