//! Names of the original Stable Diffusion code (LDM, what Civitai's single files use) turned into those of diffusers.
//!
//! Only names change; the one tensor that changes is OpenCLIP's joint query/key/value matrix, whose rows are split, and
//! the VAE's 1 x 1 attention convolutions, whose two trailing axes are dropped. No bytes are touched.
//! Checked name by name against diffusers' own conversion (`loaders/single_file_utils.py`) in `tests/it/weights.rs`.

use super::load::Checkpoint;
use crate::error::Result;

/// Splits `a.b.rest` into `a`, `b` as a number, and `rest`.
fn numbered(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// The inside of a residual block of the UNet.
fn residual(name: &str) -> Option<String> {
    let pairs = [
        ("in_layers.0.", "norm1."),
        ("in_layers.2.", "conv1."),
        ("emb_layers.1.", "time_emb_proj."),
        ("out_layers.0.", "norm2."),
        ("out_layers.3.", "conv2."),
        ("skip_connection.", "conv_shortcut."),
    ];
    pairs.iter().find_map(|(old, new)| Some(format!("{new}{}", name.strip_prefix(old)?)))
}

/// The half that UNet and ControlNet share: time embedding, encoder and middle.
fn encoder_half(name: &str, layers: usize) -> Option<String> {
    if let Some(rest) = name.strip_prefix("time_embed.") {
        let (index, rest) = numbered(rest)?;
        return Some(format!("time_embedding.linear_{}.{rest}", index / 2 + 1));
    }
    if let Some(rest) = name.strip_prefix("middle_block.") {
        let (index, rest) = numbered(rest)?;
        return match index {
            0 => Some(format!("mid_block.resnets.0.{}", residual(rest)?)),
            1 => Some(format!("mid_block.attentions.0.{rest}")),
            2 => Some(format!("mid_block.resnets.1.{}", residual(rest)?)),
            _ => None,
        };
    }
    let (index, rest) = numbered(name.strip_prefix("input_blocks.")?)?;
    let (part, rest) = numbered(rest)?;
    if index == 0 {
        return Some(format!("conv_in.{rest}"));
    }
    let (block, layer) = ((index - 1) / (layers + 1), (index - 1) % (layers + 1));
    match part {
        0 => match rest.strip_prefix("op.") {
            Some(rest) => Some(format!("down_blocks.{block}.downsamplers.0.conv.{rest}")),
            None => Some(format!("down_blocks.{block}.resnets.{layer}.{}", residual(rest)?)),
        },
        1 => Some(format!("down_blocks.{block}.attentions.{layer}.{rest}")),
        _ => None,
    }
}

/// A UNet's name, `layers` being its residual layers per block. None for what the UNet does not use.
fn unet_name(name: &str, layers: usize) -> Option<String> {
    if let Some(rest) = name.strip_prefix("out.") {
        return match numbered(rest)? {
            (0, rest) => Some(format!("conv_norm_out.{rest}")),
            (2, rest) => Some(format!("conv_out.{rest}")),
            _ => None,
        };
    }
    let Some(rest) = name.strip_prefix("output_blocks.") else {
        return encoder_half(name, layers);
    };
    let (index, rest) = numbered(rest)?;
    let (part, rest) = numbered(rest)?;
    let (block, layer) = (index / (layers + 1), index % (layers + 1));
    // The upsampler comes after the attention where there is one, else in its place.
    match (part, rest.strip_prefix("conv.")) {
        (0, _) => Some(format!("up_blocks.{block}.resnets.{layer}.{}", residual(rest)?)),
        (1 | 2, Some(rest)) => Some(format!("up_blocks.{block}.upsamplers.0.conv.{rest}")),
        (1, None) => Some(format!("up_blocks.{block}.attentions.{layer}.{rest}")),
        _ => None,
    }
}

/// A ControlNet's name. `last_hint` is the number of the last convolution of its hint net.
fn controlnet_name(name: &str, layers: usize, last_hint: usize) -> Option<String> {
    if let Some(rest) = name.strip_prefix("input_hint_block.") {
        // Even numbers are convolutions, odd ones their activations.
        return match numbered(rest)? {
            (0, rest) => Some(format!("controlnet_cond_embedding.conv_in.{rest}")),
            (index, rest) if index == last_hint => Some(format!("controlnet_cond_embedding.conv_out.{rest}")),
            (index, rest) => Some(format!("controlnet_cond_embedding.blocks.{}.{rest}", (index / 2).checked_sub(1)?)),
        };
    }
    if let Some(rest) = name.strip_prefix("zero_convs.") {
        let (index, rest) = numbered(rest)?;
        return Some(format!("controlnet_down_blocks.{index}.{}", rest.strip_prefix("0.")?));
    }
    if let Some(rest) = name.strip_prefix("middle_block_out.0.") {
        return Some(format!("controlnet_mid_block.{rest}"));
    }
    encoder_half(name, layers)
}

/// A VAE's name, `blocks` being the blocks of its decoder, which LDM counts from the picture and diffusers from the latents.
fn vae_name(name: &str, blocks: usize) -> Option<String> {
    if name.starts_with("quant_conv.") || name.starts_with("post_quant_conv.") {
        return Some(name.to_owned());
    }
    let (side, rest) = name.split_once('.')?;
    if side != "encoder" && side != "decoder" {
        return None;
    }
    let inner = if rest.starts_with("conv_in.") || rest.starts_with("conv_out.") {
        rest.to_owned()
    } else if let Some(rest) = rest.strip_prefix("norm_out.") {
        format!("conv_norm_out.{rest}")
    } else if let Some(rest) = rest.strip_prefix("mid.block_") {
        let (index, rest) = numbered(rest)?;
        format!("mid_block.resnets.{}.{}", index.checked_sub(1)?, shortcut(rest))
    } else if let Some(rest) = rest.strip_prefix("mid.attn_1.") {
        let pairs =
            [("norm.", "group_norm."), ("q.", "to_q."), ("k.", "to_k."), ("v.", "to_v."), ("proj_out.", "to_out.0.")];
        let renamed = pairs.iter().find_map(|(old, new)| Some(format!("{new}{}", rest.strip_prefix(old)?)))?;
        format!("mid_block.attentions.0.{renamed}")
    } else if let Some(rest) = rest.strip_prefix("down.") {
        sampled(rest, "down", Some)?
    } else if let Some(rest) = rest.strip_prefix("up.") {
        sampled(rest, "up", |index| blocks.checked_sub(index + 1))?
    } else {
        return None;
    };
    Some(format!("{side}.{inner}"))
}

fn shortcut(name: &str) -> String {
    name.replace("nin_shortcut.", "conv_shortcut.")
}

fn sampled(name: &str, way: &str, place: impl Fn(usize) -> Option<usize>) -> Option<String> {
    let (index, rest) = numbered(name)?;
    let index = place(index)?;
    if let Some(rest) = rest.strip_prefix("block.") {
        return Some(format!("{way}_blocks.{index}.resnets.{}", shortcut(rest)));
    }
    let rest = rest.strip_prefix(&format!("{way}sample.conv."))?;
    Some(format!("{way}_blocks.{index}.{way}samplers.0.conv.{rest}"))
}

/// An OpenCLIP text encoder's name; the joint projections keep the ending `in_proj_weight` or `in_proj_bias`.
fn open_clip_name(name: &str) -> Option<String> {
    let renamed = match name {
        "positional_embedding" => "embeddings.position_embedding.weight".to_owned(),
        "token_embedding.weight" => "embeddings.token_embedding.weight".to_owned(),
        "ln_final.weight" => "final_layer_norm.weight".to_owned(),
        "ln_final.bias" => "final_layer_norm.bias".to_owned(),
        _ => {
            let (layer, rest) = numbered(name.strip_prefix("transformer.resblocks.")?)?;
            let pairs = [
                ("ln_1.", "layer_norm1."),
                ("ln_2.", "layer_norm2."),
                ("attn.", "self_attn."),
                ("mlp.c_fc.", "mlp.fc1."),
                ("mlp.c_proj.", "mlp.fc2."),
            ];
            let inner = pairs.iter().find_map(|(old, new)| Some(format!("{new}{}", rest.strip_prefix(old)?)))?;
            format!("encoder.layers.{layer}.{inner}")
        }
    };
    Some(format!("text_model.{renamed}"))
}

/// Residual layers per block: the first downsampler stands right behind those of the first block.
pub(crate) fn layers_per_block(checkpoint: &Checkpoint) -> usize {
    let blocks = checkpoint.names().filter_map(|name| Some(numbered(name.strip_prefix("input_blocks.")?)?.0)).max();
    let downsampler = checkpoint
        .names()
        .filter(|name| name.contains(".0.op."))
        .filter_map(|name| Some(numbered(name.strip_prefix("input_blocks.")?)?.0))
        .min();
    match downsampler {
        Some(index) => index.saturating_sub(1).max(1),
        None => blocks.unwrap_or(2).max(1),
    }
}

/// A UNet without its prefix.
pub(crate) fn unet(checkpoint: &Checkpoint) -> Result<Checkpoint> {
    let layers = layers_per_block(checkpoint);
    checkpoint.rename(|name| unet_name(name, layers))
}

/// A ControlNet without its prefix.
pub(crate) fn controlnet(checkpoint: &Checkpoint) -> Result<Checkpoint> {
    let layers = layers_per_block(checkpoint);
    let hint = |name: &str| Some(numbered(name.strip_prefix("input_hint_block.")?)?.0);
    let last_hint = checkpoint.names().filter_map(hint).max().unwrap_or(0);
    checkpoint.rename(|name| controlnet_name(name, layers, last_hint))
}

/// A VAE without its prefix.
pub(crate) fn vae(checkpoint: &Checkpoint) -> Result<Checkpoint> {
    let block = |name: &str| Some(numbered(name.strip_prefix("decoder.up.")?)?.0);
    let blocks = checkpoint.names().filter_map(block).max().map_or(0, |last| last.saturating_add(1));
    let mut renamed = checkpoint.rename(|name| vae_name(name, blocks))?;
    renamed.drop_unit_axes(|name| name.contains(".attentions.") && name.ends_with(".weight"));
    Ok(renamed)
}

/// An OpenCLIP text encoder without its prefix. Stable Diffusion 2 reads it one layer before the last, so the last layer
/// is left out and what remains is a whole encoder.
pub(crate) fn open_clip(checkpoint: &Checkpoint) -> Result<Checkpoint> {
    let layer = |name: &str| Some(numbered(name.strip_prefix("transformer.resblocks.")?)?.0);
    let last = checkpoint.names().filter_map(layer).max();
    let mut renamed = checkpoint
        .rename(|name| if layer(name).is_some() && layer(name) == last { None } else { open_clip_name(name) })?;
    let joint: Vec<String> = renamed.names().filter(|name| name.contains(".in_proj_")).map(str::to_owned).collect();
    for name in joint {
        if let Some((layer, kind)) = name.split_once(".in_proj_") {
            let parts = ["q", "k", "v"].map(|part| format!("{layer}.{part}_proj.{kind}"));
            renamed.split_rows(&name, &parts)?;
        }
    }
    Ok(renamed)
}
