//! What must hold before a number is worth reading: the photo itself has kept everything, the painting itself has taken on
//! everything.

use ::image::RgbImage;
use serde::Serialize;

use super::{Subject, Suite};
use crate::error::{Error, Result};

/// One gate, and what was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gate {
    /// The metric's name.
    pub metric: &'static str,
    /// The picture that was judged: `identity` (the photo itself) or `copy-style` (the painting itself).
    pub picture: &'static str,
    /// What the metric must say of it.
    pub expected: f64,
    /// What it says.
    pub found: f64,
}

/// How far rounding may take a value from what it must be.
const SLACK: f64 = 1e-6;

/// What the photo itself must get.
const IDENTITY: [(&str, f64); 10] = [
    ("ssim", 1.0),
    ("ms-ssim", 1.0),
    ("edge-f-canny", 1.0),
    ("edge-f-hed", 1.0),
    ("content-distance", 0.0),
    ("cfsd", 0.0),
    ("cfsd-variant", 0.0),
    ("lpips-alex", 0.0),
    ("lpips-vgg", 0.0),
    ("clip-photo", 1.0),
];
/// What the painting itself must get.
const COPY: [(&str, f64); 7] = [
    ("style-distance", 0.0),
    ("gram-relu1_1", 0.0),
    ("gram-relu2_1", 0.0),
    ("gram-relu3_1", 0.0),
    ("gram-relu4_1", 0.0),
    ("histogram-distance", 0.0),
    ("clip-style", 1.0),
];

/// Judges the photo as if it had been painted, and the painting too, with every metric of the suite that has a gate.
///
/// # Errors
/// When a metric does not say what it must: then nothing it says can be trusted. When no metric could judge one of the
/// pictures. When a measurement fails.
pub fn check_gates(suite: &Suite, photo: &RgbImage, style: &RgbImage) -> Result<Vec<Gate>> {
    let identity = suite.measure(&Subject { photo: Some(photo), style: None, painted: photo, prompt: None })?;
    let copy = suite.measure(&Subject { photo: None, style: Some(style), painted: style, prompt: None })?;
    let mut gates = Vec::new();
    for (picture, wanted, found) in [("identity", &IDENTITY[..], identity), ("copy-style", &COPY[..], copy)] {
        for (metric, found) in found {
            let Some(&(_, expected)) = wanted.iter().find(|(name, _)| *name == metric) else { continue };
            if (found - expected).abs() > SLACK || found.is_nan() {
                return Err(failed(format!("{metric} of {picture} is {found}, it must be {expected}")));
            }
            gates.push(Gate { metric, picture, expected, found });
        }
    }
    for picture in ["identity", "copy-style"] {
        if !gates.iter().any(|gate| gate.picture == picture) {
            return Err(failed(format!("no metric could judge {picture}")));
        }
    }
    Ok(gates)
}

fn failed(reason: String) -> Error {
    Error::Tensor(candle_core::Error::Msg(format!("sanity gate: {reason}")))
}
