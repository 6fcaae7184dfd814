//! Content distance: how far the picture's features are from the photo's where a network sees objects rather than paint.
//!
//! `mean (F(painted) - F(photo))^2 / mean F(photo)^2` with the features F at relu4_1: 0 for the photo itself, 1 for a picture
//! that has no features at all, the same unit on every network. The layer is Gatys' and AdaIN's; the division is this
//! project's, and that of `benches/style_quality.py`.
//!
//! Gatys, Ecker, Bethge, "Image style transfer using convolutional neural networks", 2016.

use candle_core::Tensor;

use super::style::values;
use super::{Better, Metric, With};
use crate::error::Result;

/// What it is.
pub const METRIC: Metric = Metric {
    name: "content-distance",
    title: "content distance",
    about: "relative squared difference of the features at relu4_1 (Gatys et al. 2016)",
    with: With::Photo,
    better: Better::Lower,
    range: (0.0, f64::INFINITY),
    digits: 4,
};

/// The layer whose features are compared.
pub const LAYER: &str = "relu4_1";

/// The distance of a picture's features to the photo's, at one layer: 0 and more. 0 where neither has any.
///
/// # Errors
/// When the shapes differ.
pub fn distance(painted: &Tensor, photo: &Tensor) -> Result<f64> {
    let apart = values(&(painted - photo)?)?.into_iter().map(square).sum();
    Ok(relative(apart, values(photo)?.into_iter().map(square).sum()))
}

fn square(value: f32) -> f64 {
    f64::from(value) * f64::from(value)
}

/// A squared difference in units of the square of what it should have been; nothing beside nothing is no difference.
pub(super) fn relative(apart: f64, expected: f64) -> f64 {
    if apart == 0.0 { 0.0 } else { apart / expected }
}
