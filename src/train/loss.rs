//! What a picture is judged by while a net learns: the features of a frozen network.
//!
//! The net's output leaves candle's graph before the network sees it, and comes back as the product with the gradient that
//! the network's own backward pass found: the chain through the frozen network is never in the graph.
//!
//! Johnson 2016 (content and Gram losses), Huang 2017 (moments).

use std::fmt::Debug;

use candle_core::{D, Tensor, Var};
use serde_json::{Value, json};

use super::lesson::leaf;
use crate::error::{Error, Result};
use crate::nets::painter::recoloured;
use crate::ops::trainable::{instance_norm, moments};

/// Keeps quotients finite where a layer sees nothing.
const TINY: f64 = 1e-6;

/// A frozen network that pictures are judged by.
pub trait Judge: Debug {
    /// The layers it can tap, in order.
    fn layers(&self) -> Vec<String>;

    /// What the layers make of `[batch, 3, height, width]` in 0..1.
    ///
    /// # Errors
    /// When a layer is not there or the picture is too small.
    fn look(&self, image: &Tensor, layers: &[&str]) -> Result<Box<dyn Sight>>;

    /// Which network it is.
    fn name(&self) -> String;
}

/// What a network saw in a picture.
pub trait Sight {
    /// The features, one tensor per layer asked for.
    fn taps(&self) -> &[Tensor];

    /// The gradient to the picture, given those to the features.
    ///
    /// # Errors
    /// When the tensor library fails.
    fn backward(&self, gradients: &[Option<Tensor>]) -> Result<Tensor>;
}

/// What of the style is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum StyleLoss {
    /// Mean and deviation of every channel.
    Moments,
    /// The Gram matrix.
    Gram,
    /// Both.
    Both,
}

/// How much the parts of the loss weigh, and where they are taken.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Weights {
    /// The photo's features.
    pub content: f64,
    /// The painting's statistics.
    pub style: f64,
    /// Layers at which content is compared.
    pub content_layers: Vec<String>,
    /// Layers at which style is compared.
    pub style_layers: Vec<String>,
    /// What of the style is compared.
    pub style_loss: StyleLoss,
}

/// One network with the layers it is asked for.
#[derive(Debug)]
pub struct Perceptual {
    judge: Box<dyn Judge>,
    weights: Weights,
    /// All layers, in the network's order.
    layers: Vec<String>,
}

/// What an output is to be like.
#[derive(Debug, Clone)]
pub struct Targets {
    /// Features and the inverse of their mean square per picture, for the content layers.
    content: Vec<(Tensor, Tensor)>,
    style: Vec<Statistics>,
}

/// The style of one layer.
#[derive(Debug, Clone)]
struct Statistics {
    mean: Tensor,
    deviation: Tensor,
    gram: Option<Tensor>,
    /// The inverse of the mean square of the means, of the deviations (`[batch, 1]`) and of the Gram matrix.
    mean_norm: Tensor,
    deviation_norm: Tensor,
    gram_norm: Option<Tensor>,
}

/// The parts of a loss.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts {
    /// The photo's features, unweighted.
    pub content: f64,
    /// The painting's statistics, unweighted.
    pub style: f64,
}

impl Perceptual {
    /// Judges by `judge`.
    ///
    /// # Errors
    /// When it has not all the layers.
    pub fn new(judge: Box<dyn Judge>, weights: Weights) -> Result<Self> {
        let known = judge.layers();
        let wanted = || weights.content_layers.iter().chain(&weights.style_layers);
        if let Some(missing) = wanted().find(|layer| !known.contains(layer)) {
            return Err(Error::usage("--backbone", format!("{} has no layer {missing}", judge.name()))
                .with_hint(format!("it has {}", known.join(", "))));
        }
        let layers = known.into_iter().filter(|layer| wanted().any(|wanted| wanted == layer)).collect();
        Ok(Self { judge, weights, layers })
    }

    /// Which network and which layers, for the record.
    pub fn note(&self) -> Value {
        json!({ "network": self.judge.name(), "layers": self.layers })
    }

    /// What the output for this photo in the style of this painting is to be like. A painting's statistics are its own
    /// whatever its size; a single painting serves a whole batch of photos.
    ///
    /// # Errors
    /// When a picture is too small.
    pub fn targets(&self, photos: &Tensor, style: &[Style]) -> Result<Targets> {
        let layers: Vec<&str> = self.weights.content_layers.iter().map(String::as_str).collect();
        let sight = self.judge.look(&photos.detach(), &layers)?;
        let content = sight.taps().iter().map(|tap| Ok((tap.clone(), inverse_mean_square(tap)?)));
        Ok(Targets {
            content: content.collect::<Result<_>>()?,
            style: style.iter().map(|style| style.0.clone()).collect(),
        })
    }

    /// The statistics of paintings.
    ///
    /// # Errors
    /// When a picture is too small.
    pub fn style(&self, paintings: &Tensor) -> Result<Vec<Style>> {
        let layers: Vec<&str> = self.weights.style_layers.iter().map(String::as_str).collect();
        let sight = self.judge.look(&paintings.detach(), &layers)?;
        sight
            .taps()
            .iter()
            .map(|tap| {
                let (mean, deviation) = moments(tap)?;
                let gram = (self.weights.style_loss != StyleLoss::Moments).then(|| gram(tap)).transpose()?;
                let gram_norm = gram.as_ref().map(inverse_mean_square).transpose()?;
                let norm = |values: &Tensor| (values.sqr()?.mean_keepdim(1)? + TINY)?.recip();
                let (mean_norm, deviation_norm) = (norm(&mean)?, norm(&deviation)?);
                Ok(Style(Statistics { mean, deviation, gram, mean_norm, deviation_norm, gram_norm }))
            })
            .collect()
    }

    /// The gradient of the weighted loss to the output `[batch, 3, height, width]`, and its parts, averaged over the batch.
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn judge(&self, out: &Tensor, targets: &Targets) -> Result<(Tensor, Parts)> {
        let layers: Vec<&str> = self.layers.iter().map(String::as_str).collect();
        let sight = self.judge.look(&out.detach(), &layers)?;
        let taps: Vec<Var> = sight.taps().iter().map(leaf).collect::<Result<_>>()?;
        let tap = |layer: &String| self.layers.iter().position(|own| own == layer).map(|at| taps[at].as_tensor());
        let batch = out.dim(0)? as f64;

        let mut content = Vec::new();
        for (tap, (target, norm)) in self.weights.content_layers.iter().filter_map(tap).zip(&targets.content) {
            let squares = (tap - target)?.sqr()?.flatten_from(1)?.mean(1)?;
            content.push((squares * norm)?.sum_all()?);
        }
        let mut style = Vec::new();
        for (tap, target) in self.weights.style_layers.iter().filter_map(tap).zip(&targets.style) {
            style.push(target.distance(tap, self.weights.style_loss)?);
        }
        let average = |terms: Vec<Tensor>| -> Result<Option<Tensor>> {
            let count = terms.len() as f64;
            let mut terms = terms.into_iter();
            let Some(first) = terms.next() else { return Ok(None) };
            let sum = terms.try_fold(first, |sum, term| sum + term)?;
            Ok(Some((sum / (count * batch))?))
        };
        let (content, style) = (average(content)?, average(style)?);
        let value = |part: &Option<Tensor>| -> Result<f64> {
            Ok(part.as_ref().map(|part| part.to_scalar::<f32>()).transpose()?.map_or(0.0, f64::from))
        };
        let parts = Parts { content: value(&content)?, style: value(&style)? };
        let mut loss = out.detach().sum_all()?.zeros_like()?;
        for (part, weight) in [(content, self.weights.content), (style, self.weights.style)] {
            if let Some(part) = part {
                loss = (loss + (part * weight)?)?;
            }
        }
        let gradients = loss.backward()?;
        let gradients: Vec<Option<Tensor>> = taps.iter().map(|tap| gradients.get(tap).cloned()).collect();
        Ok((sight.backward(&gradients)?, parts))
    }
}

/// The statistics of paintings at one layer.
#[derive(Debug, Clone)]
pub struct Style(Statistics);

impl Statistics {
    /// The summed distances of a batch.
    fn distance(&self, tap: &Tensor, kind: StyleLoss) -> Result<Tensor> {
        let mut terms = Vec::new();
        if kind != StyleLoss::Gram {
            let (mean, deviation) = moments(tap)?;
            let pairs = [(mean, &self.mean, &self.mean_norm), (deviation, &self.deviation, &self.deviation_norm)];
            for (own, wanted, norm) in pairs {
                let squares = own.broadcast_sub(wanted)?.sqr()?;
                terms.push(squares.mean_keepdim(1)?.broadcast_mul(norm)?.sum_all()?);
            }
        }
        if let (Some(target), Some(norm)) = (&self.gram, &self.gram_norm) {
            let squares = gram(tap)?.broadcast_sub(target)?.sqr()?.flatten_from(1)?.mean(1)?;
            terms.push(squares.broadcast_mul(norm)?.sum_all()?);
        }
        let first = terms.remove(0);
        Ok(terms.into_iter().try_fold(first, |sum, term| sum + term)?)
    }
}

/// `F F^T / (height width)` of every picture; per channel pair, not per element, so that wide layers weigh as narrow ones.
fn gram(features: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = features.dims4()?;
    let flat = features.flatten_from(2)?;
    Ok((flat.matmul(&flat.transpose(D::Minus1, D::Minus2)?)? / (height * width) as f64)?)
}

/// One over the mean square per picture: `[batch]`.
fn inverse_mean_square(tensor: &Tensor) -> Result<Tensor> {
    Ok((tensor.sqr()?.flatten_from(1)?.mean(1)? + TINY)?.recip()?)
}

/// The mean of the squared differences between neighbouring pixels, as a function candle can differentiate.
///
/// # Errors
/// When the tensor library fails.
pub fn variation(out: &Tensor) -> Result<Tensor> {
    differences(out, |squares, _| squares.mean_all())
}

/// The sum, over both axes, of what `mean` makes of the squared differences along it; 0 where a side is one pixel.
fn differences(out: &Tensor, mean: impl Fn(Tensor, usize) -> candle_core::Result<Tensor>) -> Result<Tensor> {
    let mut sum = out.sum_all()?.zeros_like()?;
    for axis in [2, 3] {
        let side = out.dim(axis)?;
        if side > 1 {
            let squares = (out.narrow(axis, 1, side - 1)? - out.narrow(axis, 0, side - 1)?)?.sqr()?;
            sum = (sum + mean(squares, axis)?)?;
        }
    }
    Ok(sum)
}

/// Pixels a side whose differences [`evenness`] takes together, and the mean difference at which an area is half even.
const AREA: usize = 8;
const HALF_EVEN: f64 = 0.04;

/// Where photos are even: 1 to 0 for `[batch, 1, height, width]` of their pixels in 0..1, by the mean difference between neighbours
/// around each.
///
/// # Errors
/// When the tensor library fails.
pub fn evenness(photos: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = photos.dims4()?;
    let grey = photos.mean_keepdim(1)?;
    let mut activity = grey.zeros_like()?;
    for (axis, side) in [(2, height), (3, width)] {
        if side > 1 {
            let step = (grey.narrow(axis, 1, side - 1)? - grey.narrow(axis, 0, side - 1)?)?.abs()?;
            activity = (activity + step.pad_with_same(axis, 0, 1)?)?;
        }
    }
    let area = (AREA.min(height), AREA.min(width));
    let coarse = activity.avg_pool2d(area)?;
    let even = (coarse * (1.0 / HALF_EVEN))?.sqr()?.affine(1.0, 1.0)?.recip()?;
    let (rows, columns) = (even.dim(2)? * area.0, even.dim(3)? * area.1);
    let fine = even.upsample_nearest2d(rows, columns)?;
    Ok(fine.pad_with_same(2, 0, height - rows)?.pad_with_same(3, 0, width - columns)?)
}

/// Below this, in pixels of 0..1, [`roughness`] takes a difference squared.
const FAINT: f64 = 1.0 / 255.0;

/// The mean of the differences between neighbouring pixels of the outputs, each times how even the photo is there: what a net
/// weaves into skies and walls. Not of their squares (but near 0, where it has to be smooth): those are content with a
/// faint weave everywhere, and object to the stroke here and there that a painter would make.
///
/// # Errors
/// When the tensor library fails.
pub fn roughness(out: &Tensor, photos: &Tensor) -> Result<Tensor> {
    let even = evenness(photos)?;
    differences(out, |squares, axis| {
        let sizes = ((squares + FAINT * FAINT)?.sqrt()? - FAINT)?;
        sizes.broadcast_mul(&even.narrow(axis, 1, sizes.dim(axis)?)?)?.mean_all()
    })
}

/// Pixels a side that [`tone`] and [`broad`] take as one.
const TONE: usize = 8;

/// How far light and dark of the outputs lie from where they are in the photos: one less the correlation of the lightness of
/// 8 x 8 pixels each, averaged over the batch, from 0 to 2. Deep features hardly tell a dark face from a light one; the
/// eye does.
///
/// # Errors
/// When the tensor library fails.
pub fn tone(out: &Tensor, photos: &Tensor) -> Result<Tensor> {
    let lightness = |pictures: &Tensor| -> Result<Tensor> {
        let (batch, _, height, width) = pictures.dims4()?;
        let weights = Tensor::new(&[0.299f32, 0.587, 0.114], pictures.device())?.reshape((1, 3, 1, 1))?;
        let grey = pictures.broadcast_mul(&weights)?.sum_keepdim(1)?;
        let coarse = grey.avg_pool2d((TONE.min(height), TONE.min(width)))?;
        let ones = Tensor::ones((batch, 1), coarse.dtype(), coarse.device())?;
        instance_norm(&coarse, &ones, &ones.zeros_like()?, 1e-4)
    };
    Ok((lightness(out)? - lightness(photos)?)?.sqr()?.mean_all()?.affine(0.5, 0.0)?)
}

/// How far the colours of broad areas, of 8 x 8 pixels each, lie from those that the photos have there, were they in the colours of the
/// outputs: in units of the outputs' variances, averaged over the batch. 0 where an output is its photo in other colours. What it
/// holds down are rims around shapes, and clouds in skies, of colours that strokes of the same place do not have.
///
/// # Errors
/// When the tensor library fails.
pub fn broad(out: &Tensor, photos: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = out.dims4()?;
    let seen = out.detach();
    let variance = seen.broadcast_sub(&seen.mean_keepdim((2, 3))?)?.sqr()?.mean_keepdim((1, 2, 3))?;
    let missing = (out - recoloured(photos, &seen)?)?.avg_pool2d((TONE.min(height), TONE.min(width)))?;
    Ok(missing.sqr()?.broadcast_div(&(variance + 1e-3)?)?.mean_all()?)
}
