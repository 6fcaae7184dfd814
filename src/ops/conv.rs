//! Two-dimensional convolution.

use candle_core::{Module, Tensor};
use candle_nn::{Conv2dConfig, VarBuilder};

use crate::error::Result;

/// A square convolution over `[batch, channels, height, width]` with bias.
#[derive(Debug, Clone)]
pub struct Conv2d {
    inner: candle_nn::Conv2d,
}

impl Conv2d {
    /// Loads `weight [out, in, kernel, kernel]` and `bias [out]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn new(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let weight = vb.get((outputs, inputs, kernel, kernel), "weight")?;
        let bias = vb.get(outputs, "bias")?;
        Ok(Self::from_tensors(weight, Some(bias), stride, padding))
    }

    /// Wraps tensors that are already loaded: `weight [out, in, kernel, kernel]`, `bias [out]`.
    pub fn from_tensors(weight: Tensor, bias: Option<Tensor>, stride: usize, padding: usize) -> Self {
        let config = Conv2dConfig { padding, stride, ..Default::default() };
        Self { inner: candle_nn::Conv2d::new(weight, bias, config) }
    }

    /// Convolves `[batch, in, height, width]`.
    ///
    /// # Errors
    /// When the channels do not fit.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(self.inner.forward(xs)?)
    }
}
