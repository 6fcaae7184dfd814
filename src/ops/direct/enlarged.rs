//! A 3x3 convolution over a picture enlarged twice by nearest neighbours, without the enlarged picture: of three taps in a
//! row two see the same pixel, so each of the four results around a pixel is a convolution with 2 x 2 taps of the picture
//! itself. That is less than half of the multiplications.

use rayon::prelude::*;

use super::super::fresh::{Place, fresh, places, written};
use super::super::scratch::Scratch;
use super::{BEYOND, Direct, MOST, panel_rows, sum_taps};
use crate::ops::simd::Isa;

/// Taps of one of the four.
const AREA: usize = 4;

impl Direct<'_> {
    /// The convolution, `[batch, outputs, 2 * height, 2 * width]`, with `weight [outputs, inputs, 3, 3]`. `self` is the
    /// convolution over the picture as it is, with a line of padding on every side.
    pub(in crate::ops) fn run_enlarged(&self, xs: &[f32], weight: &[f32], bias: &[f32], relu: bool) -> Vec<f32> {
        self.run_enlarged_with(Isa::best(), xs, weight, bias, relu)
    }

    pub(super) fn run_enlarged_with(&self, isa: Isa, xs: &[f32], weight: &[f32], bias: &[f32], relu: bool) -> Vec<f32> {
        let &Self { batch, inputs, outputs, height, width, .. } = self;
        assert!(xs.len() >= batch * inputs * height * width, "input outside its slice");
        assert!(weight.len() >= outputs * inputs * 9 && bias.len() >= outputs, "weights outside their slice");
        // A band's results lie in memory twice: as they are summed, and in their place.
        let mut lines = self.lines(isa, 4 * outputs);
        let line = lines.part;
        lines.taps = (0..inputs * AREA).map(|tap| tap / AREA * lines.plane + tap % AREA / 2 * line + tap % 2).collect();
        let (out_width, out_pixels) = (2 * width, 4 * height * width);
        let mut out = fresh(batch * outputs * out_pixels);
        let rows = panel_rows(outputs);
        let panels = outputs.div_ceil(rows);
        let packed = self.pack(weight, rows);
        let per_panel = rows * lines.taps.len();
        let mut bands = Vec::new();
        for (image, out) in out.chunks_mut((outputs * out_pixels).max(1)).enumerate() {
            let start = bands.len();
            bands.extend((0..height).step_by(lines.band).map(|first| (image, first, Vec::new())));
            for plane in out.chunks_mut(out_pixels) {
                for (band, rows) in bands[start..].iter_mut().zip(plane.chunks_mut(2 * lines.band * out_width)) {
                    band.2.push(rows);
                }
            }
        }
        bands.into_par_iter().for_each(|(image, first, mut planes): (usize, usize, Vec<&mut [Place]>)| {
            let mut seen = Scratch::new(inputs * lines.plane + BEYOND + MOST + 2 * line);
            self.copy(&lines, xs, image, first, &mut seen);
            let count = planes.first().map_or(0, |plane| plane.len() / (2 * out_width));
            let mut sums = Scratch::new(4 * rows * count * width);
            for (panel, planes) in planes.chunks_mut(rows).enumerate() {
                let bias: [f32; 8] = std::array::from_fn(|r| *bias.get(panel * rows + r).unwrap_or(&0.0));
                for phase in 0..4 {
                    let weights = &packed[(phase * panels + panel) * per_panel..][..per_panel];
                    let sums = places(&mut sums[phase * rows * count * width..][..rows * count * width]);
                    let mut sums: Vec<&mut [Place]> = sums.chunks_exact_mut((count * width).max(1)).collect();
                    let used = planes.len().min(sums.len());
                    sum_taps(&lines, 1, &seen[phase / 2 * line + phase % 2..], weights, &bias, relu, &mut sums[..used]);
                }
                interleave(&sums, planes, (rows, count, width));
            }
        });
        // SAFETY: the bands cover every line of every plane, and `interleave` writes whole lines.
        #[allow(unsafe_code)]
        unsafe {
            written(out)
        }
    }

    /// `[phase][panel][tap][row of the panel]`: for the result at an even place the first tap sees the pixel before and the
    /// other two the pixel itself, for that at an odd place the last one the pixel behind.
    fn pack(&self, weight: &[f32], rows: usize) -> Scratch {
        let &Self { inputs, outputs, .. } = self;
        let merged = |phase: usize, tap: usize| match (phase, tap) {
            (0, 0) => 0..1,
            (0, _) => 1..3,
            (_, 0) => 0..2,
            _ => 2..3,
        };
        let panels = outputs.div_ceil(rows);
        let mut packed = Scratch::new(4 * panels * rows * inputs * AREA);
        for (at, to) in packed.iter_mut().enumerate() {
            let (panel, tap) = (at / (rows * inputs * AREA), at / rows % (inputs * AREA));
            let (phase, output, input) = (panel / panels, panel % panels * rows + at % rows, tap / AREA);
            *to = 0.0;
            if output < outputs {
                let kernel = &weight[(output * inputs + input) * 9..][..9];
                for y in merged(phase / 2, tap % AREA / 2) {
                    for x in merged(phase % 2, tap % 2) {
                        *to += kernel[3 * y + x];
                    }
                }
            }
        }
        packed
    }
}

/// Puts the sums `[phase][row][line][column]` where they belong.
fn interleave(sums: &[f32], planes: &mut [&mut [Place]], (rows, count, width): (usize, usize, usize)) {
    let of = |phase: usize, row: usize, line: usize| &sums[((phase * rows + row) * count + line) * width..][..width];
    for (row, plane) in planes.iter_mut().enumerate() {
        for (y, out) in plane.chunks_exact_mut(2 * width).enumerate() {
            let (even, odd) = (of(y % 2 * 2, row, y / 2), of(y % 2 * 2 + 1, row, y / 2));
            for ((out, &even), &odd) in out.as_chunks_mut::<2>().0.iter_mut().zip(even).zip(odd) {
                *out = [Place::new(even), Place::new(odd)];
            }
        }
    }
}

/// The lines of the picture itself under those of the enlarged one that a kernel of 3 with a padding of 1 sees.
pub(in crate::ops) fn halved(enlarged: &[u32]) -> Vec<u32> {
    enlarged.first().copied().into_iter().chain(enlarged.iter().skip(1).step_by(2).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::random;
    use super::*;
    use crate::ops::winograd::NOWHERE;

    /// Against the convolution over the enlarged picture, mirrored and with zeros around.
    #[test]
    fn every_instruction_set_gives_what_the_enlarged_picture_gives() {
        for isa in Isa::all() {
            for (batch, inputs, outputs, height, width) in
                [(2, 3, 5, 7, 9), (1, 4, 16, 40, 37), (1, 2, 3, 1, 1), (1, 1, 8, 2, 70), (1, 5, 9, 33, 16)]
            {
                for mirrored in [true, false] {
                    let lines = |side: usize| {
                        let inside = (0..2 * side as u32).map(|at| at / 2);
                        let (before, behind) = if mirrored { (0, side as u32 - 1) } else { (NOWHERE, NOWHERE) };
                        std::iter::once(before).chain(inside).chain([behind]).collect::<Vec<_>>()
                    };
                    let (rows, columns) = (lines(height), lines(width));
                    let plain = Direct {
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
                    let (xs, weight) = (random(batch * inputs * height * width, 1), random(outputs * inputs * 9, 2));
                    let bias = random(outputs, 3);
                    let (rows, columns) = (halved(&rows), halved(&columns));
                    assert_eq!((rows.len(), columns.len()), (height + 2, width + 2));
                    let halved = Direct { rows: &rows, columns: &columns, ..plain };
                    for relu in [false, true] {
                        let wanted = plain.run_with(isa, &xs, &weight, false, Some(&bias), relu);
                        let ours = halved.run_enlarged_with(isa, &xs, &weight, &bias, relu);
                        assert_eq!(ours.len(), wanted.len());
                        for (at, (ours, wanted)) in ours.iter().zip(&wanted).enumerate() {
                            assert!((ours - wanted).abs() < 1e-5, "{isa:?} {height}x{width} at {at}: {ours} {wanted}");
                        }
                    }
                }
            }
        }
    }
}
