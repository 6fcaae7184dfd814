//! What the nets see of one picture, found when first asked for and kept: a photo that is painted forty times is looked at
//! once.

use std::sync::OnceLock;

use ::image::RgbImage;
use candle_core::Tensor;

use super::clip::Embedding;
use super::edges::Edges;
use super::histogram::Histogram;
use super::style::{LAYERS, Moments};
use super::suite::Nets;
use super::{cfsd, content};
use crate::error::{Error, Result};
use crate::image::tensor;
use crate::style::statistics::gram;

/// One picture and what has been found of it. Belongs to the suite it was made by.
#[derive(Debug)]
pub struct Look<'a> {
    pub(super) picture: &'a RgbImage,
    features: OnceLock<Features>,
    histogram: OnceLock<Histogram>,
    canny: OnceLock<Edges>,
    hed: OnceLock<Edges>,
    embedding: OnceLock<Embedding>,
}

/// What is kept of a perceptual network's answer.
#[derive(Debug)]
pub(super) struct Features {
    pub(super) moments: Vec<Moments>,
    pub(super) grams: Vec<Tensor>,
    pub(super) content: Tensor,
    pub(super) structure: Tensor,
}

impl<'a> Look<'a> {
    pub(super) fn new(picture: &'a RgbImage) -> Self {
        Self {
            picture,
            features: OnceLock::new(),
            histogram: OnceLock::new(),
            canny: OnceLock::new(),
            hed: OnceLock::new(),
            embedding: OnceLock::new(),
        }
    }

    pub(super) fn features(&self, nets: &Nets) -> Result<&Features> {
        found(&self.features, || {
            let net = nets.backbone.as_ref().ok_or_else(|| absent("perceptual network"))?;
            let layers = net.features(&tensor::to_unit(self.picture)?, &LAYERS)?;
            let at = |wanted: &str| {
                let place = LAYERS.iter().position(|&layer| layer == wanted);
                place.map(|place| layers[place].clone()).ok_or_else(|| absent(wanted))
            };
            Ok(Features {
                moments: layers.iter().map(Moments::of).collect::<Result<_>>()?,
                grams: layers.iter().map(gram).collect::<Result<_>>()?,
                content: at(content::LAYER)?,
                structure: at(cfsd::LAYER)?,
            })
        })
    }

    pub(super) fn histogram(&self) -> Result<&Histogram> {
        found(&self.histogram, || Histogram::of(self.picture))
    }

    pub(super) fn canny(&self) -> Result<&Edges> {
        found(&self.canny, || Ok(Edges::canny(self.picture)))
    }

    pub(super) fn hed(&self, nets: &Nets) -> Result<&Edges> {
        let net = nets.hed.as_ref().ok_or_else(|| absent("HED"))?;
        found(&self.hed, || Edges::hed(net, self.picture))
    }

    pub(super) fn embedding(&self, nets: &Nets) -> Result<&Embedding> {
        let net = nets.clip.as_ref().ok_or_else(|| absent("CLIP"))?;
        found(&self.embedding, || Embedding::of_picture(net, self.picture))
    }
}

fn found<T>(kept: &OnceLock<T>, find: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(kept) = kept.get() {
        return Ok(kept);
    }
    let new = find()?;
    Ok(kept.get_or_init(|| new))
}

/// A suite asks for nothing that it has no net for.
pub(super) fn absent(what: &str) -> Error {
    Error::usage(what, "is not loaded")
}
