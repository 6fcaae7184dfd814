//! DINOv2: a vision transformer whose layers are scaled before they are added, positions stretched to the picture.
//!
//! Oquab et al., "DINOv2: Learning robust visual features without supervision", 2023.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use super::BackboneConfig;
use crate::error::Result;
use crate::ops::{Conv2d, LayerNorm, Linear, Resample, attention, gelu};

#[derive(Debug, Clone)]
pub(super) struct Backbone {
    patches: Conv2d,
    class: Tensor,
    positions: Tensor,
    layers: Vec<Layer>,
    norm: Option<LayerNorm>,
    outputs: Vec<usize>,
    /// Patches along a side of the pictures the positions were trained on.
    side: usize,
}

impl Backbone {
    pub(super) fn new(config: &BackboneConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let width = config.hidden_size;
        let side = config.image_size / config.patch_size;
        let embeddings = vb.pp("embeddings");
        let projection = embeddings.pp("patch_embeddings").pp("projection");
        let layers = vb.pp("encoder").pp("layer");
        let outputs = config.outputs()?;
        // Layers after the last one taken are not needed.
        let count = outputs.last().copied().unwrap_or(0);
        let norm = || LayerNorm::new(width, config.layer_norm_eps, vb.pp("layernorm"));
        Ok(Self {
            patches: Conv2d::new(3, width, config.patch_size, config.patch_size, 0, projection)?,
            class: embeddings.get((1, 1, width), "cls_token")?,
            positions: embeddings
                .get((1, side.saturating_mul(side).saturating_add(1), width), "position_embeddings")?,
            layers: (0..count).map(|i| Layer::new(config, layers.pp(i))).collect::<Result<_>>()?,
            norm: config.apply_layernorm.then(norm).transpose()?,
            outputs,
            side,
        })
    }

    /// `[batch, 1 + patches, width]` of every layer that is taken.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Vec<Tensor>> {
        let patches = self.patches.forward(&pixels.to_dtype(self.class.dtype())?)?;
        let (batch, width, rows, columns) = patches.dims4()?;
        let patches = patches.flatten_from(2)?.transpose(1, 2)?;
        let class = self.class.expand((batch, 1, width))?;
        let mut xs = Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.positions(rows, columns)?)?;
        let mut taken = Vec::with_capacity(self.outputs.len());
        for index in 0..=self.layers.len() {
            if index > 0 {
                xs = self.layers[index - 1].forward(&xs)?;
            }
            if self.outputs.contains(&index) {
                taken.push(match &self.norm {
                    Some(norm) => norm.forward(&xs)?,
                    None => xs.clone(),
                });
            }
        }
        Ok(taken)
    }

    /// The trained grid of positions stretched over the picture's.
    fn positions(&self, rows: usize, columns: usize) -> Result<Tensor> {
        let width = self.class.dim(2)?;
        let grid = self.positions.narrow(1, 1, self.side * self.side)?;
        let grid = grid.reshape((1, self.side, self.side, width))?.permute((0, 3, 1, 2))?.contiguous()?;
        // In single precision whatever the net's type: half shifts the embeddings.
        let grid = Resample::Bicubic.apply(&grid.to_dtype(DType::F32)?, rows, columns)?.to_dtype(self.class.dtype())?;
        let grid = grid.flatten_from(2)?.transpose(1, 2)?;
        Ok(Tensor::cat(&[&self.positions.narrow(1, 0, 1)?, &grid], 1)?)
    }
}

#[derive(Debug, Clone)]
struct Layer {
    norm1: LayerNorm,
    qkv: [Linear; 3],
    out: Linear,
    scale1: Tensor,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    scale2: Tensor,
    heads: usize,
}

impl Layer {
    fn new(config: &BackboneConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let width = config.hidden_size;
        let inner = width.saturating_mul(config.mlp_ratio);
        let norm = |name| LayerNorm::new(width, config.layer_norm_eps, vb.pp(name));
        let scale = |name| vb.pp(name).get(width, "lambda1");
        let (qkv, out) = projections(config, vb.pp("attention"))?;
        Ok(Self {
            norm1: norm("norm1")?,
            qkv,
            out,
            scale1: scale("layer_scale1")?,
            norm2: norm("norm2")?,
            fc1: Linear::new(width, inner, vb.pp("mlp").pp("fc1"))?,
            fc2: Linear::new(inner, width, vb.pp("mlp").pp("fc2"))?,
            scale2: scale("layer_scale2")?,
            heads: config.num_attention_heads,
        })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let attended = self.attend(&self.norm1.forward(xs)?)?;
        let xs = (attended.broadcast_mul(&self.scale1)? + xs)?;
        let fed = self.fc2.forward(&gelu(&self.fc1.forward(&self.norm2.forward(&xs)?)?)?)?;
        Ok((fed.broadcast_mul(&self.scale2)? + xs)?)
    }

    fn attend(&self, xs: &Tensor) -> Result<Tensor> {
        let (batch, tokens, width) = xs.dims3()?;
        let size = width / self.heads;
        let split = |linear: &Linear| -> Result<Tensor> {
            Ok(linear.forward(xs)?.reshape((batch, tokens, self.heads, size))?.transpose(1, 2)?)
        };
        let [q, k, v] = &self.qkv;
        let scale = (size as f64).powf(-0.5);
        let out = attention(&split(q)?, &split(k)?, &split(v)?, scale, None)?;
        self.out.forward(&out.transpose(1, 2)?.reshape((batch, tokens, width))?)
    }
}

/// Query, key and value, and the way out, under any of their three names: the Hub's files, transformers 5's attributes,
/// and the original files, where the three are one.
fn projections(config: &BackboneConfig, vb: VarBuilder<'_>) -> Result<([Linear; 3], Linear)> {
    let width = config.hidden_size;
    let linear = |vb: VarBuilder<'_>| {
        if config.qkv_bias { Linear::new(width, width, vb) } else { Linear::without_bias(width, width, vb) }
    };
    if vb.contains_tensor("q_proj.weight") {
        let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|name| linear(vb.pp(name)));
        return Ok(([q?, k?, v?], Linear::new(width, width, vb.pp("o_proj"))?));
    }
    let out = Linear::new(width, width, vb.pp("output").pp("dense"))?;
    if vb.contains_tensor("qkv.weight") {
        let weight = vb.get((3 * width, width), "qkv.weight")?;
        let bias = if config.qkv_bias { Some(vb.get(3 * width, "qkv.bias")?) } else { None };
        let part = |i: usize| -> Result<Linear> {
            let bias = bias.as_ref().map(|bias| bias.narrow(0, i * width, width)).transpose()?;
            Ok(Linear::from_tensors(weight.narrow(0, i * width, width)?, bias))
        };
        return Ok(([part(0)?, part(1)?, part(2)?], out));
    }
    let [q, k, v] = ["query", "key", "value"].map(|name| linear(vb.pp("attention").pp(name)));
    Ok(([q?, k?, v?], out))
}
