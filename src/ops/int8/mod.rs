//! Linear maps in whole numbers of eight bits: a quarter of the arithmetic where the machine has instructions for it, and half the
//! memory of half precision, for a result that is like the exact one and not the same.
//!
//! An output's weights are divided by the largest of them, a position's inputs by the largest of these, both to -127..127: per
//! channel and dynamic, as in `LLM.int8()` (Dettmers et al. 2022, arXiv:2208.07339) without its exceptions. Sums are exact, so every
//! machine gives the same result, whatever its instructions and threads.

// Loops over registers are written with indices.
#![allow(clippy::needless_range_loop)]

mod dot;

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use self::dot::{Avx2, Vnni};
use self::dot::{Dot, Portable, Set};
use super::fresh::{Place, fresh, written};
use super::simd::ROUND;

/// The largest whole number.
const MOST: f32 = 127.0;

/// Inputs up to which no sum overflows: 255 * 127 * 2^16 < 2^31.
const MOST_INPUTS: usize = 1 << 16;

/// Positions mapped by one job, at most and at least: a multiple of a panel's.
const POSITIONS: usize = 64;
const PANEL: usize = 8;

/// A linear map with its weights packed for this machine.
#[derive(Debug)]
pub(super) struct Int8 {
    set: Set,
    inputs: usize,
    outputs: usize,
    /// `[strip of outputs][step of inputs][output][input of the step]`, zeros beyond the last.
    weights: Vec<i8>,
    /// What each output is to be multiplied by, and what its sum is too large by.
    scales: Vec<f32>,
    excess: Vec<i32>,
    bias: Vec<f32>,
}

/// How a set lays out weights: outputs of a strip, inputs of a step, and what is added to inputs.
struct Cut {
    strip: usize,
    step: usize,
    offset: i32,
}

impl Cut {
    fn new(set: Set) -> Self {
        fn of<D: Dot>(vectors: usize) -> Cut {
            Cut { strip: vectors * D::LANES, step: D::STEP, offset: D::OFFSET }
        }
        match set {
            #[cfg(target_arch = "x86_64")]
            Set::Vnni => of::<Vnni>(3),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => of::<Avx2>(2),
            Set::Portable => of::<Portable>(2),
        }
    }
}

impl Int8 {
    /// Rounds `weight [outputs, inputs]`; nothing where that cannot be: too many inputs, or a weight that is not finite.
    pub(super) fn new(weight: &[f32], (outputs, inputs): (usize, usize), bias: Option<&[f32]>) -> Option<Self> {
        Self::with(Set::best(), weight, (outputs, inputs), bias)
    }

    fn with(set: Set, weight: &[f32], (outputs, inputs): (usize, usize), bias: Option<&[f32]>) -> Option<Self> {
        if inputs > MOST_INPUTS || inputs == 0 || weight.iter().any(|weight| !weight.is_finite()) {
            return None;
        }
        let cut = Cut::new(set);
        let steps = inputs.div_ceil(cut.step);
        let padded = outputs.next_multiple_of(cut.strip);
        let mut weights = vec![0i8; padded * steps * cut.step];
        let (mut scales, mut excess) = (vec![0f32; padded], vec![0i32; padded]);
        for (output, row) in weight.chunks_exact(inputs).enumerate() {
            let top = row.iter().fold(0f32, |top, weight| top.max(weight.abs()));
            let factor = if top > 0.0 { MOST / top } else { 0.0 };
            let (strip, lane) = (output / cut.strip, output % cut.strip);
            let to = &mut weights[strip * cut.strip * steps * cut.step..][..cut.strip * steps * cut.step];
            let mut sum = 0;
            for (input, weight) in row.iter().enumerate() {
                let whole = (weight * factor).round_ties_even() as i32;
                sum += whole;
                to[(input / cut.step * cut.strip + lane) * cut.step + input % cut.step] = whole as i8;
            }
            (scales[output], excess[output]) = (top / MOST, cut.offset * sum);
        }
        let bias = bias.map_or_else(|| vec![0.0; outputs], <[f32]>::to_vec);
        (bias.len() == outputs).then_some(Self { set, inputs, outputs, weights, scales, excess, bias })
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Maps rows of inputs to rows of outputs.
    pub(super) fn forward(&self, xs: &[f32]) -> Vec<f32> {
        let count = xs.len() / self.inputs;
        let mut out = fresh(count * self.outputs);
        if !out.is_empty() {
            let jobs = 4 * rayon::current_num_threads();
            let positions = count.div_ceil(jobs).next_multiple_of(PANEL).min(POSITIONS);
            let chunks = out.par_chunks_mut(positions * self.outputs).zip(xs.par_chunks(positions * self.inputs));
            chunks.for_each(|(out, xs)| {
                // SAFETY: the set is this machine's.
                #[allow(unsafe_code)]
                unsafe {
                    match self.set {
                        #[cfg(target_arch = "x86_64")]
                        Set::Vnni => vnni(self, xs, out),
                        #[cfg(target_arch = "x86_64")]
                        Set::Avx2 => avx2(self, xs, out),
                        Set::Portable => perform::<Portable, 4, 2>(self, xs, out),
                    }
                }
            });
        }
        // SAFETY: every chunk has been written.
        #[allow(unsafe_code)]
        unsafe {
            written(out)
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[allow(unsafe_code)]
fn vnni(map: &Int8, xs: &[f32], out: &mut [Place]) {
    // SAFETY: the attribute's instructions are what the vectors need.
    unsafe { perform::<Vnni, 8, 3>(map, xs, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[allow(unsafe_code)]
fn avx2(map: &Int8, xs: &[f32], out: &mut [Place]) {
    // SAFETY: the attribute's instructions are what the vectors need.
    unsafe { perform::<Avx2, 4, 2>(map, xs, out) }
}

/// # Safety
/// The vectors' instruction set is there.
#[inline(always)]
#[allow(unsafe_code)]
unsafe fn perform<D: Dot, const ROWS: usize, const VECTORS: usize>(map: &Int8, xs: &[f32], out: &mut [Place]) {
    let &Int8 { inputs, outputs, .. } = map;
    let (steps, strip) = (inputs.div_ceil(D::STEP), VECTORS * D::LANES);
    let count = xs.len() / inputs;
    let panels = count.div_ceil(ROWS);
    let mut words = vec![0u32; panels * steps * ROWS];
    let mut scales = vec![0f32; panels * ROWS];
    let mut whole = vec![0i32; steps * D::STEP];
    for (at, row) in xs.chunks_exact(inputs).enumerate() {
        scales[at] = round(row, &mut whole);
        let to = &mut words[at / ROWS * steps * ROWS + at % ROWS..];
        for (to, values) in to.iter_mut().step_by(ROWS).zip(whole.chunks_exact(D::STEP)) {
            *to = D::word(values);
        }
    }
    let mut sums = vec![0i32; ROWS * strip];
    for (first, weights) in (0..outputs).step_by(strip).zip(map.weights.chunks_exact(strip * steps * D::STEP)) {
        let width = strip.min(outputs - first);
        let (scale, excess) = (&map.scales[first..][..width], &map.excess[first..][..width]);
        let bias = &map.bias[first..][..width];
        for (panel, words) in words.chunks_exact(steps * ROWS).enumerate() {
            // SAFETY: `steps` words of ROWS rows and steps of a strip's weights can be read, ROWS strips of sums written.
            unsafe { product::<D, ROWS, VECTORS>(steps, words.as_ptr(), weights.as_ptr(), sums.as_mut_ptr()) }
            for row in 0..ROWS.min(count - panel * ROWS) {
                let at = panel * ROWS + row;
                let (sums, out) = (&sums[row * strip..][..width], &mut out[at * outputs + first..][..width]);
                for lane in 0..width {
                    let sum = (sums[lane] - excess[lane]) as f32;
                    out[lane].write(sum * (scale[lane] * scales[at]) + bias[lane]);
                }
            }
        }
    }
}

/// Divides a row by the largest of it and rounds to -127..127, zeros beyond. Returns what one is worth: not a number where the row
/// holds one that is not, or is infinite.
#[inline(always)]
fn round(row: &[f32], to: &mut [i32]) -> f32 {
    const LANES: usize = 16;
    let (mut tops, mut bad) = ([0f32; LANES], [0f32; LANES]);
    let (whole, rest) = row.as_chunks::<LANES>();
    let mut see = |lane: usize, x: f32| {
        tops[lane] = if x.abs() > tops[lane] { x.abs() } else { tops[lane] };
        // Zero, or not a number.
        bad[lane] += x * 0.0;
    };
    for xs in whole {
        for lane in 0..LANES {
            see(lane, xs[lane]);
        }
    }
    for (lane, &x) in rest.iter().enumerate() {
        see(lane, x);
    }
    let top = tops.iter().fold(0f32, |top, &other| if other > top { other } else { top });
    let bad: f32 = bad.iter().sum();
    let factor = if top > 0.0 && bad == 0.0 { MOST / top } else { 0.0 };
    for (to, &x) in to.iter_mut().zip(row) {
        *to = (x * factor + ROUND).to_bits() as i32 - ROUND.to_bits() as i32;
    }
    if bad == 0.0 {
        return top / MOST;
    }
    // What is not finite has made anything of the row, and none of it is looked at.
    to.fill(0);
    f32::NAN
}

/// Sums of `steps` steps: `out[row][output]`.
///
/// # Safety
/// As [`Dot`]: as many words of ROWS rows and weights of VECTORS vectors can be read, and ROWS lines of VECTORS written.
#[inline(always)]
#[allow(unsafe_code)]
unsafe fn product<D: Dot, const ROWS: usize, const VECTORS: usize>(
    steps: usize,
    mut words: *const u32,
    mut weights: *const i8,
    out: *mut i32,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[D::zero(); VECTORS]; ROWS];
        for _ in 0..steps {
            let mut values = [D::weights(weights); VECTORS];
            for v in 1..VECTORS {
                values[v] = D::weights(weights.add(v * D::LANES * D::STEP));
            }
            for r in 0..ROWS {
                let word = *words.add(r);
                for v in 0..VECTORS {
                    sums[r][v] = sums[r][v].add(word, values[v]);
                }
            }
            words = words.add(ROWS);
            weights = weights.add(VECTORS * D::LANES * D::STEP);
        }
        for r in 0..ROWS {
            for v in 0..VECTORS {
                sums[r][v].store(out.add((r * VECTORS + v) * D::LANES));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::TorchRng;

    fn random(rng: &mut TorchRng, shape: &[usize]) -> Vec<f32> {
        rng.normal(shape).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn every_instruction_set_gives_the_same_and_it_is_near() {
        let mut rng = TorchRng::new(1);
        for (rows, inputs, outputs) in [(1, 1, 1), (5, 7, 3), (70, 130, 50), (9, 64, 48), (16, 1280, 97)] {
            let xs = random(&mut rng, &[rows, inputs]);
            let (weight, bias) = (random(&mut rng, &[outputs, inputs]), random(&mut rng, &[outputs]));
            let of = |set| Int8::with(set, &weight, (outputs, inputs), Some(&bias)).unwrap().forward(&xs);
            let ours = of(Set::Portable);
            assert_eq!(ours.len(), rows * outputs);
            for set in Set::all() {
                assert_eq!(of(set), ours, "{set:?} {rows} {inputs} {outputs}");
            }
            // Rounding errors of uniform steps, independent of each other: of an input a hundredth of its row's largest.
            let (mut error, mut norm) = (0.0, 0.0);
            for (at, &ours) in ours.iter().enumerate() {
                let (row, output) = (at / outputs, at % outputs);
                let products = xs[row * inputs..][..inputs].iter().zip(&weight[output * inputs..][..inputs]);
                let exact: f64 = products.map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                error += (f64::from(ours) - f64::from(bias[output]) - exact).powi(2);
                norm += exact * exact;
            }
            assert!((error / norm).sqrt() < 0.02, "{rows} {inputs} {outputs}: {}", (error / norm).sqrt());
        }
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let (inputs, row) = (5120, [1.0, -1.0, 0.5, -0.25].repeat(1280));
        for set in Set::all() {
            let map = Int8::with(set, &row, (1, inputs), None).unwrap();
            let xs: Vec<f32> = row.iter().map(|x| x * 3.0).collect();
            let exact: f32 = row.iter().zip(&xs).map(|(w, x)| w * x).sum();
            assert!((map.forward(&xs)[0] - exact).abs() < 0.005 * exact, "{set:?}");
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so_and_zeros_stay_zeros() {
        for set in Set::all() {
            let map = Int8::with(set, &[1.0, 2.0, 0.0, 0.0], (2, 2), Some(&[0.5, 0.25])).unwrap();
            let out = map.forward(&[0.0, 0.0, f32::NAN, 1.0, f32::INFINITY, 1.0, 1.0, 1.0]);
            assert_eq!((&out[..2], out[7]), (&[0.5, 0.25][..], 0.25));
            assert!(out[2..6].iter().all(|x| x.is_nan()) && (out[6] - 3.5).abs() < 0.02, "{out:?}");
            assert!(map.forward(&[]).is_empty());
        }
        assert!(Int8::new(&[f32::NAN], (1, 1), None).is_none());
        assert!(Int8::new(&[], (0, 0), None).is_none());
    }
}
