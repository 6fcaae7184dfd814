//! Opens the nets that pictures are judged with.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use serde_json::Value;

use super::diffusion::{named, parse};
use super::open_backbone;
use crate::error::{Error, Result};
use crate::metrics::lpips::{Lpips, Trunk};
use crate::metrics::{Nets, Suite};
use crate::nets::alexnet::AlexNet;
use crate::nets::clip::{ClipPair, ClipTextConfig, ClipVisionConfig, Tokenizer};
use crate::nets::hed::Hed;
use crate::nets::inception::{Flavour, Inception};
use crate::nets::vgg::Backbone;
use crate::ops::Pooling;
use crate::weights::load::Checkpoint;
use crate::weights::model::{self, Part};
use crate::weights::{Cache, Manifest};

/// Where the nets come from, as paths that exist. Each is optional: without it its metrics are absent.
#[derive(Debug, Clone, Default)]
pub struct SuiteOptions {
    /// The perceptual network of style and content distance: see [`super::open_backbone`]. It is used with maximum pools,
    /// as it was trained.
    pub backbone: Option<PathBuf>,
    /// LPIPS's weights: its whole `state_dict`, or the fitted layers alone.
    pub lpips: Option<PathBuf>,
    /// The network under the fitted layers, where `lpips` does not hold it: torchvision's AlexNet or VGG-16. For VGG-16 the
    /// fetched `vgg16` is taken if there is one.
    pub lpips_trunk: Option<PathBuf>,
    /// HED's weights, with the side outputs.
    pub hed: Option<PathBuf>,
    /// A CLIP model's folder in transformers' layout: a whole one, or an image encoder.
    pub clip: Option<PathBuf>,
    /// Inception nets for sets of pictures: pytorch-fid's for FID, art-fid's for ArtFID, told apart by what they hold.
    pub inception: Vec<PathBuf>,
}

/// The metrics that these nets allow.
///
/// # Errors
/// When a file is missing, broken or of another kind.
pub fn open_suite(options: &SuiteOptions, device: &Device) -> Result<Suite> {
    let mut nets = Nets::default();
    if let Some(path) = &options.backbone {
        nets.backbone = Some(open_backbone(path, Pooling::Max, device)?);
    }
    if let Some(path) = &options.lpips {
        nets.lpips = Some(open_lpips(path, options.lpips_trunk.as_deref(), device)?);
    }
    if let Some(path) = &options.hed {
        let checkpoint = open(path)?;
        if !checkpoint.contains("dsn1.weight") || !checkpoint.contains("fuse.weight") {
            return Err(
                Error::file(path, "holds no HED with its side outputs").with_hint("docs/metrics.md says where one is")
            );
        }
        nets.hed = Some(Hed::new(checkpoint.var_builder(DType::F32, device)).map_err(|error| named(error, path))?);
    }
    if let Some(path) = &options.clip {
        nets.clip = Some(open_clip(path, device)?);
    }
    for path in &options.inception {
        let checkpoint = open(path)?;
        let Some(flavour) = Flavour::detect(|name| checkpoint.contains(name)) else {
            return Err(Error::file(path, "holds no Inception v3").with_hint("give pytorch-fid's or art-fid's"));
        };
        let place = if flavour == Flavour::Fid { &mut nets.fid } else { &mut nets.art };
        if place.is_some() {
            return Err(Error::file(path, "is the second Inception of its kind"));
        }
        let net = Inception::new(flavour, checkpoint.var_builder(DType::F32, device));
        *place = Some(net.map_err(|error| named(error, path))?);
    }
    let backbone = options.backbone.as_deref().unwrap_or(Path::new(""));
    Suite::new(nets).map_err(|error| named(error, backbone))
}

fn open(path: &Path) -> Result<Checkpoint> {
    if path.is_dir() { Checkpoint::open_net(path, &["model", "pytorch_model"]) } else { Checkpoint::open(path) }
}

fn open_lpips(path: &Path, trunk: Option<&Path>, device: &Device) -> Result<Lpips> {
    let fitted = open(path)?;
    if !fitted.contains("lin0.model.1.weight") {
        return Err(Error::file(path, "holds none of LPIPS's fitted layers")
            .with_hint("give the state_dict of lpips.LPIPS(net='alex') or 'vgg'"));
    }
    if fitted.contains("lin5.model.1.weight") {
        return Err(Error::file(path, "is LPIPS's SqueezeNet flavour, which is not supported")
            .with_hint("give the AlexNet flavour, which papers report, or VGG-16's"));
    }
    // `net.slice2.5.weight`: the slices keep torchvision's numbers.
    let within = fitted.rename(|name| {
        let (_, place) = name.strip_prefix("net.slice")?.split_once('.')?;
        Some(format!("features.{place}"))
    })?;
    // VGG-16's second layer is 128 wide, AlexNet's 192.
    let is_vgg = fitted.shape("lin1.model.1.weight").and_then(|shape| shape.get(1)) == Some(&128);
    let (trunk, from) = match trunk {
        _ if !within.is_empty() => (within, path.to_path_buf()),
        Some(trunk) => (open(trunk)?, trunk.to_path_buf()),
        None if is_vgg => {
            let fetched = Manifest::find("vgg16")?.require(&Cache::from_env()?)?;
            (open(&fetched)?, fetched)
        }
        None => {
            return Err(Error::file(path, "holds LPIPS's fitted layers without the network under them")
                .with_hint("name torchvision's AlexNet with --lpips-trunk, or save the whole state_dict"));
        }
    };
    let is_alex = trunk.shape("features.3.weight").and_then(|shape| shape.get(2)) == Some(&5);
    let vb: VarBuilder<'static> = trunk.var_builder(DType::F32, device);
    let trunk =
        if is_alex { AlexNet::new(vb).map(Trunk::Alex) } else { Backbone::open(Pooling::Max, vb).map(Trunk::Vgg) };
    let trunk = trunk.map_err(|error| named(error, &from))?;
    Lpips::new(trunk, fitted.var_builder(DType::F32, device)).map_err(|error| named(error, path))
}

fn open_clip(path: &Path, device: &Device) -> Result<ClipPair> {
    // A model folder keeps its image encoder in a folder of its own.
    let within = path.join("image_encoder");
    let path = if !path.join("config.json").exists() && within.is_dir() { &within } else { path };
    let (config, checkpoint) = model::open_net(path, Part::ImageEncoder)?;
    let text = config.get("text_config").cloned().filter(Value::is_object);
    let has_words = text.filter(|_| checkpoint.contains("text_projection.weight"));
    let vision: ClipVisionConfig = parse(config, path)?;
    let vb = checkpoint.var_builder(DType::F32, device);
    let net = ClipPair::new(&vision, vb.clone()).map_err(|error| named(error, path))?;
    let Some(text) = has_words else { return Ok(net) };
    let text: ClipTextConfig = parse(text, path)?;
    let has_vocabulary = ["tokenizer.json", "vocab.json"].iter().any(|file| path.join(file).exists());
    let tokenizer = if has_vocabulary { Tokenizer::from_folder(path)? } else { Tokenizer::clip()? };
    net.with_text(&text, tokenizer, vb).map_err(|error| named(error, path))
}
