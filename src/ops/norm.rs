//! Group and layer normalisation.
//!
//! On the CPU group normalisation and the SiLU behind it run as one operation in two passes over memory; candle composes
//! them from eight, each with a temporary of the picture's size. Statistics are taken in f32 whatever the type.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Module, Shape, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::activation::sigmoid_f32;
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
        let mut out = vec![0f32; xs.len()];
        let pixels: usize = dims[2..].iter().product();
        let per_group = channels / self.groups;
        if pixels > 0 {
            out.par_chunks_mut(per_group * pixels).zip(xs.par_chunks(per_group * pixels)).enumerate().for_each(
                |(index, (out, xs))| {
                    let first = index % self.groups * per_group;
                    let (mean, deviation) = moments(xs, self.eps);
                    for (channel, (out, xs)) in out.chunks_mut(pixels).zip(xs.chunks(pixels)).enumerate() {
                        let scale = self.weight[first + channel] / deviation;
                        let shift = self.bias[first + channel] - mean * scale;
                        if self.silu {
                            for (out, x) in out.iter_mut().zip(xs) {
                                let normal = x * scale + shift;
                                *out = normal * sigmoid_f32(normal);
                            }
                        } else {
                            for (out, x) in out.iter_mut().zip(xs) {
                                *out = x * scale + shift;
                            }
                        }
                    }
                },
            );
        }
        Ok((CpuStorage::F32(out), shape.clone()))
    }
}

/// Mean and standard deviation (with `eps` under the root).
fn moments(xs: &[f32], eps: f32) -> (f32, f32) {
    let count = xs.len() as f64;
    let mean = (sum(xs, |x| x) / count) as f32;
    let variance = sum(xs, |x| (x - mean) * (x - mean)) / count;
    (mean, (variance as f32 + eps).sqrt())
}

/// Sums blocks in f32 lanes and their totals in f64: as exact as a sum in f64, at the speed of f32.
fn sum(xs: &[f32], term: impl Fn(f32) -> f32) -> f64 {
    const LANES: usize = 16;
    let block_sum = |block: &[f32]| {
        let mut lanes = [0f32; LANES];
        let (whole, rest) = block.as_chunks::<LANES>();
        for xs in whole {
            for (lane, &x) in lanes.iter_mut().zip(xs) {
                *lane += term(x);
            }
        }
        lanes.into_iter().chain(rest.iter().map(|&x| term(x))).map(f64::from).sum::<f64>()
    };
    xs.chunks(1024).map(block_sum).sum()
}

/// Normalises the last axis to mean 0 and variance 1, then scales and shifts.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    inner: candle_nn::LayerNorm,
}

impl LayerNorm {
    /// Loads `weight [width]` and `bias [width]`.
    ///
    /// # Errors
    /// When a tensor is missing or misshapen.
    pub fn new(width: usize, eps: f64, vb: VarBuilder<'_>) -> Result<Self> {
        let weight = vb.get(width, "weight")?;
        let bias = vb.get(width, "bias")?;
        Ok(Self { inner: candle_nn::LayerNorm::new(weight, bias, eps) })
    }

    /// Normalises `[.., width]`.
    ///
    /// # Errors
    /// When the last axis is not `width` long.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(self.inner.forward(&xs.contiguous()?)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// The kernel against candle's composition of framework operations, on an odd size.
    #[test]
    fn group_norm_equals_the_framework() {
        let xs = Tensor::randn(3f32, 2., (2, 12, 7, 5), &Device::Cpu).unwrap();
        let weight = Tensor::randn(1f32, 0.5, 12, &Device::Cpu).unwrap();
        let bias = Tensor::randn(0f32, 0.5, 12, &Device::Cpu).unwrap();
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
    fn groups_must_divide_the_channels() {
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
        assert!(GroupNorm::new(0, 12, 1e-5, vb.clone()).is_err());
        assert!(GroupNorm::new(5, 12, 1e-5, vb).is_err());
    }
}
