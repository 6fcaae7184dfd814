//! A whole CLIP: pictures and words brought to one space, where what belongs together points the same way. Equal to
//! transformers' `CLIPModel.get_image_features` and `get_text_features`.

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;

use super::{ClipText, ClipTextConfig, ClipVision, ClipVisionConfig, Tokenizer};
use crate::error::{Error, Result};
use crate::ops::Linear;

/// A vision encoder, with the text encoder that was trained beside it where the files have one.
#[derive(Debug, Clone)]
pub struct ClipPair {
    vision: ClipVision,
    text: Option<Text>,
    device: Device,
}

#[derive(Debug, Clone)]
struct Text {
    encoder: ClipText,
    projection: Linear,
    tokenizer: Tokenizer,
}

impl ClipPair {
    /// Loads the vision encoder.
    ///
    /// # Errors
    /// When a config makes no sense, or a tensor is missing or misshapen.
    pub fn new(vision: &ClipVisionConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let device = vb.device().clone();
        Ok(Self { vision: ClipVision::new(vision, vb)?, text: None, device })
    }

    /// Loads the text encoder and its projection from the same file.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_text(self, config: &ClipTextConfig, tokenizer: Tokenizer, vb: VarBuilder<'_>) -> Result<Self> {
        let width = self.vision.config().projection_dim;
        let projection = Linear::without_bias(config.hidden_size, width, vb.pp("text_projection"))?;
        let text = Text { encoder: ClipText::new(config, vb)?, projection, tokenizer };
        Ok(Self { text: Some(text), ..self })
    }

    /// Whether it reads words too.
    pub fn reads(&self) -> bool {
        self.text.is_some()
    }

    /// Side of the square pictures it takes, in pixels.
    pub fn image_size(&self) -> usize {
        self.vision.config().image_size
    }

    /// The embedding `[batch, width]` of normalised pixels `[batch, 3, size, size]`.
    ///
    /// # Errors
    /// When the pixels are not of [`Self::image_size`].
    pub fn image(&self, pixels: &Tensor) -> Result<Tensor> {
        self.vision.image_embeds(&pixels.to_device(&self.device)?)
    }

    /// The embedding `[1, width]` of words, and the end of them that found no room.
    ///
    /// # Errors
    /// When it has no text encoder, or the tokenizer is another model's.
    pub fn words(&self, words: &str) -> Result<(Tensor, Option<String>)> {
        let Some(text) = &self.text else {
            return Err(Error::usage("CLIP", "this model looks at pictures only").with_hint("give a whole CLIP model"));
        };
        let tokens = text.tokenizer.encode(words)?;
        // The words' own vector stands at the first end token; what pads may be the same token.
        let end = tokens.ids.iter().position(|&id| id == text.tokenizer.end()).unwrap_or(tokens.ids.len() - 1);
        let count = tokens.ids.len();
        let states = text.encoder.forward(&Tensor::from_vec(tokens.ids, (1, count), &self.device)?, None)?;
        let pooled = states.narrow(1, end, 1)?.squeeze(1)?;
        Ok((text.projection.forward(&pooled)?, tokens.cut))
    }
}
