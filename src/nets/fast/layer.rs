//! A layer of a feed-forward net: a convolution, then perhaps an instance norm whose scale and shift depend on the style,
//! then perhaps a ReLU.

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;

use super::SUBJECT;
use crate::error::{Error, Result};
use crate::nets::strips::Step;
use crate::ops::trainable::{self, Geometry, Padding};

/// Larger kernels are no net of this kind.
const MAX_KERNEL: usize = 31;

/// One step of the net.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    Plain(Layer),
    /// The input is added to what the second layer makes of the first one's output.
    Residual(Layer, Layer),
}

impl Stage {
    /// `weights` is `[batch, styles]`.
    pub(super) fn forward(&self, xs: &Tensor, weights: &Tensor) -> Result<Tensor> {
        match self {
            Self::Plain(layer) => layer.forward(xs, weights),
            Self::Residual(first, second) => Ok((xs + second.forward(&first.forward(xs, weights)?, weights)?)?),
        }
    }
}

/// How a convolution changes the size, and what it sees beyond the edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Mirrored edges after a nearest enlargement: stride, enlargement.
    Mirrored(usize, usize),
    /// TensorFlow's `SAME` with a stride: `ceil(side / stride)` positions, of an odd number of zeros the larger half behind.
    Same(usize),
    /// TensorFlow's transposed convolution, kernel 3 and stride 2, with `SAME`. The weights are those of a convolution with
    /// a kernel of 2 that makes the four pixels of each position.
    Transposed,
}

#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// `[out, in, kernel, kernel]`.
    weight: Tensor,
    bias: Tensor,
    kind: Kind,
    norm: Option<Norm>,
    relu: bool,
}

/// Scale and shift of an instance norm, `[styles, channels]` each.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    pub(super) scale: Tensor,
    pub(super) shift: Tensor,
    pub(super) eps: f64,
}

impl Layer {
    /// Wraps loaded tensors; without a bias it is zero.
    pub(super) fn new(weight: Tensor, bias: Option<Tensor>, kind: Kind) -> Result<Self> {
        let (outputs, inputs, kernel, width) = weight.dims4().map_err(|_| misshapen(&weight))?;
        let odd = kernel % 2 == 1 || kind == Kind::Transposed;
        if outputs * inputs == 0 || kernel != width || !odd || kernel > MAX_KERNEL {
            return Err(misshapen(&weight));
        }
        let bias = match bias {
            Some(bias) if bias.dims() == [outputs] => bias,
            Some(bias) => return Err(misshapen(&bias)),
            None => Tensor::zeros(outputs, weight.dtype(), weight.device())?,
        };
        Ok(Self { weight, bias, kind, norm: None, relu: false })
    }

    /// Adds the norm that follows.
    pub(super) fn with_norm(self, norm: Norm) -> Result<Self> {
        let (styles, channels) = norm.scale.dims2().map_err(|_| misshapen(&norm.scale))?;
        if channels != self.channels()?.1 || styles == 0 || norm.shift.dims() != [styles, channels] {
            return Err(misshapen(&norm.scale));
        }
        Ok(Self { norm: Some(norm), ..self })
    }

    /// Adds a ReLU at the end.
    pub(super) fn with_relu(self) -> Self {
        Self { relu: true, ..self }
    }

    /// Channels taken and given.
    pub(super) fn channels(&self) -> Result<(usize, usize)> {
        let (outputs, inputs, _, _) = self.weight.dims4()?;
        Ok((inputs, if self.kind == Kind::Transposed { outputs / 4 } else { outputs }))
    }

    /// How many styles the norm knows, where there is one.
    pub(super) fn styles(&self) -> Result<Option<usize>> {
        Ok(self.norm.as_ref().map(|norm| norm.scale.dim(0)).transpose()?)
    }

    pub(super) fn device(&self) -> &Device {
        self.weight.device()
    }

    /// The layer for strips, in the styles of one row of `weights`.
    pub(super) fn step(&self, weights: &Tensor) -> Result<Step<'_>> {
        let radius = self.weight.dim(3)? / 2;
        let (reach, stride, upsample) = match self.kind {
            Kind::Mirrored(stride, upsample) => (radius, stride, upsample),
            // With an even side the middle tap stands between two rows.
            Kind::Same(stride) => (radius + stride - 1, stride, 1),
            Kind::Transposed => (2, 1, 2),
        };
        let norm = self
            .norm
            .as_ref()
            .map(|norm| -> Result<_> { Ok((weights.matmul(&norm.scale)?, weights.matmul(&norm.shift)?, norm.eps)) });
        let convolve = Box::new(|xs: &Tensor| self.convolve(xs));
        Ok(Step { convolve, norm: norm.transpose()?, relu: self.relu, reach, stride, upsample })
    }

    fn forward(&self, xs: &Tensor, weights: &Tensor) -> Result<Tensor> {
        let xs = self.convolve(xs)?;
        match &self.norm {
            Some(norm) => {
                let (scale, shift) = (weights.matmul(&norm.scale)?, weights.matmul(&norm.shift)?);
                let normalise = if self.relu { trainable::instance_norm_relu } else { trainable::instance_norm };
                normalise(&xs, &scale, &shift, norm.eps)
            }
            None if self.relu => trainable::relu(&xs),
            None => Ok(xs),
        }
    }

    fn convolve(&self, xs: &Tensor) -> Result<Tensor> {
        let kernel = self.weight.dim(3)?;
        let zeros = |n| Geometry { stride: 1, padding: Padding::Zeros(n), upsample: 1 };
        match self.kind {
            Kind::Mirrored(stride, upsample) => {
                let geometry = Geometry::same(kernel).with_stride(stride).with_upsample(upsample);
                trainable::conv2d(xs, &self.weight, &self.bias, geometry)
            }
            Kind::Same(1) => trainable::conv2d(xs, &self.weight, &self.bias, zeros(kernel / 2)),
            Kind::Same(stride) => {
                let (_, _, height, width) = xs.dims4()?;
                let (above, below) = same_padding(height, kernel, stride);
                let (before, behind) = same_padding(width, kernel, stride);
                let padded = xs.pad_with_zeros(2, above, below)?.pad_with_zeros(3, before, behind)?;
                trainable::conv2d(&padded, &self.weight, &self.bias, zeros(0).with_stride(stride))
            }
            Kind::Transposed => {
                let (batch, _, height, width) = xs.dims4()?;
                let four = trainable::conv2d(xs, &self.weight, &self.bias, zeros(1))?;
                let four = four.narrow(2, 0, height)?.narrow(3, 0, width)?;
                let channels = four.dim(1)? / 4;
                let four = four.reshape((batch, channels, 2, 2, height, width))?.permute((0, 1, 4, 2, 5, 3))?;
                Ok(four.reshape((batch, channels, 2 * height, 2 * width))?)
            }
        }
    }
}

/// Zeros before and behind a side.
fn same_padding(side: usize, kernel: usize, stride: usize) -> (usize, usize) {
    let total = ((side.div_ceil(stride) - 1) * stride + kernel).saturating_sub(side);
    (total / 2, total - total / 2)
}

fn misshapen(tensor: &Tensor) -> Error {
    Error::usage(
        SUBJECT,
        format!("a tensor of shape {:?} does not belong into a feed-forward style net", tensor.dims()),
    )
}

/// `weight` and `bias` of an instance norm of one style.
pub(super) fn single_norm(vb: &VarBuilder<'_>, scale: &str, shift: &str, eps: f64) -> Result<Norm> {
    let row = |name: &str| -> Result<Tensor> {
        let tensor = vb.get_unchecked(name)?;
        tensor.dims1().map_err(|_| misshapen(&tensor))?;
        Ok(tensor.unsqueeze(0)?)
    };
    Ok(Norm { scale: row(scale)?, shift: row(shift)?, eps })
}
