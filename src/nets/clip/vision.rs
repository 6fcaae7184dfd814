//! CLIP's vision encoder with projection (a ViT): a picture to one embedding, or to one vector per patch. Equal to
//! transformers' `CLIPVisionModelWithProjection`; ViT-L, ViT-H and bigG differ by config only.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::Deserialize;

use super::encoder::{Dimensions, Encoder, in_range};
use crate::error::{Error, Result};
use crate::ops::{Activation, Conv2d, LayerNorm, Linear};

const SUBJECT: &str = "the image encoder's config.json";

/// The image encoder's `config.json`, or the `vision_config` of a whole CLIP model's; keys it lacks take transformers'
/// defaults (ViT-B/32).
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "ConfigFile")]
pub struct ClipVisionConfig {
    /// Width of the patch vectors.
    pub hidden_size: usize,
    /// Width inside the perceptron.
    pub intermediate_size: usize,
    /// Width of the image embedding.
    pub projection_dim: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Colour channels.
    pub num_channels: usize,
    /// Side of the square input in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// The perceptron's activation: `quick_gelu` (OpenAI) or `gelu` (OpenCLIP).
    pub hidden_act: Activation,
    /// Added to the variance in every norm.
    pub layer_norm_eps: f64,
}

impl Default for ClipVisionConfig {
    fn default() -> Self {
        ConfigFile::default().into()
    }
}

impl ClipVisionConfig {
    /// Vectors per picture: the patches and the class token.
    pub fn tokens(&self) -> usize {
        let side = self.image_size.checked_div(self.patch_size).unwrap_or(0);
        side.saturating_mul(side).saturating_add(1)
    }
}

/// The file as it lies on disk: an encoder's own config, or a whole CLIP model's with the encoder's inside.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ConfigFile {
    vision_config: Option<Keys>,
    projection_dim: Option<usize>,
    #[serde(flatten)]
    own: Keys,
}

#[derive(Deserialize)]
#[serde(default)]
struct Keys {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_channels: usize,
    image_size: usize,
    patch_size: usize,
    hidden_act: Activation,
    layer_norm_eps: f64,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }
}

impl From<ConfigFile> for ClipVisionConfig {
    fn from(file: ConfigFile) -> Self {
        let keys = file.vision_config.unwrap_or(file.own);
        Self {
            hidden_size: keys.hidden_size,
            intermediate_size: keys.intermediate_size,
            projection_dim: file.projection_dim.unwrap_or(512),
            num_hidden_layers: keys.num_hidden_layers,
            num_attention_heads: keys.num_attention_heads,
            num_channels: keys.num_channels,
            image_size: keys.image_size,
            patch_size: keys.patch_size,
            hidden_act: keys.hidden_act,
            layer_norm_eps: keys.layer_norm_eps,
        }
    }
}

/// The vision encoder.
#[derive(Debug, Clone)]
pub struct ClipVision {
    config: ClipVisionConfig,
    class: Tensor,
    patches: Conv2d,
    positions: Tensor,
    pre_norm: LayerNorm,
    encoder: Encoder,
    post_norm: LayerNorm,
    projection: Linear,
}

impl ClipVision {
    /// Loads the weights, with or without the `vision_model.` prefix on their names.
    ///
    /// # Errors
    /// When the config makes no sense, or a tensor is missing or misshapen.
    pub fn new(config: &ClipVisionConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let &ClipVisionConfig { hidden_size: width, layer_norm_eps: eps, num_channels, image_size, patch_size, .. } =
            config;
        let dimensions = Dimensions {
            subject: SUBJECT,
            width,
            inner: config.intermediate_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            activation: config.hidden_act,
            eps,
        };
        dimensions.check()?;
        in_range(SUBJECT, "projection_dim", config.projection_dim, 1 << 20)?;
        in_range(SUBJECT, "num_channels", num_channels, 1 << 10)?;
        in_range(SUBJECT, "image_size", image_size, 1 << 14)?;
        in_range(SUBJECT, "patch_size", patch_size, image_size)?;
        // The projection stands outside the prefix; transformers' bare names have none. Errors name the prefixed ones.
        let bare = vb.contains_tensor("embeddings.class_embedding");
        let projection = Linear::without_bias(width, config.projection_dim, vb.pp("visual_projection"))?;
        let vb = if bare { vb } else { vb.pp("vision_model") };
        let embeddings = vb.pp("embeddings");
        let dtype = vb.dtype();
        let patch =
            embeddings.get((width, num_channels, patch_size, patch_size), "patch_embedding.weight")?.to_dtype(dtype)?;
        Ok(Self {
            config: config.clone(),
            class: embeddings.get(width, "class_embedding")?,
            patches: Conv2d::from_tensors(patch, None, patch_size, 0),
            positions: embeddings.get((config.tokens(), width), "position_embedding.weight")?.to_dtype(dtype)?,
            // The name is misspelled in every checkpoint.
            pre_norm: LayerNorm::new(width, eps, vb.pp("pre_layrnorm"))?,
            encoder: Encoder::new(&dimensions, vb.pp("encoder"))?,
            post_norm: LayerNorm::new(width, eps, vb.pp("post_layernorm"))?,
            projection,
        })
    }

    /// The config the encoder was built from.
    pub fn config(&self) -> &ClipVisionConfig {
        &self.config
    }

    /// The image embedding `[batch, projection_dim]` of normalised pixels `[batch, 3, size, size]`: the class token
    /// after the last layer, normalised and projected.
    ///
    /// # Errors
    /// When the pixels are not as large as the config says.
    pub fn image_embeds(&self, pixels: &Tensor) -> Result<Tensor> {
        let xs = self.hidden(pixels, self.encoder.len())?;
        let class = xs.narrow(1, 0, 1)?.squeeze(1)?;
        self.projection.forward(&self.post_norm.forward(&class)?)
    }

    /// All token vectors `[batch, tokens, hidden_size]` before the last layer (transformers' `hidden_states[-2]`, no
    /// closing norm): what IP-Adapter Plus reads.
    ///
    /// # Errors
    /// When the pixels are not as large as the config says.
    pub fn penultimate(&self, pixels: &Tensor) -> Result<Tensor> {
        self.hidden(pixels, self.encoder.len() - 1)
    }

    fn hidden(&self, pixels: &Tensor, layers: usize) -> Result<Tensor> {
        let (batch, channels, height, width) = pixels.dims4()?;
        let (size, expected) = (self.config.image_size, self.config.num_channels);
        if (batch, channels, height, width) != (batch.max(1), expected, size, size) {
            return Err(Error::usage(
                "image",
                format!(
                    "the image encoder takes pictures of {size} x {size} pixels with {expected} channels, \
                     not {batch} of {width} x {height} with {channels}"
                ),
            ));
        }
        let patches = self.patches.forward(&pixels.to_dtype(self.class.dtype())?)?.flatten_from(2)?.transpose(1, 2)?;
        let hidden = self.config.hidden_size;
        let class = self.class.reshape((1, 1, hidden))?.broadcast_as((batch, 1, hidden))?;
        let xs = Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.positions)?;
        self.encoder.forward(self.pre_norm.forward(&xs)?, layers, None)
    }
}
