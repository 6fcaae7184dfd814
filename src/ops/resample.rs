//! Smooth resizing of feature maps, as `torch.nn.functional.interpolate` does it without antialiasing.
//!
//! Each axis is a product with a sparse matrix: two products, the same on every backend.

use candle_core::{Device, Tensor};

use crate::error::Result;

/// Which neighbours a new value is made of, and where the corners lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resample {
    /// `mode="bilinear", align_corners=True`: the centres of the corner pixels stay where they are.
    BilinearAligned,
    /// `mode="bilinear", align_corners=False`: the outer edges stay where they are.
    Bilinear,
    /// `mode="bicubic", align_corners=False`, a = -0.75.
    Bicubic,
}

impl Resample {
    /// Resizes `[batch, channels, h, w]` to `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// When a side is 0 or the tensor library fails.
    pub fn apply(self, xs: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        let (batch, channels, from_height, from_width) = xs.dims4()?;
        if from_height.min(from_width).min(height).min(width) == 0 {
            let reason = format!("a map of {from_height} x {from_width} cannot be made {height} x {width}");
            return Err(candle_core::Error::Msg(reason).into());
        }
        let mut xs = xs.clone();
        if width != from_width {
            let matrix = self.matrix(from_width, width, xs.device())?.to_dtype(xs.dtype())?;
            let rows = xs.contiguous()?.reshape((batch * channels * from_height, from_width))?;
            xs = rows.matmul(&matrix.t()?.contiguous()?)?.reshape((batch, channels, from_height, width))?;
        }
        if height != from_height {
            let matrix = self.matrix(from_height, height, xs.device())?.to_dtype(xs.dtype())?;
            let maps = xs.contiguous()?.reshape((batch * channels, from_height, width))?;
            xs = matrix.unsqueeze(0)?.broadcast_matmul(&maps)?.reshape((batch, channels, height, width))?;
        }
        Ok(xs)
    }

    /// `[to, from]`: the weight of every old value in every new one.
    fn matrix(self, from: usize, to: usize, device: &Device) -> Result<Tensor> {
        let mut weights = vec![0f32; to * from];
        for (i, row) in weights.chunks_exact_mut(from).enumerate() {
            // Positions in single precision, as torch computes them.
            let position = match self {
                Self::BilinearAligned if to == 1 => 0.0,
                Self::BilinearAligned => (from - 1) as f32 / (to - 1) as f32 * i as f32,
                Self::Bilinear => (from as f32 / to as f32 * (i as f32 + 0.5) - 0.5).max(0.0),
                Self::Bicubic => from as f32 / to as f32 * (i as f32 + 0.5) - 0.5,
            };
            let first = position.floor();
            let t = position - first;
            // Neighbours beyond the border are the border.
            let mut add = |offset: isize, weight: f32| {
                row[(first as isize + offset).clamp(0, from as isize - 1) as usize] += weight;
            };
            if self == Self::Bicubic {
                add(-1, outer(t + 1.0));
                add(0, inner(t));
                add(1, inner(1.0 - t));
                add(2, outer(2.0 - t));
            } else {
                add(0, 1.0 - t);
                add(1, t);
            }
        }
        Ok(Tensor::from_vec(weights, (to, from), device)?)
    }
}

/// Keys' a, as torch has it. (Pillow and the antialiased variants take -0.5.)
const A: f32 = -0.75;

/// The cubic kernel at a distance below 1.
fn inner(x: f32) -> f32 {
    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
}

/// The cubic kernel at a distance from 1 to 2.
fn outer(x: f32) -> f32 {
    ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
}
