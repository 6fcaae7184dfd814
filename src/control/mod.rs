//! Preprocessors: what turns a picture into the map a ControlNet follows. One file each.

pub mod canny;
pub mod depth;

use std::borrow::Cow;
use std::sync::Arc;

use ::image::{DynamicImage, RgbImage};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The preprocessors by name, as the command line and the presets write them.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum Kind {
    /// The picture already is the map.
    #[default]
    None,
    /// Thin edges (OpenCV's Canny).
    Canny,
    /// Near is white (Depth Anything V2; needs its weights).
    Depth,
}

/// A preprocessor with what it needs to run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Preprocessor {
    /// The picture already is the map.
    None,
    /// Thin edges, white on black.
    Canny {
        /// Gradients below this are no edge.
        low: f64,
        /// Gradients above this are an edge; those between are one where they touch one.
        high: f64,
    },
    /// Near is white, far is black.
    Depth(Arc<depth::Depth>),
}

impl Preprocessor {
    /// The map of a picture, of the picture's size.
    ///
    /// # Errors
    /// When a setting is not a number, or the depth model fails.
    pub fn apply(&self, picture: &RgbImage) -> Result<RgbImage> {
        Ok(self.map(picture)?.into_owned())
    }

    fn map<'a>(&self, picture: &'a RgbImage) -> Result<Cow<'a, RgbImage>> {
        match self {
            Self::None => Ok(Cow::Borrowed(picture)),
            &Self::Canny { low, high } => {
                if low.is_nan() || high.is_nan() {
                    return Err(Error::usage("canny thresholds", "are not numbers").with_hint("100 and 200 are usual"));
                }
                Ok(Cow::Owned(DynamicImage::from(canny::canny(picture, low, high)).into_rgb8()))
            }
            Self::Depth(depth) => Ok(Cow::Owned(DynamicImage::from(depth.map(picture)?).into_rgb8())),
        }
    }
}
