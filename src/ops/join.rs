//! Two pictures' channels in one.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::fresh::{fresh, write, written};
use super::is_ours;
use super::product::contiguous;
use crate::error::Result;

/// The channels of the second after those of the first: `[batch, a, h, w]` and `[batch, b, h, w]` to `[batch, a + b, h, w]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn join(first: &Tensor, second: &Tensor) -> Result<Tensor> {
    if is_ours(first) && is_ours(second) {
        return Ok(first.contiguous()?.apply_op2_no_bwd(&second.contiguous()?, &Join)?);
    }
    Ok(Tensor::cat(&[first, second], 1)?)
}

struct Join;

impl CustomOp2 for Join {
    fn name(&self) -> &'static str {
        "join"
    }

    fn cpu_fwd(
        &self,
        first_storage: &CpuStorage,
        first_layout: &Layout,
        second_storage: &CpuStorage,
        second_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, ours, height, width) = first_layout.shape().dims4()?;
        let (second_batch, theirs, second_height, second_width) = second_layout.shape().dims4()?;
        if (batch, height, width) != (second_batch, second_height, second_width) {
            candle_core::bail!("{:?} and {:?} cannot be joined", first_layout.shape(), second_layout.shape());
        }
        let (first, second) = (contiguous(first_storage, first_layout)?, contiguous(second_storage, second_layout)?);
        let shape = Shape::from((batch, ours + theirs, height, width));
        let plane = height * width;
        let mut out = fresh(shape.elem_count());
        if !out.is_empty() {
            out.par_chunks_mut(plane).enumerate().for_each(|(at, out)| {
                let (image, channel) = (at / (ours + theirs), at % (ours + theirs));
                let from = if channel < ours {
                    &first[(image * ours + channel) * plane..]
                } else {
                    &second[(image * theirs + channel - ours) * plane..]
                };
                write(out, &from[..plane]);
            });
        }
        // SAFETY: every plane has been written.
        #[allow(unsafe_code)]
        let out = unsafe { written(out) };
        Ok((CpuStorage::F32(out), shape))
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::ops::drawn::random;

    #[test]
    fn joined_channels_are_the_frameworks() {
        let (first, second) = (random(&[2, 3, 5, 4]), random(&[2, 4, 5, 7]).narrow(3, 2, 4).unwrap());
        let theirs = Tensor::cat(&[&first, &second], 1).unwrap();
        let flat = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let ours = join(&first, &second).unwrap();
        assert_eq!((ours.dims(), flat(&ours)), (theirs.dims(), flat(&theirs)));
        assert!(join(&first, &random(&[2, 3, 5, 5])).is_err());
        assert!(join(&first, &random(&[1, 3, 5, 4])).is_err());
    }
}
