//! The transformer that CLIP's text and vision encoders share: pre-norm layers of self-attention and a two-layer
//! perceptron. Weight names are those of transformers' `CLIPEncoder`.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::ops::{self, Activation, LayerNorm, Linear};

/// Larger than any CLIP (bigG is 1664 wide, 48 layers deep); keeps a hostile config from overflowing a product of sizes.
const MAX_SIZE: usize = 1 << 20;
const MAX_LAYERS: usize = 1 << 10;

/// The sizes of an encoder.
#[derive(Debug, Clone)]
pub(super) struct Dimensions {
    /// Which config the sizes come from, for errors.
    pub(super) subject: &'static str,
    pub(super) width: usize,
    pub(super) inner: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) activation: Activation,
    pub(super) eps: f64,
}

impl Dimensions {
    pub(super) fn check(&self) -> Result<()> {
        let &Self { subject, width, inner, layers, heads, eps, .. } = self;
        in_range(subject, "hidden_size", width, MAX_SIZE)?;
        in_range(subject, "intermediate_size", inner, MAX_SIZE)?;
        in_range(subject, "num_hidden_layers", layers, MAX_LAYERS)?;
        in_range(subject, "num_attention_heads", heads, width)?;
        if !width.is_multiple_of(heads) {
            return Err(Error::usage(
                subject,
                format!("num_attention_heads {heads} does not divide hidden_size {width}"),
            ));
        }
        if !(eps.is_finite() && eps >= 0.0) {
            return Err(Error::usage(subject, format!("layer_norm_eps is {eps}, not a small positive number")));
        }
        Ok(())
    }
}

/// Checks that a size from a config is at least 1 and at most `most`.
pub(super) fn in_range(subject: &str, key: &str, value: usize, most: usize) -> Result<()> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::usage(subject, format!("{key} is {value}, expected 1 to {most}")))
}

/// The stack of layers.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    layers: Vec<Layer>,
}

impl Encoder {
    /// Expects checked dimensions.
    pub(super) fn new(dimensions: &Dimensions, vb: VarBuilder<'_>) -> Result<Self> {
        let vb = vb.pp("layers");
        let layers = (0..dimensions.layers).map(|index| Layer::new(dimensions, vb.pp(index))).collect::<Result<_>>()?;
        Ok(Self { layers })
    }

    /// How many layers there are.
    pub(super) fn len(&self) -> usize {
        self.layers.len()
    }

    /// Runs the first `count` layers: their output is transformers' `hidden_states[count]`.
    pub(super) fn forward(&self, xs: Tensor, count: usize, mask: Option<&Tensor>) -> Result<Tensor> {
        self.layers.iter().take(count).try_fold(xs, |xs, layer| layer.forward(&xs, mask))
    }
}

#[derive(Debug, Clone)]
struct Layer {
    norm1: LayerNorm,
    attention: Attention,
    norm2: LayerNorm,
    fc1: Linear,
    activation: Activation,
    fc2: Linear,
}

impl Layer {
    fn new(dimensions: &Dimensions, vb: VarBuilder<'_>) -> Result<Self> {
        let &Dimensions { width, inner, heads, activation, eps, .. } = dimensions;
        let mlp = vb.pp("mlp");
        Ok(Self {
            norm1: LayerNorm::new(width, eps, vb.pp("layer_norm1"))?,
            attention: Attention::new(width, heads, vb.pp("self_attn"))?,
            norm2: LayerNorm::new(width, eps, vb.pp("layer_norm2"))?,
            fc1: Linear::new(width, inner, mlp.pp("fc1"))?,
            activation,
            fc2: Linear::new(inner, width, mlp.pp("fc2"))?,
        })
    }

    fn forward(&self, xs: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let xs = ops::add(xs, &self.attention.forward(&self.norm1.forward(xs)?, mask)?)?;
        let inner = self.activation.apply(&self.fc1.forward(&self.norm2.forward(&xs)?)?)?;
        ops::add(&xs, &self.fc2.forward(&inner)?)
    }
}

#[derive(Debug, Clone)]
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: usize,
}

impl Attention {
    fn new(width: usize, heads: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let linear = |name| Linear::new(width, width, vb.pp(name));
        Ok(Self { q: linear("q_proj")?, k: linear("k_proj")?, v: linear("v_proj")?, out: linear("out_proj")?, heads })
    }

    fn forward(&self, xs: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let (batch, count, width) = xs.dims3()?;
        let head = width / self.heads;
        let split = |xs: Tensor| xs.reshape((batch, count, self.heads, head))?.transpose(1, 2);
        let q = split(self.q.forward(xs)?)?;
        let k = split(self.k.forward(xs)?)?;
        let v = split(self.v.forward(xs)?)?;
        let scale = (head as f64).powf(-0.5);
        let xs = ops::attention(&q, &k, &v, scale, mask)?;
        self.out.forward(&xs.transpose(1, 2)?.reshape((batch, count, width))?)
    }
}
