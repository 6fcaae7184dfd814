//! The denoising UNet of Stable Diffusion 1.x and 2.x.
//!
//! Sized by the model's own `config.json`. What stays the same for all steps of a picture (keys and values of text and
//! style) is computed once by [`Unet::context`]; [`Unet::forward`] is one evaluation. Must not know samplers, guidance or
//! where weights come from.
//! References: Rombach et al. 2022 (arXiv:2112.10752); `UNet2DConditionModel` of diffusers 0.42.

mod attention;
pub(crate) mod block;
pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod encoder;
mod resnet;
mod skips;
mod time;
pub(crate) mod transformer;

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::nets::unet::attention::CrossAttention;
use crate::nets::unet::block::{MidBlock, Step, UpBlock};
use crate::nets::unet::config::Block;
use crate::nets::unet::context::Layers;
use crate::nets::unet::encoder::Encoder;
use crate::nets::unet::skips::Skips;
use crate::nets::unet::transformer::SpatialTransformer;
use crate::ops::{Conv2d, GroupNorm};

pub use config::UnetConfig;
pub use context::{Context, Style};
pub use skips::Residuals;

/// Predicts the noise (or velocity, or picture: the model's `prediction_type` says) in scaled latents.
#[derive(Debug, Clone)]
pub struct Unet {
    config: UnetConfig,
    encoder: Encoder,
    mid: Option<MidBlock>,
    up: Vec<UpBlock>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    names: Vec<String>,
}

/// What the layers below the outermost gave at some timestep.
#[derive(Debug, Clone)]
pub struct Deep(Tensor);

impl Deep {
    /// Pictures in the batch it was made for.
    pub fn batch(&self) -> usize {
        self.0.dims().first().copied().unwrap_or(0)
    }
}

impl Unet {
    /// Loads the net; weights are named as diffusers names them.
    ///
    /// # Errors
    /// When a tensor is missing or misshapen, or the groups do not divide a layer's channels.
    pub fn new(config: &UnetConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let shape = &config.encoder;
        let mut layers = Layers::new(&vb);
        // Down, up, middle: the numbering that IP-Adapter files follow.
        let encoder = Encoder::new(shape, &mut layers, &vb)?;
        let mut skip_channels = encoder.skip_channels().to_vec();
        let mut inputs = shape.blocks.last().map_or(0, |block| block.channels);
        let mut up = Vec::with_capacity(shape.blocks.len());
        for (index, (block, &attends)) in shape.blocks.iter().rev().zip(&config.up_attends).enumerate() {
            let last = index + 1 == shape.blocks.len();
            let vb = vb.pp("up_blocks").pp(index);
            let block = Block { attends, ..block.clone() };
            up.push(UpBlock::new(inputs, &block, last, shape, &mut layers, &mut skip_channels, vb)?);
            inputs = block.channels;
        }
        let mid = Encoder::mid(shape, &mut layers, &vb)?;
        Ok(Self {
            config: config.clone(),
            encoder,
            mid,
            up,
            norm_out: GroupNorm::new(shape.groups, inputs, shape.eps, vb.pp("conv_norm_out"))?,
            conv_out: Conv2d::new(inputs, config.out_channels, 3, 1, 1, vb.pp("conv_out"))?,
            names: layers.into_names(),
        })
    }

    /// The shape it was built from.
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// Names of the cross-attention layers (`down_blocks.0.attentions.0.transformer_blocks.0.attn2`), in the order in
    /// which IP-Adapter files number them: down, up, middle.
    pub fn cross_attention_names(&self) -> &[String] {
        &self.names
    }

    fn cross_attentions(&self) -> Vec<&CrossAttention> {
        let up = self.up.iter().flat_map(UpBlock::cross_attentions);
        let mid = self.mid.iter().flat_map(MidBlock::cross_attentions);
        self.encoder.cross_attentions().chain(up).chain(mid).collect()
    }

    /// Rounds the linear maps of its transformers to eight bits: see [`crate::ops::Linear::quantize`].
    ///
    /// # Errors
    /// When their weights cannot be read.
    pub fn quantize(&mut self) -> Result<()> {
        let up = self.up.iter_mut().flat_map(UpBlock::transformers_mut);
        let mid = self.mid.iter_mut().map(MidBlock::transformer_mut);
        self.encoder.transformers_mut().chain(up).chain(mid).try_for_each(SpatialTransformer::quantize)
    }

    /// Prepares what the net attends to: `text [batch, n, width]` (under guidance the unconditional rows first) and any
    /// number of styles. Once per picture.
    ///
    /// # Errors
    /// When widths or batches do not fit, an adapter was made for another net, or a block name does not exist.
    pub fn context(&self, text: &Tensor, styles: &[Style<'_>]) -> Result<Context> {
        let width = self.config.cross_attention_dim();
        Context::new(&self.cross_attentions(), &self.names, text, width, self.encoder.dtype(), styles)
    }

    /// Adds the guidance scale to a context, for distilled nets that take it as an input
    /// ([`UnetConfig::guidance_width`]); for others the context comes back as it is.
    ///
    /// # Errors
    /// When the scale is not finite.
    pub fn guided(&self, context: Context, scale: f64) -> Result<Context> {
        Ok(Context { guidance: self.encoder.time().guidance(scale)?, ..context })
    }

    /// One evaluation: `xs [batch, in_channels, height, width]` at `timestep` (which may be fractional) to
    /// `[batch, out_channels, height, width]`, in `xs`'s type. Any height and width above 0 will do.
    ///
    /// # Errors
    /// When shapes do not fit, or the residuals belong to another net.
    pub fn forward(
        &self,
        xs: &Tensor,
        timestep: f64,
        context: &Context,
        residuals: Option<&Residuals>,
    ) -> Result<Tensor> {
        Ok(self.forward_keeping(xs, timestep, context, residuals)?.0)
    }

    /// The same, and what the last layer on the way up was given: all that [`Unet::forward_shallow`] needs of the layers
    /// below.
    ///
    /// # Errors
    /// When shapes do not fit, or the residuals belong to another net.
    pub fn forward_keeping(
        &self,
        xs: &Tensor,
        timestep: f64,
        context: &Context,
        residuals: Option<&Residuals>,
    ) -> Result<(Tensor, Deep)> {
        let time = self.time(timestep, context)?;
        let step = Step { time: &time, context: &context.layers };
        let (mut hidden, skips) = self.encoder.descend(self.encoder.enter(xs, context)?, step)?;
        if let Some(mid) = &self.mid {
            hidden = mid.forward(&hidden, step)?;
        }
        let mut skips = Skips::new(skips, residuals)?;
        hidden = skips.mid(hidden)?;
        let (last, before) = self.last_up()?;
        for block in before {
            hidden = block.forward(hidden, step, &mut skips)?;
        }
        let deep = last.all_but_last(hidden, step, &mut skips)?;
        let hidden = last.last(deep.clone(), step, &mut skips)?;
        Ok((self.leave(&hidden, xs.dtype())?, Deep(deep)))
    }

    /// An evaluation of the outermost layers alone, about a tenth of the work: the layers below are taken to give what they
    /// gave at an earlier timestep (DeepCache: Ma et al. 2023, arXiv:2312.00858). `entry` is what a ControlNet adds to the
    /// first skip connection ([`ControlNet::entry`](crate::nets::controlnet::ControlNet::entry)).
    ///
    /// # Errors
    /// When shapes do not fit: `deep` must be of the same batch and size.
    pub fn forward_shallow(
        &self,
        xs: &Tensor,
        timestep: f64,
        context: &Context,
        entry: Option<&Tensor>,
        deep: &Deep,
    ) -> Result<Tensor> {
        let time = self.time(timestep, context)?;
        let step = Step { time: &time, context: &context.layers };
        let mut skips = Skips::entry(self.encoder.enter(xs, context)?, entry)?;
        let (last, _) = self.last_up()?;
        self.leave(&last.last(deep.0.clone(), step, &mut skips)?, xs.dtype())
    }

    fn time(&self, timestep: f64, context: &Context) -> Result<Tensor> {
        if context.layers.len() != self.names.len() {
            return Err(Error::usage("context", "was made for another net"));
        }
        self.encoder.time().forward(timestep, context.guidance.as_ref())
    }

    fn last_up(&self) -> Result<(&UpBlock, &[UpBlock])> {
        self.up.split_last().ok_or_else(|| Error::usage("UNet", "has no blocks"))
    }

    fn leave(&self, hidden: &Tensor, dtype: DType) -> Result<Tensor> {
        Ok(self.conv_out.forward(&self.norm_out.forward_silu(hidden)?)?.to_dtype(dtype)?)
    }
}
