//! The spatial transformer: a picture's positions as tokens.
//!
//! Reference: `Transformer2DModel`, `BasicTransformerBlock`, `GEGLU` of diffusers.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::error::Result;
use crate::nets::unet::attention::{CrossAttention, SelfAttention};
use crate::nets::unet::config::{Block, EncoderConfig};
use crate::nets::unet::context::{LayerContext, Layers};
use crate::ops::{self, GroupNorm, LayerNorm, Linear};

/// Fixed in diffusers, whatever `norm_eps` says.
const GROUP_NORM_EPS: f64 = 1e-6;
const LAYER_NORM_EPS: f64 = 1e-5;

/// Normalise, attend, project back, add to the input.
#[derive(Debug, Clone)]
pub(crate) struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: Linear,
    blocks: Vec<TransformerBlock>,
    proj_out: Linear,
}

impl SpatialTransformer {
    pub(crate) fn new(block: &Block, config: &EncoderConfig, layers: &mut Layers, vb: VarBuilder<'_>) -> Result<Self> {
        let width = block.channels;
        // A 1x1 convolution is a linear map of each position; older files store its matrix with two axes of one.
        let projection = |vb: VarBuilder<'_>| -> Result<Linear> {
            if config.linear_projection {
                return Linear::new(width, width, vb);
            }
            let weight = vb.get((width, width, 1, 1), "weight")?.reshape((width, width))?;
            Ok(Linear::from_tensors(weight, Some(vb.get(width, "bias")?)))
        };
        let mut blocks = Vec::with_capacity(block.depth);
        for index in 0..block.depth {
            blocks.push(TransformerBlock::new(block, config, layers, vb.pp("transformer_blocks").pp(index))?);
        }
        Ok(Self {
            norm: GroupNorm::new(config.groups, width, GROUP_NORM_EPS, vb.pp("norm"))?,
            proj_in: projection(vb.pp("proj_in"))?,
            blocks,
            proj_out: projection(vb.pp("proj_out"))?,
        })
    }

    pub(crate) fn cross_attentions(&self) -> impl Iterator<Item = &CrossAttention> {
        self.blocks.iter().map(|block| &block.attn2)
    }

    /// Rounds all linear maps but those of the context, which are run once per picture.
    pub(crate) fn quantize(&mut self) -> Result<()> {
        for block in &mut self.blocks {
            block.attn1.linears_mut().into_iter().try_for_each(Linear::quantize)?;
            block.attn2.linears_mut().into_iter().try_for_each(Linear::quantize)?;
            let FeedForward { value, gate, out } = &mut block.feed_forward;
            [value, gate, out].into_iter().try_for_each(Linear::quantize)?;
        }
        self.proj_in.quantize()?;
        self.proj_out.quantize()
    }

    pub(crate) fn forward(&self, xs: &Tensor, context: &[LayerContext]) -> Result<Tensor> {
        let (_, _, height, width) = xs.dims4()?;
        let tokens = ops::to_tokens(&self.norm.forward(xs)?)?;
        let mut tokens = self.proj_in.forward(&tokens)?;
        for block in &self.blocks {
            tokens = block.forward(tokens, context)?;
        }
        ops::add(&ops::from_tokens(&self.proj_out.forward(&tokens)?, height, width)?, xs)
    }
}

/// Self-attention, cross-attention and a gated feed-forward, each added to its input.
#[derive(Debug, Clone)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: SelfAttention,
    norm2: LayerNorm,
    attn2: CrossAttention,
    norm3: LayerNorm,
    feed_forward: FeedForward,
}

impl TransformerBlock {
    fn new(block: &Block, config: &EncoderConfig, layers: &mut Layers, vb: VarBuilder<'_>) -> Result<Self> {
        let (width, heads, upcast) = (block.channels, block.heads, config.upcast_attention);
        let attn2 = vb.pp("attn2");
        let slot = layers.add(&attn2);
        Ok(Self {
            norm1: LayerNorm::new(width, LAYER_NORM_EPS, vb.pp("norm1"))?,
            attn1: SelfAttention::new(width, heads, upcast, vb.pp("attn1"))?,
            norm2: LayerNorm::new(width, LAYER_NORM_EPS, vb.pp("norm2"))?,
            attn2: CrossAttention::new(width, config.cross_attention_dim, heads, upcast, slot, attn2)?,
            norm3: LayerNorm::new(width, LAYER_NORM_EPS, vb.pp("norm3"))?,
            feed_forward: FeedForward::new(width, vb.pp("ff").pp("net"))?,
        })
    }

    fn forward(&self, xs: Tensor, context: &[LayerContext]) -> Result<Tensor> {
        let xs = ops::add(&self.attn1.forward(&self.norm1.forward(&xs)?)?, &xs)?;
        let xs = ops::add(&self.attn2.forward(&self.norm2.forward(&xs)?, context)?, &xs)?;
        ops::add(&self.feed_forward.forward(&self.norm3.forward(&xs)?)?, &xs)
    }
}

/// GEGLU: a linear map times the exact GELU of another, then a linear map back. The file holds the two as one matrix,
/// value rows first; taken apart, both results lie contiguous.
#[derive(Debug, Clone)]
struct FeedForward {
    value: Linear,
    gate: Linear,
    out: Linear,
}

impl FeedForward {
    fn new(width: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let inner = width * 4;
        let proj = vb.pp(0).pp("proj");
        let weight = proj.get((2 * inner, width), "weight")?;
        let bias = proj.get(2 * inner, "bias")?;
        let rows = |start: usize| -> Result<Linear> {
            Ok(Linear::from_tensors(weight.narrow(0, start, inner)?, Some(bias.narrow(0, start, inner)?)))
        };
        Ok(Self { value: rows(0)?, gate: rows(inner)?, out: Linear::new(inner, width, vb.pp(2))? })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.out.forward(&ops::gated_gelu(&self.value.forward(xs)?, &self.gate.forward(xs)?)?)
    }
}
