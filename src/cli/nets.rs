//! From what the user calls a net to where it lies on this machine.

use super::Printer;
use impasto::{Error, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A model that is known by name.
#[derive(Serialize)]
pub(crate) struct Known {
    /// Its name.
    pub(crate) name: String,
    /// Whether all its files are on this machine.
    pub(crate) present: bool,
}

/// The path of a net given by name or path.
pub(crate) fn locate(flag: &str, net: &Path, _printer: &Printer) -> anyhow::Result<PathBuf> {
    if net.exists() {
        return Ok(net.to_path_buf());
    }
    Err(Error::usage(flag, format!("there is no file or folder {}", net.display())).into())
}

/// The vision encoder of an adapter that came without one: where the adapters' own repository keeps it, or in the model.
pub(crate) fn encoder_beside(adapter: &Path, model: &Path) -> Result<PathBuf> {
    let beside = adapter.parent().unwrap_or(Path::new("")).join("image_encoder");
    let within = model.join("image_encoder");
    [beside, within].into_iter().find(|folder| folder.is_dir()).ok_or_else(|| {
        Error::usage("--image-encoder", "is missing")
            .with_hint("say which vision encoder the IP-Adapter was trained with")
    })
}

/// The models known by name.
pub(crate) fn known() -> Result<Vec<Known>> {
    Ok(Vec::new())
}

/// Where models are kept.
pub(crate) fn cache() -> Option<PathBuf> {
    None
}

/// Whether downloads are switched off.
pub(crate) fn offline() -> bool {
    false
}
