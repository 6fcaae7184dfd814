//! Training a net that paints any photo in the style of any painting.

use std::fmt;

use ::image::RgbImage;
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use serde_json::{Value, json};

use super::dataset::Dataset;
use super::lesson::{Lesson, leaf};
use super::loss::{Parts, Perceptual, Style, variation};
use super::preview;
use crate::error::Result;
use crate::image::tensor;

/// A net as the trainings see it: photos and paintings `[batch, 3, height, width]` in 0..1 to painted photos, about 0..1. A
/// net of one style ignores the paintings.
pub type Paint = Box<dyn Fn(&Tensor, &Tensor) -> Result<Tensor>>;

/// Makes the net from weights.
pub type Build = Box<dyn Fn(VarBuilder<'_>) -> Result<Paint>>;

/// Which networks judge a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum Turns {
    /// One after the other.
    Alternate,
    /// All, averaged.
    All,
}

/// The networks that judge, and how.
#[derive(Debug)]
pub struct Panel {
    judges: Vec<Perceptual>,
    turns: Turns,
    weights: [f64; 3],
}

impl Panel {
    /// Weights of content, style and variation belong to the record; each judge has its own copy of the first two.
    pub fn new(judges: Vec<Perceptual>, turns: Turns, weights: [f64; 3]) -> Self {
        Self { judges, turns, weights }
    }

    /// The judges of a step.
    fn at(&self, step: u64) -> impl Iterator<Item = (usize, &Perceptual)> {
        let count = self.judges.len() as u64;
        let turns = self.turns;
        self.judges.iter().enumerate().filter(move |(index, _)| turns == Turns::All || step % count == *index as u64)
    }

    /// For the record.
    pub fn note(&self) -> Value {
        let [content, style, variation] = self.weights;
        json!({
            "content_weight": content, "style_weight": style, "tv_weight": variation, "turns": self.turns,
            "backbones": self.judges.iter().map(Perceptual::note).collect::<Vec<_>>(),
        })
    }

    /// The statistics of paintings as every judge sees them.
    ///
    /// # Errors
    /// When a picture is too small.
    pub fn styles(&self, paintings: &Tensor) -> Result<Vec<Vec<Style>>> {
        self.judges.iter().map(|judge| judge.style(paintings)).collect()
    }

    /// The gradients to the weights behind `out`, and the parts of the loss: whole, content, style, variation. `style` gives
    /// the wanted statistics for the judge of this number.
    ///
    /// # Errors
    /// When a picture is too small or the tensor library fails.
    pub fn teach(
        &self,
        step: u64,
        photos: &Tensor,
        out: &Tensor,
        style: impl Fn(usize, &Perceptual) -> Result<Vec<Style>>,
    ) -> Result<(GradStore, Vec<f64>)> {
        let mut sum: Option<Tensor> = None;
        let mut parts = Parts::default();
        let count = self.at(step).count() as f64;
        for (index, judge) in self.at(step) {
            let targets = judge.targets(photos, &style(index, judge)?)?;
            let (gradient, own) = judge.judge(out, &targets)?;
            let gradient = if count > 1.0 { (gradient / count)? } else { gradient };
            sum = Some(match sum {
                Some(sum) => (sum + gradient)?,
                None => gradient,
            });
            parts.content += own.content / count;
            parts.style += own.style / count;
        }
        let [content_weight, style_weight, variation_weight] = self.weights;
        let mut gradient = match sum {
            Some(sum) => sum,
            None => out.zeros_like()?,
        };
        let mut roughness = 0.0;
        if variation_weight > 0.0 {
            let out = leaf(out)?;
            let value = variation(&out)?;
            roughness = f64::from(value.to_scalar::<f32>()?);
            if let Some(rough) = (value * variation_weight)?.backward()?.get(&out) {
                gradient = (gradient + rough)?;
            }
        }
        let loss = content_weight * parts.content + style_weight * parts.style + variation_weight * roughness;
        let gradients = (out * gradient.detach())?.sum_all()?.backward()?;
        Ok((gradients, vec![loss, parts.content, parts.style, roughness]))
    }
}

/// The names of what [`Panel::teach`] returns.
pub(super) fn parts() -> Vec<String> {
    ["loss", "content", "style", "tv"].map(str::to_owned).to_vec()
}

/// The training of an arbitrary-style net.
pub struct Adain {
    photos: Dataset,
    paintings: Dataset,
    panel: Panel,
    build: Build,
    paint: Paint,
    net: Value,
    seed: u64,
    batch: usize,
    device: Device,
    preview: (Vec<RgbImage>, Vec<RgbImage>),
}

impl fmt::Debug for Adain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adain").field("panel", &self.panel).field("net", &self.net).finish_non_exhaustive()
    }
}

impl Adain {
    /// A training on photos and paintings. `net` describes the net for the record and for whoever loads it; `preview` are
    /// the photos and paintings of the contact sheet.
    ///
    /// # Errors
    /// When the net cannot be built.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        (photos, paintings): (Dataset, Dataset),
        panel: Panel,
        (net, build): (Value, Build),
        weights: VarBuilder<'_>,
        (seed, batch): (u64, usize),
        preview: (Vec<RgbImage>, Vec<RgbImage>),
        device: &Device,
    ) -> Result<Self> {
        let paint = build(weights)?;
        Ok(Self { photos, paintings, panel, build, paint, net, seed, batch, device: device.clone(), preview })
    }
}

impl Lesson for Adain {
    fn parts(&self) -> Vec<String> {
        parts()
    }

    fn step(&mut self, step: u64) -> Result<(GradStore, Vec<f64>)> {
        let photos = self.photos.batch(self.seed, step, self.batch, &self.device)?;
        let paintings = self.paintings.batch(self.seed, step, self.batch, &self.device)?;
        let out = (self.paint)(&photos, &paintings)?;
        self.panel.teach(step, &photos, &out, |_, judge| judge.style(&paintings))
    }

    fn preview(&self, weights: VarBuilder<'_>) -> Result<RgbImage> {
        let paint = (self.build)(weights)?;
        let (photos, paintings) = &self.preview;
        let mut rows = vec![vec![None]];
        rows[0].extend(paintings.iter().cloned().map(Some));
        for photo in photos {
            let mut row = vec![Some(photo.clone())];
            for painting in paintings {
                row.push(painted(&paint, photo, painting, &self.device)?);
            }
            rows.push(row);
        }
        Ok(preview::sheet(&rows))
    }

    fn note(&self) -> Value {
        json!({
            "kind": "adain", "net": self.net, "loss": self.panel.note(),
            "photos": self.photos.note(), "paintings": self.paintings.note(),
        })
    }
}

/// One photo through a net.
pub(super) fn painted(
    paint: &Paint,
    photo: &RgbImage,
    painting: &RgbImage,
    device: &Device,
) -> Result<Option<RgbImage>> {
    let unit = |picture: &RgbImage| -> Result<Tensor> { Ok(tensor::to_unit(picture)?.to_device(device)?) };
    let out = paint(&unit(photo)?, &unit(painting)?)?.detach();
    Ok(tensor::to_pictures(&out.affine(2.0, -1.0)?)?.pop())
}
