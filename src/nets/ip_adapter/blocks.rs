//! Which of the UNet's blocks see the style picture, and how loud.
//!
//! Named sets follow InstantStyle (arXiv:2404.02733): some blocks carry style, others composition. The tables are those
//! its authors give for Stable Diffusion 1.5. Reference for the numbers: `set_ip_adapter_scale` of diffusers, where blocks
//! not named get 0.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

const SUBJECT: &str = "--style-blocks";
const STYLE: &[&str] = &["up_blocks.1"];
const COMPOSITION: &[&str] = &["down_blocks.2", "mid_block"];
const STYLE_AND_COMPOSITION: &[&str] = &["down_blocks.2", "mid_block", "up_blocks.1"];

/// A scale for each cross-attention layer, said by block.
///
/// Written `full`, `style`, `composition`, `style+composition`, or `NAME=F,NAME=F` where a name is a block or one attention
/// of it as diffusers names them (`down_blocks.2`, `mid_block`, `up_blocks.1.attentions.2`; `down.2`, `mid` and `up.1` for
/// short). Blocks not named get 0; a later entry overrides an earlier one where both apply.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum BlockScales {
    /// Every block.
    #[default]
    Full,
    /// The blocks that carry style.
    Style,
    /// The blocks that carry composition.
    Composition,
    /// Both of these, the rest off.
    StyleAndComposition,
    /// Blocks and attentions by name with a scale each.
    Named(Vec<(String, f64)>),
}

impl BlockScales {
    /// The scale of each of the net's cross-attention layers, given their names
    /// ([`Unet::cross_attention_names`](crate::nets::unet::Unet::cross_attention_names)), each multiplied by `scale`.
    ///
    /// # Errors
    /// When a name belongs to none of the layers, or a scale is not finite.
    pub fn resolve(&self, layers: &[String], scale: f64) -> Result<Vec<f64>> {
        if !scale.is_finite() {
            return Err(Error::usage("--style-scale", format!("{scale} is not a finite number")));
        }
        let whole = |names: &[&'static str]| names.iter().map(|&name| (name, 1.0)).collect();
        let entries: Vec<(&str, f64)> = match self {
            Self::Full => return Ok(vec![scale; layers.len()]),
            Self::Style => whole(STYLE),
            Self::Composition => whole(COMPOSITION),
            Self::StyleAndComposition => whole(STYLE_AND_COMPOSITION),
            Self::Named(entries) => entries.iter().map(|(name, scale)| (name.as_str(), *scale)).collect(),
        };
        let mut scales = vec![0.0; layers.len()];
        for (name, block_scale) in entries {
            let block_scale = block_scale * scale;
            if !block_scale.is_finite() {
                return Err(Error::usage(SUBJECT, format!("the scale of {name} is not a finite number")));
            }
            let full_name = expand(name);
            let mut known = false;
            for (layer, scale) in layers.iter().zip(&mut scales) {
                if within(layer, &full_name) {
                    *scale = block_scale;
                    known = true;
                }
            }
            if !known {
                let reason = format!("the net has no cross-attention in a block named {name}");
                return Err(Error::usage(SUBJECT, reason).with_hint(format!("valid names: {}", valid(layers))));
            }
        }
        Ok(scales)
    }
}

/// Short forms to diffusers' names: `down.2` is `down_blocks.2`, `mid` is `mid_block`.
fn expand(name: &str) -> String {
    let (first, rest) = name.split_once('.').map_or((name, None), |(first, rest)| (first, Some(rest)));
    let first = match first {
        "down" => "down_blocks",
        "up" => "up_blocks",
        "mid" => "mid_block",
        other => other,
    };
    rest.map_or_else(|| first.to_string(), |rest| format!("{first}.{rest}"))
}

/// Whether a layer is the named one or lies in the named block: `up_blocks.1` holds `up_blocks.1.attentions.0`, not
/// `up_blocks.10`.
fn within(layer: &str, name: &str) -> bool {
    layer.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// All names a layer list answers to, blocks before attentions.
fn valid(layers: &[String]) -> String {
    let mut blocks: Vec<&str> = Vec::new();
    let mut attentions: Vec<&str> = Vec::new();
    for layer in layers {
        let Some((block, _)) = layer.split_once(".attentions.") else { continue };
        let attention = layer.split_once(".transformer_blocks.").map_or(layer.as_str(), |(attention, _)| attention);
        if !blocks.contains(&block) {
            blocks.push(block);
        }
        if !attentions.contains(&attention) {
            attentions.push(attention);
        }
    }
    blocks.append(&mut attentions);
    blocks.join(", ")
}

impl FromStr for BlockScales {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.trim() {
            "full" => return Ok(Self::Full),
            "style" => return Ok(Self::Style),
            "composition" => return Ok(Self::Composition),
            "style+composition" | "composition+style" => return Ok(Self::StyleAndComposition),
            _ => {}
        }
        let mut entries = Vec::new();
        for entry in text.split(',') {
            let parsed = entry.split_once('=').and_then(|(name, scale)| {
                let scale = scale.trim().parse::<f64>().ok().filter(|scale| scale.is_finite())?;
                let name = name.trim();
                (!name.is_empty()).then(|| (name.to_string(), scale))
            });
            match parsed {
                Some(entry) => entries.push(entry),
                None => {
                    let reason = format!("\"{}\" is neither a named set nor BLOCK=NUMBER", entry.trim());
                    return Err(Error::usage(SUBJECT, reason).with_hint(
                        "write full, style, composition, style+composition, or for example up_blocks.1=1,mid_block=0.5",
                    ));
                }
            }
        }
        Ok(Self::Named(entries))
    }
}

impl fmt::Display for BlockScales {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("full"),
            Self::Style => f.write_str("style"),
            Self::Composition => f.write_str("composition"),
            Self::StyleAndComposition => f.write_str("style+composition"),
            Self::Named(entries) => {
                for (index, (name, scale)) in entries.iter().enumerate() {
                    write!(f, "{}{name}={scale}", if index == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

impl TryFrom<String> for BlockScales {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<BlockScales> for String {
    fn from(blocks: BlockScales) -> Self {
        blocks.to_string()
    }
}
