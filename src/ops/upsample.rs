//! Nearest-neighbour enlargement.

use candle_core::Tensor;

use crate::error::Result;

/// Enlarges `[batch, channels, h, w]` to `[batch, channels, height, width]`, each pixel taken from the nearest one at or
/// before it (`torch.nn.functional.interpolate`, mode nearest).
///
/// # Errors
/// When the tensor library fails.
pub fn upsample_nearest(xs: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    Ok(xs.upsample_nearest2d(height, width)?)
}
