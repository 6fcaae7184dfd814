//! Pixels to the moments of the latents.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::block::{EPS, Middle, Residual, residuals};
use super::config::VaeConfig;
use crate::error::Result;
use crate::ops::{Conv2d, GroupNorm};

#[derive(Debug, Clone)]
pub(super) struct Encoder {
    conv_in: Conv2d,
    blocks: Vec<Block>,
    middle: Middle,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

#[derive(Debug, Clone)]
struct Block {
    resnets: Vec<Residual>,
    downsampler: Option<Conv2d>,
}

impl Encoder {
    /// Expects a checked config.
    pub(super) fn new(config: &VaeConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let groups = config.norm_num_groups;
        let channels = &config.block_out_channels;
        let first = channels.first().copied().unwrap_or(0);
        let last = channels.last().copied().unwrap_or(0);
        let mut inputs = first;
        let mut blocks = Vec::with_capacity(channels.len());
        for (index, &outputs) in channels.iter().enumerate() {
            let vb = vb.pp("down_blocks").pp(index);
            let resnets = residuals(config.layers_per_block, inputs, outputs, groups, vb.pp("resnets"))?;
            let innermost = index + 1 == channels.len();
            let downsampler = (!innermost)
                .then(|| Conv2d::new(outputs, outputs, 3, 2, 0, vb.pp("downsamplers").pp(0).pp("conv")))
                .transpose()?;
            blocks.push(Block { resnets, downsampler });
            inputs = outputs;
        }
        Ok(Self {
            conv_in: Conv2d::new(config.in_channels, first, 3, 1, 1, vb.pp("conv_in"))?,
            blocks,
            middle: Middle::new(last, groups, config.mid_block_add_attention, vb.pp("mid_block"))?,
            norm_out: GroupNorm::new(groups, last, EPS, vb.pp("conv_norm_out"))?,
            conv_out: Conv2d::new(last, 2 * config.latent_channels, 3, 1, 1, vb.pp("conv_out"))?,
        })
    }

    pub(super) fn forward(&self, pixels: Tensor) -> Result<Tensor> {
        let xs = self.conv_in.forward(&pixels)?;
        drop(pixels);
        let xs = self.blocks.iter().try_fold(xs, |xs, block| block.forward(xs))?;
        let mut xs = self.middle.forward(xs)?;
        xs = self.norm_out.forward_silu(&xs)?;
        self.conv_out.forward(&xs)
    }
}

impl Block {
    fn forward(&self, xs: Tensor) -> Result<Tensor> {
        let mut xs = self.resnets.iter().try_fold(xs, |xs, resnet| resnet.forward(xs))?;
        let Some(conv) = &self.downsampler else { return Ok(xs) };
        // One row and one column of zeros, at the bottom and the right only: the UNet pads all round, the VAE does not.
        xs = xs.pad_with_zeros(3, 0, 1)?;
        xs = xs.pad_with_zeros(2, 0, 1)?;
        conv.forward(&xs)
    }
}
