//! Opens a depth model's files for `--control depth`.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use serde_json::Value;

use super::diffusion::{named, parse};
use crate::control::Preprocessor;
use crate::control::depth::{Depth, Processor};
use crate::error::{Error, Result};
use crate::nets::depth::{DepthConfig, DepthNet, hub_name};
use crate::weights::load::Checkpoint;

/// The tensor whose width tells the original files, which come without a configuration, apart.
const CLASS_TOKEN: &str = "backbone.embeddings.cls_token";

/// A preprocessor that estimates depth with the Depth Anything V2 model at `path`: a folder in transformers' layout
/// (`config.json`, `model.safetensors`) or a single file, the original `.pth` included.
///
/// # Errors
/// When a file is missing, broken, or not a depth model.
pub fn open_depth(path: &Path, device: &Device) -> Result<Preprocessor> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let checkpoint =
        if path.is_dir() { Checkpoint::open_net(path, &["model", "pytorch_model"])? } else { Checkpoint::open(path)? };
    let checkpoint = checkpoint.rename(hub_name)?;
    let config = match json(&folder.join("config.json"))? {
        Some(config) => parse::<DepthConfig>(config, &folder.join("config.json"))?,
        None => checkpoint
            .shape(CLASS_TOKEN)
            .and_then(|shape| DepthConfig::published(*shape.last()?))
            .ok_or_else(|| Error::file(path, "is not a Depth Anything V2 model"))?,
    };
    let processor = match json(&folder.join("preprocessor_config.json"))? {
        Some(config) => parse(config, &folder.join("preprocessor_config.json"))?,
        None => Processor::default(),
    };
    let net = DepthNet::new(&config, checkpoint.var_builder(DType::F32, device)).map_err(|error| named(error, path))?;
    Ok(Preprocessor::Depth(Arc::new(Depth::new(net, processor, device.clone()))))
}

fn json(path: &Path) -> Result<Option<Value>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, error)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| Error::file(path, format!("is not valid JSON: {error}")))
}
