//! What the encoder and the decoder are made of: residual layers, attention and the innermost block. Every layer takes
//! its input by value and assigns over what it is done with (a shadowed tensor would live to the end of the function), so
//! that a picture-sized tensor is freed as soon as nothing needs it.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::error::Result;
use crate::ops::{self, Conv2d, GroupNorm, Linear};

pub(super) const EPS: f64 = 1e-6;

/// Two convolutions and a shortcut (diffusers' `ResnetBlock2D` without time embedding).
#[derive(Debug, Clone)]
pub(super) struct Residual {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl Residual {
    pub(super) fn new(inputs: usize, outputs: usize, groups: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let shortcut =
            if inputs == outputs { None } else { Some(Conv2d::new(inputs, outputs, 1, 1, 0, vb.pp("conv_shortcut"))?) };
        Ok(Self {
            norm1: GroupNorm::new(groups, inputs, EPS, vb.pp("norm1"))?,
            conv1: Conv2d::new(inputs, outputs, 3, 1, 1, vb.pp("conv1"))?,
            norm2: GroupNorm::new(groups, outputs, EPS, vb.pp("norm2"))?,
            conv2: Conv2d::new(outputs, outputs, 3, 1, 1, vb.pp("conv2"))?,
            shortcut,
        })
    }

    pub(super) fn forward(&self, mut xs: Tensor) -> Result<Tensor> {
        let mut inner = self.norm1.forward_silu(&xs)?;
        // The shortcut before the convolutions: in the decoder it halves the channels that wait for the sum.
        if let Some(conv) = &self.shortcut {
            xs = conv.forward(&xs)?;
        }
        inner = self.conv1.forward(&inner)?;
        inner = self.norm2.forward_silu(&inner)?;
        inner = self.conv2.forward(&inner)?;
        ops::add(&xs, &inner)
    }
}

/// Single-head self-attention over the pixels.
#[derive(Debug, Clone)]
struct Attention {
    norm: GroupNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
}

impl Attention {
    fn new(channels: usize, groups: usize, vb: VarBuilder<'_>) -> Result<Self> {
        // Files from before diffusers 0.15 have the older name. Errors name the newer.
        let linear = |name: &str, older: &str| {
            let older = vb.pp(older);
            pointwise(channels, if older.contains_tensor("weight") { older } else { vb.pp(name) })
        };
        Ok(Self {
            norm: GroupNorm::new(groups, channels, EPS, vb.pp("group_norm"))?,
            q: linear("to_q", "query")?,
            k: linear("to_k", "key")?,
            v: linear("to_v", "value")?,
            out: linear("to_out.0", "proj_attn")?,
        })
    }

    fn forward(&self, xs: Tensor) -> Result<Tensor> {
        let (_, channels, height, width) = xs.dims4()?;
        // [batch, one head, pixels, channels]
        let pixels = ops::to_tokens(&self.norm.forward(&xs)?)?.unsqueeze(1)?;
        let q = self.q.forward(&pixels)?;
        let k = self.k.forward(&pixels)?;
        let v = self.v.forward(&pixels)?;
        drop(pixels);
        let seen = ops::attention(&q, &k, &v, (channels as f64).powf(-0.5), None)?;
        ops::add(&xs, &ops::from_tokens(&self.out.forward(&seen)?.squeeze(1)?, height, width)?)
    }
}

/// A linear map that may be stored as a 1 x 1 convolution.
fn pointwise(channels: usize, vb: VarBuilder<'_>) -> Result<Linear> {
    let weight = vb.get((channels, channels), "weight").or_else(|error| {
        let conv = vb.get((channels, channels, 1, 1), "weight").map_err(|_| error)?;
        conv.reshape((channels, channels))
    })?;
    Ok(Linear::from_tensors(weight, Some(vb.get(channels, "bias")?)))
}

/// The innermost block: residual, attention, residual.
#[derive(Debug, Clone)]
pub(super) struct Middle {
    before: Residual,
    attention: Option<Attention>,
    after: Residual,
}

impl Middle {
    pub(super) fn new(channels: usize, groups: usize, attends: bool, vb: VarBuilder<'_>) -> Result<Self> {
        let attention = attends.then(|| Attention::new(channels, groups, vb.pp("attentions").pp(0))).transpose()?;
        let resnets = vb.pp("resnets");
        Ok(Self {
            before: Residual::new(channels, channels, groups, resnets.pp(0))?,
            attention,
            after: Residual::new(channels, channels, groups, resnets.pp(1))?,
        })
    }

    pub(super) fn forward(&self, xs: Tensor) -> Result<Tensor> {
        let xs = self.before.forward(xs)?;
        let xs = match &self.attention {
            Some(attention) => attention.forward(xs)?,
            None => xs,
        };
        self.after.forward(xs)
    }
}

/// `count` residual layers, the first of which changes the channels.
pub(super) fn residuals(
    count: usize,
    inputs: usize,
    outputs: usize,
    groups: usize,
    vb: VarBuilder<'_>,
) -> Result<Vec<Residual>> {
    (0..count)
        .map(|index| Residual::new(if index == 0 { inputs } else { outputs }, outputs, groups, vb.pp(index)))
        .collect()
}
