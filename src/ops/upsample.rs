//! Nearest-neighbour enlargement.

use candle_core::Tensor;

use crate::error::Result;

/// Enlarges `[batch, channels, h, w]` to `[batch, channels, height, width]`, each pixel taken from the nearest one at or
/// before it (`torch.nn.functional.interpolate`, mode nearest). A convolution that follows does both:
/// [`Conv2d::forward_enlarged`](super::Conv2d::forward_enlarged).
///
/// # Errors
/// When the tensor library fails.
pub(super) fn upsample_nearest(xs: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    Ok(xs.upsample_nearest2d(height, width)?)
}

/// Which of `from` lines each of `to` is taken from, as the framework does it.
pub(super) fn nearest(from: usize, to: usize) -> Vec<u32> {
    let scale = from as f64 / to as f64;
    (0..to).map(|at| ((at as f64 * scale) as usize).min(from.saturating_sub(1)) as u32).collect()
}
