//! The recipe of a picture: all it takes to paint it again, carried in the picture itself.
//!
//! Written twice into the PNG: as our JSON under `impasto`, which is complete, and as the `parameters` text that A1111
//! began and every viewer and model site reads. Nothing that changes between two runs (times, dates, devices) is in it,
//! so that the same recipe gives the same bytes.

use super::parameters::{self, Parameters};
use super::settings::Settings;
use crate::device::Precision;
use crate::error::{Error, Result};
use crate::image::read::png_text;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The form of the JSON; a higher one is refused.
pub const VERSION: u32 = 1;
/// The keyword of our JSON in a PNG.
pub const KEYWORD: &str = "impasto";
/// The keyword of A1111's text in a PNG.
pub const PARAMETERS: &str = "parameters";

/// A recipe past this size is none of ours.
const MAX_BYTES: usize = 4 << 20;

/// A picture that went in, as it was named, and what was in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The path as the user wrote it.
    pub path: String,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
}

impl Input {
    /// An input file's path and hash.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        let mut file = std::fs::File::open(path).map_err(|error| Error::io(path, error))?;
        let mut hash = Sha256::new();
        std::io::copy(&mut file, &mut hash).map_err(|error| Error::io(path, error))?;
        let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { path: path.to_string_lossy().into_owned(), sha256 })
    }
}

/// The pictures and tensors that went in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inputs {
    /// The style pictures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub style: Vec<Input>,
    /// The structure picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub structure: Option<Input>,
    /// The picture to repaint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<Input>,
    /// Where to repaint it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<Input>,
    /// The noise to start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latents: Option<Input>,
}

/// The nets, as the user or the preset named them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct NetNames {
    /// The checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// LoRA files with their scales, `FILE:SCALE`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lora: Vec<String>,
    /// The IP-Adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_adapter: Option<String>,
    /// Its vision encoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_encoder: Option<String>,
    /// The ControlNet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controlnet: Option<String>,
    /// The estimator of the depth map.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth_model: Option<String>,
}

/// All it takes to paint a picture again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recipe {
    /// The form of this JSON.
    pub version: u32,
    /// The program that painted it.
    pub program: String,
    /// What to paint.
    pub prompt: String,
    /// The seed of the noise.
    pub seed: u64,
    /// The row of the given noise, where noise was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<usize>,
    /// The type the UNet computed in.
    pub dtype: Precision,
    /// The preset whose defaults and nets held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// The nets.
    pub nets: NetNames,
    /// The pictures that went in.
    #[serde(default)]
    pub inputs: Inputs,
    /// Every setting, resolved.
    pub settings: Settings,
}

/// What a PNG says about how it was made.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// Our own recipe.
    Ours(Box<Recipe>),
    /// The text of A1111 and its kin: a prompt and some settings.
    Foreign(Box<Parameters>),
}

impl Recipe {
    /// The texts to write into the PNG: keyword and text.
    ///
    /// # Errors
    /// Never for a recipe with finite numbers.
    pub fn texts(&self) -> Result<Vec<(String, String)>> {
        let json = serde_json::to_string(self).map_err(|error| Error::usage("recipe", error.to_string()))?;
        Ok(vec![(PARAMETERS.to_owned(), parameters::text(self)), (KEYWORD.to_owned(), json)])
    }

    /// Reads what a PNG says about how it was made.
    ///
    /// # Errors
    /// When it says nothing that can be read, naming the file.
    pub fn read(path: &Path) -> Result<Found> {
        let texts = png_text(path)?;
        let text = |keyword| texts.iter().find(|(known, _)| known == keyword).map(|(_, text)| text.as_str());
        if let Some(json) = text(KEYWORD) {
            return Ok(Found::Ours(Box::new(Self::parse(path, json)?)));
        }
        if let Some(line) = text(PARAMETERS) {
            return Ok(Found::Foreign(Box::new(Parameters::parse(path, line)?)));
        }
        let reason = if text(super::stylize::KEYWORD).is_some() {
            "was made by `impasto stylize`, which generate cannot repeat"
        } else if text("workflow").is_some() || text("prompt").is_some() {
            "holds a ComfyUI workflow, which cannot be repeated here"
        } else {
            "holds no recipe: neither ours nor A1111's"
        };
        Err(Error::file(path, reason).with_hint("give --prompt and the other flags instead"))
    }

    fn parse(path: &Path, json: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let wrong = |what: String| Error::file(path, format!("its recipe cannot be read: {what}"));
        if json.len() > MAX_BYTES {
            return Err(wrong(format!("{} bytes are too many", json.len())));
        }
        let head: Head = serde_json::from_str(json).map_err(|error| wrong(error.to_string()))?;
        if head.version > VERSION {
            return Err(wrong(format!("it is of form {}, this program knows {VERSION}", head.version))
                .with_hint("a newer impasto made this picture; update the program"));
        }
        let recipe: Self = serde_json::from_str(json).map_err(|error| wrong(error.to_string()))?;
        recipe.settings.check().map_err(|error| wrong(error.to_string()))?;
        Ok(recipe)
    }
}

/// Where a path from the recipe of `picture` is: as it is written, else beside the picture.
pub fn locate(path: &str, picture: &Path) -> PathBuf {
    let here = PathBuf::from(path);
    if here.exists() || here.is_absolute() {
        return here;
    }
    match picture.parent().map(|folder| folder.join(&here)) {
        Some(beside) if beside.exists() => beside,
        _ => here,
    }
}
