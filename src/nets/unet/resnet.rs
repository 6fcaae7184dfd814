//! The residual block, and halving and doubling of the resolution.
//!
//! Reference: `ResnetBlock2D`, `Downsample2D`, `Upsample2D` of diffusers.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::error::Result;
use crate::nets::unet::config::EncoderConfig;
use crate::ops::{self, Conv2d, GroupNorm, Linear};

/// Two normalised convolutions around the timestep, plus the input.
#[derive(Debug, Clone)]
pub(crate) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    pub(crate) fn new(inputs: usize, outputs: usize, config: &EncoderConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let shortcut =
            if inputs == outputs { None } else { Some(Conv2d::new(inputs, outputs, 1, 1, 0, vb.pp("conv_shortcut"))?) };
        Ok(Self {
            norm1: GroupNorm::new(config.groups, inputs, config.eps, vb.pp("norm1"))?,
            conv1: Conv2d::new(inputs, outputs, 3, 1, 1, vb.pp("conv1"))?,
            time: Linear::new(config.time_width, outputs, vb.pp("time_emb_proj"))?,
            norm2: GroupNorm::new(config.groups, outputs, config.eps, vb.pp("norm2"))?,
            conv2: Conv2d::new(outputs, outputs, 3, 1, 1, vb.pp("conv2"))?,
            shortcut,
        })
    }

    /// `time` is `[1, time_width]` with SiLU applied.
    pub(crate) fn forward(&self, xs: &Tensor, time: &Tensor) -> Result<Tensor> {
        let hidden = self.conv1.forward_shifted(&self.norm1.forward_silu(xs)?, &self.time.forward(time)?)?;
        let hidden = self.conv2.forward(&self.norm2.forward_silu(&hidden)?)?;
        match &self.shortcut {
            None => ops::add(xs, &hidden),
            Some(shortcut) => ops::add(&shortcut.forward(xs)?, &hidden),
        }
    }
}

/// A convolution of stride two: half the size, rounded up.
#[derive(Debug, Clone)]
pub(crate) struct Downsample {
    conv: Conv2d,
    pads_after: bool,
}

impl Downsample {
    pub(crate) fn new(channels: usize, config: &EncoderConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let padding = config.downsample_padding;
        Ok(Self { conv: Conv2d::new(channels, channels, 3, 2, padding, vb.pp("conv"))?, pads_after: padding == 0 })
    }

    pub(crate) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        if self.pads_after {
            return self.conv.forward(&xs.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?);
        }
        self.conv.forward(xs)
    }
}

/// Nearest-neighbour enlargement and a convolution.
#[derive(Debug, Clone)]
pub(crate) struct Upsample {
    conv: Conv2d,
}

impl Upsample {
    pub(crate) fn new(channels: usize, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self { conv: Conv2d::new(channels, channels, 3, 1, 1, vb.pp("conv"))? })
    }

    /// The size is that of the skip connection that follows: twice the input's, or one less where halving rounded up.
    pub(crate) fn forward(&self, xs: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        self.conv.forward_enlarged(xs, height, width)
    }
}
