//! The UNet's `config.json`, checked while it is read.
//!
//! A key this program does not know is ignored, as diffusers ignores it; a key it knows but whose value would change the
//! picture in a way it cannot compute is refused by name. Must not hold weights.
//! Reference: `UNet2DConditionModel` and `ControlNetModel` of diffusers 0.42.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// No published net comes near these; a file that does is damaged, and sums of such sizes could overflow.
const MAX_WIDTH: usize = 1 << 16;
const MAX_BLOCKS: usize = 16;
const MAX_LAYERS: usize = 64;

/// One resolution of the encoder, and its mirror in the decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) channels: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    /// Transformer blocks in each of its spatial transformers.
    pub(crate) depth: usize,
    /// Whether its layers have a spatial transformer: read for the way down, set anew for the way up.
    pub(crate) attends: bool,
}

/// What the UNet and a ControlNet share: everything up to and including the middle.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EncoderConfig {
    pub(crate) in_channels: usize,
    pub(crate) blocks: Vec<Block>,
    pub(crate) has_mid: bool,
    pub(crate) cross_attention_dim: usize,
    pub(crate) groups: usize,
    pub(crate) eps: f64,
    pub(crate) linear_projection: bool,
    pub(crate) upcast_attention: bool,
    pub(crate) flip_sin_to_cos: bool,
    pub(crate) freq_shift: f64,
    pub(crate) downsample_padding: usize,
    pub(crate) time_width: usize,
    pub(crate) guidance_width: Option<usize>,
}

/// A UNet's shape, read from its `config.json`.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(try_from = "Value")]
pub struct UnetConfig {
    pub(crate) encoder: EncoderConfig,
    pub(crate) out_channels: usize,
    /// Per decoder block, in its own order (deepest first): whether its layers have a spatial transformer.
    pub(crate) up_attends: Vec<bool>,
}

impl UnetConfig {
    /// Reads a parsed `config.json`.
    ///
    /// # Errors
    /// When a value has the wrong kind, lists disagree in length, or the net is of a kind this program does not run
    /// (SDXL, upscalers, class-conditional nets); the error names the key.
    pub fn from_json(config: &Value) -> Result<Self> {
        let keys = Keys::new("the UNet's config.json", config)?;
        keys.class("UNet2DConditionModel")?;
        let encoder = EncoderConfig::read(&keys)?;
        let count = encoder.blocks.len();
        let default = ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"];
        let up_attends = keys.block_types("up_block_types", &default, "CrossAttnUpBlock2D", "UpBlock2D")?;
        if up_attends.len() != count {
            let reason = format!("has {} entries, block_out_channels has {count}", up_attends.len());
            return Err(keys.error("up_block_types", reason));
        }
        Ok(Self { encoder, out_channels: keys.size("out_channels", 4, MAX_WIDTH)?, up_attends })
    }

    /// Channels of the input: 4, or 9 for inpainting nets (latents, mask, masked picture).
    pub fn in_channels(&self) -> usize {
        self.encoder.in_channels
    }

    /// Channels of the output.
    pub fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// Width of the text tokens it attends to: 768 for SD 1.x, 1024 for SD 2.x.
    pub fn cross_attention_dim(&self) -> usize {
        self.encoder.cross_attention_dim
    }

    /// Width of the guidance embedding (`time_cond_proj_dim`): set for distilled nets that take the guidance scale as an
    /// input instead of running twice.
    pub fn guidance_width(&self) -> Option<usize> {
        self.encoder.guidance_width
    }
}

impl TryFrom<Value> for UnetConfig {
    type Error = Error;

    fn try_from(config: Value) -> Result<Self> {
        Self::from_json(&config)
    }
}

impl EncoderConfig {
    pub(crate) fn read(keys: &Keys<'_>) -> Result<Self> {
        keys.refuse_unsupported()?;
        let channels = match keys.get("block_out_channels") {
            None => vec![320, 640, 1280, 1280],
            Some(_) => keys.sizes("block_out_channels", 0, 0, MAX_WIDTH)?,
        };
        let count = channels.len();
        if count == 0 || count > MAX_BLOCKS {
            return Err(keys.error("block_out_channels", format!("has {count} entries, expected 1 to {MAX_BLOCKS}")));
        }
        let default = ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"];
        let attends = keys.block_types("down_block_types", &default, "CrossAttnDownBlock2D", "DownBlock2D")?;
        if attends.len() != count {
            let reason = format!("has {} entries, block_out_channels has {count}", attends.len());
            return Err(keys.error("down_block_types", reason));
        }
        let layers = keys.sizes("layers_per_block", 2, count, MAX_LAYERS)?;
        let depths = keys.sizes("transformer_layers_per_block", 1, count, MAX_LAYERS)?;
        // `attention_head_dim` holds the number of heads: a misnomer diffusers keeps because every published file has it.
        let heads_key =
            if keys.get("num_attention_heads").is_some() { "num_attention_heads" } else { "attention_head_dim" };
        let heads = keys.sizes(heads_key, 8, count, MAX_WIDTH)?;
        let groups = keys.size("norm_num_groups", 32, MAX_WIDTH)?;
        let mut blocks = Vec::with_capacity(count);
        for index in 0..count {
            let (channels, heads) = (channels[index], heads[index]);
            if channels % heads != 0 {
                return Err(keys.error(heads_key, format!("{heads} heads do not divide {channels} channels")));
            }
            if channels % groups != 0 {
                return Err(keys.error("norm_num_groups", format!("{groups} groups do not divide {channels} channels")));
            }
            let (layers, depth, attends) = (layers[index], depths[index], attends[index]);
            blocks.push(Block { channels, layers, heads, depth, attends });
        }
        // Here null is a value of its own: some distilled nets have no middle block.
        let has_mid = match keys.map.get("mid_block_type") {
            Some(Value::Null) => false,
            None => true,
            Some(Value::String(kind)) if kind == "UNetMidBlock2DCrossAttn" => true,
            Some(other) => return Err(keys.unsupported("mid_block_type", other)),
        };
        let cross_attention_dims = keys.sizes("cross_attention_dim", 1280, count, MAX_WIDTH)?;
        let cross_attention_dim = cross_attention_dims[0];
        if cross_attention_dims.iter().any(|&width| width != cross_attention_dim) {
            return Err(keys.error("cross_attention_dim", "blocks of different text widths are not supported"));
        }
        let downsample_padding = match keys.get("downsample_padding").map(|value| value.as_u64()) {
            None | Some(Some(1)) => 1,
            Some(Some(0)) => 0,
            Some(_) => return Err(keys.error("downsample_padding", "must be 0 or 1")),
        };
        let time_width = match keys.get("time_embedding_dim") {
            None => channels[0] * 4,
            Some(_) => keys.size("time_embedding_dim", 0, MAX_WIDTH)?,
        };
        let guidance_width = match keys.get("time_cond_proj_dim") {
            None => None,
            Some(_) => Some(keys.size("time_cond_proj_dim", 0, MAX_WIDTH)?),
        };
        let freq_shift = keys.number("freq_shift", 0.0)?;
        if channels[0] < 2 || (channels[0] / 2) as f64 == freq_shift {
            return Err(keys.error("freq_shift", format!("{freq_shift} leaves no timestep frequencies")));
        }
        let eps = keys.number("norm_eps", 1e-5)?;
        if eps <= 0.0 {
            return Err(keys.error("norm_eps", "must be above 0"));
        }
        Ok(Self {
            in_channels: keys.size("in_channels", 4, MAX_WIDTH)?,
            blocks,
            has_mid,
            cross_attention_dim,
            groups,
            eps,
            linear_projection: keys.flag("use_linear_projection", false)?,
            upcast_attention: keys.flag("upcast_attention", false)?,
            flip_sin_to_cos: keys.flag("flip_sin_to_cos", true)?,
            freq_shift,
            downsample_padding,
            time_width,
            guidance_width,
        })
    }
}

/// The value a key must have (or lack) for this program to compute what diffusers would.
enum Neutral {
    Absent,
    False,
    One,
    Number(u64),
    Text(&'static [&'static str]),
}

const NEUTRAL: &[(&str, Neutral)] = &[
    ("addition_embed_type", Neutral::Absent),
    ("class_embed_type", Neutral::Absent),
    ("num_class_embeds", Neutral::Absent),
    ("class_embeddings_concat", Neutral::False),
    ("encoder_hid_dim", Neutral::Absent),
    ("encoder_hid_dim_type", Neutral::Absent),
    ("only_cross_attention", Neutral::False),
    ("mid_block_only_cross_attention", Neutral::False),
    ("dual_cross_attention", Neutral::False),
    ("cross_attention_norm", Neutral::Absent),
    ("reverse_transformer_layers_per_block", Neutral::Absent),
    ("attention_type", Neutral::Text(&["default"])),
    ("center_input_sample", Neutral::False),
    ("conv_in_kernel", Neutral::Number(3)),
    ("conv_out_kernel", Neutral::Number(3)),
    ("resnet_time_scale_shift", Neutral::Text(&["default"])),
    ("resnet_skip_time_act", Neutral::False),
    ("resnet_out_scale_factor", Neutral::One),
    ("mid_block_scale_factor", Neutral::One),
    ("time_embedding_type", Neutral::Text(&["positional"])),
    ("time_embedding_act_fn", Neutral::Absent),
    ("timestep_post_act", Neutral::Absent),
    ("act_fn", Neutral::Text(&["silu", "swish"])),
];

impl Neutral {
    fn accepts(&self, value: &Value) -> bool {
        match self {
            Self::Absent => false,
            Self::False => match value {
                Value::Array(values) => values.iter().all(|value| value == &Value::Bool(false)),
                _ => value == &Value::Bool(false),
            },
            Self::One => value.as_f64() == Some(1.0),
            Self::Number(number) => value.as_u64() == Some(*number),
            Self::Text(accepted) => value.as_str().is_some_and(|text| accepted.contains(&text)),
        }
    }
}

fn config_text(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str)
}

/// The keys of one `config.json`, read with errors that name file and key.
pub(crate) struct Keys<'a> {
    subject: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(subject: &'a str, config: &'a Value) -> Result<Self> {
        match config {
            Value::Object(map) => Ok(Self { subject, map }),
            _ => Err(Error::usage(subject, "is not a JSON object")),
        }
    }

    pub(crate) fn error(&self, key: &str, reason: impl std::fmt::Display) -> Error {
        Error::usage(self.subject, format!("{key}: {reason}"))
    }

    pub(crate) fn unsupported(&self, key: &str, value: impl std::fmt::Display) -> Error {
        self.error(key, format!("{value} is not supported")).with_hint(
            "use a Stable Diffusion 1.x or 2.x model (SDXL, upscalers and video models are built differently)",
        )
    }

    /// The value of a key; null counts as absent, as diffusers writes unset values so.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn class(&self, expected: &str) -> Result<()> {
        match config_text(self.get("_class_name")) {
            Some(class) if class != expected => {
                Err(self.error("_class_name", format!("is {class}, expected {expected}")))
            }
            _ => Ok(()),
        }
    }

    fn refuse_unsupported(&self) -> Result<()> {
        for (key, neutral) in NEUTRAL {
            if let Some(value) = self.get(key)
                && !neutral.accepts(value)
            {
                return Err(self.unsupported(key, value));
            }
        }
        if self.map.get("norm_num_groups").is_some_and(Value::is_null) {
            return Err(self.unsupported("norm_num_groups", "null"));
        }
        Ok(())
    }

    fn one_size(&self, key: &str, value: &Value, max: usize) -> Result<usize> {
        match value.as_u64().and_then(|size| usize::try_from(size).ok()) {
            Some(size) if (1..=max).contains(&size) => Ok(size),
            _ => Err(self.error(key, format!("{value} is not a whole number from 1 to {max}"))),
        }
    }

    pub(crate) fn size(&self, key: &str, default: usize, max: usize) -> Result<usize> {
        self.get(key).map_or(Ok(default), |value| self.one_size(key, value, max))
    }

    /// One number for all of `count` blocks, or a list of one per block; any length where `count` is 0.
    pub(crate) fn sizes(&self, key: &str, default: usize, count: usize, max: usize) -> Result<Vec<usize>> {
        let Some(value) = self.get(key) else { return Ok(vec![default; count]) };
        let Value::Array(values) = value else { return Ok(vec![self.one_size(key, value, max)?; count]) };
        if count != 0 && values.len() != count {
            return Err(self.error(key, format!("has {} entries for {count} blocks", values.len())));
        }
        values.iter().map(|value| self.one_size(key, value, max)).collect()
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        self.get(key).map_or(Ok(default), |value| {
            value.as_bool().ok_or_else(|| self.error(key, format!("{value} is neither true nor false")))
        })
    }

    fn number(&self, key: &str, default: f64) -> Result<f64> {
        self.get(key).map_or(Ok(default), |value| {
            value
                .as_f64()
                .filter(|number| number.is_finite())
                .ok_or_else(|| self.error(key, format!("{value} is not a number")))
        })
    }

    /// For each block whether it attends, from the list of block types.
    fn block_types(&self, key: &str, default: &[&str], attending: &str, plain: &str) -> Result<Vec<bool>> {
        let types: Vec<&str> = match self.get(key) {
            None => default.to_vec(),
            Some(Value::Array(values)) => {
                let types: Option<Vec<&str>> = values.iter().map(Value::as_str).collect();
                types.ok_or_else(|| self.error(key, "is not a list of names"))?
            }
            Some(_) => return Err(self.error(key, "is not a list of names")),
        };
        types
            .into_iter()
            .map(|name| {
                if name == attending || name == plain {
                    Ok(name == attending)
                } else {
                    Err(self.unsupported(key, name))
                }
            })
            .collect()
    }
}
