//! Convolution on the CPU without gathered patches, for kernels of any size and stride, and the gradient to their weights.
//!
//! A band of padded lines is copied once, each line split into its columns modulo the stride: then what a tap sees along a
//! line of results lies in a row, wherever it starts, and the taps of all channels are a list of offsets.

// Loops over registers are written with indices.
#![allow(clippy::needless_range_loop)]

mod enlarged;

use std::ops::Range;

use rayon::prelude::*;

use super::fresh::{Place, fresh, write, written};
use super::scratch::Scratch;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Isa, Portable, Simd};
use super::winograd::longest_run;
pub(super) use enlarged::halved;

/// Floats of a band: with the results' they stay in a core's second cache.
const BAND: usize = 128 << 10;

/// Pieces a small batch is cut into, so that several cores have work.
const PIECES: usize = 8;

/// The longest vector, by which lines are lengthened.
const MOST: usize = super::simd::MOST_LANES;

/// Floats behind a line that the vectors of its end may reach.
const BEYOND: usize = 5 * MOST;

/// The sizes of a convolution and where its padded lines and columns come from.
#[derive(Clone, Copy)]
pub(super) struct Direct<'a> {
    pub(super) batch: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    /// The source of every padded line, more than the picture has for zeros.
    pub(super) rows: &'a [u32],
    pub(super) columns: &'a [u32],
}

/// What the threads need to know of the lines.
struct Lines {
    isa: Isa,
    out_height: usize,
    out_width: usize,
    /// Floats of a split line's part, and of a line of results.
    part: usize,
    out_line: usize,
    /// Results' lines per band.
    band: usize,
    /// Where each tap of each input starts.
    taps: Vec<usize>,
    /// Floats of an input's lines in a band.
    plane: usize,
    regular: Range<usize>,
}

impl Direct<'_> {
    /// Taps of all inputs up to which this beats a product with gathered patches.
    pub(super) const DEEPEST: usize = 1152;

    /// Pairs of channels up to which 3 x 3 taps of an enlarged picture are better summed directly than by Winograd.
    pub(super) const FEW: usize = 1024;

    fn lines(&self, isa: Isa, values: usize) -> Lines {
        let &Self { batch, inputs, kernel, stride, rows, columns, .. } = self;
        let out = |padded: usize| if padded < kernel { 0 } else { (padded - kernel) / stride + 1 };
        let (out_height, out_width) = (out(rows.len()), out(columns.len()));
        let out_line = out_width.next_multiple_of(MOST);
        let part = out_line + kernel / stride + MOST;
        // The whole batch has at least PIECES bands.
        let pieces = PIECES.div_ceil(batch.max(1));
        let fitting = BAND / (inputs * part * stride * stride + values * out_line).max(1);
        let band = fitting.clamp(1, out_height.div_ceil(pieces).max(1));
        let plane = ((band - 1) * stride + kernel) * stride * part;
        let taps = (0..inputs * kernel * kernel).map(|tap| {
            let (input, y, x) = (tap / (kernel * kernel), tap / kernel % kernel, tap % kernel);
            input * plane + (y * stride + x % stride) * part + x / stride
        });
        let taps = taps.collect();
        Lines { isa, out_height, out_width, part, out_line, band, taps, plane, regular: longest_run(columns) }
    }

    /// Copies the padded lines that the results from line `first` on see.
    fn copy(&self, lines: &Lines, xs: &[f32], image: usize, first: usize, to: &mut [f32]) {
        let &Self { inputs, height, width, stride, rows, columns, .. } = self;
        let plane = height * width;
        for (input, to) in to.chunks_exact_mut(lines.plane).take(inputs).enumerate() {
            let xs = &xs[(image * inputs + input) * plane..][..plane];
            for (line, to) in to.chunks_exact_mut(stride * lines.part).enumerate() {
                let row = rows.get(first * stride + line).map_or(usize::MAX, |&row| row as usize);
                let Some(xs) = xs.chunks_exact(width).nth(row) else {
                    to.fill(0.0);
                    continue;
                };
                for (phase, to) in to.chunks_exact_mut(lines.part).enumerate() {
                    let seen = columns.iter().skip(phase).step_by(stride);
                    let count = seen.len();
                    if stride == 1 && lines.regular.len() > MOST {
                        let Range { start, end } = lines.regular;
                        to[start..end].copy_from_slice(&xs[columns[start] as usize..][..end - start]);
                        for x in (0..start).chain(end..count) {
                            to[x] = xs.get(columns[x] as usize).copied().unwrap_or(0.0);
                        }
                    } else if stride == 2 && lines.regular.len() > 2 * MOST {
                        // Those of the regular columns that are this phase's.
                        let Range { start, end } = lines.regular;
                        let (first, last) = ((start + 1 - phase) / 2, (end - phase) / 2);
                        let from = columns[2 * first + phase] as usize;
                        let pairs = xs[from..].as_chunks::<2>().0;
                        for (to, pair) in to[first..last].iter_mut().zip(pairs) {
                            *to = pair[0];
                        }
                        for x in (0..first).chain(last.saturating_sub(1)..count) {
                            to[x] = xs.get(columns[2 * x + phase] as usize).copied().unwrap_or(0.0);
                        }
                    } else {
                        for (to, &column) in to.iter_mut().zip(seen) {
                            *to = xs.get(column as usize).copied().unwrap_or(0.0);
                        }
                    }
                    to[count..].fill(0.0);
                }
            }
        }
    }

    /// The convolution, `[batch, outputs, ..]`, with `weight [outputs, inputs, kernel, kernel]`; `turned`, with that of the
    /// convolution whose gradient `xs` is: `[inputs, outputs, kernel, kernel]`, read backwards.
    pub(super) fn run(&self, xs: &[f32], weight: &[f32], turned: bool, bias: Option<&[f32]>, relu: bool) -> Vec<f32> {
        self.run_with(Isa::best(), xs, weight, turned, bias, relu)
    }

    fn run_with(
        &self,
        isa: Isa,
        xs: &[f32],
        weight: &[f32],
        turned: bool,
        bias: Option<&[f32]>,
        relu: bool,
    ) -> Vec<f32> {
        let &Self { batch, inputs, outputs, kernel, stride, .. } = self;
        let lines = self.lines(isa, outputs);
        let (taps, area, pixels) = (lines.taps.len(), kernel * kernel, lines.out_height * lines.out_width);
        assert!(xs.len() >= batch * inputs * self.height * self.width, "input outside its slice");
        assert!(weight.len() >= outputs * taps, "weights outside their slice");
        let mut out = fresh(batch * outputs * pixels);
        // `[panel][tap][row of the panel]`.
        let rows = panel_rows(outputs);
        let mut packed = Scratch::new(outputs.next_multiple_of(rows) * taps);
        for (panel, to) in packed.chunks_exact_mut((rows * taps).max(1)).enumerate() {
            for (at, to) in to.iter_mut().enumerate() {
                let (tap, output) = (at / rows, panel * rows + at % rows);
                let from = match turned {
                    true => (tap / area * outputs + output) * area + area - 1 - tap % area,
                    false => output * taps + tap,
                };
                *to = if output < outputs { weight[from] } else { 0.0 };
            }
        }
        let mut bands = Vec::new();
        for (image, out) in out.chunks_mut((outputs * pixels).max(1)).enumerate() {
            let start = bands.len();
            bands.extend((0..lines.out_height).step_by(lines.band).map(|first| (image, first, Vec::new())));
            for plane in out.chunks_mut(pixels) {
                for (band, rows) in bands[start..].iter_mut().zip(plane.chunks_mut(lines.band * lines.out_width)) {
                    band.2.push(rows);
                }
            }
        }
        bands.into_par_iter().for_each(|(image, first, mut planes): (usize, usize, Vec<&mut [Place]>)| {
            let mut seen = Scratch::new(inputs * lines.plane + BEYOND + MOST);
            self.copy(&lines, xs, image, first, &mut seen);
            for ((panel, planes), weights) in
                planes.chunks_mut(rows).enumerate().zip(packed.chunks_exact((rows * taps).max(1)))
            {
                let bias: [f32; 8] =
                    std::array::from_fn(|r| bias.map_or(0.0, |b| *b.get(panel * rows + r).unwrap_or(&0.0)));
                sum_taps(&lines, stride, &seen, weights, &bias, relu, planes);
            }
        });
        // SAFETY: the bands cover every line of every plane, and `sum_taps` writes whole lines.
        #[allow(unsafe_code)]
        unsafe {
            written(out)
        }
    }

    /// The gradient to the weights, `[outputs, inputs, kernel, kernel]`, from that to the result.
    pub(super) fn weight_gradient(&self, xs: &[f32], gradient: &[f32]) -> Vec<f32> {
        self.weight_gradient_with(Isa::best(), xs, gradient)
    }

    fn weight_gradient_with(&self, isa: Isa, xs: &[f32], gradient: &[f32]) -> Vec<f32> {
        let lines = self.lines(isa, self.outputs);
        let (taps, pixels) = (lines.taps.len(), lines.out_height * lines.out_width);
        assert!(xs.len() >= self.batch * self.inputs * self.height * self.width, "input outside its slice");
        assert!(gradient.len() >= self.batch * self.outputs * pixels, "gradient outside its slice");
        let bands = lines.out_height.div_ceil(lines.band);
        let pieces = PIECES.div_ceil(self.batch.max(1)).min(bands.max(1));
        let per_piece = bands.div_ceil(pieces);
        let parts: Vec<Vec<f32>> = (0..self.batch * pieces)
            .into_par_iter()
            .map(|piece| {
                let (image, piece) = (piece / pieces, piece % pieces);
                let mut part = vec![0f32; self.outputs * taps];
                let mut seen = Scratch::new(self.inputs * lines.plane);
                let mut values = Scratch::new(self.outputs * lines.band * lines.out_line);
                for band in (piece * per_piece..(piece + 1) * per_piece).take_while(|&band| band < bands) {
                    let first = band * lines.band;
                    let count = lines.band.min(lines.out_height - first);
                    self.copy(&lines, xs, image, first, &mut seen);
                    let gradient = &gradient[image * self.outputs * pixels..];
                    for (output, to) in values.chunks_exact_mut(lines.band * lines.out_line).enumerate() {
                        let from = &gradient[output * pixels + first * lines.out_width..];
                        for (to, from) in
                            to.chunks_exact_mut(lines.out_line).zip(from.chunks(lines.out_width)).take(count)
                        {
                            to[..lines.out_width].copy_from_slice(from);
                            to[lines.out_width..].fill(0.0);
                        }
                    }
                    correlate(&lines, self.stride, &seen, &values, count, &mut part);
                }
                part
            })
            .collect();
        let mut parts = parts.into_iter();
        let mut sum = parts.next().unwrap_or_else(|| vec![0f32; self.outputs * taps]);
        for part in parts {
            for (sum, part) in sum.iter_mut().zip(part) {
                *sum += part;
            }
        }
        sum
    }
}

/// Outputs that are summed together.
fn panel_rows(outputs: usize) -> usize {
    match outputs {
        0..=3 => 3,
        4 => 4,
        _ => 8,
    }
}

/// A panel of outputs: the sums over all taps of weights times what the taps see.
fn sum_taps(
    lines: &Lines,
    stride: usize,
    seen: &[f32],
    weights: &[f32],
    bias: &[f32; 8],
    relu: bool,
    planes: &mut [&mut [Place]],
) {
    let count = planes.first().map_or(0, |plane| plane.len() / lines.out_width.max(1));
    let last = lines.taps.last().copied().unwrap_or(0);
    assert!(count == 0 || last + (count - 1) * stride * stride * lines.part + lines.out_line + BEYOND <= seen.len());
    let rows = weights.len() / lines.taps.len().max(1);
    assert!(matches!(rows, 0 | 3 | 4 | 8) && rows * lines.taps.len() == weights.len());
    // SAFETY: the instruction set is there; the assertions keep what taps see and the weights inside their slices.
    #[allow(unsafe_code)]
    unsafe {
        match lines.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => sum_avx512(lines, stride, seen, weights, bias, relu, planes),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => sum_avx2(lines, stride, seen, weights, bias, relu, planes),
            Isa::Portable => match rows {
                3 => sum_lanes::<Portable, 3, 3>(lines, stride, seen, weights, bias, relu, planes),
                4 => sum_lanes::<Portable, 4, 2>(lines, stride, seen, weights, bias, relu, planes),
                _ => sum_lanes::<Portable, 8, 1>(lines, stride, seen, weights, bias, relu, planes),
            },
        }
    }
}

// SAFETY: called where the instructions are, with slices checked by `sum_taps`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[allow(unsafe_code)]
unsafe fn sum_avx512(
    lines: &Lines,
    stride: usize,
    seen: &[f32],
    weights: &[f32],
    bias: &[f32; 8],
    relu: bool,
    planes: &mut [&mut [Place]],
) {
    // SAFETY: the caller's.
    unsafe {
        match weights.len() / lines.taps.len().max(1) {
            3 => sum_lanes::<Avx512, 3, 6>(lines, stride, seen, weights, bias, relu, planes),
            4 => sum_lanes::<Avx512, 4, 4>(lines, stride, seen, weights, bias, relu, planes),
            _ => sum_lanes::<Avx512, 8, 2>(lines, stride, seen, weights, bias, relu, planes),
        }
    }
}

// SAFETY: called where the instructions are, with slices checked by `sum_taps`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[allow(unsafe_code)]
unsafe fn sum_avx2(
    lines: &Lines,
    stride: usize,
    seen: &[f32],
    weights: &[f32],
    bias: &[f32; 8],
    relu: bool,
    planes: &mut [&mut [Place]],
) {
    // SAFETY: the caller's.
    unsafe {
        match weights.len() / lines.taps.len().max(1) {
            3 => sum_lanes::<Avx2, 3, 3>(lines, stride, seen, weights, bias, relu, planes),
            4 => sum_lanes::<Avx2, 4, 2>(lines, stride, seen, weights, bias, relu, planes),
            _ => sum_lanes::<Avx2, 8, 1>(lines, stride, seen, weights, bias, relu, planes),
        }
    }
}

/// [`sum_taps`] for `ROWS` outputs and `VECTORS` vectors of results at a time.
///
/// # Safety
/// As [`Simd`]; the slices are those that [`sum_taps`] checked.
#[inline(always)]
#[allow(unsafe_code)]
unsafe fn sum_lanes<S: Simd, const ROWS: usize, const VECTORS: usize>(
    lines: &Lines,
    stride: usize,
    seen: &[f32],
    weights: &[f32],
    bias: &[f32; 8],
    relu: bool,
    planes: &mut [&mut [Place]],
) {
    let width = lines.out_width;
    let count = planes.first().map_or(0, |plane| plane.len() / width.max(1));
    for line in 0..count {
        for first in (0..width).step_by(VECTORS * S::LANES) {
            let at = line * stride * stride * lines.part + first;
            let mut done = [[0f32; 6 * MOST]; ROWS];
            // SAFETY: the caller's; a line of `done` holds the vectors.
            unsafe {
                let mut sums = [[S::splat(0.0); VECTORS]; ROWS];
                for r in 0..ROWS {
                    sums[r] = [S::splat(bias[r]); VECTORS];
                }
                let mut weight = weights.as_ptr();
                for &tap in &lines.taps {
                    let from = seen.as_ptr().add(tap + at);
                    let mut values = [S::splat(0.0); VECTORS];
                    for v in 0..VECTORS {
                        values[v] = S::load(from.add(v * S::LANES));
                    }
                    for r in 0..ROWS {
                        let weight = S::splat(*weight.add(r));
                        for v in 0..VECTORS {
                            sums[r][v] = weight.mul_add(values[v], sums[r][v]);
                        }
                    }
                    weight = weight.add(ROWS);
                }
                for r in 0..ROWS {
                    for v in 0..VECTORS {
                        // In this order, not-a-number stays what it is.
                        let sum = if relu { sums[r][v].all(0.0).max(sums[r][v]) } else { sums[r][v] };
                        sum.store(done[r].as_mut_ptr().add(v * S::LANES));
                    }
                }
            }
            let length = (VECTORS * S::LANES).min(width - first);
            for (plane, done) in planes.iter_mut().zip(&done) {
                write(&mut plane[line * width + first..][..length], &done[..length]);
            }
        }
    }
}

/// Adds to `sums[output][tap]` the products of what the tap sees with the output's values, over `count` lines.
fn correlate(lines: &Lines, stride: usize, seen: &[f32], values: &[f32], count: usize, sums: &mut [f32]) {
    let last = lines.taps.last().copied().unwrap_or(0);
    assert!(count == 0 || last + (count - 1) * stride * stride * lines.part + lines.out_line <= seen.len());
    assert!(values.len() >= sums.len() / lines.taps.len().max(1) * lines.band * lines.out_line && count <= lines.band);
    // SAFETY: the instruction set is there; the assertions keep what taps see and the values inside their slices.
    #[allow(unsafe_code)]
    unsafe {
        match lines.isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => correlate_avx512(lines, stride, seen, values, count, sums),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => correlate_avx2(lines, stride, seen, values, count, sums),
            Isa::Portable => correlate_lanes::<Portable, 2, 4>(lines, stride, seen, values, count, sums),
        }
    }
}

// SAFETY: called where the instructions are, with slices checked by `correlate`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[allow(unsafe_code)]
unsafe fn correlate_avx512(lines: &Lines, stride: usize, seen: &[f32], values: &[f32], count: usize, sums: &mut [f32]) {
    unsafe { correlate_lanes::<Avx512, 3, 8>(lines, stride, seen, values, count, sums) }
}

// SAFETY: called where the instructions are, with slices checked by `correlate`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[allow(unsafe_code)]
unsafe fn correlate_avx2(lines: &Lines, stride: usize, seen: &[f32], values: &[f32], count: usize, sums: &mut [f32]) {
    unsafe { correlate_lanes::<Avx2, 2, 5>(lines, stride, seen, values, count, sums) }
}

/// [`correlate`] for `ROWS` outputs and `TAPS` taps at a time.
///
/// # Safety
/// As [`Simd`]; the slices are those that [`correlate`] checked.
#[inline(always)]
#[allow(unsafe_code)]
unsafe fn correlate_lanes<S: Simd, const ROWS: usize, const TAPS: usize>(
    lines: &Lines,
    stride: usize,
    seen: &[f32],
    values: &[f32],
    count: usize,
    sums: &mut [f32],
) {
    let taps = lines.taps.len();
    let outputs = sums.len() / taps.max(1);
    let (plane, step) = (lines.band * lines.out_line, stride * stride * lines.part);
    for first_tap in (0..taps).step_by(TAPS) {
        // What is too many sees what the last one does, and is dropped.
        let mut from = [seen.as_ptr(); TAPS];
        for t in 0..TAPS {
            from[t] = &raw const seen[lines.taps[(first_tap + t).min(taps - 1)]];
        }
        for first_row in (0..outputs).step_by(ROWS) {
            let mut with = [values.as_ptr(); ROWS];
            for r in 0..ROWS {
                with[r] = &raw const values[(first_row + r).min(outputs - 1) * plane];
            }
            // SAFETY: the caller's.
            unsafe {
                let mut total = [[S::splat(0.0); TAPS]; ROWS];
                for line in 0..count {
                    let mut x = 0;
                    while x < lines.out_line {
                        let mut value = [S::splat(0.0); ROWS];
                        for r in 0..ROWS {
                            value[r] = S::load(with[r].add(line * lines.out_line + x));
                        }
                        for t in 0..TAPS {
                            let seen = S::load(from[t].add(line * step + x));
                            for r in 0..ROWS {
                                total[r][t] = seen.mul_add(value[r], total[r][t]);
                            }
                        }
                        x += S::LANES;
                    }
                }
                for r in 0..ROWS.min(outputs - first_row) {
                    for t in 0..TAPS.min(taps - first_tap) {
                        let mut lanes = [0f32; MOST];
                        total[r][t].store(lanes.as_mut_ptr());
                        let (low, high) = lanes.split_at(MOST / 2);
                        let halves: f32 = low.iter().zip(high).map(|(a, b)| a + b).sum();
                        sums[(first_row + r) * taps + first_tap + t] += halves;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn random(length: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 * 2.0 - 1.0
        };
        (0..length).map(|_| next()).collect()
    }

    /// The convolution against its definition.
    fn forward(isa: Isa, direct: Direct<'_>, xs: &[f32]) {
        let Direct { batch, inputs, outputs, height, width, kernel, stride, rows, columns } = direct;
        let (out_height, out_width) = ((rows.len() - kernel) / stride + 1, (columns.len() - kernel) / stride + 1);
        let (weight, bias) = (random(outputs * inputs * kernel * kernel, 5), random(outputs, 6));
        for turned in [false, true] {
            let ours = direct.run_with(isa, xs, &weight, turned, Some(&bias), turned);
            assert_eq!(ours.len(), batch * outputs * out_height * out_width);
            for (at, &ours) in ours.iter().enumerate() {
                let (plane, y, x) = (at / (out_height * out_width), at / out_width % out_height, at % out_width);
                let (image, output) = (plane / outputs, plane % outputs);
                let mut exact = f64::from(bias[output]);
                for tap in 0..inputs * kernel * kernel {
                    let (input, dy, dx) = (tap / (kernel * kernel), tap / kernel % kernel, tap % kernel);
                    let (row, column) = (rows[y * stride + dy] as usize, columns[x * stride + dx] as usize);
                    if row < height && column < width {
                        let weight = if turned {
                            let back = kernel * kernel - 1 - tap % (kernel * kernel);
                            weight[(input * outputs + output) * kernel * kernel + back]
                        } else {
                            weight[output * inputs * kernel * kernel + tap]
                        };
                        let x_at = ((image * inputs + input) * height + row) * width + column;
                        exact += f64::from(xs[x_at]) * f64::from(weight);
                    }
                }
                let exact = if turned { exact.max(0.0) } else { exact };
                assert!((f64::from(ours) - exact).abs() < 2e-5, "{isa:?} kernel {kernel} {turned}: {ours} {exact}");
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_defined_gradient() {
        for isa in Isa::all() {
            for (batch, inputs, outputs, height, width, kernel, stride, padding) in [
                (2, 3, 5, 9, 11, 3, 1, 1),
                (1, 4, 7, 40, 37, 5, 1, 2),
                (1, 3, 4, 33, 20, 3, 2, 1),
                (3, 2, 3, 8, 8, 9, 1, 4),
                (1, 2, 2, 12, 70, 4, 2, 0),
                (1, 2, 2, 12, 70, 2, 3, 1),
                (1, 1, 1, 1, 1, 1, 1, 0),
            ] {
                let (rows, columns) = (
                    super::super::winograd::zero_padded(height, padding),
                    super::super::winograd::zero_padded(width, padding),
                );
                let (out_height, out_width) =
                    ((rows.len() - kernel) / stride + 1, (columns.len() - kernel) / stride + 1);
                let xs = random(batch * inputs * height * width, 1);
                let gradient = random(batch * outputs * out_height * out_width, 2);
                let direct =
                    Direct { batch, inputs, outputs, height, width, kernel, stride, rows: &rows, columns: &columns };
                forward(isa, direct, &xs);
                let ours = direct.weight_gradient_with(isa, &xs, &gradient);
                assert_eq!(ours.len(), outputs * inputs * kernel * kernel);
                for (at, &ours) in ours.iter().enumerate() {
                    let (output, input) = (at / (inputs * kernel * kernel), at / (kernel * kernel) % inputs);
                    let (dy, dx) = (at / kernel % kernel, at % kernel);
                    let mut exact = 0f64;
                    for image in 0..batch {
                        for (y, x) in (0..out_height * out_width).map(|at| (at / out_width, at % out_width)) {
                            let (row, column) = (rows[y * stride + dy] as usize, columns[x * stride + dx] as usize);
                            if row < height && column < width {
                                let x_at = ((image * inputs + input) * height + row) * width + column;
                                let g_at = ((image * outputs + output) * out_height + y) * out_width + x;
                                exact += f64::from(xs[x_at]) * f64::from(gradient[g_at]);
                            }
                        }
                    }
                    let bound = 1e-5 * ((batch * out_height * out_width) as f64).sqrt().max(1.0);
                    assert!((f64::from(ours) - exact).abs() < bound, "{isa:?} kernel {kernel}: {ours} {exact}");
                }
            }
        }
    }
}
