//! Group and layer normalisation.

use candle_core::{Module, Tensor};
use candle_nn::VarBuilder;

use crate::error::Result;

/// Normalises groups of channels of `[batch, channels, ..]` to mean 0 and variance 1, then scales and shifts.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    inner: candle_nn::GroupNorm,
}

impl GroupNorm {
    /// Loads `weight [channels]` and `bias [channels]`.
    ///
    /// # Errors
    /// When a tensor is missing or misshapen, or `groups` does not divide `channels`.
    pub fn new(groups: usize, channels: usize, eps: f64, vb: VarBuilder<'_>) -> Result<Self> {
        let weight = vb.get(channels, "weight")?;
        let bias = vb.get(channels, "bias")?;
        Ok(Self { inner: candle_nn::GroupNorm::new(weight, bias, channels, groups, eps)? })
    }

    /// Normalises `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// When the channels do not fit.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(self.inner.forward(xs)?)
    }

    /// Normalises, then applies SiLU: the pair that opens every convolution of the UNet and the VAE.
    ///
    /// # Errors
    /// When the channels do not fit.
    pub fn forward_silu(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(self.inner.forward(xs)?.silu()?)
    }
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
