//! SSIM: whether luminance, contrast and structure agree, window by window, on grey.
//!
//! Equal to pytorch-msssim 1.0.0's `ssim(data_range=255)` on Pillow's `convert("L")`, and to scikit-image's
//! `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)`: windows of
//! 11 x 11 that lie wholly in the picture, K = (0.01, 0.03). Everything in double precision.
//!
//! Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", 2004.

use ::image::RgbImage;
use rayon::prelude::*;

use super::{Better, Metric, With};
use crate::error::{Error, Result};
use crate::image::read::luma;

/// What it is.
pub const METRIC: Metric = Metric {
    name: "ssim",
    title: "SSIM",
    about: "structure kept of the photo, on grey (Wang et al. 2004; 11 x 11 Gaussian windows)",
    with: With::Photo,
    better: Better::Higher,
    range: (-1.0, 1.0),
    digits: 4,
};

/// The side of a window, and so the smallest side of a picture.
pub const WINDOW: usize = 11;
const SIGMA: f64 = 1.5;
const C1: f64 = (0.01 * 255.0) * (0.01 * 255.0);
const C2: f64 = (0.03 * 255.0) * (0.03 * 255.0);

/// The SSIM of two pictures of one size: -1 to 1, 1 where they are equal.
///
/// # Errors
/// When the sizes differ or a side is below [`WINDOW`].
pub fn ssim(a: &RgbImage, b: &RgbImage) -> Result<f64> {
    Ok(compare(&Plane::grey(a), &Plane::grey(b))?.0)
}

/// A picture of one channel.
#[derive(Debug, Clone)]
pub(super) struct Plane {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) values: Vec<f64>,
}

impl Plane {
    /// Pillow's `convert("L")`, 0 to 255.
    pub(super) fn grey(picture: &RgbImage) -> Self {
        let values = picture.pixels().map(|&pixel| f64::from(luma(pixel))).collect();
        Self { width: picture.width() as usize, height: picture.height() as usize, values }
    }

    fn times(&self, other: &Self) -> Self {
        let values = self.values.iter().zip(&other.values).map(|(a, b)| a * b).collect();
        Self { values, ..*self }
    }

    /// The weighted mean of every window that lies wholly inside.
    fn windows(&self, kernel: &[f64; WINDOW]) -> Self {
        let (width, height) = (self.width - WINDOW + 1, self.height - WINDOW + 1);
        let mut across = vec![0.0; width * self.height];
        across.par_chunks_mut(width).zip(self.values.par_chunks(self.width)).for_each(|(out, row)| {
            for (out, window) in out.iter_mut().zip(row.windows(WINDOW)) {
                *out = window.iter().zip(kernel).map(|(value, weight)| value * weight).sum();
            }
        });
        let mut values = vec![0.0; width * height];
        values.par_chunks_mut(width).enumerate().for_each(|(y, out)| {
            for (row, weight) in across[y * width..].chunks(width).zip(kernel) {
                for (out, value) in out.iter_mut().zip(row) {
                    *out += weight * value;
                }
            }
        });
        Self { width, height, values }
    }
}

/// The mean over all windows of SSIM, and of its contrast and structure alone.
pub(super) fn compare(a: &Plane, b: &Plane) -> Result<(f64, f64)> {
    if (a.width, a.height) != (b.width, b.height) {
        let reason = format!("{} x {} and {} x {} cannot be compared", a.width, a.height, b.width, b.height);
        return Err(Error::usage("pictures", reason).with_hint("bring them to one size first"));
    }
    if a.width.min(a.height) < WINDOW {
        let reason =
            format!("{} x {} pixels are too few for SSIM, which looks through windows of 11 x 11", a.width, a.height);
        return Err(Error::usage("picture", reason));
    }
    let mut kernel = [0.0; WINDOW];
    for (at, weight) in kernel.iter_mut().enumerate() {
        let from_middle = at as f64 - (WINDOW / 2) as f64;
        *weight = (-from_middle * from_middle / (2.0 * SIGMA * SIGMA)).exp();
    }
    let total: f64 = kernel.iter().sum();
    let kernel = kernel.map(|weight| weight / total);
    let (mean_a, mean_b) = (a.windows(&kernel), b.windows(&kernel));
    let (aa, bb, ab) = (a.times(a).windows(&kernel), b.times(b).windows(&kernel), a.times(b).windows(&kernel));
    let (mut of_ssim, mut of_structure) = (0.0, 0.0);
    for at in 0..mean_a.values.len() {
        let (a, b) = (mean_a.values[at], mean_b.values[at]);
        let (variance_a, variance_b) = (aa.values[at] - a * a, bb.values[at] - b * b);
        let structure = (2.0 * (ab.values[at] - a * b) + C2) / (variance_a + variance_b + C2);
        of_structure += structure;
        of_ssim += structure * (2.0 * a * b + C1) / (a * a + b * b + C1);
    }
    let count = mean_a.values.len() as f64;
    Ok((of_ssim / count, of_structure / count))
}
