//! Opens the network that pictures are compared by.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};

use super::diffusion::named;
use crate::error::Result;
use crate::nets::vgg::Backbone;
use crate::ops::Pooling;
use crate::weights::{Cache, Checkpoint, Manifest};

/// The perceptual networks known by name, the preferred one first.
const NAMES: [&str; 2] = ["vgg19", "vgg16"];

/// A perceptual network in a file (`.safetensors`, `.pth`) or in a folder with a `model.safetensors`.
///
/// # Errors
/// When there is none, or it is broken.
pub fn open_backbone(path: &Path, pooling: Pooling, device: &Device) -> Result<Backbone> {
    let checkpoint =
        if path.is_dir() { Checkpoint::open_net(path, &["model", "pytorch_model"])? } else { Checkpoint::open(path)? };
    Backbone::open(pooling, checkpoint.var_builder(DType::F32, device)).map_err(|error| named(error, path))
}

/// The file of the perceptual network to take when none is named: the first of those that have been fetched.
///
/// # Errors
/// When none has; the error says how to fetch one.
pub fn default_backbone(cache: &Cache) -> Result<PathBuf> {
    for name in NAMES {
        if let Some(path) = Manifest::find(name)?.locate(cache) {
            return Ok(path);
        }
    }
    Manifest::find(NAMES[0])?.require(cache)
}
