//! From the image encoder's output to tokens, one way per kind of adapter.
//!
//! Shapes come from the file's tensors; there is no configuration file. All layer norms have epsilon 1e-5, all GELUs are
//! exact. Reference: `ImageProjection`, `IPAdapterPlusImageProjection`, `IPAdapterFullImageProjection` of diffusers; the
//! resampler is that of Flamingo (arXiv:2204.14198).

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::nets::ip_adapter::{Listing, SUBJECT, Variant};
use crate::ops::{self, LayerNorm, Linear};

const EPS: f64 = 1e-5;
/// Width of a resampler's heads: not in the file, the same in all of them.
const HEAD: usize = 64;

/// The image projection.
#[derive(Debug, Clone)]
pub(crate) enum Projection {
    /// Linear, cut into tokens, layer norm.
    Base { proj: Linear, norm: LayerNorm, inputs: usize, width: usize, dtype: DType },
    /// Learned queries that attend to all hidden states.
    Plus(Box<Resampler>),
    /// Linear, GELU, linear, layer norm, for each hidden state.
    Full { first: Linear, second: Linear, norm: LayerNorm, inputs: usize, width: usize, dtype: DType },
}

impl Projection {
    pub(crate) fn new(variant: Variant, listing: &Listing<'_>, vb: VarBuilder<'_>) -> Result<Self> {
        let dtype = vb.dtype();
        match variant {
            Variant::Base => {
                let (rows, inputs) = listing.matrix("image_proj.proj.weight")?;
                let width = listing.vector("image_proj.norm.weight")?;
                if rows % width != 0 {
                    let reason =
                        format!("image_proj.proj.weight has {rows} rows, not a multiple of the token width {width}");
                    return Err(Error::usage(SUBJECT, reason));
                }
                let proj = Linear::new(inputs, rows, vb.pp("proj"))?;
                Ok(Self::Base { proj, norm: LayerNorm::new(width, EPS, vb.pp("norm"))?, inputs, width, dtype })
            }
            Variant::Plus => Ok(Self::Plus(Box::new(Resampler::new(listing, vb)?))),
            Variant::Full => {
                let (inner, inputs) = listing.matrix("image_proj.proj.0.weight")?;
                let (width, _) = listing.matrix("image_proj.proj.2.weight")?;
                let vb = vb.pp("proj");
                Ok(Self::Full {
                    first: Linear::new(inputs, inner, vb.pp(0))?,
                    second: Linear::new(inner, width, vb.pp(2))?,
                    norm: LayerNorm::new(width, EPS, vb.pp(3))?,
                    inputs,
                    width,
                    dtype,
                })
            }
        }
    }

    pub(crate) fn encoder_width(&self) -> usize {
        match self {
            Self::Base { inputs, .. } | Self::Full { inputs, .. } => *inputs,
            Self::Plus(resampler) => resampler.inputs,
        }
    }

    pub(crate) fn cross_attention_dim(&self) -> usize {
        match self {
            Self::Base { width, .. } | Self::Full { width, .. } => *width,
            Self::Plus(resampler) => resampler.width,
        }
    }

    pub(crate) fn forward(&self, features: &Tensor) -> Result<Tensor> {
        match self {
            Self::Base { proj, norm, width, dtype, .. } => {
                let features = features.to_dtype(*dtype)?.contiguous()?;
                let projected = proj.forward(&features)?;
                let (batch, values) = projected.dims2()?;
                norm.forward(&projected.reshape((batch, values / width, *width))?)
            }
            Self::Plus(resampler) => resampler.forward(features),
            Self::Full { first, second, norm, dtype, .. } => {
                let features = features.to_dtype(*dtype)?.contiguous()?;
                norm.forward(&second.forward(&ops::gelu(&first.forward(&features)?)?)?)
            }
        }
    }
}

/// A few learned latents that attend, layer by layer, to the image's hidden states and to each other.
#[derive(Debug, Clone)]
pub(crate) struct Resampler {
    latents: Tensor,
    proj_in: Linear,
    layers: Vec<ResamplerLayer>,
    proj_out: Linear,
    norm_out: LayerNorm,
    inputs: usize,
    width: usize,
}

impl Resampler {
    fn new(listing: &Listing<'_>, vb: VarBuilder<'_>) -> Result<Self> {
        let (hidden, inputs) = listing.matrix("image_proj.proj_in.weight")?;
        let (width, _) = listing.matrix("image_proj.proj_out.weight")?;
        let queries = match *listing.shape("image_proj.latents")? {
            [1, queries, dim] if queries > 0 && dim == hidden => queries,
            ref shape => {
                let reason = format!("image_proj.latents has shape {shape:?}, expected [1, n, {hidden}]");
                return Err(Error::usage(SUBJECT, reason));
            }
        };
        let mut layers = Vec::new();
        while listing.contains(&format!("image_proj.layers.{}.0.to_q.weight", layers.len())) {
            layers.push(ResamplerLayer::new(layers.len(), hidden, listing, vb.pp("layers").pp(layers.len()))?);
        }
        if layers.is_empty() {
            return Err(Error::usage(SUBJECT, "its resampler has no layers (image_proj.layers.0.0.to_q.weight)"));
        }
        Ok(Self {
            latents: vb.get((1, queries, hidden), "latents")?,
            proj_in: Linear::new(inputs, hidden, vb.pp("proj_in"))?,
            layers,
            proj_out: Linear::new(hidden, width, vb.pp("proj_out"))?,
            norm_out: LayerNorm::new(width, EPS, vb.pp("norm_out"))?,
            inputs,
            width,
        })
    }

    fn forward(&self, features: &Tensor) -> Result<Tensor> {
        let batch = features.dim(0)?;
        let image = self.proj_in.forward(&features.to_dtype(self.latents.dtype())?.contiguous()?)?;
        let (_, queries, hidden) = self.latents.dims3()?;
        let mut latents = self.latents.expand((batch, queries, hidden))?.contiguous()?;
        for layer in &self.layers {
            latents = layer.forward(&image, latents)?;
        }
        self.norm_out.forward(&self.proj_out.forward(&latents)?)
    }
}

#[derive(Debug, Clone)]
struct ResamplerLayer {
    norm_image: LayerNorm,
    norm_latents: LayerNorm,
    q: Linear,
    /// Keys and values in one matrix, keys first.
    kv: Linear,
    out: Linear,
    norm: LayerNorm,
    first: Linear,
    second: Linear,
    heads: usize,
}

impl ResamplerLayer {
    fn new(index: usize, hidden: usize, listing: &Listing<'_>, vb: VarBuilder<'_>) -> Result<Self> {
        let (inner, _) = listing.matrix(&format!("image_proj.layers.{index}.0.to_q.weight"))?;
        let (kv_rows, _) = listing.matrix(&format!("image_proj.layers.{index}.0.to_kv.weight"))?;
        let (feed_forward, _) = listing.matrix(&format!("image_proj.layers.{index}.1.1.weight"))?;
        // The heads' width times their number need not be the latents' width.
        if inner % HEAD != 0 || kv_rows % 2 != 0 || kv_rows / 2 != inner {
            let reason = format!(
                "image_proj.layers.{index}: {inner} query rows and {kv_rows} key and value rows do not go together"
            );
            return Err(Error::usage(SUBJECT, reason));
        }
        let (attention, perceptron) = (vb.pp(0), vb.pp(1));
        Ok(Self {
            norm_image: LayerNorm::new(hidden, EPS, attention.pp("norm1"))?,
            norm_latents: LayerNorm::new(hidden, EPS, attention.pp("norm2"))?,
            q: Linear::without_bias(hidden, inner, attention.pp("to_q"))?,
            kv: Linear::without_bias(hidden, kv_rows, attention.pp("to_kv"))?,
            out: Linear::without_bias(inner, hidden, attention.pp("to_out"))?,
            norm: LayerNorm::new(hidden, EPS, perceptron.pp(0))?,
            first: Linear::without_bias(hidden, feed_forward, perceptron.pp(1))?,
            second: Linear::without_bias(feed_forward, hidden, perceptron.pp(3))?,
            heads: inner / HEAD,
        })
    }

    fn forward(&self, image: &Tensor, latents: Tensor) -> Result<Tensor> {
        let normed = self.norm_latents.forward(&latents)?;
        let (batch, queries, _) = normed.dims3()?;
        // The latents attend to the image's tokens and, after them, to themselves.
        let seen = Tensor::cat(&[&self.norm_image.forward(image)?, &normed], 1)?;
        let count = seen.dim(1)?;
        let q = self.q.forward(&normed)?.reshape((batch, queries, self.heads, HEAD))?.transpose(1, 2)?;
        let kv = self.kv.forward(&seen)?.reshape((batch, count, 2, self.heads, HEAD))?;
        let part =
            |index: usize| -> Result<Tensor> { Ok(kv.narrow(2, index, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous()?) };
        let scale = 1.0 / (HEAD as f64).sqrt();
        let attended = ops::attention(&q.contiguous()?, &part(0)?, &part(1)?, scale, None)?;
        let attended = attended.transpose(1, 2)?.reshape((batch, queries, self.heads * HEAD))?;
        let latents = (self.out.forward(&attended)? + latents)?;
        let hidden = ops::gelu(&self.first.forward(&self.norm.forward(&latents)?)?)?;
        Ok((self.second.forward(&hidden)? + latents)?)
    }
}
