//! The connections from the encoder across to the decoder, and what a ControlNet adds to them.

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::ops;

/// What a ControlNet found: one tensor to add to each skip connection and one for the middle.
#[derive(Debug, Clone)]
pub struct Residuals {
    /// For the skip connections, in the encoder's order.
    pub down: Vec<Tensor>,
    /// For the output of the middle block.
    pub mid: Tensor,
}

impl Residuals {
    /// The sum with another ControlNet's: several maps at once.
    ///
    /// # Errors
    /// When the two do not belong to the same net and size.
    pub fn plus(&self, other: &Self) -> Result<Self> {
        if self.down.len() != other.down.len() {
            let reason = format!("{} and {} residuals do not add up", self.down.len(), other.down.len());
            return Err(Error::usage("ControlNets", reason).with_hint("all ControlNets must suit the same base model"));
        }
        let down = self.down.iter().zip(&other.down).map(|(a, b)| add(a, b)).collect::<Result<_>>()?;
        Ok(Self { down, mid: add(&self.mid, &other.mid)? })
    }

    /// The same for a guidance batch whose unconditional first half is left alone: zeros, then these (guess mode).
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn after_zeros(&self) -> Result<Self> {
        let extend = |xs: &Tensor| -> Result<Tensor> { Ok(Tensor::cat(&[&xs.zeros_like()?, xs], 0)?) };
        Ok(Self { down: self.down.iter().map(extend).collect::<Result<_>>()?, mid: extend(&self.mid)? })
    }
}

/// `xs + residual` in `xs`'s type; a residual of one value per channel is added everywhere.
fn add(xs: &Tensor, residual: &Tensor) -> Result<Tensor> {
    if !residual.shape().broadcast_shape_binary_op(xs.shape(), "add").is_ok_and(|shape| &shape == xs.shape()) {
        let reason = format!("residuals of shape {:?} for a layer of shape {:?}", residual.dims(), xs.dims());
        return Err(Error::usage("ControlNet", reason).with_hint("use a ControlNet made for this base model"));
    }
    let residual = residual.to_dtype(xs.dtype())?;
    if residual.shape() == xs.shape() { ops::add(xs, &residual) } else { Ok(xs.broadcast_add(&residual)?) }
}

/// The encoder's outputs, last in first out: each is freed as soon as the decoder has used it.
#[derive(Debug)]
pub(crate) struct Skips<'a> {
    tensors: Vec<Tensor>,
    residuals: Option<&'a Residuals>,
}

impl<'a> Skips<'a> {
    pub(crate) fn new(tensors: Vec<Tensor>, residuals: Option<&'a Residuals>) -> Result<Self> {
        if let Some(residuals) = residuals
            && residuals.down.len() != tensors.len()
        {
            let reason = format!("gives {} residuals for {} skip connections", residuals.down.len(), tensors.len());
            return Err(Error::usage("ControlNet", reason).with_hint("use a ControlNet made for this base model"));
        }
        Ok(Self { tensors, residuals })
    }

    /// The first skip connection alone, with what is to be added to it.
    pub(crate) fn entry(xs: Tensor, residual: Option<&Tensor>) -> Result<Self> {
        let xs = match residual {
            Some(residual) => add(&xs, residual)?,
            None => xs,
        };
        Ok(Self { tensors: vec![xs], residuals: None })
    }

    /// The latest tensor left, with its residual added.
    pub(crate) fn pop(&mut self) -> Result<Tensor> {
        let skip = self.tensors.pop().ok_or_else(|| Error::usage("UNet", "runs out of skip connections"))?;
        match self.residuals.and_then(|residuals| residuals.down.get(self.tensors.len())) {
            Some(residual) => add(&skip, residual),
            None => Ok(skip),
        }
    }

    /// Height and width of the tensor that `pop` would give.
    pub(crate) fn size(&self) -> Result<Option<(usize, usize)>> {
        match self.tensors.last() {
            None => Ok(None),
            Some(skip) => {
                let (_, _, height, width) = skip.dims4()?;
                Ok(Some((height, width)))
            }
        }
    }

    /// The middle's output with its residual added.
    pub(crate) fn mid(&self, xs: Tensor) -> Result<Tensor> {
        match self.residuals {
            Some(residuals) => add(&xs, &residuals.mid),
            None => Ok(xs),
        }
    }
}
