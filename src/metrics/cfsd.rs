//! CFSD, content feature structural distance: whether places that looked alike in the photo still look alike.
//!
//! With the features F at relu3_1 as one row per place, divided by the number of channels, `S = softmax_rows(F F^T)` says
//! for each place which others resemble it. The distance is the Kullback-Leibler divergence `KL(S_photo || S_painted)`,
//! summed over all places: it grows with the number of pixels, so values compare at one size only (the paper's is 512 x 512).
//!
//! As in the authors' program, called with one picture at a time; the rows are taken in bands here, so that the matrix of
//! all pairs of places (a gigabyte at 512 x 512) is never held. Its network is torchvision's VGG-19; the same formula on
//! another network has another name, [`VARIANT`].
//!
//! Chung, Hyun, Heo, "Style injection in diffusion: a training-free approach for adapting large-scale diffusion models for
//! style transfer", 2024 (StyleID).

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::{Better, Metric, With};
use crate::error::{Error, Result};

/// What it is, on torchvision's VGG-19.
pub const METRIC: Metric = Metric {
    name: "cfsd",
    title: "CFSD",
    about: "divergence of the photo's self-similarity at VGG-19's relu3_1, summed over places (StyleID 2024)",
    with: With::Photo,
    better: Better::Lower,
    range: (0.0, f64::INFINITY),
    digits: 4,
};

/// What it is on another network: not to be compared with published values.
pub const VARIANT: Metric = Metric {
    name: "cfsd-variant",
    title: "CFSD's formula on this network",
    about: "divergence of the photo's self-similarity at relu3_1 of a network that is not CFSD's, summed over places",
    ..METRIC
};

/// The layer whose features are compared.
pub const LAYER: &str = "relu3_1";

/// Rows of the matrix held at a time.
const BAND: usize = 128;

/// The distance of a picture's features to the photo's, both `[1, channels, height, width]`: 0 and more.
///
/// # Errors
/// When the shapes differ.
pub fn distance(painted: &Tensor, photo: &Tensor) -> Result<f64> {
    if painted.dims() != photo.dims() {
        let reason = format!("features of {:?} and {:?} cannot be compared", painted.dims(), photo.dims());
        return Err(Error::usage("CFSD", reason));
    }
    let (painted, photo) = (places(painted)?, places(photo)?);
    let (count, _) = photo.dims2()?;
    let (painted_columns, photo_columns) = (painted.t()?, photo.t()?);
    let mut total = 0.0;
    for start in (0..count).step_by(BAND) {
        let rows = BAND.min(count - start);
        let band = |places: &Tensor, columns: &Tensor| {
            Ok::<_, Error>(places.narrow(0, start, rows)?.matmul(columns)?.flatten_all()?.to_vec1::<f32>()?)
        };
        let (painted, photo) = (band(&painted, &painted_columns)?, band(&photo, &photo_columns)?);
        let rows = photo.par_chunks(count).zip(painted.par_chunks(count));
        total += rows.map(|(photo, painted)| divergence(photo, painted)).sum::<f64>();
    }
    // Rounding may leave a tiny negative sum where there is no difference.
    Ok(total.max(0.0))
}

/// One row per place: `[places, channels]`, divided by the number of channels.
fn places(features: &Tensor) -> Result<Tensor> {
    let (_, channels, _, _) = features.dims4()?;
    Ok((features.to_dtype(DType::F32)?.flatten_from(2)?.squeeze(0)?.t()?.contiguous()? / channels as f64)?)
}

/// `KL(softmax(p) || softmax(q))`: the mean of `p - q` under softmax(p), less the difference of the logarithms of their sums.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let most = |row: &[f32]| row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (most_p, most_q) = (most(p), most(q));
    let (mut sum_p, mut sum_q, mut apart) = (0.0, 0.0, 0.0);
    for (&p, &q) in p.iter().zip(q) {
        let part = f64::from(p - most_p).exp();
        sum_p += part;
        sum_q += f64::from(q - most_q).exp();
        apart += part * (f64::from(p) - f64::from(q));
    }
    apart / sum_p - (f64::from(most_p) - f64::from(most_q) + (sum_p / sum_q).ln())
}
