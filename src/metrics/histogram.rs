//! RGB-uv histogram distance: whether the colours are the painting's, however they are arranged.
//!
//! Each pixel falls, weighted by its brightness, into three histograms of log-chroma (`log R/G` against `log R/B`, and so on
//! for G and B), 64 x 64 bins from -3 to 3, smoothed by an inverse quadratic kernel of sigma 0.02. The distance is
//! Hellinger's, `|sqrt(h) - sqrt(h*)| / sqrt(2)`: 0 for equal colours, 1 for colours with nothing in common. Equal to
//! HistoGAN's `RGBuvHistBlock(insz=256)`, the size that StyleID's evaluation gives it: a picture with a side above 256 is
//! resized to 256 x 256 (bilinear, without antialiasing).
//!
//! Afifi, Brubaker, Brown, "HistoGAN: controlling colors of GAN-generated and real images via color histograms", 2021.

use ::image::RgbImage;
use candle_core::{DType, Device, Tensor};

use super::{Better, Metric, With};
use crate::error::Result;
use crate::image::tensor;
use crate::ops::Resample;

/// What it is.
pub const METRIC: Metric = Metric {
    name: "histogram-distance",
    title: "histogram distance",
    about: "Hellinger distance of the RGB-uv colour histograms (HistoGAN 2021)",
    with: With::Style,
    better: Better::Lower,
    range: (0.0, 1.0),
    digits: 4,
};

const BINS: usize = 64;
const LARGEST: usize = 256;
const REACH: f64 = 3.0;
const SIGMA: f64 = 0.02;
const EPS: f64 = 1e-6;
/// Pixels taken at a time.
const PORTION: usize = 1 << 14;

/// The colours of a picture: three histograms that add up to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    shares: Vec<f64>,
}

impl Histogram {
    /// Of a picture of any size.
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn of(picture: &RgbImage) -> Result<Self> {
        let mut pixels = tensor::to_unit(picture)?;
        let (_, _, height, width) = pixels.dims4()?;
        if height.max(width) > LARGEST {
            pixels = Resample::Bilinear.apply(&pixels, LARGEST, LARGEST)?;
        }
        let channels = pixels.flatten_from(2)?.squeeze(0)?.to_vec2::<f32>()?;
        let count = channels[0].len();
        let mut sums = Tensor::zeros((3, BINS, BINS), DType::F64, &Device::Cpu)?;
        for start in (0..count).step_by(PORTION) {
            let portion = start..(start + PORTION).min(count);
            let value = |channel: usize, at: usize| f64::from(channels[channel][at]);
            let mut of_channels = Vec::new();
            for (own, first, second) in [(0, 1, 2), (1, 0, 2), (2, 0, 1)] {
                let (mut u, mut v) = (Vec::new(), Vec::new());
                for at in portion.clone() {
                    let brightness = (0..3).map(|channel| value(channel, at).powi(2)).sum::<f64>() + EPS;
                    let log = |channel: usize| (value(channel, at) + EPS).ln();
                    u.extend(kernel(log(own) - log(first)).map(|weight| weight * brightness.sqrt()));
                    v.extend(kernel(log(own) - log(second)));
                }
                let matrix = |values: Vec<f64>| Tensor::from_vec(values, (portion.len(), BINS), &Device::Cpu);
                of_channels.push(matrix(u)?.t()?.matmul(&matrix(v)?)?);
            }
            sums = (sums + Tensor::stack(&of_channels, 0)?)?;
        }
        let shares = sums.flatten_all()?.to_vec1::<f64>()?;
        let total = shares.iter().sum::<f64>() + EPS;
        Ok(Self { shares: shares.into_iter().map(|share| share / total).collect() })
    }
}

/// How much a log-chroma counts for each bin.
fn kernel(chroma: f64) -> impl Iterator<Item = f64> {
    (0..BINS).map(move |bin| {
        let centre = -REACH + 2.0 * REACH * bin as f64 / (BINS - 1) as f64;
        1.0 / (1.0 + ((chroma - centre) / SIGMA).powi(2))
    })
}

/// Hellinger's distance of two histograms: 0 to 1.
pub fn distance(painted: &Histogram, style: &Histogram) -> f64 {
    let pairs = painted.shares.iter().zip(&style.shares);
    (pairs.map(|(a, b)| (a.sqrt() - b.sqrt()).powi(2)).sum::<f64>() / 2.0).sqrt()
}
