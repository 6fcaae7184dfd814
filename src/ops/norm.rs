//! Group and layer normalisation.
//!
//! On the CPU group normalisation and the SiLU behind it run as one operation in two passes over memory; candle composes
//! them from eight, each with a temporary of the picture's size. Statistics are taken in f32 whatever the type.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Module, Shape, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::activation::sigmoid_f32;
use super::fresh::{Place, fresh, written};
use super::product::contiguous;
use super::simd::{Loops, vectorised};
use crate::error::Result;

/// Normalises groups of channels of `[batch, channels, ..]` to mean 0 and variance 1, then scales and shifts.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    framework: candle_nn::GroupNorm,
    kernel: Option<GroupNormKernel>,
}

impl GroupNorm {
    /// Loads `weight [channels]` and `bias [channels]`.
    ///
    /// # Errors
    /// When a tensor is missing or misshapen, or `groups` does not divide `channels`.
    pub fn new(groups: usize, channels: usize, eps: f64, vb: VarBuilder<'_>) -> Result<Self> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(candle_core::Error::Msg(format!(
                "{}: {groups} groups do not divide {channels} channels",
                vb.prefix()
            ))
            .into());
        }
        let weight = vb.get(channels, "weight")?;
        let bias = vb.get(channels, "bias")?;
        let kernel = weight.device().is_cpu().then(|| GroupNormKernel::new(&weight, &bias, groups, eps)).transpose()?;
        let framework = candle_nn::GroupNorm::new(weight, bias, channels, groups, eps)?;
        Ok(Self { framework, kernel })
    }

    /// Normalises `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// When the channels do not fit.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        match &self.kernel {
            Some(kernel) => kernel.apply(xs, false),
            None => Ok(self.framework.forward(xs)?),
        }
    }

    /// Normalises, then applies SiLU: the pair that opens every convolution of the UNet and the VAE.
    ///
    /// # Errors
    /// When the channels do not fit.
    pub fn forward_silu(&self, xs: &Tensor) -> Result<Tensor> {
        match &self.kernel {
            Some(kernel) => kernel.apply(xs, true),
            None => Ok(self.framework.forward(xs)?.silu()?),
        }
    }
}

/// Group normalisation with an optional SiLU on the CPU.
#[derive(Debug, Clone)]
struct GroupNormKernel {
    weight: Arc<[f32]>,
    bias: Arc<[f32]>,
    groups: usize,
    eps: f32,
    silu: bool,
}

impl GroupNormKernel {
    fn new(weight: &Tensor, bias: &Tensor, groups: usize, eps: f64) -> Result<Self> {
        let floats = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.to_vec1::<f32>();
        Ok(Self { weight: floats(weight)?.into(), bias: floats(bias)?.into(), groups, eps: eps as f32, silu: false })
    }

    fn apply(&self, xs: &Tensor, silu: bool) -> Result<Tensor> {
        let dtype = xs.dtype();
        let floats = xs.to_dtype(DType::F32)?.contiguous()?;
        Ok(floats.apply_op1_no_bwd(&Self { silu, ..self.clone() })?.to_dtype(dtype)?)
    }
}

impl CustomOp1 for GroupNormKernel {
    fn name(&self) -> &'static str {
        "group-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let shape = layout.shape();
        let dims = shape.dims();
        let channels = self.weight.len();
        if dims.len() < 2 || dims[1] != channels {
            candle_core::bail!("group norm of {channels} channels cannot take {shape:?}");
        }
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("group norm needs contiguous input");
        };
        let xs = &storage.as_slice::<f32>()?[start..end];
        let mut out = fresh(xs.len());
        let pixels: usize = dims[2..].iter().product();
        let per_group = channels / self.groups;
        if pixels > 0 {
            out.par_chunks_mut(per_group * pixels).zip(xs.par_chunks(per_group * pixels)).enumerate().for_each(
                |(index, (out, xs))| {
                    let channels = index % self.groups * per_group..(index % self.groups + 1) * per_group;
                    let (weight, bias) = (&self.weight[channels.clone()], &self.bias[channels]);
                    vectorised(Group { xs, out, pixels, weight, bias, eps: self.eps, silu: self.silu });
                },
            );
        }
        // SAFETY: the groups of all pictures, and each writes its places.
        #[allow(unsafe_code)]
        let out = unsafe { written(out) };
        Ok((CpuStorage::F32(out), shape.clone()))
    }
}

/// One group of one picture.
struct Group<'a> {
    xs: &'a [f32],
    out: &'a mut [Place],
    pixels: usize,
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    silu: bool,
}

impl Loops for Group<'_> {
    #[inline(always)]
    fn run(self) {
        let (mean, deviation) = moments(self.xs, self.eps);
        let planes = self.out.chunks_mut(self.pixels).zip(self.xs.chunks(self.pixels));
        for ((out, xs), (weight, bias)) in planes.zip(self.weight.iter().zip(self.bias)) {
            let scale = weight / deviation;
            let shift = bias - mean * scale;
            if self.silu {
                for (out, x) in out.iter_mut().zip(xs) {
                    let normal = x * scale + shift;
                    out.write(normal * sigmoid_f32(normal));
                }
            } else {
                for (out, x) in out.iter_mut().zip(xs) {
                    out.write(x * scale + shift);
                }
            }
        }
    }
}

/// Mean and standard deviation (with `eps` under the root).
#[inline(always)]
fn moments(xs: &[f32], eps: f32) -> (f32, f32) {
    let count = xs.len() as f64;
    let mean = (sum(xs, |x| x) / count) as f32;
    let variance = sum(xs, |x| (x - mean) * (x - mean)) / count;
    (mean, (variance as f32 + eps).sqrt())
}

/// Sums blocks in f32 lanes and their totals in f64: as exact as a sum in f64, at the speed of f32.
#[inline(always)]
fn sum(xs: &[f32], term: impl Fn(f32) -> f32) -> f64 {
    const LANES: usize = 16;
    let mut total = 0f64;
    for block in xs.chunks(1024) {
        let mut lanes = [0f32; LANES];
        let (whole, rest) = block.as_chunks::<LANES>();
        for xs in whole {
            for (lane, &x) in lanes.iter_mut().zip(xs) {
                *lane += term(x);
            }
        }
        for lane in lanes {
            total += f64::from(lane);
        }
        for &x in rest {
            total += f64::from(term(x));
        }
    }
    total
}

/// Normalises the last axis to mean 0 and variance 1, then scales and shifts.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    framework: candle_nn::LayerNorm,
    kernel: Option<LayerNormKernel>,
}

impl LayerNorm {
    /// Loads `weight [width]` and `bias [width]`.
    ///
    /// # Errors
    /// When a tensor is missing or misshapen.
    pub fn new(width: usize, eps: f64, vb: VarBuilder<'_>) -> Result<Self> {
        let weight = vb.get(width, "weight")?;
        let bias = vb.get(width, "bias")?;
        let ours = weight.device().is_cpu() && weight.dtype() == DType::F32;
        let floats = |tensor: &Tensor| -> Result<Arc<[f32]>> { Ok(tensor.to_vec1::<f32>()?.into()) };
        let kernel = if ours {
            Some(LayerNormKernel { weight: floats(&weight)?, bias: floats(&bias)?, eps: eps as f32 })
        } else {
            None
        };
        Ok(Self { framework: candle_nn::LayerNorm::new(weight, bias, eps), kernel })
    }

    /// Normalises `[.., width]`.
    ///
    /// # Errors
    /// When the last axis is not `width` long.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = xs.contiguous()?;
        match &self.kernel {
            Some(kernel) if xs.dtype() == DType::F32 => Ok(xs.apply_op1_no_bwd(kernel)?),
            _ => Ok(self.framework.forward(&xs)?),
        }
    }
}

/// Layer normalisation on the CPU.
#[derive(Debug, Clone)]
struct LayerNormKernel {
    weight: Arc<[f32]>,
    bias: Arc<[f32]>,
    eps: f32,
}

impl CustomOp1 for LayerNormKernel {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let width = self.weight.len();
        if layout.dims().last() != Some(&width) {
            candle_core::bail!("layer norm of width {width} cannot take {:?}", layout.shape());
        }
        let xs = contiguous(storage, layout)?;
        let mut out = fresh(xs.len());
        let piece = ROWS * width.max(1);
        out.par_chunks_mut(piece).zip(xs.par_chunks(piece)).for_each(|(out, xs)| {
            vectorised(Rows { xs, out, norm: self });
        });
        // SAFETY: pieces of one length each, and the loops write every place of theirs.
        #[allow(unsafe_code)]
        let out = unsafe { written(out) };
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

/// Rows of a task.
const ROWS: usize = 32;

/// Rows to normalise.
struct Rows<'a> {
    xs: &'a [f32],
    out: &'a mut [Place],
    norm: &'a LayerNormKernel,
}

impl Loops for Rows<'_> {
    #[inline(always)]
    fn run(self) {
        let LayerNormKernel { weight, bias, eps } = self.norm;
        for (out, xs) in self.out.chunks_mut(weight.len()).zip(self.xs.chunks(weight.len())) {
            let (mean, deviation) = moments(xs, *eps);
            let scale = 1.0 / deviation;
            for ((out, x), (weight, bias)) in out.iter_mut().zip(xs).zip(weight.iter().zip(bias.iter())) {
                out.write((x - mean) * scale * weight + bias);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::drawn::random;

    /// The kernel against candle's composition of framework operations, on an odd size.
    #[test]
    fn group_norm_equals_the_framework() {
        let xs = ((random(&[2, 12, 7, 5]) * 2.0).unwrap() + 3.0).unwrap();
        let weight = ((random(&[12]) * 0.5).unwrap() + 1.0).unwrap();
        let bias = (random(&[12]) * 0.5).unwrap();
        let tensors = [("weight".to_string(), weight), ("bias".to_string(), bias)].into_iter().collect();
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let norm = GroupNorm::new(4, 12, 1e-5, vb).unwrap();
        let difference = |ours: Tensor, theirs: Tensor| {
            (ours - theirs).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
        };
        let framework = norm.framework.forward(&xs).unwrap();
        assert!(difference(norm.forward(&xs).unwrap(), framework.clone()) < 1e-5);
        assert!(difference(norm.forward_silu(&xs).unwrap(), framework.silu().unwrap()) < 1e-5);
    }

    #[test]
    fn layer_norm_equals_double_precision() {
        for width in [1, 5, 320, 1283] {
            let xs = ((random(&[2, 37, width]) * 2.0).unwrap() + 3.0).unwrap();
            let weight = ((random(&[width]) * 0.5).unwrap() + 1.0).unwrap();
            let bias = (random(&[width]) * 0.5).unwrap();
            let wide = |xs: &Tensor| xs.to_dtype(DType::F64).unwrap();
            let centred = wide(&xs).broadcast_sub(&wide(&xs).mean_keepdim(2).unwrap()).unwrap();
            let variance = centred.sqr().unwrap().mean_keepdim(2).unwrap();
            let normal = centred.broadcast_div(&(variance + 1e-5).unwrap().sqrt().unwrap()).unwrap();
            let exact = normal.broadcast_mul(&wide(&weight)).unwrap().broadcast_add(&wide(&bias)).unwrap();
            let tensors = [("weight".to_string(), weight), ("bias".to_string(), bias)].into_iter().collect();
            let norm =
                LayerNorm::new(width, 1e-5, VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu)).unwrap();
            let error = (wide(&norm.forward(&xs).unwrap()) - exact).unwrap().abs().unwrap();
            let error = error.max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(error < 4e-6, "{width}: {error:e}");
            assert!(norm.forward(&Tensor::zeros((2, width + 1), DType::F32, &Device::Cpu).unwrap()).is_err());
        }
    }

    #[test]
    fn groups_must_divide_the_channels() {
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
        assert!(GroupNorm::new(0, 12, 1e-5, vb.clone()).is_err());
        assert!(GroupNorm::new(5, 12, 1e-5, vb).is_err());
    }
}
