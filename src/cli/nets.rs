//! From what the user calls a net to where it lies on this machine: a name of `impasto weights list` or a path. A named
//! one that is not here yet is fetched.

use super::{Printer, weights};
use impasto::weights::{Cache, Manifest, bundled};
use impasto::{Error, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A model that is known by name.
#[derive(Serialize)]
pub(crate) struct Known {
    /// Its name.
    pub(crate) name: String,
    /// Where it is, when all its files are on this machine.
    pub(crate) path: Option<PathBuf>,
}

fn named(net: &Path) -> Result<Option<Manifest>> {
    Ok(Manifest::all()?.into_iter().find(|manifest| Path::new(&manifest.name) == net))
}

/// Which of the files in its folder a name stands for, where several names share one.
pub(crate) fn variant(net: &Path) -> Result<Option<String>> {
    Ok(named(net)?.and_then(|manifest| manifest.variant))
}

/// The path of a net given by name or path.
pub(crate) fn locate(flag: &str, net: &Path, printer: &Printer) -> anyhow::Result<PathBuf> {
    if let Some(path) = bundled::locate(net)? {
        return Ok(path);
    }
    let Some(manifest) = named(net)? else {
        return if net.exists() { Ok(net.to_path_buf()) } else { Err(missing(flag, net).into()) };
    };
    match manifest.locate(&Cache::from_env()?) {
        Some(path) => Ok(path),
        None => weights::fetch(&manifest, false, printer),
    }
}

/// Checks that a net is one that has a name, or a path that exists.
pub(crate) fn check(flag: &str, net: &Path) -> Result<()> {
    if net.exists() || bundled::is_one(net) || named(net)?.is_some() { Ok(()) } else { Err(missing(flag, net)) }
}

fn missing(flag: &str, net: &Path) -> Error {
    let name = net.display();
    let is_path = net.components().count() > 1 || net.extension().is_some();
    let error = if is_path {
        Error::usage(flag, format!("there is no file or folder {name}"))
    } else {
        Error::usage(flag, format!("{name} is neither a name of `impasto weights list` nor a path that exists"))
    };
    match Manifest::find(&name.to_string()).map_err(|error| error.hint().map(str::to_owned)) {
        Err(Some(hint)) if !is_path => error.with_hint(hint),
        _ => error,
    }
}

/// The vision encoder of an adapter that came without one: where the adapters' own repository keeps it, or in the model.
pub(crate) fn encoder_beside(adapter: &Path, model: &Path) -> Result<PathBuf> {
    let beside = adapter.parent().unwrap_or(Path::new("")).join("image_encoder");
    let within = model.join("image_encoder");
    [beside, within].into_iter().find(|folder| folder.is_dir()).ok_or_else(|| {
        Error::usage("--image-encoder", "is missing")
            .with_hint("say which vision encoder the IP-Adapter was trained with; most of Stable Diffusion 1.5's take `clip-vit-h`")
    })
}

/// The models known by name.
pub(crate) fn known(cache: &Cache) -> Result<Vec<Known>> {
    let known = |manifest: Manifest| Known { path: manifest.locate(cache), name: manifest.name };
    Ok(Manifest::all()?.into_iter().map(known).collect())
}
