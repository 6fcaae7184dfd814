//! MS-SSIM: contrast and structure at five sizes, each half the one before, and luminance at the smallest.
//!
//! Equal to pytorch-msssim 1.0.0's `ms_ssim(data_range=255)` on Pillow's `convert("L")`, its halving included: a mean of
//! 2 x 2 that reads a black line before the first one where a side is odd. Negative means count as 0.
//!
//! Wang, Simoncelli, Bovik, "Multi-scale structural similarity for image quality assessment", 2003.

use ::image::RgbImage;

use super::ssim::{Plane, WINDOW, compare};
use super::{Better, Metric, With};
use crate::error::{Error, Result};

/// What it is.
pub const METRIC: Metric = Metric {
    name: "ms-ssim",
    title: "MS-SSIM",
    about: "structure kept of the photo at five scales, on grey (Wang et al. 2003)",
    with: With::Photo,
    better: Better::Higher,
    range: (0.0, 1.0),
    digits: 4,
};

/// What each size counts, the largest first.
const WEIGHTS: [f64; 5] = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333];
/// The smallest side of a picture: a window must fit after four halvings.
pub const LEAST_SIDE: u32 = ((WINDOW as u32 - 1) << 4) + 1;

/// The MS-SSIM of two pictures of one size: 0 to 1, 1 where they are equal.
///
/// # Errors
/// When the sizes differ or a side is below [`LEAST_SIDE`].
pub fn ms_ssim(a: &RgbImage, b: &RgbImage) -> Result<f64> {
    let (width, height) = a.dimensions();
    if width.min(height) < LEAST_SIDE {
        let reason = format!("{width} x {height} pixels are too few for MS-SSIM");
        return Err(Error::usage("picture", reason).with_hint(format!("it needs {LEAST_SIDE} a side")));
    }
    let (mut a, mut b) = (Plane::grey(a), Plane::grey(b));
    let mut product = 1.0;
    for (at, weight) in WEIGHTS.into_iter().enumerate() {
        if at > 0 {
            (a, b) = (halved(&a), halved(&b));
        }
        let (ssim, structure) = compare(&a, &b)?;
        let last = at + 1 == WEIGHTS.len();
        product *= (if last { ssim } else { structure }).max(0.0).powf(weight);
    }
    Ok(product)
}

fn halved(plane: &Plane) -> Plane {
    let (width, height) = (plane.width.div_ceil(2), plane.height.div_ceil(2));
    let (left, up) = (plane.width % 2, plane.height % 2);
    let mut values = Vec::with_capacity(width * height);
    for y in 0..height {
        for x in 0..width {
            let mut sum = 0.0;
            for row in (2 * y).saturating_sub(up)..2 * y + 2 - up {
                for column in (2 * x).saturating_sub(left)..2 * x + 2 - left {
                    sum += plane.values[row * plane.width + column];
                }
            }
            values.push(sum / 4.0);
        }
    }
    Plane { width, height, values }
}
