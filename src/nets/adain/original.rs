//! AdaIN as published: VGG features of the photo given the means and deviations of the painting's, then decoded.
//!
//! Takes the files that go with it: the normalised VGG-19 (`vgg_normalised.pth`) up to relu4_1 and a decoder
//! (`decoder.pth`), by the names of naoto0804/pytorch-AdaIN.
//!
//! Huang, Belongie, "Arbitrary style transfer in real-time with adaptive instance normalization", 2017.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::nets::strips::{self, Body, OnRows, OnStrip, Rows, Step};
use crate::nets::vgg::Backbone;
use crate::ops::modulate;
use crate::ops::trainable::{Geometry, conv2d, moments, relu};

/// The layer whose statistics are exchanged.
const LAYER: &str = "relu4_1";

/// Pixels per side of a feature.
const UNIT: usize = 8;

/// How far a feature sees: two convolutions at full size, two at half, four at quarter, one at an eighth, and three pools.
const REACH: usize = 2 + 2 * 2 + 4 * 4 + 8 + (1 + 2 + 4);

/// Pictures with a shorter side are continued to this one: mirrored edges need pixels to mirror.
const MIN_SIDE: usize = 2 * UNIT;

/// Added to the variance.
const EPS: f64 = 1e-5;

/// Under the root of [`moments`], to be taken off again.
const MOMENTS_EPS: f64 = 1e-5;

const SUBJECT: &str = "the AdaIN decoder's weights";

/// The decoder's convolutions by their place in torch's `Sequential`, and how much the picture is enlarged before each.
const DECODER: [(usize, usize); 9] = [(1, 1), (5, 2), (8, 1), (11, 1), (14, 1), (18, 2), (21, 1), (25, 2), (28, 1)];

/// AdaIN: encoder and decoder.
#[derive(Debug, Clone)]
pub struct Original {
    encoder: Backbone,
    decoder: Vec<Layer>,
}

/// What AdaIN keeps of a painting: mean and deviation of every channel, `[1, channels]` each.
#[derive(Debug, Clone)]
pub struct Statistics {
    mean: Tensor,
    deviation: Tensor,
}

impl Statistics {
    /// Of features `[1, channels, height, width]`: the deviation is torch's `.var()`, that of a sample.
    fn of(features: &Tensor) -> Result<Self> {
        let (_, _, height, width) = features.dims4()?;
        let (mean, deviation) = moments(features)?;
        let pixels = (height * width) as f64;
        // Of a single pixel torch's is not a number; nothing varies there.
        let sample = pixels / (pixels - 1.0).max(1.0);
        let variance = ((deviation.sqr()? - MOMENTS_EPS)? * sample)?;
        Ok(Self { mean, deviation: (variance.maximum(0.0)? + EPS)?.sqrt()? })
    }

    /// Of features that were measured strip by strip.
    fn from_total(statistics: &strips::Statistics, device: &Device) -> Result<Self> {
        let (channels, pixels) = statistics.total();
        let sample = pixels / (pixels - 1.0).max(1.0);
        let row = |value: &dyn Fn(f64, f64) -> f64| {
            let values: Vec<f32> = channels.iter().map(|&(mean, variance)| value(mean, variance) as f32).collect();
            Tensor::from_vec(values, (1, channels.len()), device)
        };
        let deviation = row(&|_, variance| (variance * sample + EPS).sqrt())?;
        Ok(Self { mean: row(&|mean, _| mean)?, deviation })
    }

    /// The weighted mean of several paintings' statistics; the weights are brought to a sum of 1.
    ///
    /// # Errors
    /// When there are none, a weight is negative or not finite, or all are zero.
    pub fn blend(styles: &[(Self, f64)]) -> Result<Self> {
        let total: f64 = styles.iter().map(|(_, weight)| weight).sum();
        let sound = styles.iter().all(|(_, weight)| weight.is_finite() && *weight >= 0.0);
        let Some(((first, weight), rest)) = styles.split_first().filter(|_| sound && total.is_finite() && total > 0.0)
        else {
            return Err(Error::usage("--style", "weights must be positive numbers"));
        };
        let mut sum =
            Self { mean: (&first.mean * (weight / total))?, deviation: (&first.deviation * (weight / total))? };
        for (style, weight) in rest {
            sum.mean = (sum.mean + (&style.mean * (weight / total))?)?;
            sum.deviation = (sum.deviation + (&style.deviation * (weight / total))?)?;
        }
        Ok(sum)
    }
}

impl Original {
    /// Joins an encoder (the normalised VGG-19) with a decoder, whose widths come from its weights.
    ///
    /// # Errors
    /// When a tensor is missing or misshapen, or the two do not fit together.
    pub fn new(encoder: Backbone, decoder: VarBuilder<'_>) -> Result<Self> {
        if !encoder.layers().contains(&LAYER) {
            return Err(Error::usage("AdaIN's encoder", format!("has no layer {LAYER}")));
        }
        let decoder = decoder.set_dtype(DType::F32);
        let decoder = DECODER.iter().map(|&(place, upsample)| Layer::new(&decoder.pp(place), upsample));
        let decoder: Vec<Layer> = decoder.collect::<Result<_>>()?;
        for pair in decoder.windows(2) {
            if pair[0].weight.dim(0)? != pair[1].weight.dim(1)? {
                return Err(Error::usage(SUBJECT, "its layers do not fit together"));
            }
        }
        if decoder[DECODER.len() - 1].weight.dim(0)? != 3 {
            return Err(Error::usage(SUBJECT, "it does not end in RGB"));
        }
        Ok(Self { encoder, decoder })
    }

    /// What AdaIN keeps of a painting `[1, 3, height, width]`, RGB in 0..1.
    ///
    /// # Errors
    /// When the picture is no RGB or has no pixels.
    pub fn encode_style(&self, style: &Tensor) -> Result<Statistics> {
        Statistics::of(&self.encode(&extend(style)?)?)
    }

    /// Repaints `content [1, 3, height, width]`, RGB in 0..1. `strength` goes from the decoded photo (0) to all style (1);
    /// `mask [1, 1, height, width]` in 0..1 weakens it pixel by pixel. Values outside 0..1 are the caller's to cut.
    ///
    /// Where a side is no multiple of 8 the reference returns up to 7 pixels more; they are cut off here.
    ///
    /// # Errors
    /// When the picture is no RGB or has no pixels, or the mask has another size.
    pub fn forward(
        &self,
        content: &Tensor,
        style: &Statistics,
        strength: f64,
        mask: Option<&Tensor>,
    ) -> Result<Tensor> {
        check(strength)?;
        let (_, _, height, width) = content.dims4()?;
        let features = self.encode(&extend(content)?)?;
        let mask = mask.map(|mask| self.shrink(mask, (height, width))).transpose()?;
        let mut xs = exchange(&features, &Statistics::of(&features)?, style, strength, mask.as_ref())?;
        for (number, layer) in self.decoder.iter().enumerate() {
            xs = layer.forward(&xs)?;
            if number + 1 < self.decoder.len() {
                xs = relu(&xs)?;
            }
        }
        Ok(xs.narrow(2, 0, height)?.narrow(3, 0, width)?.contiguous()?)
    }

    /// [`forward`](Self::forward) for a picture of any size: rows are read as they are needed and handed out as they are
    /// finished.
    ///
    /// # Errors
    /// As `forward`, and what the callbacks return.
    pub fn forward_rows(
        &self,
        content: &Rows<'_>,
        style: &Statistics,
        strength: f64,
        mask: Option<&Tensor>,
        on_rows: &mut OnRows<'_>,
        on_strip: &mut OnStrip<'_>,
    ) -> Result<()> {
        let (height, width) = (content.height, content.width);
        check(strength)?;
        if height.min(width) < MIN_SIDE {
            return on_rows(0, self.forward(&(content.read)(0..height)?, style, strength, mask)?);
        }
        let mut features = strips::gather(content, (UNIT, REACH), &|slab| self.encode(slab), &mut |_, _| Ok(()))?;
        let mask = mask.map(|mask| self.shrink(mask, (height, width))).transpose()?;
        let own = Statistics::from_total(&features.statistics()?, self.encoder.device())?;
        features.change(&|first, strip| {
            let mask = mask.as_ref().map(|mask| mask.narrow(2, first, strip.dim(2)?)).transpose()?;
            exchange(&strip, &own, style, strength, mask.as_ref())
        })?;
        let mut up: Vec<Step<'_>> = self.decoder.iter().map(Layer::step).collect();
        if let Some(last) = up.last_mut() {
            last.relu = false;
        }
        let same = |xs: &Tensor| Ok(xs.clone());
        let body = Body {
            enter: Box::new(same),
            down: Vec::new(),
            add: None,
            residual: Vec::new(),
            up,
            leave: Box::new(same),
        };
        strips::paint_up(&body, content, &features, UNIT, on_rows, on_strip)
    }

    fn encode(&self, picture: &Tensor) -> Result<Tensor> {
        match self.encoder.features(picture, &[LAYER])?.pop() {
            Some(features) if features.dim(1)? == self.decoder[0].weight.dim(1)? => Ok(features),
            Some(features) => {
                let (theirs, ours) = (features.dim(1)?, self.decoder[0].weight.dim(1)?);
                Err(Error::usage(SUBJECT, format!("it takes {ours} channels, the encoder gives {theirs}")))
            }
            None => Err(Error::usage("AdaIN's encoder", format!("has no layer {LAYER}"))),
        }
    }

    /// A mask of the picture's size at the features' size: the mean of the pixels each feature stands for.
    fn shrink(&self, mask: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
        if mask.dims() != [1, 1, height, width] {
            let shape = mask.dims();
            return Err(Error::usage("--mask", format!("a mask of shape {shape:?} for {height} x {width} pixels")));
        }
        let mask = strips::extend(&mask.to_dtype(DType::F32)?.to_device(self.encoder.device())?, MIN_SIDE)?;
        let (_, _, height, width) = mask.dims4()?;
        let (rows, columns) = (height.div_ceil(UNIT), width.div_ceil(UNIT));
        let mask = mask.pad_with_same(2, 0, rows * UNIT - height)?.pad_with_same(3, 0, columns * UNIT - width)?;
        Ok(mask.avg_pool2d(UNIT)?)
    }
}

/// `strength` of the way from the features to the same with the style's mean and deviation.
fn exchange(
    features: &Tensor,
    own: &Statistics,
    style: &Statistics,
    strength: f64,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let factor = style.deviation.div(&own.deviation)?;
    let addend = (&style.mean - own.mean.mul(&factor)?)?;
    if let Some(mask) = mask {
        let styled = modulate(features, &factor, &addend, false)?;
        return Ok((features + (styled - features)?.broadcast_mul(&(mask * strength)?)?)?);
    }
    // The mixture of two linear maps is one.
    let factor = factor.affine(strength, 1.0 - strength)?;
    modulate(features, &factor, &(addend * strength)?, false)
}

fn check(strength: f64) -> Result<()> {
    if (0.0..=1.0).contains(&strength) {
        return Ok(());
    }
    Err(Error::usage("--strength", format!("{strength} is not between 0 and 1")))
}

fn extend(picture: &Tensor) -> Result<Tensor> {
    strips::extend(picture, MIN_SIDE)
}

/// A convolution of the decoder.
#[derive(Debug, Clone)]
struct Layer {
    weight: Tensor,
    bias: Tensor,
    geometry: Geometry,
}

impl Layer {
    fn new(vb: &VarBuilder<'_>, upsample: usize) -> Result<Self> {
        let weight = vb.get_unchecked("weight")?;
        let (outputs, inputs) = match *weight.dims() {
            [outputs, inputs, 3, 3] if outputs * inputs > 0 => (outputs, inputs),
            ref shape => return Err(Error::usage(SUBJECT, format!("{} has the shape {shape:?}", vb.prefix()))),
        };
        let weight = vb.get((outputs, inputs, 3, 3), "weight")?;
        let bias = vb.get(outputs, "bias")?;
        Ok(Self { weight, bias, geometry: Geometry::same(3).with_upsample(upsample) })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        conv2d(xs, &self.weight, &self.bias, self.geometry)
    }

    fn step(&self) -> Step<'_> {
        let convolve = Box::new(|xs: &Tensor| self.forward(xs));
        Step { convolve, norm: None, relu: true, reach: 1, stride: 1, upsample: self.geometry.upsample }
    }
}
