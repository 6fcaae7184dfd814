//! Training a small net for one painting's style.
//!
//! Johnson, Alahi, Fei-Fei 2016; Ulyanov 2017 for instance normalisation.

use std::fmt;

use ::image::RgbImage;
use candle_core::Device;
use candle_core::backprop::GradStore;
use candle_nn::VarBuilder;
use serde_json::{Value, json};

use super::adain::{Build, Paint, Panel, painted, parts};
use super::dataset::Dataset;
use super::lesson::Lesson;
use super::loss::Style;
use super::preview;
use crate::error::Result;
use crate::image::tensor;

/// The training of a net of one style.
pub struct Fast {
    photos: Dataset,
    painting: RgbImage,
    /// The painting's statistics, for every judge.
    styles: Vec<Vec<Style>>,
    panel: Panel,
    build: Build,
    paint: Paint,
    net: Value,
    seed: u64,
    batch: usize,
    device: Device,
    preview: Vec<RgbImage>,
}

impl fmt::Debug for Fast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fast").field("panel", &self.panel).field("net", &self.net).finish_non_exhaustive()
    }
}

impl Fast {
    /// A training on photos towards the whole `painting`, whose statistics are taken once. `net` describes the net for the
    /// record and for whoever loads it; `preview` are the photos of the contact sheet.
    ///
    /// # Errors
    /// When the net cannot be built or the painting is too small.
    pub fn new(
        (photos, painting): (Dataset, RgbImage),
        panel: Panel,
        (net, build): (Value, Build),
        weights: VarBuilder<'_>,
        (seed, batch): (u64, usize),
        preview: Vec<RgbImage>,
        device: &Device,
    ) -> Result<Self> {
        let styles = panel.styles(&tensor::to_unit(&painting)?.to_device(device)?)?;
        let paint = build(weights)?;
        Ok(Self { photos, painting, styles, panel, build, paint, net, seed, batch, device: device.clone(), preview })
    }
}

impl Lesson for Fast {
    fn parts(&self) -> Vec<String> {
        parts()
    }

    fn step(&mut self, step: u64) -> Result<(GradStore, Vec<f64>)> {
        let photos = self.photos.batch(self.seed, step, self.batch, &self.device)?;
        let out = (self.paint)(&photos, &photos)?;
        self.panel.teach(step, &photos, &out, |index, _| Ok(self.styles[index].clone()))
    }

    fn preview(&self, weights: VarBuilder<'_>) -> Result<RgbImage> {
        let paint = (self.build)(weights)?;
        let mut rows = vec![Vec::new(), Vec::new()];
        for photo in &self.preview {
            rows[0].push(Some(photo.clone()));
            rows[1].push(painted(&paint, photo, photo, &self.device)?);
        }
        Ok(preview::sheet(&rows))
    }

    fn note(&self) -> Value {
        json!({
            "kind": "fast", "net": self.net, "loss": self.panel.note(), "photos": self.photos.note(),
            "style": [self.painting.width(), self.painting.height()],
        })
    }
}
