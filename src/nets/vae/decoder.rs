//! Latents to pixels.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::block::{EPS, Middle, Residual, residuals};
use super::config::VaeConfig;
use crate::error::Result;
use crate::ops::{Conv2d, GroupNorm};

#[derive(Debug, Clone)]
pub(super) struct Decoder {
    conv_in: Conv2d,
    middle: Middle,
    blocks: Vec<Block>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

#[derive(Debug, Clone)]
struct Block {
    resnets: Vec<Residual>,
    upsampler: Option<Conv2d>,
}

impl Decoder {
    /// Expects a checked config.
    pub(super) fn new(config: &VaeConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let groups = config.norm_num_groups;
        let channels = &config.block_out_channels;
        let first = channels.first().copied().unwrap_or(0);
        let last = channels.last().copied().unwrap_or(0);
        let mut inputs = last;
        let mut blocks = Vec::with_capacity(channels.len());
        for (index, &outputs) in channels.iter().rev().enumerate() {
            let vb = vb.pp("up_blocks").pp(index);
            let resnets = residuals(config.layers_per_block + 1, inputs, outputs, groups, vb.pp("resnets"))?;
            let outermost = index + 1 == channels.len();
            let upsampler = (!outermost)
                .then(|| Conv2d::new(outputs, outputs, 3, 1, 1, vb.pp("upsamplers").pp(0).pp("conv")))
                .transpose()?;
            blocks.push(Block { resnets, upsampler });
            inputs = outputs;
        }
        Ok(Self {
            conv_in: Conv2d::new(config.latent_channels, last, 3, 1, 1, vb.pp("conv_in"))?,
            middle: Middle::new(last, groups, config.mid_block_add_attention, vb.pp("mid_block"))?,
            blocks,
            norm_out: GroupNorm::new(groups, first, EPS, vb.pp("conv_norm_out"))?,
            conv_out: Conv2d::new(first, config.out_channels, 3, 1, 1, vb.pp("conv_out"))?,
        })
    }

    pub(super) fn forward(&self, latents: Tensor) -> Result<Tensor> {
        let xs = self.conv_in.forward(&latents)?;
        let xs = self.middle.forward(xs)?;
        let mut xs = self.blocks.iter().try_fold(xs, |xs, block| block.forward(xs))?;
        xs = self.norm_out.forward_silu(&xs)?;
        self.conv_out.forward(&xs)
    }
}

impl Block {
    fn forward(&self, xs: Tensor) -> Result<Tensor> {
        let xs = self.resnets.iter().try_fold(xs, |xs, resnet| resnet.forward(xs))?;
        let Some(conv) = &self.upsampler else { return Ok(xs) };
        let (_, _, height, width) = xs.dims4()?;
        conv.forward_enlarged(&xs, 2 * height, 2 * width)
    }
}
