//! The autoencoder's `config.json`: sizes and flags, checked before anything is built from them.

use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result};
use crate::ops::Activation;

const SUBJECT: &str = "the VAE's config.json";
/// Far above any published autoencoder (512 channels, 4 blocks); keeps a hostile config from overflowing a product of
/// sizes.
const MAX_CHANNELS: usize = 1 << 16;
const MAX_BLOCKS: usize = 10;
const MAX_LAYERS: usize = 1 << 8;
const MAX_TILE: usize = 1 << 20;

/// The autoencoder's `config.json`; keys it lacks take diffusers' defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    /// Colour channels of the pictures that are encoded.
    pub in_channels: usize,
    /// Colour channels of the pictures that are decoded.
    pub out_channels: usize,
    /// One name per encoder block; only `DownEncoderBlock2D` is known.
    pub down_block_types: Vec<String>,
    /// One name per decoder block; only `UpDecoderBlock2D` is known.
    pub up_block_types: Vec<String>,
    /// Channels of each block, from the pixels inward. Every block but the innermost halves the picture.
    pub block_out_channels: Vec<usize>,
    /// Residual layers per encoder block; the decoder's have one more.
    pub layers_per_block: usize,
    /// The activation in the residual layers; only SiLU is known.
    pub act_fn: Activation,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Side of the pictures it was trained on, and of the tiles in tiled encoding and decoding.
    #[serde(deserialize_with = "side")]
    pub sample_size: usize,
    /// What the caller multiplies latents with to give them about unit variance.
    pub scaling_factor: f64,
    /// What the caller subtracts from latents before scaling them, where the model has such a shift.
    pub shift_factor: Option<f64>,
    /// Whether half precision overflows in this net: the caller then runs it in single precision.
    pub force_upcast: bool,
    /// Whether a 1 x 1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1 x 1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the innermost block attends.
    pub mid_block_add_attention: bool,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec!["DownEncoderBlock2D".to_owned()],
            up_block_types: vec!["UpDecoderBlock2D".to_owned()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: Activation::Silu,
            latent_channels: 4,
            norm_num_groups: 32,
            sample_size: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            force_upcast: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

impl VaeConfig {
    /// Pixels per latent along one side: 8 with four blocks.
    pub fn downscale(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1).min(MAX_BLOCKS)
    }

    pub(super) fn check(&self) -> Result<()> {
        let blocks = self.block_out_channels.len();
        for (key, value, most) in [
            ("in_channels", self.in_channels, MAX_CHANNELS),
            ("out_channels", self.out_channels, MAX_CHANNELS),
            ("latent_channels", self.latent_channels, MAX_CHANNELS),
            ("layers_per_block", self.layers_per_block, MAX_LAYERS),
            ("sample_size", self.sample_size, MAX_TILE),
            ("block_out_channels' length", blocks, MAX_BLOCKS),
        ] {
            if !(1..=most).contains(&value) {
                return Err(refuse(format!("{key} is {value}, expected 1 to {most}")));
            }
        }
        for (key, types, known) in [
            ("down_block_types", &self.down_block_types, "DownEncoderBlock2D"),
            ("up_block_types", &self.up_block_types, "UpDecoderBlock2D"),
        ] {
            if types.len() != blocks {
                let count = types.len();
                return Err(refuse(format!("{key} names {count} blocks, but block_out_channels has {blocks}")));
            }
            if let Some(other) = types.iter().find(|name| *name != known) {
                return Err(refuse(format!("{key} names {other}; Impasto knows {known}")));
            }
        }
        let groups = self.norm_num_groups;
        for &channels in &self.block_out_channels {
            if !(1..=MAX_CHANNELS).contains(&channels) {
                return Err(refuse(format!("block_out_channels has {channels}, expected 1 to {MAX_CHANNELS}")));
            }
            if groups == 0 || channels % groups != 0 {
                return Err(refuse(format!("norm_num_groups {groups} does not divide {channels} channels")));
            }
        }
        if self.act_fn != Activation::Silu {
            return Err(refuse(format!("act_fn is {:?}; Impasto knows silu", self.act_fn)));
        }
        Ok(())
    }
}

fn refuse(reason: String) -> Error {
    Error::usage(SUBJECT, reason)
}

/// A side, or a height and a width of which the first is taken, as diffusers does for the latent tiles.
fn side<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<usize, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Size {
        Side(usize),
        Pair((usize, usize)),
    }
    Ok(match Size::deserialize(deserializer)? {
        Size::Side(side) | Size::Pair((side, _)) => side,
    })
}
