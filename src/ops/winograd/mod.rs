//! 3x3 convolution of stride 1 on the CPU by Winograd's F(4x4, 3x3): a quarter of the multiplications (Lavin & Gray 2016).
//!
//! The result is cut into tiles of 4 x 4 pixels. Each tile's 6 x 6 inputs become 36 values per channel, which are
//! independent matrix products over the channels; 36 sums become 16 pixels. Tiles are taken in blocks whose values stay in
//! a core's cache. Weights are transformed on every call: that costs a few percent, and keeping them would cost four times
//! their memory. Where there are so few pixels that the weights cost most, tiles of 2 x 2 ask for less than half of these and
//! fill the vectors: F(2x2, 3x3), 4/9 of the multiplications. Every pixel is summed by one thread in one order, so the result does not depend on their number.

mod block;
mod four;
mod transform;
mod two;

use std::ops::Range;

use super::floats::Floats;
use super::simd::Isa;

/// Pixels of a tile's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tile {
    Four,
    Two,
}

impl Tile {
    /// Tiles of 4 x 4 pixels up to which those of 2 x 2 are better: half a vector of AVX-512's, half a strip of AVX2's.
    const FEW: usize = 8;

    /// The better one for so many pixels.
    fn best(batch: usize, height: usize, width: usize) -> Self {
        if batch * height.div_ceil(4) * width.div_ceil(4) <= Self::FEW { Self::Two } else { Self::Four }
    }

    fn side(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Two => 2,
        }
    }

    /// Values per tile and channel.
    fn points(self) -> usize {
        (self.side() + 2) * (self.side() + 2)
    }
}

/// A line or column that lies outside the picture and counts as zeros.
pub(super) const NOWHERE: u32 = u32::MAX;

/// One convolution: `out[n, k, y, x] = bias[k] + sum xs[n, c, rows[y + i], columns[x + j]] weight[k, c, i, j]`.
#[derive(Clone, Copy)]
pub(super) struct Winograd<'a> {
    /// `[batch, inputs, height, width]`.
    pub(super) xs: &'a [f32],
    pub(super) batch: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    /// The source of every padded line, [`NOWHERE`] for zeros: as many as the result has, and two.
    pub(super) rows: &'a [u32],
    /// The same for the columns.
    pub(super) columns: &'a [u32],
    /// 3 x 3 taps per pair of channels.
    pub(super) weight: Floats<'a>,
    /// Exchanges the weight's two channels and turns its taps by 180 degrees: the convolution of the gradient.
    pub(super) turned: bool,
    pub(super) bias: Option<&'a [f32]>,
    /// Sets negative results to zero.
    pub(super) relu: bool,
}

/// The lines that a side sees under zero padding.
pub(super) fn zero_padded(side: usize, padding: usize) -> Vec<u32> {
    let inside = padding..padding + side;
    (0..side + 2 * padding).map(|at| if inside.contains(&at) { (at - padding) as u32 } else { NOWHERE }).collect()
}

/// The longest range in which every entry is one more than the last.
pub(super) fn longest_run(entries: &[u32]) -> Range<usize> {
    let mut longest = 0..0;
    let mut start = 0;
    for end in 1..=entries.len() {
        let goes_on = end < entries.len() && entries[end - 1] != NOWHERE && entries[end] == entries[end - 1] + 1;
        if !goes_on {
            if entries[start] != NOWHERE && end - start > longest.len() {
                longest = start..end;
            }
            start = end;
        }
    }
    longest
}

impl Winograd<'_> {
    /// The result, `[batch, outputs, rows - 2, columns - 2]`.
    pub(super) fn run(&self) -> Vec<f32> {
        let (height, width) = (self.rows.len().saturating_sub(2), self.columns.len().saturating_sub(2));
        self.run_with(Isa::best(), Tile::best(self.batch, height, width))
    }

    fn run_with(&self, isa: Isa, tile: Tile) -> Vec<f32> {
        let Self { batch, inputs, outputs, height, width, .. } = *self;
        assert!(self.xs.len() >= batch * inputs * height * width, "input outside its slice");
        assert!(self.weight.len() >= outputs * inputs * 9, "weights outside their slice");
        assert!(self.bias.is_none_or(|bias| bias.len() >= outputs), "biases outside their slice");
        assert!(self.rows.iter().all(|&y| y == NOWHERE || (y as usize) < height), "a line outside the picture");
        assert!(self.columns.iter().all(|&x| x == NOWHERE || (x as usize) < width), "a column outside the picture");
        let (out_height, out_width) = (self.rows.len().saturating_sub(2), self.columns.len().saturating_sub(2));
        let mut out = Vec::new();
        let length = batch * outputs * out_height * out_width;
        if length == 0 || inputs == 0 {
            out.resize(length, 0.0);
            return out;
        }
        out.reserve_exact(length);
        let plan = block::Plan::new(self, isa, tile, out.as_mut_ptr());
        plan.run();
        // SAFETY: the plan's blocks cover every tile, and a tile's pixels are all written.
        #[allow(unsafe_code)]
        unsafe {
            out.set_len(length);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(length: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 * 2.0 - 1.0
        };
        (0..length).map(|_| next()).collect()
    }

    /// The definition in double precision.
    fn exact(conv: &Winograd<'_>) -> Vec<f64> {
        let (height, width) = (conv.rows.len() - 2, conv.columns.len() - 2);
        let weights = conv.weight.whole();
        let mut out = Vec::new();
        for image in 0..conv.batch {
            for output in 0..conv.outputs {
                for (y, x) in (0..height * width).map(|at| (at / width, at % width)) {
                    let mut sum = conv.bias.map_or(0.0, |bias| f64::from(bias[output]));
                    for (input, tap) in (0..conv.inputs * 9).map(|i| (i / 9, i % 9)) {
                        let (row, column) = (conv.rows[y + tap / 3], conv.columns[x + tap % 3]);
                        if row == NOWHERE || column == NOWHERE {
                            continue;
                        }
                        let plane = (image * conv.inputs + input) * conv.height;
                        let value = conv.xs[(plane + row as usize) * conv.width + column as usize];
                        let weight = if conv.turned {
                            weights[(input * conv.outputs + output) * 9 + 8 - tap]
                        } else {
                            weights[(output * conv.inputs + input) * 9 + tap]
                        };
                        sum += f64::from(value) * f64::from(weight);
                    }
                    out.push(if conv.relu { sum.max(0.0) } else { sum });
                }
            }
        }
        out
    }

    fn check(
        (isa, tile): (Isa, Tile),
        [batch, inputs, outputs, height, width]: [usize; 5],
        lines: impl Fn(usize) -> Vec<u32>,
        kind: usize,
    ) {
        let (turned, relu) = (kind % 2 == 1, kind / 2 % 2 == 1);
        let (xs, weight) = (random(batch * inputs * height * width, 1), random(inputs * outputs * 9, 2));
        let bias = random(outputs, 3);
        let bias = (kind < 4).then_some(&bias[..]);
        let (rows, columns) = (lines(height), lines(width));
        let (xs, weight, rows, columns) = (&xs[..], Floats::Single(&weight), &rows[..], &columns[..]);
        let conv = Winograd { xs, batch, inputs, outputs, height, width, rows, columns, weight, turned, bias, relu };
        let exact = exact(&conv);
        let ours = conv.run_with(isa, tile);
        assert_eq!(ours.len(), exact.len());
        let scale = (inputs as f64).sqrt() * 3.0;
        for (at, (ours, exact)) in ours.iter().zip(&exact).enumerate() {
            let error = (f64::from(*ours) - exact).abs() / scale;
            assert!(
                error < 3e-6,
                "{isa:?} {tile:?} {batch} {inputs} {outputs} {height} {width} at {at}: {ours} {exact}"
            );
        }
    }

    #[test]
    fn every_instruction_set_gives_the_defined_sums() {
        let mirrored = |side: usize| {
            let inside = 0..side as u32;
            std::iter::once(1).chain(inside).chain([side as u32 - 2]).collect::<Vec<_>>()
        };
        for isa in Isa::all().into_iter().flat_map(|isa| [(isa, Tile::Four), (isa, Tile::Two)]) {
            for kind in 0..8 {
                check(isa, [2, 5, 7, 9, 11], |side| zero_padded(side, 1), kind);
            }
            check(isa, [1, 3, 9, 4, 70], |side| zero_padded(side, 1), 0);
            check(isa, [1, 3, 9, 18, 130], |side| zero_padded(side, 0), 0);
            check(isa, [1, 17, 33, 8, 67], mirrored, 2);
            check(isa, [3, 4, 3, 5, 32], |side| zero_padded(side, 2), 1);
            check(isa, [1, 300, 12, 3, 5], |side| zero_padded(side, 1), 0);
            check(isa, [1, 2, 2, 1, 1], |side| zero_padded(side, 1), 0);
            check(isa, [1, 8, 8, 64, 64], |side| zero_padded(side, 1), 0);
            let doubled = |side: usize| {
                let twice = (0..2 * side as u32).map(|x| x / 2);
                std::iter::once(0).chain(twice).chain([NOWHERE]).collect::<Vec<_>>()
            };
            check(isa, [1, 4, 6, 10, 40], doubled, 0);
        }
    }

    /// Prints how far each way is from double precision, relative to the results' size:
    /// `cargo test --release winograd_accuracy -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    #[allow(clippy::print_stdout)]
    fn winograd_accuracy() {
        for inputs in [64, 320, 1280] {
            let (outputs, height, width) = (4, 16, 16);
            let (xs, weight) = (random(inputs * height * width, 1), random(inputs * outputs * 9, 2));
            let (rows, columns) = (zero_padded(height, 1), zero_padded(width, 1));
            let (xs, weight, rows, columns) = (&xs[..], Floats::Single(&weight), &rows[..], &columns[..]);
            let (batch, turned, bias, relu) = (1, false, None, false);
            let conv =
                Winograd { xs, batch, inputs, outputs, height, width, rows, columns, weight, turned, bias, relu };
            let exact = exact(&conv);
            let size = (exact.iter().map(|x| x * x).sum::<f64>() / exact.len() as f64).sqrt();
            let report = |name: &str, ours: &[f32]| {
                let errors = ours.iter().zip(&exact).map(|(&ours, exact)| (f64::from(ours) - exact).abs() / size);
                let (most, squares) =
                    errors.fold((0f64, 0.0), |(most, sum), error| (most.max(error), sum + error * error));
                let mean = (squares / exact.len() as f64).sqrt();
                println!("{inputs:4} channels, {name}: {mean:.1e} in the mean square, {most:.1e} at most");
            };
            for tile in [Tile::Four, Tile::Two] {
                report(&format!("tiles of {0}x{0}", tile.side()), &conv.run_with(Isa::best(), tile));
            }
            let padding = |side: usize| zero_padded(side, 1);
            let (rows, columns) = (padding(height), padding(width));
            let plain = super::super::direct::Direct {
                batch,
                inputs,
                outputs,
                height,
                width,
                kernel: 3,
                stride: 1,
                rows: &rows,
                columns: &columns,
            };
            report("the plain sum", &plain.run(xs, &weight.whole(), false, None, false));
        }
    }

    /// Prints what the kernel reaches: `cargo test --release winograd_speed -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    #[allow(clippy::print_stdout)]
    fn winograd_speed() {
        for [batch, inputs, outputs, height, width] in [
            [1, 64, 64, 256, 256],
            [1, 64, 128, 128, 128],
            [1, 128, 128, 128, 128],
            [1, 128, 256, 64, 64],
            [1, 256, 256, 64, 64],
            [1, 256, 512, 32, 32],
            [1, 512, 512, 32, 32],
            [1, 3, 64, 256, 256],
            [1, 64, 3, 256, 256],
            [4, 128, 128, 64, 64],
            [2, 320, 320, 64, 64],
            [2, 640, 640, 32, 32],
            [2, 1280, 1280, 16, 16],
            [2, 1280, 1280, 8, 8],
        ] {
            let (xs, weight) = (random(batch * inputs * height * width, 1), random(inputs * outputs * 9, 2));
            let bias = random(outputs, 3);
            let (rows, columns) = (zero_padded(height, 1), zero_padded(width, 1));
            let conv = Winograd {
                xs: &xs,
                batch,
                inputs,
                outputs,
                height,
                width,
                rows: &rows,
                columns: &columns,
                weight: Floats::Single(&weight),
                turned: false,
                bias: Some(&bias),
                relu: true,
            };
            let mut best = f64::INFINITY;
            let begin = std::time::Instant::now();
            while begin.elapsed().as_secs_f64() < 1.0 {
                let start = std::time::Instant::now();
                std::hint::black_box(conv.run());
                best = best.min(start.elapsed().as_secs_f64());
            }
            let operations = (2 * 9 * batch * inputs * outputs * height * width) as f64;
            println!(
                "{batch} x {inputs:4} -> {outputs:4} at {height:3}: {:8.2} ms, {:6.1} GFLOP/s of the plain sum",
                best * 1e3,
                operations / best * 1e-9
            );
        }
    }
}
