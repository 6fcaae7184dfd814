//! ControlNet: a copy of the UNet's encoder that reads a structure map and steers the UNet through its skip connections.
//!
//! It sees the text but never style tokens. Must not decide when it runs: that is the pipeline's.
//! References: Zhang et al. 2023 (arXiv:2302.05543); `ControlNetModel` of diffusers 0.42.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::nets::unet::Context;
use crate::nets::unet::block::{MidBlock, Step};
use crate::nets::unet::config::{EncoderConfig, Keys};
use crate::nets::unet::context::Layers;
use crate::nets::unet::encoder::Encoder;
use crate::nets::unet::transformer::SpatialTransformer;
use crate::ops::{self, Conv2d};

pub use crate::nets::unet::Residuals;

const MAX_HINT_CHANNELS: usize = 1 << 14;

/// A ControlNet's shape, read from its `config.json`.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(try_from = "Value")]
pub struct ControlNetConfig {
    encoder: EncoderConfig,
    map_channels: usize,
    hint_channels: Vec<usize>,
    bgr: bool,
    global_pool: bool,
}

impl ControlNetConfig {
    /// Reads a parsed `config.json`.
    ///
    /// # Errors
    /// When a value has the wrong kind, lists disagree in length, or the net is of a kind this program does not run; the
    /// error names the key.
    pub fn from_json(config: &Value) -> Result<Self> {
        let keys = Keys::new("the ControlNet's config.json", config)?;
        keys.class("ControlNetModel")?;
        let mut encoder = EncoderConfig::read(&keys)?;
        // Not a key of this class: a stray one means nothing.
        encoder.guidance_width = None;
        let hint_channels = match keys.get("conditioning_embedding_out_channels") {
            None => vec![16, 32, 96, 256],
            Some(_) => keys.sizes("conditioning_embedding_out_channels", 0, 0, MAX_HINT_CHANNELS)?,
        };
        if hint_channels.is_empty() || hint_channels.len() > 8 {
            let reason = format!("has {} entries, expected 1 to 8", hint_channels.len());
            return Err(keys.error("conditioning_embedding_out_channels", reason));
        }
        let bgr = match keys.get("controlnet_conditioning_channel_order").map(|order| order.as_str()) {
            None | Some(Some("rgb")) => false,
            Some(Some("bgr")) => true,
            Some(_) => return Err(keys.error("controlnet_conditioning_channel_order", "is neither rgb nor bgr")),
        };
        Ok(Self {
            encoder,
            map_channels: keys.size("conditioning_channels", 3, 64)?,
            hint_channels,
            bgr,
            global_pool: keys.flag("global_pool_conditions", false)?,
        })
    }

    /// Width of the text tokens it attends to; a ControlNet and its UNet agree in it.
    pub fn cross_attention_dim(&self) -> usize {
        self.encoder.cross_attention_dim
    }

    /// Whether it passes on one value per channel instead of maps (`global_pool_conditions`, the shuffle model); diffusers
    /// then always runs it in guess mode.
    pub fn global_pool(&self) -> bool {
        self.global_pool
    }
}

impl TryFrom<Value> for ControlNetConfig {
    type Error = Error;

    fn try_from(config: Value) -> Result<Self> {
        Self::from_json(&config)
    }
}

/// Turns a structure map, latents and text into [`Residuals`].
#[derive(Debug, Clone)]
pub struct ControlNet {
    config: ControlNetConfig,
    encoder: Encoder,
    mid: Option<MidBlock>,
    hint: HintNet,
    down_out: Vec<Conv2d>,
    mid_out: Conv2d,
    names: Vec<String>,
}

impl ControlNet {
    /// Loads the net; weights are named as diffusers names them.
    ///
    /// # Errors
    /// When a tensor is missing or misshapen.
    pub fn new(config: &ControlNetConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let mut layers = Layers::new(&vb);
        let encoder = Encoder::new(&config.encoder, &mut layers, &vb)?;
        let mid = Encoder::mid(&config.encoder, &mut layers, &vb)?;
        let one_by_one = |channels: usize, vb: VarBuilder<'_>| Conv2d::new(channels, channels, 1, 1, 0, vb);
        let mut down_out = Vec::with_capacity(encoder.skip_channels().len());
        for (index, &channels) in encoder.skip_channels().iter().enumerate() {
            down_out.push(one_by_one(channels, vb.pp("controlnet_down_blocks").pp(index))?);
        }
        let first = config.encoder.blocks.first().map_or(0, |block| block.channels);
        let last = config.encoder.blocks.last().map_or(0, |block| block.channels);
        Ok(Self {
            config: config.clone(),
            encoder,
            mid,
            hint: HintNet::new(config, first, vb.pp("controlnet_cond_embedding"))?,
            down_out,
            mid_out: one_by_one(last, vb.pp("controlnet_mid_block"))?,
            names: layers.into_names(),
        })
    }

    /// The shape it was built from.
    pub fn config(&self) -> &ControlNetConfig {
        &self.config
    }

    /// Embeds a structure map `[batch, 3, height, width]` of values 0..1 (not -1..1), once per picture. Height and width
    /// are the picture's: eight times the latents'. A batch of 1 serves any batch of latents.
    ///
    /// # Errors
    /// When the map does not have the channels the net takes.
    pub fn hint(&self, map: &Tensor) -> Result<Tensor> {
        let (_, channels, _, _) = map.dims4()?;
        if channels != self.config.map_channels {
            let reason = format!("has {channels} channels, the ControlNet takes {}", self.config.map_channels);
            return Err(Error::usage("structure map", reason));
        }
        let map = map.to_dtype(self.encoder.dtype())?;
        if self.config.bgr {
            let planes = (0..channels).rev().map(|channel| map.narrow(1, channel, 1)).collect::<Result<Vec<_>, _>>()?;
            return self.hint.forward(&Tensor::cat(&planes, 1)?);
        }
        self.hint.forward(&map.contiguous()?)
    }

    /// Rounds the linear maps of its transformers to eight bits: see [`ops::Linear::quantize`].
    ///
    /// # Errors
    /// When their weights cannot be read.
    pub fn quantize(&mut self) -> Result<()> {
        let mid = self.mid.iter_mut().map(MidBlock::transformer_mut);
        self.encoder.transformers_mut().chain(mid).try_for_each(SpatialTransformer::quantize)
    }

    /// Prepares the text `[batch, n, width]`, once per picture.
    ///
    /// # Errors
    /// When the text is not as wide as the net expects.
    pub fn context(&self, text: &Tensor) -> Result<Context> {
        let mid = self.mid.iter().flat_map(MidBlock::cross_attentions);
        let attentions: Vec<_> = self.encoder.cross_attentions().chain(mid).collect();
        let width = self.config.cross_attention_dim();
        Context::new(&attentions, &self.names, text, width, self.encoder.dtype(), &[])
    }

    /// One evaluation, every residual multiplied by `scale`. `xs` are the UNet's scaled latents (the first four channels
    /// of an inpainting UNet's input).
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn forward(
        &self,
        xs: &Tensor,
        timestep: f64,
        context: &Context,
        hint: &Tensor,
        scale: f64,
    ) -> Result<Residuals> {
        let scales = vec![scale; self.down_out.len() + 1];
        self.evaluate(xs, timestep, context, hint, &scales)
    }

    /// One evaluation in guess mode, where the map must do without a prompt: the residuals' scales rise evenly in
    /// logarithm from a tenth of `scale` at the first to `scale` in the middle. Run it on the conditional half alone and
    /// give the UNet [`Residuals::after_zeros`].
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn forward_guess(
        &self,
        xs: &Tensor,
        timestep: f64,
        context: &Context,
        hint: &Tensor,
        scale: f64,
    ) -> Result<Residuals> {
        if self.config.global_pool {
            return self.forward(xs, timestep, context, hint, scale);
        }
        let last = self.down_out.len();
        let scales: Vec<f64> = (0..=last).map(|index| scale * 10f64.powf(index as f64 / last as f64 - 1.0)).collect();
        self.evaluate(xs, timestep, context, hint, &scales)
    }

    fn evaluate(
        &self,
        xs: &Tensor,
        timestep: f64,
        context: &Context,
        hint: &Tensor,
        scales: &[f64],
    ) -> Result<Residuals> {
        if context.layers.len() != self.names.len() {
            return Err(Error::usage("context", "was made for another net"));
        }
        if let Some(scale) = scales.iter().find(|scale| !scale.is_finite()) {
            return Err(Error::usage("--control-scale", format!("{scale} is not a finite number")));
        }
        let time = self.encoder.time().forward(timestep, None)?;
        let step = Step { time: &time, context: &context.layers };
        let (mut hidden, skips) = self.encoder.descend(self.enter(xs, context, hint)?, step)?;
        if let Some(mid) = &self.mid {
            hidden = mid.forward(&hidden, step)?;
        }
        let mut down = Vec::with_capacity(self.down_out.len());
        for ((conv, skip), &scale) in self.down_out.iter().zip(skips).zip(scales) {
            down.push(self.finish(conv, &skip, scale)?);
        }
        let mid = self.finish(&self.mid_out, &hidden, scales.last().copied().unwrap_or(1.0))?;
        Ok(Residuals { down, mid })
    }

    /// The first of the residuals alone, at next to no cost: all that
    /// [`Unet::forward_shallow`](crate::nets::unet::Unet::forward_shallow) takes of them. It is the same at all timesteps but for `xs`.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn entry(&self, xs: &Tensor, context: &Context, hint: &Tensor, scale: f64) -> Result<Tensor> {
        let entered = self.enter(xs, context, hint)?;
        let conv = self.down_out.first().ok_or_else(|| Error::usage("ControlNet", "gives no residuals"))?;
        self.finish(conv, &entered, scale)
    }

    fn enter(&self, xs: &Tensor, context: &Context, hint: &Tensor) -> Result<Tensor> {
        let entered = self.encoder.enter(xs, context)?;
        let (hint_batch, _, hint_height, hint_width) = hint.dims4()?;
        let (batch, _, height, width) = entered.dims4()?;
        if (hint_height, hint_width) != (height, width) || (hint_batch != 1 && hint_batch != batch) {
            let reason = format!("its embedding is {:?}, the latents are {:?}", hint.dims(), xs.dims());
            return Err(Error::usage("structure map", reason).with_hint("the map must have the picture's size"));
        }
        Ok(entered.broadcast_add(hint)?)
    }

    fn finish(&self, conv: &Conv2d, xs: &Tensor, scale: f64) -> Result<Tensor> {
        let residual = (conv.forward(xs)? * scale)?;
        if self.config.global_pool { Ok(residual.mean_keepdim((2, 3))?) } else { Ok(residual) }
    }
}

/// Convolutions from the map at the picture's size down to the latents' size, SiLU after all but the last.
#[derive(Debug, Clone)]
struct HintNet {
    conv_in: Conv2d,
    blocks: Vec<Conv2d>,
    conv_out: Conv2d,
}

impl HintNet {
    fn new(config: &ControlNetConfig, outputs: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let channels = &config.hint_channels;
        let mut blocks = Vec::with_capacity(2 * channels.len());
        for pair in channels.windows(2) {
            let (inputs, outputs) = (pair[0], pair[1]);
            blocks.push(Conv2d::new(inputs, inputs, 3, 1, 1, vb.pp("blocks").pp(blocks.len()))?);
            blocks.push(Conv2d::new(inputs, outputs, 3, 2, 1, vb.pp("blocks").pp(blocks.len()))?);
        }
        let first = channels.first().copied().unwrap_or(0);
        let last = channels.last().copied().unwrap_or(0);
        Ok(Self {
            conv_in: Conv2d::new(config.map_channels, first, 3, 1, 1, vb.pp("conv_in"))?,
            blocks,
            conv_out: Conv2d::new(last, outputs, 3, 1, 1, vb.pp("conv_out"))?,
        })
    }

    fn forward(&self, map: &Tensor) -> Result<Tensor> {
        let mut xs = ops::silu(&self.conv_in.forward(map)?)?;
        for conv in &self.blocks {
            xs = ops::silu(&conv.forward(&xs)?)?;
        }
        self.conv_out.forward(&xs)
    }
}
