//! How much arithmetic a net's forward pass is: multiply-adds of convolutions, linear maps and attention, counted from
//! its `config.json`. Norms, activations and the like are left out, as in everybody's figures.
//!
//! What is done once per picture and not per step (text keys and values, the hint) is left out of UNet and ControlNet.

use serde_json::Value;

/// Tokens of a prompt.
const TOKENS: u64 = 77;

/// A config's numbers, with the reference's defaults where keys are missing.
struct Shape {
    channels: Vec<u64>,
    layers: Vec<u64>,
    depths: Vec<u64>,
    in_channels: u64,
    out_channels: u64,
}

impl Shape {
    fn new(config: &Value) -> Self {
        let channels = list(config, "block_out_channels").unwrap_or_else(|| vec![320, 640, 1280, 1280]);
        let per_block = |key: &str, default: u64| match config.get(key) {
            Some(Value::Array(_)) => list(config, key).unwrap_or_default(),
            _ => vec![number(config, key, default); channels.len()],
        };
        Self {
            layers: per_block("layers_per_block", 2),
            depths: per_block("transformer_layers_per_block", 1),
            in_channels: number(config, "in_channels", 4),
            out_channels: number(config, "out_channels", 4),
            channels,
        }
    }
}

fn number(config: &Value, key: &str, default: u64) -> u64 {
    config.get(key).and_then(Value::as_u64).unwrap_or(default)
}

fn list(config: &Value, key: &str) -> Option<Vec<u64>> {
    config.get(key)?.as_array()?.iter().map(Value::as_u64).collect()
}

/// Whether each block of a list of block types attends.
fn attends(config: &Value, key: &str, default: &[bool]) -> Vec<bool> {
    match config.get(key).and_then(Value::as_array) {
        Some(types) => types.iter().map(|kind| kind.as_str().is_some_and(|kind| kind.contains("CrossAttn"))).collect(),
        None => default.to_vec(),
    }
}

/// A convolution onto `pixels` output positions.
fn conv(inputs: u64, outputs: u64, kernel: u64, pixels: u64) -> u64 {
    inputs * outputs * kernel * kernel * pixels
}

fn residual(inputs: u64, outputs: u64, pixels: u64) -> u64 {
    let shortcut = if inputs == outputs { 0 } else { conv(inputs, outputs, 1, pixels) };
    conv(inputs, outputs, 3, pixels) + conv(outputs, outputs, 3, pixels) + shortcut
}

fn spatial_transformer(width: u64, depth: u64, pixels: u64) -> u64 {
    let own = 4 * width * width * pixels + 2 * pixels * pixels * width;
    let text = 2 * width * width * pixels + 2 * pixels * TOKENS * width;
    let feed_forward = 12 * width * width * pixels;
    2 * width * width * pixels + depth * (own + text + feed_forward)
}

/// What the UNet and a ControlNet share, for one latent picture: the count, the channels and sizes of the skips.
fn encoder(config: &Value, (height, width): (u64, u64)) -> (u64, Vec<(u64, u64, u64)>) {
    let shape = Shape::new(config);
    let attends = attends(config, "down_block_types", &[true, true, true, false]);
    let (mut height, mut width) = (height, width);
    let first = shape.channels.first().copied().unwrap_or(0);
    let time = 4 * first;
    let mut work = conv(shape.in_channels, first, 3, height * width) + first * time + time * time;
    let mut skips = vec![(first, height, width)];
    let mut inputs = first;
    for (index, &channels) in shape.channels.iter().enumerate() {
        for _ in 0..shape.layers.get(index).copied().unwrap_or(0) {
            work += residual(inputs, channels, height * width) + time * channels;
            if attends.get(index).copied().unwrap_or(false) {
                work += spatial_transformer(channels, shape.depths.get(index).copied().unwrap_or(1), height * width);
            }
            inputs = channels;
            skips.push((channels, height, width));
        }
        if index + 1 < shape.channels.len() {
            (height, width) = (height.div_ceil(2), width.div_ceil(2));
            work += conv(channels, channels, 3, height * width);
            skips.push((channels, height, width));
        }
    }
    if !config.get("mid_block_type").is_some_and(Value::is_null) {
        let depth = shape.depths.last().copied().unwrap_or(1);
        work += 2 * (residual(inputs, inputs, height * width) + time * inputs);
        work += spatial_transformer(inputs, depth, height * width);
    }
    (work, skips)
}

/// One evaluation of a UNet on `batch` latents of `size` (height, width).
pub(super) fn unet(config: &Value, batch: u64, size: (u64, u64)) -> u64 {
    let shape = Shape::new(config);
    let (mut work, mut skips) = encoder(config, size);
    let attends = attends(config, "up_block_types", &[false, true, true, true]);
    let time = 4 * shape.channels.first().copied().unwrap_or(0);
    let mut inputs = shape.channels.last().copied().unwrap_or(0);
    for (index, &channels) in shape.channels.iter().rev().enumerate() {
        let down = shape.channels.len() - 1 - index;
        for _ in 0..=shape.layers.get(down).copied().unwrap_or(0) {
            let (skip, height, width) = skips.pop().unwrap_or_default();
            work += residual(inputs + skip, channels, height * width) + time * channels;
            if attends.get(index).copied().unwrap_or(false) {
                work += spatial_transformer(channels, shape.depths.get(down).copied().unwrap_or(1), height * width);
            }
            inputs = channels;
        }
        if let Some(&(_, height, width)) = skips.last() {
            work += conv(channels, channels, 3, height * width);
        }
    }
    work += conv(inputs, shape.out_channels, 3, size.0 * size.1);
    batch * work
}

/// One evaluation of a ControlNet on `batch` latents of `size` (height, width).
pub(super) fn controlnet(config: &Value, batch: u64, size: (u64, u64)) -> u64 {
    let (work, skips) = encoder(config, size);
    let one_by_one = |&(channels, height, width): &(u64, u64, u64)| conv(channels, channels, 1, height * width);
    batch * (work + skips.iter().map(one_by_one).sum::<u64>() + skips.last().map_or(0, one_by_one))
}

/// The autoencoder's middle: two residual blocks around attention with one head.
fn vae_middle(channels: u64, pixels: u64) -> u64 {
    2 * residual(channels, channels, pixels) + 4 * channels * channels * pixels + 2 * pixels * pixels * channels
}

/// Decoding `batch` latents of `size` (height, width) with an autoencoder.
pub(super) fn vae_decode(config: &Value, batch: u64, (height, width): (u64, u64)) -> u64 {
    let shape = Shape::new(config);
    let latent = number(config, "latent_channels", 4);
    let layers = number(config, "layers_per_block", 1);
    let mut pixels = height * width;
    let mut inputs = shape.channels.last().copied().unwrap_or(0);
    let mut work = conv(latent, latent, 1, pixels) + conv(latent, inputs, 3, pixels) + vae_middle(inputs, pixels);
    for (index, &channels) in shape.channels.iter().rev().enumerate() {
        for _ in 0..=layers {
            work += residual(inputs, channels, pixels);
            inputs = channels;
        }
        if index + 1 < shape.channels.len() {
            pixels *= 4;
            work += conv(channels, channels, 3, pixels);
        }
    }
    batch * (work + conv(inputs, number(config, "out_channels", 3), 3, pixels))
}

/// Encoding `batch` pictures whose latents have `size` (height, width) with an autoencoder.
pub(super) fn vae_encode(config: &Value, batch: u64, (height, width): (u64, u64)) -> u64 {
    let shape = Shape::new(config);
    let latent = number(config, "latent_channels", 4);
    let layers = number(config, "layers_per_block", 1);
    let halvings = shape.channels.len().saturating_sub(1);
    let mut pixels = (height * width) << (2 * halvings);
    let mut inputs = shape.channels.first().copied().unwrap_or(0);
    let mut work = conv(number(config, "in_channels", 3), inputs, 3, pixels);
    for (index, &channels) in shape.channels.iter().enumerate() {
        for _ in 0..layers {
            work += residual(inputs, channels, pixels);
            inputs = channels;
        }
        if index < halvings {
            pixels /= 4;
            work += conv(channels, channels, 3, pixels);
        }
    }
    work += vae_middle(inputs, pixels) + conv(inputs, 2 * latent, 3, pixels);
    batch * (work + conv(2 * latent, 2 * latent, 1, pixels))
}

fn clip(config: &Value, tokens: u64) -> u64 {
    let width = number(config, "hidden_size", 512);
    let inner = number(config, "intermediate_size", 4 * width);
    let layer = 4 * width * width * tokens + 2 * tokens * tokens * width + 2 * width * inner * tokens;
    number(config, "num_hidden_layers", 12) * layer
}

/// CLIP's text encoder on `batch` prompts.
pub(super) fn clip_text(config: &Value, batch: u64) -> u64 {
    batch * clip(config, number(config, "max_position_embeddings", TOKENS))
}

/// CLIP's vision encoder with its projection on `batch` pictures.
pub(super) fn clip_vision(config: &Value, batch: u64) -> u64 {
    let config = config.get("vision_config").unwrap_or(config);
    let width = number(config, "hidden_size", 768);
    let patch = number(config, "patch_size", 32).max(1);
    let patches = (number(config, "image_size", 224) / patch).pow(2);
    let projection = width * number(config, "projection_dim", 512);
    batch * (conv(number(config, "num_channels", 3), width, patch, patches) + clip(config, patches + 1) + projection)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // Counted by torch.utils.flop_counter.FlopCounterMode over diffusers' and transformers' classes on the meta device,
    // two operations per multiply-add; text keys and values (19,169,280 weights in the UNet, 8,847,360 in the
    // ControlNet) taken off.
    #[test]
    fn counts_are_torchs() {
        let unet_config = json!({ "cross_attention_dim": 768 });
        let text = |weights: u64, batch: u64| 2 * TOKENS * weights * batch;
        assert_eq!(2 * unet(&unet_config, 2, (64, 64)), 1_606_546_882_560 - text(19_169_280, 2));
        assert_eq!(2 * unet(&unet_config, 1, (24, 40)), 168_589_189_120 - text(19_169_280, 1));
        let hint = |batch: u64, (height, width): (u64, u64)| {
            let at = |divisor: u64| height / divisor * (width / divisor);
            let full = conv(3, 16, 3, at(1)) + conv(16, 16, 3, at(1));
            let half = conv(16, 32, 3, at(2)) + conv(32, 32, 3, at(2));
            let quarter = conv(32, 96, 3, at(4)) + conv(96, 96, 3, at(4));
            2 * batch * (full + half + quarter + conv(96, 256, 3, at(8)) + conv(256, 320, 3, at(8)))
        };
        let with_hint = |batch, size: (u64, u64)| hint(batch, (8 * size.0, 8 * size.1)) + text(8_847_360, batch);
        assert_eq!(2 * controlnet(&unet_config, 2, (64, 64)), 566_583_951_360 - with_hint(2, (64, 64)));
        assert_eq!(2 * controlnet(&unet_config, 1, (24, 40)), 58_667_069_440 - with_hint(1, (24, 40)));
        let vae_config = json!({ "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "out_channels": 3, "in_channels": 3 });
        assert_eq!(2 * vae_decode(&vae_config, 2, (64, 64)), 5_029_037_867_008);
        assert_eq!(2 * vae_decode(&vae_config, 1, (24, 40)), 583_174_748_160);
        assert_eq!(2 * vae_encode(&vae_config, 2, (64, 64)), 2_233_316_933_632);
        assert_eq!(2 * vae_encode(&vae_config, 1, (24, 40)), 255_551_201_280);
        let text_config = json!({ "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12 });
        assert_eq!(2 * clip_text(&text_config, 2), 26_597_007_360);
        let vision_config = json!({ "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "patch_size": 14, "projection_dim": 1024 });
        assert_eq!(2 * clip_vision(&vision_config, 1), 334_590_279_680);
    }
}
