//! What a single file holds and how its nets are sized, told by names and shapes.
//!
//! Single files carry no configuration, but shapes give nearly all of it. What they cannot give (heads, prediction type)
//! follows the published models and can be set by a `.yaml` of the same name beside the file, as other programs do.

use std::path::Path;

use serde_json::{Value, json};

use super::convert::layers_per_block;
use super::load::Checkpoint;
use crate::error::{Error, Result};

/// The longest `.yaml` worth reading.
const MAX_YAML: u64 = 1 << 20;

/// Blocks or layers beyond this are not a net but an attack on memory.
const MAX_DEPTH: usize = 64;

/// The family of a single-file Stable Diffusion model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// CLIP text encoder.
    Sd1,
    /// OpenCLIP text encoder, linear projections around attention.
    Sd2,
}

/// Settings of the model's `.yaml` that shapes do not show.
#[derive(Debug, Clone, Default)]
pub(crate) struct Original {
    pub(crate) v_prediction: Option<bool>,
    heads: Option<usize>,
    head_channels: Option<usize>,
}

impl Original {
    /// Reads the file of the same name that ends in `.yaml`, if there is one.
    ///
    /// Three scalars are looked for by key, wherever they stand; a full YAML reader would be a heavy way to find them.
    pub(crate) fn beside(model: &Path) -> Result<Self> {
        let path = model.with_extension("yaml");
        let Ok(metadata) = std::fs::metadata(&path) else {
            return Ok(Self::default());
        };
        if metadata.len() > MAX_YAML || !metadata.is_file() {
            return Err(Error::file(&path, "is not the configuration of a model"));
        }
        let text = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let mut original = Self::default();
        for line in String::from_utf8_lossy(&text).lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.split('#').next().unwrap_or_default().trim().trim_matches(['"', '\'']);
            match key.trim() {
                "parameterization" => original.v_prediction = Some(value == "v"),
                "num_heads" => original.heads = value.parse().ok().filter(|&heads| heads > 0),
                "num_head_channels" => original.head_channels = value.parse().ok().filter(|&channels| channels > 0),
                _ => {}
            }
        }
        Ok(original)
    }
}

/// Says what a file is whose names are those of something else, and where it belongs.
pub(crate) fn stranger(checkpoint: &Checkpoint) -> Option<(&'static str, &'static str)> {
    let any = |parts: &[&str]| checkpoint.names().any(|name| parts.iter().any(|part| name.contains(part)));
    let starts = |parts: &[&str]| checkpoint.names().any(|name| parts.iter().any(|part| name.starts_with(part)));
    let wanted = "use a Stable Diffusion 1.x or 2.x checkpoint";
    if starts(&["conditioner.embedders."]) || any(&["label_emb.0.0.weight", "add_embedding.linear_1.weight"]) {
        return Some(("is a Stable Diffusion XL checkpoint, which is not supported yet", wanted));
    }
    if any(&["joint_blocks.0."]) {
        return Some(("is a Stable Diffusion 3 checkpoint, which is not supported", wanted));
    }
    if any(&["double_blocks.0.", "single_transformer_blocks.0."]) {
        return Some(("is a FLUX checkpoint, which is not supported", wanted));
    }
    if starts(&["lora_unet_", "lora_te_", "lora_controlnet"]) || any(&[".lora_A.", ".lora_down.", "_lora.down."]) {
        return Some(("is a LoRA, not a whole model", wanted));
    }
    if starts(&["image_proj."]) {
        return Some(("is an IP-Adapter, not a model", "give it as --ip-adapter"));
    }
    None
}

/// Says what part of a model a file holds, for the message that it is not a whole one.
pub(crate) fn fragment(checkpoint: &Checkpoint) -> Option<(&'static str, &'static str)> {
    let has = |name: &str| checkpoint.contains(name);
    if has("control_model.time_embed.0.weight")
        || has("controlnet_cond_embedding.conv_in.weight")
        || has("input_hint_block.0.weight")
    {
        return Some(("is a ControlNet, not a model", "give it as --controlnet"));
    }
    if has("conv_in.weight") && has("time_embedding.linear_1.weight") {
        return Some(("is a UNet alone", "give the folder that has unet/, vae/ and text_encoder/ in it"));
    }
    if has("decoder.conv_in.weight") {
        return Some(("is a VAE alone", "give a whole checkpoint or a model folder"));
    }
    if checkpoint.names().any(|name| name.contains("vision_model.")) {
        return Some(("is an image encoder, not a model", "give it as --image-encoder"));
    }
    None
}

fn dims<'a>(checkpoint: &'a Checkpoint, name: &str) -> Result<&'a [usize]> {
    match checkpoint.shape(name) {
        Some(shape) => Ok(shape),
        None => Err(Error::file(checkpoint.path(), format!("has no tensor `{name}`; it is not a whole model"))),
    }
}

fn dim(checkpoint: &Checkpoint, name: &str, axis: usize) -> Result<usize> {
    let shape = dims(checkpoint, name)?;
    shape.get(axis).copied().ok_or_else(|| {
        Error::file(checkpoint.path(), format!("tensor `{name}` has shape {shape:?}, which does not fit the model"))
    })
}

/// How many numbered children `prefix` has: 1 + the largest number.
fn children(checkpoint: &Checkpoint, prefix: &str) -> Result<usize> {
    let number = |name: &str| name.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
    let count = checkpoint.names().filter_map(number).max().map_or(0, |last| last.saturating_add(1));
    if count > MAX_DEPTH {
        return Err(Error::file(checkpoint.path(), format!("numbers `{prefix}` up to {count}; no known model does")));
    }
    Ok(count)
}

/// The encoder half of a UNet or ControlNet in LDM names, without prefix.
fn encoder_half(checkpoint: &Checkpoint, original: &Original) -> Result<serde_json::Map<String, Value>> {
    let layers = layers_per_block(checkpoint);
    let inputs = children(checkpoint, "input_blocks.")?;
    let mut channels = Vec::new();
    let mut attends = Vec::new();
    let mut context = None;
    let mut linear = false;
    for index in (1..inputs).step_by(layers + 1) {
        channels.push(dim(checkpoint, &format!("input_blocks.{index}.0.out_layers.3.weight"), 0)?);
        let block = format!("input_blocks.{index}.1");
        let attention = checkpoint.shape(&format!("{block}.transformer_blocks.0.attn2.to_k.weight"));
        attends.push(attention.is_some());
        if let Some(shape) = attention {
            context = shape.get(1).copied();
            linear = dims(checkpoint, &format!("{block}.proj_in.weight"))?.len() == 2;
        }
        if checkpoint.contains(&format!("{block}.transformer_blocks.1.attn2.to_k.weight")) {
            return Err(Error::file(
                checkpoint.path(),
                "has several transformer layers per block: it is not Stable Diffusion 1.x or 2.x",
            ));
        }
    }
    let Some(context) = context else {
        return Err(Error::file(checkpoint.path(), "has a UNet without attention to text"));
    };
    // SD 1.x has 8 heads everywhere, SD 2.x 64 channels per head.
    let head_channels = if original.heads.is_some() { None } else { original.head_channels.or(linear.then_some(64)) };
    let heads = match head_channels {
        Some(width) => json!(channels.iter().map(|c| (c / width).max(1)).collect::<Vec<_>>()),
        None => json!(original.heads.unwrap_or(8)),
    };
    let kind = |attends: &bool| if *attends { "CrossAttnDownBlock2D" } else { "DownBlock2D" };
    let mut config = serde_json::Map::new();
    config.insert("in_channels".to_owned(), json!(dim(checkpoint, "input_blocks.0.0.weight", 1)?));
    config.insert("block_out_channels".to_owned(), json!(channels));
    config.insert("layers_per_block".to_owned(), json!(layers));
    config.insert("down_block_types".to_owned(), json!(attends.iter().map(kind).collect::<Vec<_>>()));
    config.insert("mid_block_type".to_owned(), json!("UNetMidBlock2DCrossAttn"));
    config.insert("cross_attention_dim".to_owned(), json!(context));
    config.insert("attention_head_dim".to_owned(), heads);
    config.insert("use_linear_projection".to_owned(), json!(linear));
    // Attention scores of SD 2.1 overflow half precision; in single precision this changes nothing.
    config.insert("upcast_attention".to_owned(), json!(linear));
    config.insert("norm_num_groups".to_owned(), json!(32));
    Ok(config)
}

/// A UNet in LDM names, without prefix.
pub(crate) fn unet(checkpoint: &Checkpoint, original: &Original, side: usize) -> Result<Value> {
    let mut config = encoder_half(checkpoint, original)?;
    let layers = layers_per_block(checkpoint);
    let outputs = children(checkpoint, "output_blocks.")?;
    let attends =
        |index: usize| checkpoint.contains(&format!("output_blocks.{index}.1.transformer_blocks.0.attn2.to_k.weight"));
    let kind = |index| if attends(index) { "CrossAttnUpBlock2D" } else { "UpBlock2D" };
    config.insert("_class_name".to_owned(), json!("UNet2DConditionModel"));
    config.insert("up_block_types".to_owned(), json!((0..outputs).step_by(layers + 1).map(kind).collect::<Vec<_>>()));
    config.insert("out_channels".to_owned(), json!(dim(checkpoint, "out.2.weight", 0)?));
    config.insert("sample_size".to_owned(), json!(side));
    Ok(Value::Object(config))
}

/// A ControlNet in LDM names, without prefix.
pub(crate) fn controlnet(checkpoint: &Checkpoint, original: &Original) -> Result<Value> {
    let mut config = encoder_half(checkpoint, original)?;
    let hints = children(checkpoint, "input_hint_block.")?;
    // The widths of the hint net before each halving, and its last: convolutions 0, 4, 8, 12 of 0, 2, .., 14.
    let widths: Result<Vec<usize>> = (0..hints.saturating_sub(1))
        .step_by(4)
        .map(|index| dim(checkpoint, &format!("input_hint_block.{index}.weight"), 0))
        .collect();
    config.insert("_class_name".to_owned(), json!("ControlNetModel"));
    config.insert("conditioning_embedding_out_channels".to_owned(), json!(widths?));
    config.insert("conditioning_channels".to_owned(), json!(dim(checkpoint, "input_hint_block.0.weight", 1)?));
    Ok(Value::Object(config))
}

/// A ControlNet in diffusers names that came without its `config.json`.
pub(crate) fn diffusers_controlnet(checkpoint: &Checkpoint) -> Result<Value> {
    let blocks = children(checkpoint, "down_blocks.")?;
    let mut channels = Vec::new();
    let mut kinds = Vec::new();
    let mut context = None;
    let mut linear = false;
    for block in 0..blocks {
        channels.push(dim(checkpoint, &format!("down_blocks.{block}.resnets.0.conv1.weight"), 0)?);
        let attention = format!("down_blocks.{block}.attentions.0");
        let key = checkpoint.shape(&format!("{attention}.transformer_blocks.0.attn2.to_k.weight"));
        kinds.push(if key.is_some() { "CrossAttnDownBlock2D" } else { "DownBlock2D" });
        if let Some(shape) = key {
            context = shape.get(1).copied();
            linear = dims(checkpoint, &format!("{attention}.proj_in.weight"))?.len() == 2;
        }
    }
    let heads = if linear { json!(channels.iter().map(|c| (c / 64).max(1)).collect::<Vec<_>>()) } else { json!(8) };
    let hint = "controlnet_cond_embedding";
    let mut widths = vec![dim(checkpoint, &format!("{hint}.conv_in.weight"), 0)?];
    for block in (1..children(checkpoint, &format!("{hint}.blocks."))?).step_by(2) {
        widths.push(dim(checkpoint, &format!("{hint}.blocks.{block}.weight"), 0)?);
    }
    Ok(json!({
        "_class_name": "ControlNetModel",
        "in_channels": dim(checkpoint, "conv_in.weight", 1)?,
        "block_out_channels": channels,
        "layers_per_block": children(checkpoint, "down_blocks.0.resnets.")?,
        "down_block_types": kinds,
        "cross_attention_dim": context,
        "attention_head_dim": heads,
        "use_linear_projection": linear,
        "norm_num_groups": 32,
        "conditioning_channels": dim(checkpoint, &format!("{hint}.conv_in.weight"), 1)?,
        "conditioning_embedding_out_channels": widths,
    }))
}

/// A VAE in LDM names, without prefix.
pub(crate) fn vae(checkpoint: &Checkpoint, side: usize) -> Result<Value> {
    let blocks = children(checkpoint, "encoder.down.")?;
    let channels: Result<Vec<usize>> =
        (0..blocks).map(|block| dim(checkpoint, &format!("encoder.down.{block}.block.0.conv1.weight"), 0)).collect();
    Ok(json!({
        "_class_name": "AutoencoderKL",
        "in_channels": dim(checkpoint, "encoder.conv_in.weight", 1)?,
        "out_channels": dim(checkpoint, "decoder.conv_out.weight", 0)?,
        "down_block_types": vec!["DownEncoderBlock2D"; blocks],
        "up_block_types": vec!["UpDecoderBlock2D"; blocks],
        "block_out_channels": channels?,
        "layers_per_block": children(checkpoint, "encoder.down.0.block.")?,
        "latent_channels": dim(checkpoint, "decoder.conv_in.weight", 1)?,
        "norm_num_groups": 32,
        "sample_size": side,
        "scaling_factor": 0.18215,
    }))
}

/// A CLIP text encoder in transformers' names, with or without `text_model.`.
pub(crate) fn text(checkpoint: &Checkpoint, family: Family) -> Result<Value> {
    let prefix = if checkpoint.contains("text_model.final_layer_norm.weight") { "text_model." } else { "" };
    let table = format!("{prefix}embeddings.token_embedding.weight");
    let width = dim(checkpoint, &table, 1)?;
    Ok(json!({
        "_class_name": "CLIPTextModel",
        "vocab_size": dim(checkpoint, &table, 0)?,
        "hidden_size": width,
        "intermediate_size": dim(checkpoint, &format!("{prefix}encoder.layers.0.mlp.fc1.weight"), 0)?,
        "num_hidden_layers": children(checkpoint, &format!("{prefix}encoder.layers."))?,
        "num_attention_heads": (width / 64).max(1),
        "max_position_embeddings": dim(checkpoint, &format!("{prefix}embeddings.position_embedding.weight"), 0)?,
        "hidden_act": if family == Family::Sd1 { "quick_gelu" } else { "gelu" },
        "layer_norm_eps": 1e-5,
    }))
}

/// A CLIP image encoder in transformers' names that came without its `config.json`.
pub(crate) fn vision(checkpoint: &Checkpoint) -> Result<Value> {
    let prefix = if checkpoint.contains("vision_model.post_layernorm.weight") { "vision_model." } else { "" };
    let patches = format!("{prefix}embeddings.patch_embedding.weight");
    let width = dim(checkpoint, &patches, 0)?;
    let patch = dim(checkpoint, &patches, 2)?;
    let places = dim(checkpoint, &format!("{prefix}embeddings.position_embedding.weight"), 0)?;
    let side = places.saturating_sub(1).isqrt();
    // ViT-B, L (OpenAI, quick_gelu), H and bigG (OpenCLIP, gelu).
    let heads = match width {
        768 => 12,
        1024 | 1280 | 1664 => 16,
        _ => (width / 64).max(1),
    };
    Ok(json!({
        "_class_name": "CLIPVisionModelWithProjection",
        "hidden_size": width,
        "intermediate_size": dim(checkpoint, &format!("{prefix}encoder.layers.0.mlp.fc1.weight"), 0)?,
        "num_hidden_layers": children(checkpoint, &format!("{prefix}encoder.layers."))?,
        "num_attention_heads": heads,
        "num_channels": dim(checkpoint, &patches, 1)?,
        "patch_size": patch,
        "image_size": side.saturating_mul(patch),
        "projection_dim": dim(checkpoint, "visual_projection.weight", 0)?,
        "hidden_act": if matches!(width, 768 | 1024) { "quick_gelu" } else { "gelu" },
        "layer_norm_eps": 1e-5,
    }))
}
