//! What a net attends to besides its own picture, ready for every step: keys and values per cross-attention layer.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::nets::ip_adapter::{BlockScales, IpAdapter};
use crate::nets::unet::attention::CrossAttention;

/// A style for [`Unet::context`](crate::nets::unet::Unet::context): image tokens, and how loud they are where.
#[derive(Debug, Clone, Copy)]
pub struct Style<'a> {
    /// The adapter that made the tokens and holds the keys' and values' matrices.
    pub adapter: &'a IpAdapter,
    /// `[batch, n, text width]`, the batch being the text's ([`IpAdapter::tokens`]).
    pub tokens: &'a Tensor,
    /// Multiplies every block's scale.
    pub scale: f64,
    /// Which blocks see the style.
    pub blocks: &'a BlockScales,
}

/// Keys and values `[batch, heads, n, d]`.
#[derive(Debug, Clone)]
pub(crate) struct KeyValue {
    pub(crate) key: Tensor,
    pub(crate) value: Tensor,
}

/// What one cross-attention layer attends to: the text, and each style, its values multiplied by its scale (never 0).
#[derive(Debug, Clone)]
pub(crate) struct LayerContext {
    pub(crate) text: KeyValue,
    pub(crate) images: Vec<KeyValue>,
}

/// Keys and values of all cross-attention layers of one net, computed once per picture.
#[derive(Debug, Clone)]
pub struct Context {
    pub(crate) layers: Vec<LayerContext>,
    pub(crate) batch: usize,
    pub(crate) guidance: Option<Tensor>,
}

impl Context {
    /// Pictures in the batch (two per picture under classifier-free guidance).
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The second half of the batch alone: under guidance, what is conditional.
    ///
    /// # Errors
    /// When the batch is odd.
    pub fn conditional(&self) -> Result<Self> {
        let half = self.batch / 2;
        if half * 2 != self.batch {
            return Err(Error::usage("context", format!("a batch of {} has no two halves", self.batch)));
        }
        let narrow = |pair: &KeyValue| -> Result<KeyValue> {
            let rows = |xs: &Tensor| xs.narrow(0, half, half)?.force_contiguous();
            Ok(KeyValue { key: rows(&pair.key)?, value: rows(&pair.value)? })
        };
        let layer = |layer: &LayerContext| -> Result<LayerContext> {
            let images = layer.images.iter().map(narrow).collect::<Result<_>>()?;
            Ok(LayerContext { text: narrow(&layer.text)?, images })
        };
        let layers = self.layers.iter().map(layer).collect::<Result<_>>()?;
        Ok(Self { layers, batch: half, guidance: self.guidance.clone() })
    }

    pub(crate) fn new(
        cross_attentions: &[&CrossAttention],
        names: &[String],
        text: &Tensor,
        text_width: usize,
        dtype: DType,
        styles: &[Style<'_>],
    ) -> Result<Self> {
        let (batch, _, width) = text.dims3()?;
        if width != text_width {
            let reason = format!("the text encoder's tokens are {width} wide, the net attends to {text_width}");
            return Err(Error::usage("text", reason).with_hint("take text encoder and net from one model"));
        }
        let text = text.to_dtype(dtype)?.contiguous()?;
        let mut layers = Vec::with_capacity(cross_attentions.len());
        for attention in cross_attentions {
            layers.push(LayerContext { text: attention.text(&text)?, images: Vec::new() });
        }
        for style in styles {
            let scales = style.blocks.resolve(names, style.scale)?;
            style.adapter.check(text_width, cross_attentions.len())?;
            let (style_batch, _, style_width) = style.tokens.dims3()?;
            if style_batch != batch || style_width != text_width {
                let reason =
                    format!("tokens of shape {:?} do not go with text of shape {:?}", style.tokens.dims(), text.dims());
                return Err(Error::usage("style", reason));
            }
            let tokens = style.tokens.to_dtype(dtype)?.contiguous()?;
            for (index, attention) in cross_attentions.iter().enumerate() {
                // A layer that does not see the style neither loads the adapter's weights nor computes anything.
                if scales[index] == 0.0 {
                    continue;
                }
                let (k, v) = style.adapter.key_value(index, attention.width(), dtype)?;
                let image = attention.image(&tokens, &k, &v)?;
                // What is attended to is a weighted sum of the values: scaled here, once, not at every step.
                layers[index].images.push(KeyValue { value: (image.value * scales[index])?, ..image });
            }
        }
        Ok(Self { layers, batch, guidance: None })
    }
}

/// Numbers a net's cross-attention layers in the order they are built, and keeps their names.
#[derive(Debug)]
pub(crate) struct Layers {
    root: String,
    names: Vec<String>,
}

impl Layers {
    pub(crate) fn new(vb: &VarBuilder<'_>) -> Self {
        Self { root: vb.prefix(), names: Vec::new() }
    }

    /// The number of the layer whose weights `vb` holds.
    pub(crate) fn add(&mut self, vb: &VarBuilder<'_>) -> usize {
        let name = vb.prefix();
        let name = name.strip_prefix(&self.root).unwrap_or(&name).trim_start_matches('.');
        self.names.push(name.to_string());
        self.names.len() - 1
    }

    pub(crate) fn into_names(self) -> Vec<String> {
        self.names
    }
}
