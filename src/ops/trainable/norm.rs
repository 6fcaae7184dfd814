//! Instance normalisation with a scale and shift per picture and channel (torch's `InstanceNorm2d`; Dumoulin 2017 for one
//! pair per style), and the moments themselves. Sums run in f32 lanes over blocks whose totals are added in f64.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, InplaceOp3, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::super::product::contiguous;
use super::{composed, on_cpu, with_floats};
use crate::error::Result;

/// Added to the variance of [`moments`].
const MOMENTS_EPS: f64 = 1e-5;

pub(super) fn instance_norm(xs: &Tensor, scale: &Tensor, shift: &Tensor, eps: f64, relu: bool) -> Result<Tensor> {
    check(xs, scale, shift)?;
    if on_cpu(xs) {
        let kernel = InstanceNorm { eps, relu };
        return Ok(xs.contiguous()?.apply_op3(&scale.contiguous()?, &shift.contiguous()?, kernel)?);
    }
    composed::instance_norm(xs, scale, shift, eps, relu)
}

pub(super) fn instance_norm_of_own(xs: Tensor, scale: &Tensor, shift: &Tensor, eps: f64, relu: bool) -> Result<Tensor> {
    check(&xs, scale, shift)?;
    let learning = [&xs, scale, shift].into_iter().any(Tensor::track_op);
    if learning || !on_cpu(&xs) || !xs.is_contiguous() {
        return instance_norm(&xs, scale, shift, eps, relu);
    }
    xs.inplace_op3(&scale.contiguous()?, &shift.contiguous()?, &InstanceNorm { eps, relu })?;
    Ok(xs)
}

fn check(xs: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<()> {
    let (batch, channels, _, _) = xs.dims4()?;
    if scale.dims() != [batch, channels] || shift.dims() != [batch, channels] {
        let (xs, scale, shift) = (xs.dims(), scale.dims(), shift.dims());
        return Err(
            candle_core::Error::Msg(format!("instance norm by {scale:?} and {shift:?} cannot take {xs:?}")).into()
        );
    }
    Ok(())
}

pub(super) fn moments(xs: &Tensor) -> Result<(Tensor, Tensor)> {
    xs.dims4()?;
    if on_cpu(xs) {
        let both = xs.contiguous()?.apply_op1(Moments)?;
        return Ok((both.get(0)?, both.get(1)?));
    }
    composed::moments(xs, MOMENTS_EPS)
}

struct InstanceNorm {
    eps: f64,
    relu: bool,
}

impl InstanceNorm {
    /// What a value of this plane becomes.
    fn line(&self, xs: &[f32], scale: f32, shift: f32) -> impl Fn(f32) -> f32 + use<> {
        let (mean, deviation) = plane_moments(xs, self.eps);
        let factor = scale / deviation;
        let shift = shift - mean * factor;
        let least = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        move |x| {
            let value = x * factor + shift;
            // Not `max`, which would turn not-a-number into 0.
            if value < least { least } else { value }
        }
    }
}

impl InplaceOp3 for InstanceNorm {
    fn name(&self) -> &'static str {
        "instance-norm"
    }

    fn cpu_fwd(
        &self,
        xs: &mut CpuStorage,
        xs_layout: &Layout,
        scale: &CpuStorage,
        scale_layout: &Layout,
        shift: &CpuStorage,
        shift_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (_, _, height, width) = xs_layout.shape().dims4()?;
        let (scale, shift) = (contiguous(scale, scale_layout)?, contiguous(shift, shift_layout)?);
        let (CpuStorage::F32(xs), Some((start, end))) = (xs, xs_layout.contiguous_offsets()) else {
            candle_core::bail!("instance norm needs contiguous single precision");
        };
        xs[start..end].par_chunks_mut((height * width).max(1)).enumerate().for_each(|(plane, xs)| {
            let value = self.line(xs, scale[plane], shift[plane]);
            xs.iter_mut().for_each(|x| *x = value(*x));
        });
        Ok(())
    }
}

impl CustomOp3 for InstanceNorm {
    fn name(&self) -> &'static str {
        "instance-norm"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        scale: &CpuStorage,
        scale_layout: &Layout,
        shift: &CpuStorage,
        shift_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (_, _, height, width) = xs_layout.shape().dims4()?;
        let pixels = (height * width).max(1);
        let xs = contiguous(xs, xs_layout)?;
        let (scale, shift) = (contiguous(scale, scale_layout)?, contiguous(shift, shift_layout)?);
        let mut out = vec![0f32; xs.len()];
        out.par_chunks_mut(pixels).zip(xs.par_chunks(pixels)).enumerate().for_each(|(plane, (out, xs))| {
            let value = self.line(xs, scale[plane], shift[plane]);
            out.iter_mut().zip(xs).for_each(|(out, &x)| *out = value(x));
        });
        Ok((CpuStorage::F32(out), xs_layout.shape().clone()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        scale: &Tensor,
        _: &Tensor,
        out: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (batch, channels, height, width) = xs.dims4()?;
        let pixels = (height * width).max(1);
        let mut to_xs = vec![0f32; xs.elem_count()];
        let mut sums = vec![(0f32, 0f32); batch * channels];
        with_floats(xs, |xs| {
            with_floats(scale, |scale| {
                with_floats(out, |out| {
                    with_floats(gradient, |gradient| {
                        to_xs.par_chunks_mut(pixels).zip(sums.par_iter_mut()).enumerate().for_each(
                            |(plane, (to_xs, sums))| {
                                let at = plane * pixels..(plane + 1) * pixels;
                                let planes = Planes { xs: &xs[at.clone()], gradient: &gradient[at.clone()] };
                                let out = self.relu.then(|| &out[at]);
                                *sums = planes.backward(out, scale[plane], self.eps, to_xs);
                            },
                        );
                        Ok(())
                    })
                })
            })
        })?;
        let (to_scale, to_shift): (Vec<f32>, Vec<f32>) = sums.into_iter().unzip();
        let device = xs.device();
        Ok((
            Some(Tensor::from_vec(to_xs, xs.shape(), device)?),
            Some(Tensor::from_vec(to_scale, (batch, channels), device)?),
            Some(Tensor::from_vec(to_shift, (batch, channels), device)?),
        ))
    }
}

/// One channel of one picture on the way back.
struct Planes<'a> {
    xs: &'a [f32],
    gradient: &'a [f32],
}

impl Planes<'_> {
    /// Writes the gradient to `xs` and returns those to scale and shift. `out` is given where its zeros stop the gradient.
    fn backward(&self, out: Option<&[f32]>, scale: f32, eps: f64, to_xs: &mut [f32]) -> (f32, f32) {
        match out {
            Some(out) => {
                for ((masked, &gradient), &out) in to_xs.iter_mut().zip(self.gradient).zip(out) {
                    *masked = if out > 0.0 { gradient } else { 0.0 };
                }
            }
            None => to_xs.copy_from_slice(self.gradient),
        }
        let (mean, deviation) = plane_moments(self.xs, eps);
        let inverse = 1.0 / deviation;
        let count = self.xs.len() as f64;
        let to_shift = sum(to_xs, to_xs, |gradient, _| gradient);
        let to_scale = sum(to_xs, self.xs, |gradient, x| gradient * (x - mean)) * f64::from(inverse);
        let (mean_shift, mean_scale) = ((to_shift / count) as f32, (to_scale / count) as f32 * inverse);
        let factor = scale * inverse;
        for (to_x, &x) in to_xs.iter_mut().zip(self.xs) {
            *to_x = factor * (*to_x - mean_shift - (x - mean) * mean_scale);
        }
        (to_scale as f32, to_shift as f32)
    }
}

/// `[2, batch, channels]`: the means, then the standard deviations.
struct Moments;

impl CustomOp1 for Moments {
    fn name(&self) -> &'static str {
        "moments"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, channels, height, width) = layout.shape().dims4()?;
        let xs = contiguous(storage, layout)?;
        let (mut means, deviations): (Vec<f32>, Vec<f32>) =
            xs.par_chunks((height * width).max(1)).map(|xs| plane_moments(xs, MOMENTS_EPS)).unzip();
        means.extend(deviations);
        Ok((CpuStorage::F32(means), Shape::from((2, batch, channels))))
    }

    fn bwd(&self, xs: &Tensor, both: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (batch, channels, height, width) = xs.dims4()?;
        let (planes, pixels) = (batch * channels, (height * width).max(1));
        let mut to_xs = vec![0f32; xs.elem_count()];
        with_floats(xs, |xs| {
            with_floats(both, |both| {
                with_floats(gradient, |gradient| {
                    to_xs.par_chunks_mut(pixels).zip(xs.par_chunks(pixels)).enumerate().for_each(
                        |(plane, (to_xs, xs))| {
                            let (mean, deviation) = (both[plane], both[planes + plane]);
                            let to_mean = gradient[plane] / pixels as f32;
                            let to_deviation = gradient[planes + plane] / (pixels as f32 * deviation);
                            for (to_x, &x) in to_xs.iter_mut().zip(xs) {
                                *to_x = to_mean + to_deviation * (x - mean);
                            }
                        },
                    );
                    Ok(())
                })
            })
        })?;
        Tensor::from_vec(to_xs, xs.shape(), xs.device()).map(Some)
    }
}

/// Mean and standard deviation (with `eps` under the root).
fn plane_moments(xs: &[f32], eps: f64) -> (f32, f32) {
    let count = xs.len() as f64;
    let mean = (sum(xs, xs, |x, _| x) / count) as f32;
    let variance = sum(xs, xs, |x, _| (x - mean) * (x - mean)) / count;
    (mean, (variance + eps).sqrt() as f32)
}

/// Sums a term of two planes: blocks in f32 lanes, their totals in f64.
fn sum(left: &[f32], right: &[f32], term: impl Fn(f32, f32) -> f32) -> f64 {
    const LANES: usize = 16;
    const BLOCK: usize = 1024;
    let block_sum = |(left, right): (&[f32], &[f32])| {
        let mut lanes = [0f32; LANES];
        let (left, left_rest) = left.as_chunks::<LANES>();
        let (right, right_rest) = right.as_chunks::<LANES>();
        for (left, right) in left.iter().zip(right) {
            for ((lane, &left), &right) in lanes.iter_mut().zip(left).zip(right) {
                *lane += term(left, right);
            }
        }
        let rest = left_rest.iter().zip(right_rest).map(|(&left, &right)| term(left, right));
        lanes.into_iter().chain(rest).map(f64::from).sum::<f64>()
    };
    left.chunks(BLOCK).zip(right.chunks(BLOCK)).map(block_sum).sum()
}
