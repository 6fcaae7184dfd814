//! Pooling by two, with the gradient the framework's own pools get wrong (candle 0.11 divides the gradient of a maximum by
//! four and misplaces that of odd sizes).

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::product::contiguous;
use crate::error::Result;

/// What becomes of a window of 2 x 2 values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The largest: what the networks were trained with.
    #[default]
    Max,
    /// Their mean: smoother gradients, which Gatys et al. found to paint better.
    Average,
}

/// Halves the sides of `[batch, channels, height, width]` in windows of 2 x 2. An odd last line is dropped, or with `ceil`
/// pooled by itself (`ceil_mode=True`).
///
/// # Errors
/// When nothing would be left.
pub fn pool2(xs: &Tensor, pooling: Pooling, ceil: bool) -> Result<Tensor> {
    let (_, _, height, width) = xs.dims4()?;
    if halved(height, ceil).min(halved(width, ceil)) == 0 {
        let reason = format!("maps of {width} x {height} are too small to be halved");
        return Err(candle_core::Error::Msg(reason).into());
    }
    if xs.device().is_cpu() && xs.dtype() == DType::F32 {
        return Ok(xs.contiguous()?.apply_op1_no_bwd(&Pool2 { pooling, ceil })?);
    }
    let xs = evened(xs, ceil)?;
    Ok(match pooling {
        Pooling::Max => xs.max_pool2d(2)?,
        Pooling::Average => xs.avg_pool2d(2)?,
    })
}

/// The gradient to `xs` of `out = pool2(xs, pooling, ceil)`, given that to `out`. That of a maximum goes to the first value
/// that equals it, line by line, as torch has it.
///
/// # Errors
/// When the shapes do not fit.
pub fn pool2_backward(xs: &Tensor, out: &Tensor, gradient: &Tensor, pooling: Pooling, ceil: bool) -> Result<Tensor> {
    let (batch, channels, height, width) = xs.dims4()?;
    let (rows, columns) = (halved(height, ceil), halved(width, ceil));
    if gradient.dims() != [batch, channels, rows, columns] {
        let reason = format!("the gradient {:?} is not that of {:?} halved", gradient.dims(), xs.dims());
        return Err(candle_core::Error::Msg(reason).into());
    }
    if xs.device().is_cpu() && xs.dtype() == DType::F32 {
        return Ok(xs.contiguous()?.apply_op2_no_bwd(&gradient.contiguous()?, &Pool2 { pooling, ceil })?);
    }
    // Windows as axes: [batch, channels, rows, 2, columns, 2].
    let windows = |xs: &Tensor| xs.contiguous()?.reshape(vec![batch, channels, rows, 2, columns, 2]);
    let gradient = gradient.contiguous()?.reshape(vec![batch, channels, rows, 1, columns, 1])?;
    let spread = match pooling {
        Pooling::Average => (gradient * 0.25)?.broadcast_as(vec![batch, channels, rows, 2, columns, 2])?,
        Pooling::Max => {
            let evened = windows(&evened(xs, ceil)?)?;
            let out = out.contiguous()?.reshape(vec![batch, channels, rows, 1, columns, 1])?;
            let mut free = out.ones_like()?;
            let mut lines = Vec::with_capacity(2);
            for dy in 0..2 {
                let mut parts = Vec::with_capacity(2);
                for dx in 0..2 {
                    let value = evened.narrow(3, dy, 1)?.narrow(5, dx, 1)?;
                    let taken = (value.eq(&out)?.to_dtype(out.dtype())? * &free)?;
                    free = (free - &taken)?;
                    parts.push((taken * &gradient)?);
                }
                lines.push(Tensor::cat(&parts, 5)?);
            }
            Tensor::cat(&lines, 3)?
        }
    };
    let spread = spread.contiguous()?.reshape((batch, channels, 2 * rows, 2 * columns))?;
    let spread = folded(&spread, D::Minus2, height)?;
    Ok(folded(&spread, D::Minus1, width)?)
}

/// A side after pooling.
fn halved(side: usize, ceil: bool) -> usize {
    if ceil { side.div_ceil(2) } else { side / 2 }
}

/// Even sides: an odd last line dropped, or repeated, which changes neither the largest nor the mean of its windows.
fn evened(xs: &Tensor, ceil: bool) -> candle_core::Result<Tensor> {
    let mut xs = xs.clone();
    for axis in [2, 3] {
        let side = xs.dim(axis)?;
        if !side.is_multiple_of(2) {
            xs = if ceil { xs.pad_with_same(axis, 0, 1)? } else { xs.narrow(axis, 0, side - 1)? };
        }
    }
    Ok(xs)
}

/// The gradient of [`evened`] along one axis.
fn folded(gradient: &Tensor, axis: D, side: usize) -> candle_core::Result<Tensor> {
    let even = gradient.dim(axis)?;
    if even <= side {
        return gradient.pad_with_zeros(axis, 0, side - even);
    }
    let last = (gradient.narrow(axis, side - 1, 1)? + gradient.narrow(axis, side, 1)?)?;
    Tensor::cat(&[&gradient.narrow(axis, 0, side - 1)?, &last], axis)
}

/// Pooling in f32 on the CPU: of one argument the result, of two (input and the result's gradient) the input's gradient.
struct Pool2 {
    pooling: Pooling,
    ceil: bool,
}

/// The larger value, the earlier of two equal ones; not a number wins, as in torch.
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

impl CustomOp1 for Pool2 {
    fn name(&self) -> &'static str {
        "pool2"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, channels, height, width) = layout.shape().dims4()?;
        let (rows, columns) = (halved(height, self.ceil), halved(width, self.ceil));
        let xs = contiguous(storage, layout)?;
        let shape = Shape::from((batch, channels, rows, columns));
        let mut out = vec![0f32; shape.elem_count()];
        if out.is_empty() {
            return Ok((CpuStorage::F32(out), shape));
        }
        out.par_chunks_mut(rows * columns).zip(xs.par_chunks(height * width)).for_each(|(out, xs)| {
            for (out, lines) in out.chunks_mut(columns).zip(xs.chunks(2 * width)) {
                // An odd last line is pooled with itself.
                let (top, bottom) = if lines.len() == width { (lines, lines) } else { lines.split_at(width) };
                match self.pooling {
                    Pooling::Max => pool_line(top, bottom, out, |a, b, c, d| larger(larger(a, b), larger(c, d))),
                    Pooling::Average => pool_line(top, bottom, out, |a, b, c, d| 0.25 * (a + b + c + d)),
                }
            }
        });
        Ok((CpuStorage::F32(out), shape))
    }
}

/// Pools two lines to one; an odd last column is pooled with itself where `out` has room for it.
fn pool_line(top: &[f32], bottom: &[f32], out: &mut [f32], pool: impl Fn(f32, f32, f32, f32) -> f32) {
    let ((tops, top_rest), (bottoms, bottom_rest)) = (top.as_chunks::<2>(), bottom.as_chunks::<2>());
    for ((out, &[a, b]), &[c, d]) in out.iter_mut().zip(tops).zip(bottoms) {
        *out = pool(a, b, c, d);
    }
    if let ([a], [c], Some(out)) = (top_rest, bottom_rest, out.get_mut(tops.len())) {
        *out = pool(*a, *a, *c, *c);
    }
}

impl CustomOp2 for Pool2 {
    fn name(&self) -> &'static str {
        "pool2-backward"
    }

    fn cpu_fwd(
        &self,
        xs_storage: &CpuStorage,
        xs_layout: &Layout,
        gradient_storage: &CpuStorage,
        gradient_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let shape = xs_layout.shape();
        let (_, _, height, width) = shape.dims4()?;
        let (rows, columns) = (halved(height, self.ceil), halved(width, self.ceil));
        let xs = contiguous(xs_storage, xs_layout)?;
        let gradient = contiguous(gradient_storage, gradient_layout)?;
        let mut out = vec![0f32; xs.len()];
        if gradient.is_empty() {
            return Ok((CpuStorage::F32(out), shape.clone()));
        }
        let planes = out.par_chunks_mut(height * width).zip(xs.par_chunks(height * width));
        planes.zip(gradient.par_chunks(rows * columns)).for_each(|((out, xs), gradient)| {
            let lines = out.chunks_mut(2 * width).zip(xs.chunks(2 * width));
            for ((out, lines), gradient) in lines.zip(gradient.chunks(columns)) {
                if lines.len() == 2 * width {
                    let (top, bottom) = lines.split_at(width);
                    let (out_top, out_bottom) = out.split_at_mut(width);
                    self.spread_line(top, bottom, gradient, out_top, out_bottom);
                } else {
                    // The last line pooled by itself: its double never takes a maximum, and doubles every mean.
                    let mut double = vec![0f32; width];
                    self.spread_line(lines, lines, gradient, out, &mut double);
                    for (out, double) in out.iter_mut().zip(double) {
                        *out += double;
                    }
                }
            }
        });
        Ok((CpuStorage::F32(out), shape.clone()))
    }
}

impl Pool2 {
    /// The gradient of [`pool_line`].
    fn spread_line(&self, top: &[f32], bottom: &[f32], gradient: &[f32], out: &mut [f32], below: &mut [f32]) {
        let width = top.len();
        let whole = (width / 2).min(gradient.len());
        let (outs, out_rest) = out.as_chunks_mut::<2>();
        let (belows, below_rest) = below.as_chunks_mut::<2>();
        let windows = top.as_chunks::<2>().0.iter().zip(bottom.as_chunks::<2>().0);
        let targets = outs.iter_mut().zip(belows);
        match self.pooling {
            Pooling::Average => {
                for ((out, below), &gradient) in targets.zip(gradient) {
                    *out = [0.25 * gradient; 2];
                    *below = [0.25 * gradient; 2];
                }
            }
            Pooling::Max => {
                for (((&[a, b], &[c, d]), (out, below)), &gradient) in windows.zip(targets).zip(gradient) {
                    let (above, under) = (larger(a, b), larger(c, d));
                    let lower = under > above || under.is_nan();
                    let (right, under_right) = (b > a || b.is_nan(), d > c || d.is_nan());
                    let pick = |taken: bool| if taken { gradient } else { 0.0 };
                    *out = [pick(!lower & !right), pick(!lower & right)];
                    *below = [pick(lower & !under_right), pick(lower & under_right)];
                }
            }
        }
        if let ([out], [below], Some(&gradient)) = (out_rest, below_rest, gradient.get(whole)) {
            match self.pooling {
                Pooling::Average => (*out, *below) = (0.5 * gradient, 0.5 * gradient),
                Pooling::Max if larger(top[width - 1], bottom[width - 1]).to_bits() == top[width - 1].to_bits() => {
                    *out = gradient;
                }
                Pooling::Max => *below = gradient,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::drawn::random;

    fn flat(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Every size and kind against differences of the sum of `pool2(xs) * gradient`, which is piecewise linear.
    #[test]
    fn gradients_equal_finite_differences() {
        for (height, width) in [(4, 6), (5, 4), (4, 5), (7, 3), (1, 5), (1, 1), (2, 33)] {
            for (pooling, ceil) in
                [(Pooling::Max, false), (Pooling::Max, true), (Pooling::Average, false), (Pooling::Average, true)]
            {
                // All values differ by more than the step below, or the largest of a window might change.
                let count = 6 * height * width;
                let mixed: Vec<f32> = (0..count).map(|index| (index * 7919 % count) as f32 * 0.01).collect();
                let xs = Tensor::from_vec(mixed, (2, 3, height, width), &Device::Cpu).unwrap();
                let Ok(out) = pool2(&xs, pooling, ceil) else {
                    assert!(!ceil && height.min(width) < 2);
                    continue;
                };
                let gradient = random(out.dims());
                let ours = flat(&pool2_backward(&xs, &out, &gradient, pooling, ceil).unwrap());
                let total = |values: &[f32]| -> f64 {
                    let xs = Tensor::from_slice(values, xs.dims(), &Device::Cpu).unwrap();
                    let out = flat(&pool2(&xs, pooling, ceil).unwrap());
                    out.iter().zip(flat(&gradient)).map(|(&out, gradient)| f64::from(out) * f64::from(gradient)).sum()
                };
                let values = flat(&xs);
                for (index, &ours) in ours.iter().enumerate() {
                    let moved = |by: f32| {
                        let mut values = values.clone();
                        values[index] += by;
                        total(&values)
                    };
                    let slope = (moved(1e-3) - moved(-1e-3)) / 2e-3;
                    assert!((slope - f64::from(ours)).abs() < 2e-2, "{height} x {width} {pooling:?}: {slope} {ours}");
                }
            }
        }
    }

    #[test]
    fn values_are_those_of_the_windows() {
        let xs = Tensor::from_slice(&[1f32, 2., 3., 4., 5., 6., 7., 8., 9.], (1, 1, 3, 3), &Device::Cpu).unwrap();
        assert_eq!(flat(&pool2(&xs, Pooling::Max, false).unwrap()), [5.]);
        assert_eq!(flat(&pool2(&xs, Pooling::Max, true).unwrap()), [5., 6., 8., 9.]);
        assert_eq!(flat(&pool2(&xs, Pooling::Average, true).unwrap()), [3., 4.5, 7.5, 9.]);
        let even = xs.narrow(2, 0, 2).unwrap();
        assert_eq!(flat(&pool2(&even, Pooling::Average, false).unwrap()), [3.]);
    }

    /// The composition for other devices (taken in f64 here) against the kernel, with ties.
    #[test]
    fn every_backend_agrees() {
        for (height, width) in [(4, 4), (5, 7), (6, 3)] {
            for (pooling, ceil) in [(Pooling::Max, true), (Pooling::Max, false), (Pooling::Average, true)] {
                let xs = (random(&[1, 2, height, width]) * 1.5).unwrap().round().unwrap();
                let double = |xs: &Tensor| xs.to_dtype(DType::F64).unwrap();
                let out = pool2(&xs, pooling, ceil).unwrap();
                let composed = pool2(&double(&xs), pooling, ceil).unwrap();
                assert_eq!(flat(&out), flat(&composed.to_dtype(DType::F32).unwrap()));
                let gradient = random(out.dims());
                let ours = pool2_backward(&xs, &out, &gradient, pooling, ceil).unwrap();
                let theirs = pool2_backward(&double(&xs), &composed, &double(&gradient), pooling, ceil).unwrap();
                for (ours, theirs) in flat(&ours).iter().zip(flat(&theirs.to_dtype(DType::F32).unwrap())) {
                    assert!((ours - theirs).abs() < 1e-6);
                }
            }
        }
    }
}
