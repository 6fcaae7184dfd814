//! The way down: what a UNet and a ControlNet have in common.
//!
//! The middle block is built apart ([`Encoder::mid`]), because cross-attention layers are numbered in the order down, up,
//! middle: the order in which diffusers registers them and in which IP-Adapter files store them.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::nets::unet::attention::CrossAttention;
use crate::nets::unet::block::{DownBlock, MidBlock, Step};
use crate::nets::unet::config::EncoderConfig;
use crate::nets::unet::context::{Context, Layers};
use crate::nets::unet::time::TimeEmbedding;
use crate::nets::unet::transformer::SpatialTransformer;
use crate::ops::Conv2d;

/// First convolution, timestep embedding and the blocks down to the lowest resolution.
#[derive(Debug, Clone)]
pub(crate) struct Encoder {
    conv_in: Conv2d,
    time: TimeEmbedding,
    down: Vec<DownBlock>,
    in_channels: usize,
    skip_channels: Vec<usize>,
    dtype: DType,
}

impl Encoder {
    pub(crate) fn new(config: &EncoderConfig, layers: &mut Layers, vb: &VarBuilder<'_>) -> Result<Self> {
        let width = config.blocks.first().map_or(0, |block| block.channels);
        let mut skip_channels = vec![width];
        let mut down = Vec::with_capacity(config.blocks.len());
        for (index, block) in config.blocks.iter().enumerate() {
            let last = index + 1 == config.blocks.len();
            let vb = vb.pp("down_blocks").pp(index);
            down.push(DownBlock::new(block, last, config, layers, &mut skip_channels, vb)?);
        }
        Ok(Self {
            conv_in: Conv2d::new(config.in_channels, width, 3, 1, 1, vb.pp("conv_in"))?,
            time: TimeEmbedding::new(config, vb.pp("time_embedding"))?,
            down,
            in_channels: config.in_channels,
            skip_channels,
            dtype: vb.dtype(),
        })
    }

    /// The block below the last one down; `None` for distilled nets that have none.
    pub(crate) fn mid(config: &EncoderConfig, layers: &mut Layers, vb: &VarBuilder<'_>) -> Result<Option<MidBlock>> {
        match config.blocks.last() {
            Some(block) if config.has_mid => Ok(Some(MidBlock::new(block, config, layers, vb.pp("mid_block"))?)),
            _ => Ok(None),
        }
    }

    pub(crate) fn cross_attentions(&self) -> impl Iterator<Item = &CrossAttention> {
        self.down.iter().flat_map(DownBlock::cross_attentions)
    }

    pub(crate) fn transformers_mut(&mut self) -> impl Iterator<Item = &mut SpatialTransformer> {
        self.down.iter_mut().flat_map(DownBlock::transformers_mut)
    }

    /// Channels of the skip connections, in order.
    pub(crate) fn skip_channels(&self) -> &[usize] {
        &self.skip_channels
    }

    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    pub(crate) fn time(&self) -> &TimeEmbedding {
        &self.time
    }

    /// Checks the input and applies the first convolution, in the net's type.
    pub(crate) fn enter(&self, xs: &Tensor, context: &Context) -> Result<Tensor> {
        let (batch, channels, height, width) = xs.dims4()?;
        if channels != self.in_channels || height == 0 || width == 0 {
            let reason = format!("latents of shape {:?} for a net that takes {} channels", xs.dims(), self.in_channels);
            return Err(Error::usage("latents", reason));
        }
        if batch != context.batch() {
            let reason = format!("a batch of {batch} for a context of {}", context.batch());
            return Err(Error::usage("latents", reason));
        }
        self.conv_in.forward(&xs.to_dtype(self.dtype)?.contiguous()?)
    }

    /// All blocks down; returns the last output and every skip connection.
    pub(crate) fn descend(&self, xs: Tensor, step: Step<'_>) -> Result<(Tensor, Vec<Tensor>)> {
        let mut skips = Vec::with_capacity(self.skip_channels.len());
        skips.push(xs.clone());
        let mut xs = xs;
        for block in &self.down {
            xs = block.forward(xs, step, &mut skips)?;
        }
        Ok((xs, skips))
    }
}
