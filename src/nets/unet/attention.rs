//! Attention of a picture to itself, to the text and to style pictures.
//!
//! Keys and values of text and style do not change between steps: they come in ready-made ([`KeyValue`]), computed once
//! per picture. Reference: `Attention`, `IPAdapterAttnProcessor2_0` of diffusers; IP-Adapter, arXiv:2308.06721.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::nets::unet::context::{KeyValue, LayerContext};
use crate::ops::{self, Linear};

/// `[batch, heads, n, d]` to `[batch, n, heads * d]`.
fn merge_heads(xs: &Tensor) -> Result<Tensor> {
    let (batch, heads, count, width) = xs.dims4()?;
    Ok(xs.transpose(1, 2)?.reshape((batch, count, heads * width))?)
}

/// Scaled dot-product attention; with `upcast` in f32, for nets whose scores leave the range of f16 (SD 2.1).
fn attend(q: &Tensor, k: &Tensor, v: &Tensor, upcast: bool) -> Result<Tensor> {
    let scale = 1.0 / (q.dim(3)? as f64).sqrt();
    let dtype = q.dtype();
    if upcast && dtype != DType::F32 {
        let (q, k, v) = (q.to_dtype(DType::F32)?, k.to_dtype(DType::F32)?, v.to_dtype(DType::F32)?);
        return Ok(ops::attention(&q, &k, &v, scale, None)?.to_dtype(dtype)?);
    }
    ops::attention(q, k, v, scale, None)
}

/// `attn1`: every position attends to every position.
#[derive(Debug, Clone)]
pub(crate) struct SelfAttention {
    /// Query, key and value in one matrix: one product over the same input instead of three.
    qkv: Linear,
    out: Linear,
    heads: usize,
    upcast: bool,
}

impl SelfAttention {
    pub(crate) fn new(width: usize, heads: usize, upcast: bool, vb: VarBuilder<'_>) -> Result<Self> {
        let weight = |name: &str| vb.pp(name).get((width, width), "weight");
        let qkv = Tensor::cat(&[weight("to_q")?, weight("to_k")?, weight("to_v")?], 0)?;
        let out = Linear::new(width, width, vb.pp("to_out").pp(0))?;
        Ok(Self { qkv: Linear::from_tensors(qkv, None), out, heads, upcast })
    }

    pub(crate) fn linears_mut(&mut self) -> [&mut Linear; 2] {
        [&mut self.qkv, &mut self.out]
    }

    pub(crate) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let qkv = self.qkv.forward(xs)?;
        let part = |index: usize| ops::heads_of(&qkv, (index, 3), self.heads);
        let attended = attend(&part(0)?, &part(1)?, &part(2)?, self.upcast)?;
        self.out.forward(&merge_heads(&attended)?)
    }
}

/// `attn2`: every position attends to the text tokens and, apart from that, to the tokens of each style.
#[derive(Debug, Clone)]
pub(crate) struct CrossAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    width: usize,
    heads: usize,
    upcast: bool,
    slot: usize,
}

impl CrossAttention {
    pub(crate) fn new(
        width: usize,
        text_width: usize,
        heads: usize,
        upcast: bool,
        slot: usize,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        Ok(Self {
            q: Linear::without_bias(width, width, vb.pp("to_q"))?,
            k: Linear::without_bias(text_width, width, vb.pp("to_k"))?,
            v: Linear::without_bias(text_width, width, vb.pp("to_v"))?,
            out: Linear::new(width, width, vb.pp("to_out").pp(0))?,
            width,
            heads,
            upcast,
            slot,
        })
    }

    /// Those that map positions, not the context.
    pub(crate) fn linears_mut(&mut self) -> [&mut Linear; 2] {
        [&mut self.q, &mut self.out]
    }

    /// Width of its queries, keys and values.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Keys and values of text tokens `[batch, n, text_width]`.
    pub(crate) fn text(&self, tokens: &Tensor) -> Result<KeyValue> {
        self.image(tokens, &self.k, &self.v)
    }

    /// Keys and values of image tokens by an adapter's own matrices.
    pub(crate) fn image(&self, tokens: &Tensor, k: &Linear, v: &Linear) -> Result<KeyValue> {
        Ok(KeyValue {
            key: ops::heads_of(&k.forward(tokens)?, (0, 1), self.heads)?,
            value: ops::heads_of(&v.forward(tokens)?, (0, 1), self.heads)?,
        })
    }

    pub(crate) fn forward(&self, xs: &Tensor, layers: &[LayerContext]) -> Result<Tensor> {
        let context = layers.get(self.slot).ok_or_else(|| Error::usage("context", "was made for another net"))?;
        let q = ops::heads_of(&self.q.forward(xs)?, (0, 1), self.heads)?;
        let seen = |seen: &KeyValue| merge_heads(&attend(&q, &seen.key, &seen.value, self.upcast)?);
        let text = seen(&context.text)?;
        let attended = context.images.iter().try_fold(text, |sum, image| ops::add(&sum, &seen(image)?))?;
        self.out.forward(&attended)
    }
}
