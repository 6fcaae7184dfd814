//! IP-Adapter: a style picture as a few tokens that every cross-attention layer sees beside the text.
//!
//! The adapter holds a projection from the image encoder's output to tokens, and for each cross-attention layer of the
//! UNet a pair of matrices that turn the tokens into keys and values. The variants are told apart by their tensors. Must
//! not run the image encoder: it says which output it needs.
//! References: Ye et al. 2023 (arXiv:2308.06721); `loaders/unet.py` of diffusers 0.42.

mod blocks;
mod projection;

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::ops::Linear;

pub use blocks::BlockScales;
use projection::Projection;

/// Which output of the image encoder an adapter reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncoderOutput {
    /// The projected class token, `[batch, width]`.
    ImageEmbeds,
    /// The last hidden states but one, all tokens, `[batch, n, width]`.
    Penultimate,
}

/// The published kinds of IP-Adapter that work from a CLIP image encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// `ip-adapter`, `light`, `vit-G`: one linear map of the image embedding to (usually four) tokens.
    Base,
    /// `plus`, `plus-face`: a resampler picks (usually sixteen) tokens out of all hidden states.
    Plus,
    /// `full-face`: a perceptron over each hidden state; as many tokens as the encoder has.
    Full,
}

/// An IP-Adapter. Its matrices for a layer are read when [`Unet::context`](crate::nets::unet::Unet::context) first
/// needs them, so blocks switched off cost nothing.
#[derive(Clone)]
pub struct IpAdapter {
    variant: Variant,
    projection: Projection,
    layers: VarBuilder<'static>,
    pairs: usize,
    cross_attention_dim: usize,
}

impl std::fmt::Debug for IpAdapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IpAdapter")
            .field("variant", &self.variant)
            .field("pairs", &self.pairs)
            .field("cross_attention_dim", &self.cross_attention_dim)
            .finish_non_exhaustive()
    }
}

impl IpAdapter {
    /// Loads the projection and checks that the layers' matrices are all there. `tensors` are the file's names and shapes,
    /// nested groups joined by dots (`image_proj.proj.weight`, `ip_adapter.1.to_k_ip.weight`); `vb` reads the same file.
    ///
    /// # Errors
    /// When the file is not an IP-Adapter, is one of a kind this program cannot run (FaceID), or lacks tensors.
    pub fn new(tensors: &[(String, Vec<usize>)], vb: VarBuilder<'static>) -> Result<Self> {
        let listing = Listing::new(tensors);
        let variant = listing.variant()?;
        let projection = Projection::new(variant, &listing, vb.pp("image_proj"))?;
        let cross_attention_dim = projection.cross_attention_dim();
        let (group, pairs) = listing.pairs()?;
        for index in 0..pairs {
            for matrix in ["to_k_ip", "to_v_ip"] {
                let name = format!("{group}.{}.{matrix}.weight", 2 * index + 1);
                if let [_, inputs] = *listing.shape(&name)?
                    && inputs == cross_attention_dim
                {
                    continue;
                }
                let reason =
                    format!("{name} is not a matrix of {cross_attention_dim} columns, the width of the tokens");
                return Err(Error::usage(SUBJECT, reason));
            }
        }
        Ok(Self { variant, projection, layers: vb.pp(group), pairs, cross_attention_dim })
    }

    /// Which kind it is.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// Which output of the image encoder [`tokens`](Self::tokens) wants.
    pub fn needs(&self) -> EncoderOutput {
        match self.variant {
            Variant::Base => EncoderOutput::ImageEmbeds,
            Variant::Plus | Variant::Full => EncoderOutput::Penultimate,
        }
    }

    /// Width of the encoder output it reads. Image embeddings: 1024 comes from ViT-H, 1280 from ViT-bigG; hidden states:
    /// 1280 from ViT-H, 1664 from ViT-bigG.
    pub fn encoder_width(&self) -> usize {
        self.projection.encoder_width()
    }

    /// Width of its tokens, which is that of the text tokens of the UNet it was made for.
    pub fn cross_attention_dim(&self) -> usize {
        self.cross_attention_dim
    }

    /// Projects the encoder's output for some pictures, one row each (`[batch, width]` or `[batch, n, width]`, see
    /// [`needs`](Self::needs)), to tokens `[batch, m, cross_attention_dim]`.
    ///
    /// # Errors
    /// When the width is not [`encoder_width`](Self::encoder_width).
    pub fn project(&self, features: &Tensor) -> Result<Tensor> {
        let rank = if self.needs() == EncoderOutput::ImageEmbeds { 2 } else { 3 };
        let width = features.dims().last().copied().unwrap_or(0);
        if features.rank() != rank || width != self.encoder_width() {
            let reason = format!(
                "gives features of shape {:?}; this IP-Adapter needs {} of width {}",
                features.dims(),
                if rank == 2 { "image embeddings" } else { "hidden states" },
                self.encoder_width()
            );
            let hint = match (rank, self.encoder_width()) {
                (2, 1024) | (3, 1280) => {
                    "use the image encoder CLIP ViT-H/14 (models/image_encoder beside the adapter)"
                }
                (2, 1280) | (3, 1664) => "use the image encoder CLIP ViT-bigG/14 (sdxl_models/image_encoder)",
                _ => "use the image encoder the adapter was trained with",
            };
            return Err(Error::usage("image encoder", reason).with_hint(hint));
        }
        self.projection.forward(features)
    }

    /// The tokens of several style pictures side by side under guidance: `[2, m * pictures, cross_attention_dim]`, the
    /// unconditional row first. `pictures` holds one output of the encoder per picture, batch 1 each. Without guidance
    /// keep the second row alone.
    ///
    /// `nothing` is what stands for no picture, and differs by kind: zeros in the shape of the embedding where
    /// [`needs`](Self::needs) says image embeddings, the encoder's output for a picture of zeros (after normalisation)
    /// where it says penultimate.
    ///
    /// # Errors
    /// When there is no picture, or a width does not fit.
    pub fn tokens(&self, pictures: &[Tensor], nothing: &Tensor) -> Result<Tensor> {
        if pictures.is_empty() {
            return Err(Error::usage("--style", "no picture was given"));
        }
        let conditional = pictures.iter().map(|picture| self.project(picture)).collect::<Result<Vec<_>>>()?;
        let nothing = self.project(nothing)?;
        let unconditional = vec![nothing; pictures.len()];
        Ok(Tensor::cat(&[Tensor::cat(&unconditional, 1)?, Tensor::cat(&conditional, 1)?], 0)?)
    }

    /// Refuses a UNet it was not made for.
    pub(crate) fn check(&self, text_width: usize, cross_attentions: usize) -> Result<()> {
        if self.cross_attention_dim != text_width {
            let reason = format!(
                "its tokens are {} wide, the UNet attends to tokens {text_width} wide",
                self.cross_attention_dim
            );
            return Err(Error::usage(SUBJECT, reason).with_hint(
                "768 belongs to Stable Diffusion 1.x, 1024 to 2.x, 2048 to XL: use an adapter of the model's kind",
            ));
        }
        if self.pairs != cross_attentions {
            let reason = format!(
                "has matrices for {} cross-attention layers, the UNet has {cross_attentions} such layers",
                self.pairs
            );
            return Err(Error::usage(SUBJECT, reason));
        }
        Ok(())
    }

    /// The matrices for the cross-attention layer of the given number in the order down, up, middle.
    pub(crate) fn key_value(&self, index: usize, width: usize, dtype: DType) -> Result<(Linear, Linear)> {
        // Files number self-attention layers too: those are the even numbers, and have no matrices.
        let layer = self.layers.pp(2 * index + 1).set_dtype(dtype);
        let matrix = |name: &str| Linear::without_bias(self.cross_attention_dim, width, layer.pp(name));
        Ok((matrix("to_k_ip")?, matrix("to_v_ip")?))
    }
}

const SUBJECT: &str = "IP-Adapter";

/// What the file holds.
pub(crate) struct Listing<'a> {
    shapes: std::collections::HashMap<&'a str, &'a [usize]>,
}

impl<'a> Listing<'a> {
    fn new(tensors: &'a [(String, Vec<usize>)]) -> Self {
        Self { shapes: tensors.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect() }
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.shapes.contains_key(name)
    }

    /// The shape of a tensor that must be there.
    pub(crate) fn shape(&self, name: &str) -> Result<&'a [usize]> {
        self.shapes
            .get(name)
            .copied()
            .ok_or_else(|| Error::usage(SUBJECT, format!("the file has no tensor {name}: it is incomplete or damaged")))
    }

    /// Rows and columns of a matrix that must be there, neither 0.
    pub(crate) fn matrix(&self, name: &str) -> Result<(usize, usize)> {
        match *self.shape(name)? {
            [rows, columns] if rows > 0 && columns > 0 => Ok((rows, columns)),
            ref shape => Err(Error::usage(SUBJECT, format!("{name} has shape {shape:?}, expected a matrix"))),
        }
    }

    /// Length of a vector that must be there, not 0.
    pub(crate) fn vector(&self, name: &str) -> Result<usize> {
        match *self.shape(name)? {
            [length] if length > 0 => Ok(length),
            ref shape => Err(Error::usage(SUBJECT, format!("{name} has shape {shape:?}, expected a vector"))),
        }
    }

    fn variant(&self) -> Result<Variant> {
        let face_id = || {
            Err(Error::usage(
                SUBJECT,
                "this is a FaceID adapter: it reads InsightFace embeddings, not a CLIP image encoder",
            )
            .with_hint("use ip-adapter-plus-face or ip-adapter-full-face for faces, ip-adapter-plus for style"))
        };
        if self.shapes.keys().any(|name| name.starts_with("image_proj.perceiver_resampler.")) {
            face_id()
        } else if self.contains("image_proj.proj.weight") {
            Ok(Variant::Base)
        } else if self.contains("image_proj.proj.3.weight") {
            Ok(Variant::Full)
        } else if self.contains("image_proj.norm.weight") {
            face_id()
        } else if self.contains("image_proj.latents") {
            Ok(Variant::Plus)
        } else {
            Err(Error::usage(
                SUBJECT,
                "the file is not an IP-Adapter: it has no image_proj tensors that one would have",
            )
            .with_hint("IP-Adapters for Stable Diffusion 1.5 are in h94/IP-Adapter, folder models"))
        }
    }

    /// The group the layers' matrices are in, and how many pairs there are: numbered 1, 3, 5 and so on without a gap.
    fn pairs(&self) -> Result<(&'static str, usize)> {
        for group in ["ip_adapter", "adapter_modules"] {
            let numbers = |name: &str| -> Option<String> {
                Some(name.strip_prefix(group)?.strip_prefix('.')?.strip_suffix(".to_k_ip.weight")?.to_string())
            };
            let found: Vec<String> = self.shapes.keys().filter_map(|name| numbers(name)).collect();
            if found.is_empty() {
                continue;
            }
            for index in 0..found.len() {
                self.shape(&format!("{group}.{}.to_k_ip.weight", 2 * index + 1))?;
            }
            return Ok((group, found.len()));
        }
        Err(Error::usage(SUBJECT, "the file has no ip_adapter.N.to_k_ip tensors: it holds no attention matrices"))
    }
}
