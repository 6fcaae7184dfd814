//! `--method gatys`: its flags, and from them to a painter.

use super::Args;
use crate::cli::{Printer, nets};
use impasto::image::read;
use impasto::ops::Pooling;
use impasto::pipeline::stylize::{GatysPainter, Saving};
use impasto::pipeline::{default_backbone, open_backbone};
use impasto::style::gatys::{Init, Layers, Optimizer, Region, Settings};
use impasto::style::loss::StyleLoss;
use impasto::weights::Cache;
use impasto::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// Flags of the optimising method.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Serialize)]
#[group(skip)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Flags {
    /// The perceptual network: a name (see `impasto weights list`), a folder or a file [default: vgg19 or vgg16,
    /// whichever has been fetched]
    #[arg(long, value_name = "NAME|DIR|FILE", help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "Option::is_none")]
    backbone: Option<PathBuf>,
    /// How the network halves its pictures [default: max]
    #[arg(long, value_enum, value_name = "HOW", help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pooling: Option<Pooling>,
    /// Steps at the full size [default: 100]
    #[arg(long, value_name = "N", help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "Option::is_none")]
    iterations: Option<u32>,
    /// Steps at each of the smaller sizes before [default: 100]
    #[arg(long, value_name = "N", help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "Option::is_none")]
    coarse_iterations: Option<u32>,
    /// The long side to begin at, growing by 1.4 up to the full size; 0 begins at the full size [default: 128]
    #[arg(long, value_name = "N", help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pyramid: Option<u32>,
    /// Which way the pixels are moved [default: adam]
    #[arg(long, value_enum, value_name = "NAME", help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "Option::is_none")]
    optimizer: Option<Optimizer>,
    /// The length of a step [default: 0.05; lbfgs: 1]
    #[arg(long, value_name = "F", help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "Option::is_none")]
    learning_rate: Option<f64>,
    /// How styles are compared [default: wasserstein]
    #[arg(long, value_enum, value_name = "LOSS", help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "Option::is_none")]
    style_loss: Option<StyleLoss>,
    /// How much the content counts [default: 1]
    #[arg(long, value_name = "F", help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "Option::is_none")]
    content_weight: Option<f64>,
    /// How much the style counts [default: 10]
    #[arg(long, value_name = "F", help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "Option::is_none")]
    style_weight: Option<f64>,
    /// How much neighbouring pixels should resemble each other [default: 2]
    #[arg(long, value_name = "F", help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "Option::is_none")]
    total_variation: Option<f64>,
    /// Layers that keep the content, each with a weight if it is not 1 [default: relu4_2]
    #[arg(long, value_name = "LAYER[=F],...", value_parser = layers, help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "Option::is_none")]
    content_layers: Option<Layers>,
    /// Layers that bring the style [default: the first of every block]
    #[arg(long, value_name = "LAYER[=F],...", value_parser = layers, help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "Option::is_none")]
    style_layers: Option<Layers>,
    /// Weigh the losses as the papers do, rather than by the size of what they compare
    #[arg(long, help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    raw_losses: bool,
    /// What the first picture is [default: content]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "Option::is_none")]
    init: Option<Init>,
    /// How slowly the average of the pictures, which is what is written, follows them; 0 writes the last one [default: 0.9]
    #[arg(long, value_name = "F", help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "Option::is_none")]
    average: Option<f64>,
    /// Where in the photo a style goes, white: once for each --style, in their order
    #[arg(long, value_name = "MASK", help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    region: Vec<PathBuf>,
    /// Which part of a style picture its --region takes after: once for each --region, in their order
    #[arg(long, value_name = "MASK", requires = "region", help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    style_mask: Vec<PathBuf>,
    /// How wide the edges of regions are made, in pixels [default: 0]
    #[arg(long, value_name = "F", requires = "region", help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "Option::is_none")]
    feather: Option<f64>,
    /// Write the picture as OUT-N.png after every N steps, and what is needed to go on as OUT.state
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "Option::is_none")]
    save_every: Option<u32>,
    /// Go on from OUT.state where it is there, to the same picture
    #[arg(long, requires = "save_every", help_heading = "Method: gatys")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    resume: bool,
}

impl Flags {
    /// The files that go in.
    pub(super) fn inputs(&self) -> impl Iterator<Item = PathBuf> {
        self.region.iter().chain(&self.style_mask).chain(&self.backbone).cloned()
    }

    /// Checks everything that can be checked without opening a picture or a net.
    pub(super) fn check(&self, styles: usize) -> Result<()> {
        if !self.region.is_empty() && self.region.len() != styles {
            let reason = format!("{} of them for {styles} styles", self.region.len());
            return Err(Error::usage("--region", reason).with_hint("give one for each --style, in their order"));
        }
        if !self.style_mask.is_empty() && self.style_mask.len() != self.region.len() {
            let reason = format!("{} of them for {} regions", self.style_mask.len(), self.region.len());
            return Err(Error::usage("--style-mask", reason).with_hint("give one for each --region, in their order"));
        }
        self.settings(0).check().map_err(|error| match error {
            Error::Usage { subject, reason, hint } => {
                Error::Usage { subject: format!("--{}", subject.trim_start_matches('-')), reason, hint }
            }
            error => error,
        })
    }

    fn settings(&self, seed: u64) -> Settings {
        let default = Settings::default();
        Settings {
            iterations: self.iterations.unwrap_or(default.iterations),
            coarse_iterations: self.coarse_iterations.unwrap_or(default.coarse_iterations),
            smallest: self.pyramid.unwrap_or(default.smallest),
            optimizer: self.optimizer.unwrap_or(default.optimizer),
            learning_rate: self.learning_rate.or(default.learning_rate),
            style_loss: self.style_loss.unwrap_or(default.style_loss),
            content_weight: self.content_weight.unwrap_or(default.content_weight),
            style_weight: self.style_weight.unwrap_or(default.style_weight),
            total_variation: self.total_variation.unwrap_or(default.total_variation),
            content_layers: self.content_layers.clone().unwrap_or(default.content_layers),
            style_layers: self.style_layers.clone().unwrap_or(default.style_layers),
            normalize: !self.raw_losses,
            init: self.init.unwrap_or(default.init),
            average: self.average.unwrap_or(default.average),
            feather: self.feather.unwrap_or(default.feather),
            seed,
            ..default
        }
    }

    /// The network by its name or path, which is checked, and how it is run.
    pub(super) fn network(&self) -> Result<String> {
        self.backbone.as_ref().map_or(Ok(()), |net| nets::check("--backbone", net))?;
        Ok(format!("{:?} {:?}", self.backbone, self.pooling))
    }

    /// Where the network is. A named one that is not here yet is fetched.
    pub(super) fn backbone(&self, printer: &Printer) -> anyhow::Result<PathBuf> {
        match &self.backbone {
            Some(net) => nets::locate("--backbone", net, printer),
            None => Ok(default_backbone(&Cache::from_env()?)?),
        }
    }

    /// Opens the network and the masks of regions.
    pub(super) fn painter(&self, args: &Args, printer: &Printer) -> anyhow::Result<GatysPainter> {
        let mut regions = Vec::new();
        for (style, mask) in self.region.iter().enumerate() {
            let within = self.style_mask.get(style).map(read::open_grey).transpose()?;
            regions.push(Region { content: read::open_grey(mask)?, style, within });
        }
        let (device, _) = args.device.open()?;
        let backbone = open_backbone(&self.backbone(printer)?, self.pooling.unwrap_or_default(), &device)?;
        let saving = Saving { every: self.save_every, resume: self.resume };
        let strength = args.settings.strength.unwrap_or(1.0);
        Ok(GatysPainter::new(backbone, self.settings(args.seed), regions, (args.style_size, strength), saving)?)
    }

    /// Nets and settings, for the recipe.
    pub(super) fn describe(&self, args: &Args) -> Result<(Map<String, Value>, Map<String, Value>)> {
        let value = |value: serde_json::Result<Value>| value.map_err(|error| Error::usage("recipe", error.to_string()));
        let Value::Object(mut settings) = value(serde_json::to_value(self.settings(args.seed)))? else {
            return Ok((Map::new(), Map::new()));
        };
        settings.insert("strength".into(), args.settings.strength.unwrap_or(1.0).into());
        settings.insert("pooling".into(), value(serde_json::to_value(self.pooling.unwrap_or_default()))?);
        for (name, masks) in [("region", &self.region), ("style-mask", &self.style_mask)] {
            if !masks.is_empty() {
                let inputs = masks.iter().map(|mask| impasto::pipeline::recipe::Input::of(mask));
                let inputs = inputs.collect::<Result<Vec<_>>>()?;
                settings.insert(name.into(), value(serde_json::to_value(inputs))?);
            }
        }
        let backbone = self.backbone.as_ref().map_or("default".into(), |net| net.to_string_lossy().into_owned());
        Ok((Map::from_iter([("backbone".to_owned(), Value::from(backbone))]), settings))
    }
}

// `relu1_1=2,relu2_1`
fn layers(text: &str) -> Result<Layers, String> {
    let layer = |part: &str| match part.split_once('=') {
        Some((name, weight)) => match weight.parse::<f64>() {
            Ok(weight) if weight.is_finite() && weight >= 0.0 => Ok((name.trim().to_owned(), weight)),
            _ => Err(format!("'{weight}' is not a weight from 0 up")),
        },
        None => Ok((part.trim().to_owned(), 1.0)),
    };
    text.split(',').map(layer).collect()
}
