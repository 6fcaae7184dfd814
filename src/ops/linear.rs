//! Matrix layers: linear maps and embedding tables.

use candle_core::{Module, Tensor};
use candle_nn::VarBuilder;

use crate::error::Result;

/// `x W^T + b` over the last axis.
#[derive(Debug, Clone)]
pub struct Linear {
    inner: candle_nn::Linear,
}

impl Linear {
    /// Loads `weight [out, in]` and `bias [out]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn new(inputs: usize, outputs: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let weight = vb.get((outputs, inputs), "weight")?;
        let bias = vb.get(outputs, "bias")?;
        Ok(Self::from_tensors(weight, Some(bias)))
    }

    /// Loads `weight [out, in]` only.
    ///
    /// # Errors
    /// When the tensor is missing or has another shape.
    pub fn without_bias(inputs: usize, outputs: usize, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self::from_tensors(vb.get((outputs, inputs), "weight")?, None))
    }

    /// Wraps tensors that are already loaded: `weight [out, in]`, `bias [out]`.
    pub fn from_tensors(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { inner: candle_nn::Linear::new(weight, bias) }
    }

    /// Maps `[.., in]` to `[.., out]`.
    ///
    /// # Errors
    /// When the last axis is not `in` long.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(self.inner.forward(xs)?)
    }
}

/// A table of vectors looked up by index.
#[derive(Debug, Clone)]
pub struct Embedding {
    table: Tensor,
}

impl Embedding {
    /// Loads `weight [entries, width]`.
    ///
    /// # Errors
    /// When the tensor is missing or has another shape.
    pub fn new(entries: usize, width: usize, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self { table: vb.get((entries, width), "weight")? })
    }

    /// Looks up `[batch, n]` (u32) to `[batch, n, width]`.
    ///
    /// # Errors
    /// When an index lies outside the table.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let (batch, count) = ids.dims2()?;
        let width = self.table.dim(1)?;
        Ok(self.table.index_select(&ids.flatten_all()?, 0)?.reshape((batch, count, width))?)
    }
}
