//! Style distance: how far the channels' means and standard deviations are from the painting's.
//!
//! Over relu1_1, relu2_1, relu3_1 and relu4_1 the mean of
//! `mean_c (mu - mu*)^2 / mean_c mu*^2 + mean_c (sd - sd*)^2 / mean_c sd*^2`, with mu and sd (population) of the picture's
//! channels, mu* and sd* of the painting's: 0 for the painting itself, 2 for a picture that has no features at all. The
//! statistics are AdaIN's style loss; the division, which makes layers and networks comparable, is this project's, and that
//! of `benches/style_quality.py`.
//!
//! Huang, Belongie, "Arbitrary style transfer in real-time with adaptive instance normalization", 2017.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::content::relative;
use super::{Better, Metric, With};
use crate::error::{Error, Result};

/// What it is.
pub const METRIC: Metric = Metric {
    name: "style-distance",
    title: "style distance",
    about: "relative squared difference of the channels' means and deviations, relu1_1 to relu4_1 (AdaIN 2017)",
    with: With::Style,
    better: Better::Lower,
    range: (0.0, f64::INFINITY),
    digits: 4,
};

/// The layers whose statistics are compared.
pub const LAYERS: [&str; 4] = ["relu1_1", "relu2_1", "relu3_1", "relu4_1"];

/// Mean and standard deviation of every channel at one layer, in double precision.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    mean: Vec<f64>,
    deviation: Vec<f64>,
}

impl Moments {
    /// Of one picture's features `[1, channels, height, width]`.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn of(features: &Tensor) -> Result<Self> {
        let (_, _, height, width) = features.dims4()?;
        let count = (height * width).max(1);
        let of_channel = |channel: &[f32]| {
            let mean = channel.iter().map(|&value| f64::from(value)).sum::<f64>() / count as f64;
            let variance = channel.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count as f64;
            (mean, variance.sqrt())
        };
        let (mean, deviation) = values(features)?.par_chunks(count).map(of_channel).unzip();
        Ok(Self { mean, deviation })
    }
}

/// The distance of a picture's moments to the painting's, layer by layer: 0 and more.
///
/// # Errors
/// When the layers or channels are not the same ones.
pub fn distance(painted: &[Moments], style: &[Moments]) -> Result<f64> {
    let same = painted.len() == style.len() && painted.iter().zip(style).all(|(a, b)| a.mean.len() == b.mean.len());
    if !same || style.is_empty() {
        return Err(Error::usage("style distance", "the moments are not of the same layers"));
    }
    let part = |ours: &[f64], theirs: &[f64]| {
        let apart = ours.iter().zip(theirs).map(|(ours, theirs)| (ours - theirs).powi(2)).sum();
        relative(apart, theirs.iter().map(|theirs| theirs * theirs).sum())
    };
    let layer = |(ours, theirs): (&Moments, &Moments)| {
        part(&ours.mean, &theirs.mean) + part(&ours.deviation, &theirs.deviation)
    };
    Ok(painted.iter().zip(style).map(layer).sum::<f64>() / style.len() as f64)
}

/// A tensor's values in order, on the host.
pub(super) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}
