//! Depth Anything: a picture to relative depth, near is large. Equal to transformers' `DepthAnythingForDepthEstimation`.
//!
//! A DINOv2 backbone, four of its layers reassembled into maps of different sizes and fused from coarse to fine. Written
//! here because candle's own takes nearest neighbours where the reference interpolates, which changes every value.
//!
//! Yang et al., "Depth Anything V2", 2024; Ranftl et al., "Vision transformers for dense prediction", 2021.

mod backbone;
mod neck;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::Deserialize;

use crate::error::{Error, Result};
use backbone::Backbone;
use neck::{Head, Neck};

const SUBJECT: &str = "the depth model's config.json";

/// A Depth Anything model's `config.json`; keys it lacks take transformers' defaults.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct DepthConfig {
    /// The encoder.
    pub backbone_config: BackboneConfig,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Width of the encoder's vectors as the reassembly takes them.
    pub reassemble_hidden_size: usize,
    /// How much each map is enlarged over the patch grid.
    pub reassemble_factors: Vec<f64>,
    /// Channels of each reassembled map.
    pub neck_hidden_sizes: Vec<usize>,
    /// Channels of the fused maps.
    pub fusion_hidden_size: usize,
    /// Which fused map the head takes; negative from the end.
    pub head_in_index: i64,
    /// Channels inside the head.
    pub head_hidden_size: usize,
    /// What the numbers mean.
    pub depth_estimation_type: Estimation,
    /// The largest depth a metric model can say.
    pub max_depth: Option<f64>,
}

/// What a model's numbers mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Estimation {
    /// Inverse depth up to scale and shift: near is large.
    Relative,
    /// Metres: far is large.
    Metric,
}

impl Default for DepthConfig {
    fn default() -> Self {
        Self {
            backbone_config: BackboneConfig {
                image_size: 518,
                hidden_size: 384,
                num_attention_heads: 6,
                out_indices: Some(vec![9, 10, 11, 12]),
                ..Default::default()
            },
            patch_size: 14,
            reassemble_hidden_size: 384,
            reassemble_factors: vec![4.0, 2.0, 1.0, 0.5],
            neck_hidden_sizes: vec![48, 96, 192, 384],
            fusion_hidden_size: 64,
            head_in_index: -1,
            head_hidden_size: 32,
            depth_estimation_type: Estimation::Relative,
            max_depth: Some(1.0),
        }
    }
}

impl DepthConfig {
    /// The published model of that encoder width (small 384, base 768, large 1024), for the original files, which come
    /// without a configuration.
    pub fn published(width: usize) -> Option<Self> {
        let (heads, layers, out_indices, neck_hidden_sizes, fusion_hidden_size) = match width {
            384 => (6, 12, [3, 6, 9, 12], [48, 96, 192, 384], 64),
            768 => (12, 12, [3, 6, 9, 12], [96, 192, 384, 768], 128),
            1024 => (16, 24, [5, 12, 18, 24], [256, 512, 1024, 1024], 256),
            _ => return None,
        };
        Some(Self {
            backbone_config: BackboneConfig {
                image_size: 518,
                hidden_size: width,
                num_attention_heads: heads,
                num_hidden_layers: layers,
                out_indices: Some(out_indices.into()),
                ..Default::default()
            },
            reassemble_hidden_size: width,
            neck_hidden_sizes: neck_hidden_sizes.into(),
            fusion_hidden_size,
            ..Default::default()
        })
    }

    fn check(&self) -> Result<()> {
        let backbone = &self.backbone_config;
        let bad = |reason: &str| Err(Error::usage(SUBJECT, reason));
        let maps = self.neck_hidden_sizes.len();
        if maps == 0 || self.reassemble_factors.len() != maps || backbone.outputs()?.len() != maps {
            return bad("neck_hidden_sizes, reassemble_factors and out_indices must be equally long and not empty");
        }
        let heads = backbone.num_attention_heads;
        if heads == 0 || backbone.hidden_size == 0 || !backbone.hidden_size.is_multiple_of(heads) {
            return bad("num_attention_heads must divide hidden_size");
        }
        if self.patch_size == 0 || self.patch_size != backbone.patch_size || self.patch_size > backbone.image_size {
            return bad("patch_size must be the backbone's, and image_size at least as large");
        }
        if self.reassemble_hidden_size != backbone.hidden_size {
            return bad("reassemble_hidden_size must be the backbone's hidden_size");
        }
        if backbone.use_swiglu_ffn {
            return bad("the giant backbone (use_swiglu_ffn) is not supported; take the small, base or large model");
        }
        Ok(())
    }
}

/// The DINOv2 encoder's part of the configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct BackboneConfig {
    /// Width of the patch vectors.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Width inside the perceptron, in multiples of the vectors'.
    pub mlp_ratio: usize,
    /// Added to the variance in every norm.
    pub layer_norm_eps: f64,
    /// Side of the square pictures the positions were trained on, in pixels.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether the outputs go through the last norm.
    pub apply_layernorm: bool,
    /// The giant model's perceptron; not supported.
    pub use_swiglu_ffn: bool,
    /// The layers whose outputs are taken: 0 is the embedding, 1 the first layer, negative from the end.
    pub out_indices: Option<Vec<i64>>,
    /// The same by name: `stem`, `stage1`, ..
    pub out_features: Option<Vec<String>>,
}

impl Default for BackboneConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            mlp_ratio: 4,
            layer_norm_eps: 1e-6,
            image_size: 224,
            patch_size: 14,
            qkv_bias: true,
            apply_layernorm: true,
            use_swiglu_ffn: false,
            out_indices: None,
            out_features: None,
        }
    }
}

impl BackboneConfig {
    /// The layers to take, ascending.
    fn outputs(&self) -> Result<Vec<usize>> {
        let layers = self.num_hidden_layers;
        let by_index = |&index: &i64| {
            let index = if index < 0 { index.checked_add(layers as i64 + 1)? } else { index };
            usize::try_from(index).ok().filter(|&index| index <= layers)
        };
        let by_name = |name: &String| match name.as_str() {
            "stem" => Some(0),
            name => name.strip_prefix("stage")?.parse().ok().filter(|&index| (1..=layers).contains(&index)),
        };
        let outputs: Option<Vec<usize>> = match (&self.out_indices, &self.out_features) {
            (Some(indices), _) => indices.iter().map(by_index).collect(),
            (None, Some(names)) => names.iter().map(by_name).collect(),
            (None, None) => Some(vec![layers]),
        };
        let mut outputs =
            outputs.ok_or_else(|| Error::usage(SUBJECT, format!("out_indices names a layer beyond {layers}")))?;
        outputs.sort_unstable();
        outputs.dedup();
        Ok(outputs)
    }
}

/// Depth Anything.
#[derive(Debug, Clone)]
pub struct DepthNet {
    backbone: Backbone,
    neck: Neck,
    head: Head,
    config: DepthConfig,
}

impl DepthNet {
    /// Loads `backbone`, `neck` and `head`.
    ///
    /// # Errors
    /// When the configuration contradicts itself, or a tensor is missing or misshapen.
    pub fn new(config: &DepthConfig, vb: VarBuilder<'_>) -> Result<Self> {
        config.check()?;
        Ok(Self {
            backbone: Backbone::new(&config.backbone_config, vb.pp("backbone"))?,
            neck: Neck::new(config, vb.pp("neck"))?,
            head: Head::new(config, vb.pp("head"))?,
            config: config.clone(),
        })
    }

    /// The configuration the net was built from.
    pub fn config(&self) -> &DepthConfig {
        &self.config
    }

    /// Normalised pixels `[batch, 3, height, width]`, sides multiples of the patch, to depth `[batch, height, width]`.
    ///
    /// # Errors
    /// When the sides are no multiples of the patch.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = pixels.dims4()?;
        let patch = self.config.patch_size;
        if !height.is_multiple_of(patch) || !width.is_multiple_of(patch) || height == 0 || width == 0 {
            return Err(Error::usage("depth", format!("{height} x {width} pixels are no multiple of {patch}")));
        }
        let grid = (height / patch, width / patch);
        let features = self.backbone.forward(pixels)?;
        let fused = self.neck.forward(&features, grid)?;
        self.head.forward(&fused, height, width)
    }
}

/// The name transformers gives a tensor of the original Depth Anything V2 files; other names stay as they are.
///
/// Queries, keys and values stay together in one tensor there, `attention.qkv`, which the net accepts.
pub fn hub_name(name: &str) -> Option<String> {
    const PARTS: [(&str, &str); 17] = [
        ("pretrained.blocks.", "backbone.encoder.layer."),
        ("pretrained.patch_embed.proj.", "backbone.embeddings.patch_embeddings.projection."),
        ("pretrained.pos_embed", "backbone.embeddings.position_embeddings"),
        ("pretrained.cls_token", "backbone.embeddings.cls_token"),
        ("pretrained.mask_token", "backbone.embeddings.mask_token"),
        ("pretrained.norm.", "backbone.layernorm."),
        (".attn.qkv.", ".attention.qkv."),
        (".attn.proj.", ".attention.output.dense."),
        (".ls1.gamma", ".layer_scale1.lambda1"),
        (".ls2.gamma", ".layer_scale2.lambda1"),
        ("depth_head.scratch.output_conv1.", "head.conv1."),
        ("depth_head.scratch.output_conv2.0.", "head.conv2."),
        ("depth_head.scratch.output_conv2.2.", "head.conv3."),
        (".out_conv.", ".projection."),
        (".resConfUnit", ".residual_layer"),
        (".conv1.", ".convolution1."),
        (".conv2.", ".convolution2."),
    ];
    let original = name.starts_with("pretrained.") || name.starts_with("depth_head.");
    if !original {
        return Some(name.to_owned());
    }
    // Numbered from the other end, or from one.
    let mut name = name.to_owned();
    for i in 0..4 {
        name = name
            .replace(&format!("depth_head.projects.{i}."), &format!("neck.reassemble_stage.layers.{i}.projection."))
            .replace(&format!("depth_head.resize_layers.{i}."), &format!("neck.reassemble_stage.layers.{i}.resize."))
            .replace(&format!("depth_head.scratch.layer{}_rn.", i + 1), &format!("neck.convs.{i}."))
            .replace(&format!("depth_head.scratch.refinenet{}.", 4 - i), &format!("neck.fusion_stage.layers.{i}."));
    }
    let head = name.starts_with("depth_head.scratch.output_conv");
    for (from, to) in PARTS {
        // The head's convolutions keep their short names.
        if !(head && from.starts_with(".conv")) {
            name = name.replace(from, to);
        }
    }
    Some(name)
}
