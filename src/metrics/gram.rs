//! Gram distance: which channels fire together, layer by layer, against the painting.
//!
//! `|G - G*|^2 / |G*|^2` with the Gram matrices `F F^T / (channels * height * width)` of the picture and of the painting: 0
//! for the painting itself, 1 for a picture that has no features at all. One number per layer and never their sum: Gatys'
//! losses of different layers differ by powers of ten, and a sum speaks for one of them only.
//!
//! Gatys, Ecker, Bethge, "Image style transfer using convolutional neural networks", 2016.

use candle_core::Tensor;

use super::content::relative;
use super::style::values;
use super::{Better, Metric, With};
use crate::error::{Error, Result};

/// What they are, one for each of [`super::style::LAYERS`].
pub const METRICS: [Metric; 4] = [
    metric("gram-relu1_1", "Gram distance, relu1_1"),
    metric("gram-relu2_1", "Gram distance, relu2_1"),
    metric("gram-relu3_1", "Gram distance, relu3_1"),
    metric("gram-relu4_1", "Gram distance, relu4_1"),
];

const fn metric(name: &'static str, title: &'static str) -> Metric {
    Metric {
        name,
        title,
        about: "relative squared difference of the layer's Gram matrix (Gatys et al. 2016)",
        with: With::Style,
        better: Better::Lower,
        range: (0.0, f64::INFINITY),
        digits: 4,
    }
}

/// The distance of a picture's Gram matrix to the painting's ([`crate::style::statistics::gram`]): 0 and more.
///
/// # Errors
/// When the shapes differ.
pub fn distance(painted: &Tensor, style: &Tensor) -> Result<f64> {
    if painted.dims() != style.dims() {
        let reason = format!("{:?} and {:?} cannot be compared", painted.dims(), style.dims());
        return Err(Error::usage("Gram matrices", reason));
    }
    let (painted, style) = (values(painted)?, values(style)?);
    let apart = painted.iter().zip(&style).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    Ok(relative(apart, style.iter().map(|&value| f64::from(value).powi(2)).sum()))
}
