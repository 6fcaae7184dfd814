//! The recipe of a repainted photo, carried in the picture itself: what went in, which nets, every setting, resolved.
//!
//! As with [`crate::pipeline::recipe`], nothing that changes between two runs is in it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

use super::Method;
use crate::error::{Error, Result};
use crate::image::read::{jpeg_comment, png_text};
use crate::pipeline::recipe::Input;

/// The form of the JSON.
pub const VERSION: u32 = 1;
/// The keyword of the JSON in a PNG. Not `impasto`: that one is what `impasto generate --from` repeats.
pub const KEYWORD: &str = "impasto-stylize";

/// A picture that went in with a part of the whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightedInput {
    /// The picture, or the net that stands for it.
    #[serde(flatten)]
    pub input: Input,
    /// Its part in the blend, as it was given.
    pub weight: f64,
}

/// All it takes to paint a photo again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recipe {
    /// The form of this JSON.
    pub version: u32,
    /// The program that painted it.
    pub program: String,
    /// How.
    pub method: Method,
    /// The photo.
    pub content: Input,
    /// The style pictures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub styles: Vec<WeightedInput>,
    /// Where it was painted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<Input>,
    /// The nets: what they are for, and which they are. Files of the user's with their hashes.
    pub nets: Map<String, Value>,
    /// Width and height of the painting.
    pub size: (u32, u32),
    /// Every setting of the method, by its flag's name.
    pub settings: Map<String, Value>,
}

impl Recipe {
    /// The recipe as JSON.
    ///
    /// # Errors
    /// Never for a recipe with finite numbers.
    pub fn json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| Error::usage("recipe", error.to_string()))
    }

    /// Reads the recipe in a PNG or a JPEG.
    ///
    /// # Errors
    /// When there is none that can be read, naming the file.
    pub fn read(path: &Path) -> Result<Self> {
        let is_jpeg =
            path.extension().is_some_and(|it| it.eq_ignore_ascii_case("jpg") || it.eq_ignore_ascii_case("jpeg"));
        let json = if is_jpeg {
            jpeg_comment(path)?
        } else {
            png_text(path)?.into_iter().find(|(keyword, _)| keyword == KEYWORD).map(|(_, text)| text)
        };
        let Some(json) = json else { return Err(Error::file(path, "holds no recipe of `impasto stylize`")) };
        serde_json::from_str(&json).map_err(|error| Error::file(path, format!("its recipe cannot be read: {error}")))
    }
}
