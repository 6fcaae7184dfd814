//! What can be set, with the defaults.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::nets::vgg::{Backbone, Kind};
use crate::style::loss::StyleLoss;

/// Layers by name, each with its weight.
pub type Layers = BTreeMap<String, f64>;

/// Which way the pixels are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum Optimizer {
    /// Steps of much the same size for every pixel; keeps the picture within its range
    #[default]
    Adam,
    /// Learns the losses' curvature from its last steps: fewer of them, no range, and it may run away
    Lbfgs,
}

/// What the first picture is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum Init {
    /// The photo
    #[default]
    Content,
    /// The first style picture, brought to the photo's size
    Style,
    /// Noise around grey, by the seed
    Noise,
}

/// How a picture is painted. In files every field may be missing; it has its default then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Steps at the full size. 100.
    pub iterations: u32,
    /// Steps at each smaller size that comes before. 100.
    pub coarse_iterations: u32,
    /// The long side to begin at; every size is about 1.4 times the one before. 0 begins at the full size. 128.
    pub smallest: u32,
    /// Layers whose features should stay the photo's. Empty for `relu4_2`, or what the network has in its place.
    pub content_layers: Layers,
    /// Layers whose statistics should become the painting's. Empty for the first of every block.
    pub style_layers: Layers,
    /// How much the content counts. 1.
    pub content_weight: f64,
    /// How much the style counts. 10.
    pub style_weight: f64,
    /// How much neighbours should resemble each other: against grain that only the network sees. 2.
    pub total_variation: f64,
    /// How styles are compared. The distance of Gaussians.
    pub style_loss: StyleLoss,
    /// Divides every layer's loss by the size of what it is compared with, and the style layers' weights by their sum, so that
    /// weights mean the same for every network, layer and picture. Yes; without, losses are those of the papers.
    pub normalize: bool,
    /// Which way the pixels are moved. Adam.
    pub optimizer: Optimizer,
    /// The length of a step: 0.05 by default for Adam on pixels from 0 to 1, 1 for L-BFGS.
    pub learning_rate: Option<f64>,
    /// How long Adam remembers gradients and their squares. 0.9 and 0.99.
    pub betas: (f64, f64),
    /// Steps that L-BFGS remembers. 10.
    pub history: usize,
    /// What the first picture is. The photo.
    pub init: Init,
    /// How slowly the average of the pictures follows them, from 0 (not averaged) to below 1: it is what is given out, and what
    /// a larger size begins with. 0.9.
    pub average: f64,
    /// The long side of the style pictures as a part of the painting's: the larger, the larger the strokes. Style pictures
    /// are never enlarged. 1.
    pub style_scale: f64,
    /// How wide the edges of regions are made, in pixels at the full size. 0 leaves masks as they are.
    pub feather: f64,
    /// Pictures whose sides are longer are taken through the network in tiles of about this side. Without effect on the
    /// result, but for rounding; it bounds the memory. 768.
    pub tile: u32,
    /// The seed of [`Init::Noise`]. 0.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            iterations: 100,
            coarse_iterations: 100,
            smallest: 128,
            content_layers: Layers::new(),
            style_layers: Layers::new(),
            content_weight: 1.0,
            style_weight: 10.0,
            total_variation: 2.0,
            style_loss: StyleLoss::Wasserstein,
            normalize: true,
            optimizer: Optimizer::Adam,
            learning_rate: None,
            betas: (0.9, 0.99),
            history: 10,
            init: Init::Content,
            average: 0.9,
            style_scale: 1.0,
            feather: 0.0,
            tile: 768,
            seed: 0,
        }
    }
}

impl Settings {
    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the setting.
    pub fn check(&self) -> Result<()> {
        let wrong = |name: &str, reason: String| Err(Error::usage(name, reason));
        if self.iterations == 0 {
            return wrong("iterations", "must be 1 or more".into());
        }
        for (name, value) in [
            ("content-weight", self.content_weight),
            ("style-weight", self.style_weight),
            ("total-variation", self.total_variation),
            ("feather", self.feather),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return wrong(name, format!("{value} is not a number from 0 up"));
            }
        }
        for (name, value) in [("betas", self.betas.0), ("betas", self.betas.1), ("average", self.average)] {
            if !(0.0..1.0).contains(&value) {
                return wrong(name, format!("{value} is not from 0 to below 1"));
            }
        }
        for (name, value) in [("learning-rate", self.learning_rate()), ("style-scale", self.style_scale)] {
            if !(value.is_finite() && value > 0.0) {
                return wrong(name, format!("{value} is not a number above 0"));
            }
        }
        if !(1..=1000).contains(&self.history) {
            return wrong("history", format!("{} is not between 1 and 1000", self.history));
        }
        if self.tile < 64 {
            return wrong("tile", format!("{} is less than 64", self.tile));
        }
        for (name, layers) in [("content-layers", &self.content_layers), ("style-layers", &self.style_layers)] {
            if let Some((layer, weight)) = layers.iter().find(|(_, weight)| !(weight.is_finite() && **weight >= 0.0)) {
                return wrong(name, format!("the weight {weight} of {layer} is not a number from 0 up"));
            }
        }
        Ok(())
    }

    /// The length of a step.
    pub fn learning_rate(&self) -> f64 {
        self.learning_rate.unwrap_or(match self.optimizer {
            Optimizer::Adam => 0.05,
            Optimizer::Lbfgs => 1.0,
        })
    }

    /// The content layers with this network.
    pub fn content_layers_of(&self, backbone: &Backbone) -> Layers {
        if !self.content_layers.is_empty() {
            return self.content_layers.clone();
        }
        let there = backbone.layers();
        let preferred = ["relu4_2", "relu4_1", "relu3_1", "relu2_1", "relu1_1"];
        preferred.iter().find(|layer| there.contains(layer)).map(|&layer| (layer.to_owned(), 1.0)).into_iter().collect()
    }

    /// The style layers with this network.
    pub fn style_layers_of(&self, backbone: &Backbone) -> Layers {
        if !self.style_layers.is_empty() {
            return self.style_layers.clone();
        }
        let there = backbone.layers();
        let all = [("relu1_1", 1.0), ("relu2_1", 1.0), ("relu3_1", 1.0), ("relu4_1", 1.0), ("relu5_1", 0.5)];
        // HED's fifth block was trained for edges and no longer knows texture.
        let usable = |layer: &str| there.contains(&layer) && !(backbone.kind() == Kind::Hed && layer == "relu5_1");
        all.into_iter().filter(|(layer, _)| usable(layer)).map(|(layer, weight)| (layer.to_owned(), weight)).collect()
    }
}
