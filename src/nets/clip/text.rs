//! CLIP's text encoder: token ids to one vector per token, what the UNet's cross-attention reads. Equal to transformers'
//! `CLIPTextModel` as diffusers' `encode_prompt` calls it: causal mask only, padding is attended to like any token.

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use serde::Deserialize;

use super::encoder::{Dimensions, Encoder, in_range};
use crate::error::{Error, Result};
use crate::ops::{Activation, Embedding, LayerNorm};

const SUBJECT: &str = "the text encoder's config.json";
const MAX_ENTRIES: usize = 1 << 24;

/// The text encoder's `config.json`; keys it lacks take transformers' defaults (ViT-B/32's text side).
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
    /// Entries of the token table.
    pub vocab_size: usize,
    /// Width of the token vectors: 768 for SD 1.x, 1024 for SD 2.x.
    pub hidden_size: usize,
    /// Width inside the perceptron.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// The longest token sequence.
    pub max_position_embeddings: usize,
    /// The perceptron's activation: `quick_gelu` (OpenAI) or `gelu` (OpenCLIP).
    pub hidden_act: Activation,
    /// Added to the variance in every norm.
    pub layer_norm_eps: f64,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }
}

/// The text encoder.
#[derive(Debug, Clone)]
pub struct ClipText {
    config: ClipTextConfig,
    tokens: Embedding,
    positions: Tensor,
    encoder: Encoder,
    final_norm: LayerNorm,
}

impl ClipText {
    /// Loads the weights, with or without the `text_model.` prefix on their names.
    ///
    /// # Errors
    /// When the config makes no sense, or a tensor is missing or misshapen.
    pub fn new(config: &ClipTextConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let dimensions = Dimensions {
            subject: SUBJECT,
            width: config.hidden_size,
            inner: config.intermediate_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
            eps: config.layer_norm_eps,
        };
        dimensions.check()?;
        in_range(SUBJECT, "vocab_size", config.vocab_size, MAX_ENTRIES)?;
        in_range(SUBJECT, "max_position_embeddings", config.max_position_embeddings, MAX_ENTRIES)?;
        // transformers 5 saves the names bare; the Hub's files carry the prefix. Errors name the latter.
        let bare = vb.contains_tensor("embeddings.token_embedding.weight");
        let vb = if bare { vb } else { vb.pp("text_model") };
        let width = config.hidden_size;
        let embeddings = vb.pp("embeddings");
        Ok(Self {
            config: config.clone(),
            tokens: Embedding::new(config.vocab_size, width, embeddings.pp("token_embedding"))?,
            positions: embeddings.get((config.max_position_embeddings, width), "position_embedding.weight")?,
            encoder: Encoder::new(&dimensions, vb.pp("encoder"))?,
            final_norm: LayerNorm::new(width, config.layer_norm_eps, vb.pp("final_layer_norm"))?,
        })
    }

    /// The config the encoder was built from.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// Encodes token ids `[batch, n]` (u32) to `[batch, n, hidden_size]`.
    ///
    /// `clip_skip` leaves out that many last layers, as diffusers counts them (A1111's "clip skip 2" is 1 here); the final
    /// norm applies either way.
    ///
    /// # Errors
    /// When an id is outside the vocabulary, the sequence is too long, or `clip_skip` is more than there are layers.
    pub fn forward(&self, ids: &Tensor, clip_skip: Option<usize>) -> Result<Tensor> {
        let (_, count) = ids.dims2()?;
        self.check_ids(ids, count)?;
        let skip = clip_skip.unwrap_or(0);
        let layers = self.encoder.len();
        let Some(run) = layers.checked_sub(skip) else {
            return Err(Error::usage("--clip-skip", format!("{skip} is more than the text encoder's {layers} layers")));
        };
        let xs = self.tokens.forward(ids)?.broadcast_add(&self.positions.narrow(0, 0, count)?)?;
        let mask = causal_mask(count, xs.device())?;
        let xs = self.encoder.forward(xs, run, Some(&mask))?;
        self.final_norm.forward(&xs)
    }

    // Asked on the host: a GPU gather outside the table reads whatever lies there.
    fn check_ids(&self, ids: &Tensor, count: usize) -> Result<()> {
        let most = self.config.max_position_embeddings;
        if count == 0 || count > most {
            return Err(Error::usage(
                "prompt",
                format!("{count} tokens, but the text encoder takes 1 to {most} at a time"),
            ));
        }
        let entries = self.config.vocab_size;
        let outside = ids.flatten_all()?.to_vec1::<u32>()?.into_iter().find(|&id| id as usize >= entries);
        match outside {
            None => Ok(()),
            Some(id) => Err(Error::usage(
                "prompt",
                format!("token id {id} is outside the text encoder's vocabulary of {entries}"),
            )
            .with_hint("the tokenizer and the text encoder must come from the same model")),
        }
    }
}

// Every token sees itself and the ones before it.
fn causal_mask(count: usize, device: &Device) -> Result<Tensor> {
    let mask: Vec<f32> =
        (0..count).flat_map(|i| (0..count).map(move |j| if j > i { f32::NEG_INFINITY } else { 0.0 })).collect();
    Ok(Tensor::from_vec(mask, (count, count), device)?)
}
