//! The UNet's blocks: one per resolution on the way down and on the way up, and the middle.
//!
//! Reference: `DownBlock2D`, `CrossAttnDownBlock2D`, `UNetMidBlock2DCrossAttn`, `UpBlock2D`, `CrossAttnUpBlock2D` of
//! diffusers.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::error::Result;
use crate::nets::unet::attention::CrossAttention;
use crate::nets::unet::config::{Block, EncoderConfig};
use crate::nets::unet::context::{LayerContext, Layers};
use crate::nets::unet::resnet::{Downsample, ResnetBlock, Upsample};
use crate::nets::unet::skips::Skips;
use crate::nets::unet::transformer::SpatialTransformer;
use crate::ops;

/// What all blocks of one evaluation see: the embedded timestep `[1, time_width]` and the context's layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step<'a> {
    pub(crate) time: &'a Tensor,
    pub(crate) context: &'a [LayerContext],
}

/// A residual block and, in attending blocks, a spatial transformer.
#[derive(Debug, Clone)]
struct Layer {
    resnet: ResnetBlock,
    attention: Option<SpatialTransformer>,
}

impl Layer {
    fn new(
        inputs: usize,
        block: &Block,
        index: usize,
        config: &EncoderConfig,
        layers: &mut Layers,
        vb: &VarBuilder<'_>,
    ) -> Result<Self> {
        let attention = if block.attends {
            Some(SpatialTransformer::new(block, config, layers, vb.pp("attentions").pp(index))?)
        } else {
            None
        };
        let resnet = ResnetBlock::new(inputs, block.channels, config, vb.pp("resnets").pp(index))?;
        Ok(Self { resnet, attention })
    }

    fn forward(&self, xs: &Tensor, step: Step<'_>) -> Result<Tensor> {
        let xs = self.resnet.forward(xs, step.time)?;
        match &self.attention {
            Some(attention) => attention.forward(&xs, step.context),
            None => Ok(xs),
        }
    }
}

fn transformers_mut(layers: &mut [Layer]) -> impl Iterator<Item = &mut SpatialTransformer> {
    layers.iter_mut().filter_map(|layer| layer.attention.as_mut())
}

fn cross_attentions(layers: &[Layer]) -> impl Iterator<Item = &CrossAttention> {
    layers.iter().filter_map(|layer| layer.attention.as_ref()).flat_map(SpatialTransformer::cross_attentions)
}

/// Layers at one resolution, then half of it.
#[derive(Debug, Clone)]
pub(crate) struct DownBlock {
    layers: Vec<Layer>,
    downsample: Option<Downsample>,
}

impl DownBlock {
    /// Appends the channels of its outputs to `skip_channels`.
    pub(crate) fn new(
        block: &Block,
        last: bool,
        config: &EncoderConfig,
        layers: &mut Layers,
        skip_channels: &mut Vec<usize>,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let mut inputs = skip_channels.last().copied().unwrap_or(block.channels);
        let mut own = Vec::with_capacity(block.layers);
        for index in 0..block.layers {
            own.push(Layer::new(inputs, block, index, config, layers, &vb)?);
            inputs = block.channels;
            skip_channels.push(block.channels);
        }
        let downsample = if last {
            None
        } else {
            skip_channels.push(block.channels);
            Some(Downsample::new(block.channels, config, vb.pp("downsamplers").pp(0))?)
        };
        Ok(Self { layers: own, downsample })
    }

    pub(crate) fn cross_attentions(&self) -> impl Iterator<Item = &CrossAttention> {
        cross_attentions(&self.layers)
    }

    pub(crate) fn transformers_mut(&mut self) -> impl Iterator<Item = &mut SpatialTransformer> {
        transformers_mut(&mut self.layers)
    }

    pub(crate) fn forward(&self, mut xs: Tensor, step: Step<'_>, skips: &mut Vec<Tensor>) -> Result<Tensor> {
        for layer in &self.layers {
            xs = layer.forward(&xs, step)?;
            skips.push(xs.clone());
        }
        if let Some(downsample) = &self.downsample {
            xs = downsample.forward(&xs)?;
            skips.push(xs.clone());
        }
        Ok(xs)
    }
}

/// Two residual blocks around a spatial transformer, at the lowest resolution.
#[derive(Debug, Clone)]
pub(crate) struct MidBlock {
    first: ResnetBlock,
    attention: SpatialTransformer,
    second: ResnetBlock,
}

impl MidBlock {
    pub(crate) fn new(block: &Block, config: &EncoderConfig, layers: &mut Layers, vb: VarBuilder<'_>) -> Result<Self> {
        let resnet =
            |index: usize| ResnetBlock::new(block.channels, block.channels, config, vb.pp("resnets").pp(index));
        Ok(Self {
            first: resnet(0)?,
            attention: SpatialTransformer::new(block, config, layers, vb.pp("attentions").pp(0))?,
            second: resnet(1)?,
        })
    }

    pub(crate) fn cross_attentions(&self) -> impl Iterator<Item = &CrossAttention> {
        self.attention.cross_attentions()
    }

    pub(crate) fn transformer_mut(&mut self) -> &mut SpatialTransformer {
        &mut self.attention
    }

    pub(crate) fn forward(&self, xs: &Tensor, step: Step<'_>) -> Result<Tensor> {
        let xs = self.first.forward(xs, step.time)?;
        let xs = self.attention.forward(&xs, step.context)?;
        self.second.forward(&xs, step.time)
    }
}

/// Layers at one resolution, each joined by a skip connection, then twice the resolution.
#[derive(Debug, Clone)]
pub(crate) struct UpBlock {
    layers: Vec<Layer>,
    upsample: Option<Upsample>,
}

impl UpBlock {
    /// Takes the channels of its skip connections off the end of `skip_channels`.
    pub(crate) fn new(
        inputs: usize,
        block: &Block,
        last: bool,
        config: &EncoderConfig,
        layers: &mut Layers,
        skip_channels: &mut Vec<usize>,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let mut inputs = inputs;
        let mut own = Vec::with_capacity(block.layers + 1);
        // One layer more than on the way down: the encoder's entry to this resolution has a skip connection of its own.
        for index in 0..=block.layers {
            let skip = skip_channels.pop().unwrap_or(0);
            own.push(Layer::new(inputs + skip, block, index, config, layers, &vb)?);
            inputs = block.channels;
        }
        let upsample = if last { None } else { Some(Upsample::new(block.channels, vb.pp("upsamplers").pp(0))?) };
        Ok(Self { layers: own, upsample })
    }

    pub(crate) fn cross_attentions(&self) -> impl Iterator<Item = &CrossAttention> {
        cross_attentions(&self.layers)
    }

    pub(crate) fn transformers_mut(&mut self) -> impl Iterator<Item = &mut SpatialTransformer> {
        transformers_mut(&mut self.layers)
    }

    pub(crate) fn forward(&self, xs: Tensor, step: Step<'_>, skips: &mut Skips<'_>) -> Result<Tensor> {
        let xs = self.all_but_last(xs, step, skips)?;
        self.last(xs, step, skips)
    }

    /// What the last layer is given.
    pub(crate) fn all_but_last(&self, xs: Tensor, step: Step<'_>, skips: &mut Skips<'_>) -> Result<Tensor> {
        let but_last = self.layers.len().saturating_sub(1);
        self.layers[..but_last].iter().try_fold(xs, |xs, layer| joined(layer, xs, step, skips))
    }

    /// The last layer and what follows it.
    pub(crate) fn last(&self, mut xs: Tensor, step: Step<'_>, skips: &mut Skips<'_>) -> Result<Tensor> {
        if let Some(layer) = self.layers.last() {
            xs = joined(layer, xs, step, skips)?;
        }
        if let (Some(upsample), Some((height, width))) = (&self.upsample, skips.size()?) {
            xs = upsample.forward(&xs, height, width)?;
        }
        Ok(xs)
    }
}

fn joined(layer: &Layer, xs: Tensor, step: Step<'_>, skips: &mut Skips<'_>) -> Result<Tensor> {
    layer.forward(&ops::join(&xs, &skips.pop()?)?, step)
}
