//! Shows what a perceptual network keeps of a picture at each layer: what its strongest maps answer to, the picture rebuilt from
//! its features alone, and texture made from the statistics of a style alone, layer by layer.
//!
//! Gatys, Ecker, Bethge, "A neural algorithm of artistic style", 2015, figure 1; "Texture synthesis using convolutional neural
//! networks", 2015.

mod maps;
mod sheet;

use ::image::RgbImage;
use candle_core::{D, Device, Tensor};

use crate::error::{Error, Result};
use crate::image::{resize, tensor};
use crate::nets::vgg::Backbone;
use crate::ops::{Pooling, Resample, pool2};
use crate::progress::{OnProgress, Progress, Stage};
use crate::rng::TorchRng;
use crate::style::loss::{StyleLoss, Target, content};
use crate::style::statistics::Sums;
pub use sheet::{Words, draw};

/// How the pictures of a sheet are made.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The layers, shallow ones first; none stands for the first of every block.
    pub layers: Vec<String>,
    /// The long side of the pictures that the network sees.
    pub size: u32,
    /// Steps of the optimisation per picture.
    pub steps: usize,
    /// The seed of the noise that the pictures begin as.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { layers: Vec::new(), size: 192, steps: 80, seed: 0 }
    }
}

/// What was found at one layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its name.
    pub name: String,
    /// How many maps it has.
    pub channels: usize,
    /// Their width and height.
    pub dimensions: (usize, usize),
    /// How many pixels across one of its values sees.
    pub sight: usize,
    /// Its strongest maps, by number.
    pub maps: Vec<(usize, RgbImage)>,
    /// The picture rebuilt from its features.
    pub rebuilt: RgbImage,
    /// Texture from the style's statistics at this layer and those before it.
    pub texture: RgbImage,
}

/// Everything that goes on a sheet.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The picture as the network saw it.
    pub picture: RgbImage,
    /// The style as the network saw it; the picture itself where none was given.
    pub style: RgbImage,
    /// The noise that every picture begins as.
    pub noise: RgbImage,
    /// The layers, shallow ones first.
    pub layers: Vec<Layer>,
}

/// The learning rate at the first step; it falls to a tenth of it along a half cosine.
const RATE: f64 = 0.08;

/// How many sizes of the picture are changed at once.
const LEVELS: usize = 4;

/// Looks into the network.
///
/// # Errors
/// When a layer is unknown or the picture too small for one, or when `on_progress` says so.
pub fn inspect(
    net: &Backbone,
    picture: &RgbImage,
    style: Option<&RgbImage>,
    settings: &Settings,
    on_progress: &mut OnProgress<'_>,
) -> Result<Inspection> {
    let names = layers(net, &settings.layers);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let picture = fitted(picture, settings.size)?;
    let style = style.map_or_else(|| Ok(picture.clone()), |style| fitted(style, settings.size))?;
    let image = tensor::to_unit(&picture)?.to_device(net.device())?;
    let found = net.features(&image, &names)?;
    let style_image = tensor::to_unit(&style)?.to_device(net.device())?;
    let targets = net.features(&style_image, &names)?;
    // All layers weigh alike: each is measured in units of what it should be.
    let targets = targets.iter().map(gram).collect::<Result<Vec<_>>>()?;
    let noise = noise(image.dims(), settings.seed)?.to_device(net.device())?;

    let mut job = Job { net, noise: &noise, steps: settings.steps, done: 0, on_progress, total: 0 };
    job.total = 2 * names.len() * settings.steps;
    let mut layers = Vec::with_capacity(names.len());
    for (depth, (&name, features)) in names.iter().zip(&found).enumerate() {
        let (_, channels, height, width) = features.dims4()?;
        let rebuilt = job.optimise(&[name], "the picture from", |taps| {
            let (value, gradient) = content(&taps[0], features)?;
            Ok((value, vec![Some(gradient)]))
        })?;
        let texture = job.optimise(&names[..=depth], "texture up to", |taps| {
            let (mut total, mut gradients) = (0.0, Vec::with_capacity(taps.len()));
            for (features, target) in taps.iter().zip(&targets) {
                let (value, gradient) = target.of(features)?;
                total += value;
                gradients.push(Some(gradient));
            }
            Ok((total, gradients))
        })?;
        layers.push(Layer {
            name: name.to_owned(),
            channels,
            dimensions: (width, height),
            sight: net.sight(name)?,
            maps: maps::strongest(features, maps::SHOWN)?,
            rebuilt,
            texture,
        });
    }
    Ok(Inspection { picture, style, noise: to_picture(&noise)?, layers })
}

/// The layers asked for, or the first of each block.
fn layers(net: &Backbone, asked: &[String]) -> Vec<String> {
    let known = net.layers();
    if asked.is_empty() {
        return known
            .iter()
            .filter(|name| name.starts_with("relu") && name.ends_with("_1"))
            .map(|&name| name.into())
            .collect();
    }
    // In the order of the network, each once; unknown ones stay, for the network to refuse.
    let mut asked: Vec<String> = asked.to_vec();
    asked.sort_by_key(|name| known.iter().position(|known| known == name));
    asked.dedup();
    asked
}

/// A picture whose long side is `size`.
fn fitted(picture: &RgbImage, size: u32) -> Result<RgbImage> {
    let (width, height) = picture.dimensions();
    let long = f64::from(width.max(height));
    let side = |side: u32| ((f64::from(side) * f64::from(size) / long).round() as u32).max(1);
    resize::lanczos(picture, side(width), side(height))
}

/// Grey noise of every colour, from 0 to 1.
fn noise(shape: &[usize], seed: u64) -> Result<Tensor> {
    Ok(((TorchRng::new(seed).normal(shape)? * 0.1)? + 0.5)?.clamp(0f32, 1f32)?)
}

/// What features of the style ask of a picture.
fn gram(features: &Tensor) -> Result<Target> {
    Ok(StyleLoss::Gram.target(&Sums::of(features, None, StyleLoss::Gram.order())?)?.normalized())
}

/// The picture of a tensor in 0..1.
fn to_picture(image: &Tensor) -> Result<RgbImage> {
    let signed = image.to_device(&Device::Cpu)?.affine(2.0, -1.0)?;
    tensor::to_pictures(&signed)?.pop().ok_or_else(|| Error::usage("picture", "there is none"))
}

/// What all the optimisations of a sheet share.
struct Job<'a, 'b> {
    net: &'a Backbone,
    noise: &'a Tensor,
    steps: usize,
    done: usize,
    total: usize,
    on_progress: &'a mut OnProgress<'b>,
}

impl Job<'_, '_> {
    /// Changes the noise until `measure` finds little to object to at the layers.
    fn optimise(
        &mut self,
        layers: &[&str],
        what: &str,
        mut measure: impl FnMut(&[Tensor]) -> Result<(f64, Vec<Option<Tensor>>)>,
    ) -> Result<RgbImage> {
        let last = layers.last().copied().unwrap_or_default();
        let mut image = self.noise.clone();
        let mut levels = vec![Moments::default(); LEVELS];
        for step in 1..=self.steps {
            (self.on_progress)(&Progress {
                stage: Stage::Sample,
                done: self.done as u64,
                total: self.total as u64,
                label: format!("{what} {last}"),
            })?;
            let activations = self.net.forward(&image, layers)?;
            let (value, gradients) = measure(activations.taps())?;
            let gradient = self.net.backward(&activations, &gradients)?;
            if !value.is_finite() {
                return Err(Error::usage(last, "its features are no numbers: the network's weights are broken"));
            }
            let left = 0.5 + 0.5 * (std::f64::consts::PI * (step - 1) as f64 / self.steps as f64).cos();
            let direction = direction(&gradient, &mut levels, step)?;
            image = (image - (direction * (RATE * (0.1 + 0.9 * left)))?)?.clamp(0f32, 1f32)?;
            self.done += 1;
        }
        to_picture(&image)
    }
}

/// Adam's running means of the gradient and of its square.
#[derive(Debug, Clone, Default)]
struct Moments(Option<(Tensor, Tensor)>);

impl Moments {
    /// Adam's direction: it does not care how large a loss is, so one rate serves every layer.
    fn direction(&mut self, gradient: &Tensor, step: usize) -> Result<Tensor> {
        let (mean, square) = match self.0.take() {
            Some((mean, square)) => {
                (((mean * 0.9)? + (gradient * 0.1)?)?, ((square * 0.99)? + (gradient.sqr()? * 0.01)?)?)
            }
            None => ((gradient * 0.1)?, (gradient.sqr()? * 0.01)?),
        };
        let unbiased = |xs: &Tensor, decay: f64| xs / (1.0 - decay.powi(i32::try_from(step).unwrap_or(i32::MAX)));
        let direction = (unbiased(&mean, 0.9)? / (unbiased(&square, 0.99)?.sqrt()? + 1e-12)?)?;
        self.0 = Some((mean, square));
        Ok(direction)
    }
}

/// The step of all sizes at once: Adam on the picture, on the picture at half the size, a quarter and an eighth, added up.
/// Deep layers hardly feel single pixels; on these alone the pictures drown in grain before their large forms are found.
fn direction(gradient: &Tensor, levels: &mut [Moments], step: usize) -> Result<Tensor> {
    let (_, _, height, width) = gradient.dims4()?;
    let share = 1.0 / levels.len().max(1) as f64;
    let mut coarse = gradient.clone();
    let mut sum = gradient.zeros_like()?;
    for (level, moments) in levels.iter_mut().enumerate() {
        if level > 0 {
            coarse = pool2(&coarse, Pooling::Average, true)?;
        }
        let step = moments.direction(&coarse, step)?;
        sum = (sum + (Resample::Bilinear.apply(&step, height, width)? * share)?)?;
    }
    Ok(sum)
}

/// The mean square of every map, `[channels]`: how strongly it answers.
fn answers(features: &Tensor) -> Result<Vec<f32>> {
    Ok(features.get(0)?.sqr()?.mean(D::Minus1)?.mean(D::Minus1)?.to_vec1::<f32>()?)
}
