//! The variational autoencoder between pixels and latents (Kingma & Welling 2013, arXiv:1312.6114; Rombach et al. 2021,
//! arXiv:2112.10752). Equal to diffusers' `AutoencoderKL`, whole or in tiles. It knows nothing of `scaling_factor` or of
//! noise generators: the caller multiplies and hands in the noise.

mod block;
mod config;
mod decoder;
mod encoder;
mod posterior;
mod tiling;

pub use config::VaeConfig;
pub use posterior::Posterior;
pub use tiling::OnTile;

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::ops::Conv2d;
use decoder::Decoder;
use encoder::Encoder;

/// The autoencoder.
#[derive(Debug, Clone)]
pub struct Vae {
    config: VaeConfig,
    dtype: DType,
    encoder: Encoder,
    quant: Option<Conv2d>,
    decoder: Decoder,
    post_quant: Option<Conv2d>,
}

impl Vae {
    /// Loads the weights; the attention's may carry their older names (`query`, `key`, `value`, `proj_attn`) and be
    /// stored as 1 x 1 convolutions.
    ///
    /// # Errors
    /// When the config makes no sense or asks for a block we do not have, or a tensor is missing or misshapen.
    pub fn new(config: &VaeConfig, vb: VarBuilder<'_>) -> Result<Self> {
        config.check()?;
        let latent = config.latent_channels;
        let pointwise = |channels, name| Conv2d::new(channels, channels, 1, 1, 0, vb.pp(name));
        Ok(Self {
            dtype: vb.dtype(),
            encoder: Encoder::new(config, vb.pp("encoder"))?,
            quant: config.use_quant_conv.then(|| pointwise(2 * latent, "quant_conv")).transpose()?,
            decoder: Decoder::new(config, vb.pp("decoder"))?,
            post_quant: config.use_post_quant_conv.then(|| pointwise(latent, "post_quant_conv")).transpose()?,
            config: config.clone(),
        })
    }

    /// The config the autoencoder was built from.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Encodes pixels `[batch, 3, height, width]` in -1..1 to a distribution over latents, an eighth as high and wide
    /// (sides that eight does not divide lose the rest), in the weights' type.
    ///
    /// # Errors
    /// When the picture has other channels or is smaller than one latent.
    pub fn encode(&self, pixels: &Tensor) -> Result<Posterior> {
        self.check_pixels(pixels)?;
        Posterior::new(&self.moments(pixels.clone())?)
    }

    /// Decodes latents `[batch, 4, height, width]`, already divided by the scaling factor, to pixels in about -1..1,
    /// in the weights' type.
    ///
    /// # Errors
    /// When the latents have other channels or none at all.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.check_latents(latents)?;
        self.pixels(latents.clone())
    }

    fn moments(&self, pixels: Tensor) -> Result<Tensor> {
        let xs = self.encoder.forward(pixels.to_dtype(self.dtype)?)?;
        match &self.quant {
            Some(conv) => conv.forward(&xs),
            None => Ok(xs),
        }
    }

    fn pixels(&self, latents: Tensor) -> Result<Tensor> {
        let xs = match &self.post_quant {
            Some(conv) => conv.forward(&latents.to_dtype(self.dtype)?)?,
            None => latents.to_dtype(self.dtype)?,
        };
        self.decoder.forward(xs)
    }

    fn check_pixels(&self, pixels: &Tensor) -> Result<()> {
        let (batch, channels, height, width) = pixels.dims4()?;
        let (expected, least) = (self.config.in_channels, self.config.downscale());
        if batch > 0 && channels == expected && height >= least && width >= least {
            return Ok(());
        }
        Err(Error::usage(
            "image",
            format!(
                "the VAE takes pictures with {expected} channels of at least {least} x {least} pixels, \
                 not {batch} of {width} x {height} with {channels}"
            ),
        ))
    }

    fn check_latents(&self, latents: &Tensor) -> Result<()> {
        let (batch, channels, height, width) = latents.dims4()?;
        let expected = self.config.latent_channels;
        if batch > 0 && channels == expected && height > 0 && width > 0 {
            return Ok(());
        }
        Err(Error::usage(
            "latents",
            format!(
                "the VAE takes latents with {expected} channels, not {batch} of {width} x {height} with {channels}"
            ),
        ))
    }
}
