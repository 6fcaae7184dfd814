//! A factor and an addend per channel, what a normalisation comes down to once its statistics are known.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::product::contiguous;
use crate::error::Result;

/// Multiplies every channel of `[batch, channels, height, width]` by `factor [batch, channels]`, adds `addend [batch,
/// channels]`, and sets what is negative to 0 if `relu`. For inference: no gradients.
///
/// # Errors
/// When the shapes do not fit.
pub fn modulate(xs: &Tensor, factor: &Tensor, addend: &Tensor, relu: bool) -> Result<Tensor> {
    let (batch, channels, _, _) = xs.dims4()?;
    if factor.dims() != [batch, channels] || addend.dims() != [batch, channels] {
        let (xs, factor) = (xs.dims(), factor.dims());
        return Err(candle_core::Error::Msg(format!("a factor of shape {factor:?} cannot take {xs:?}")).into());
    }
    if xs.device().is_cpu() && xs.dtype() == DType::F32 {
        let (factor, addend) = (factor.contiguous()?, addend.contiguous()?);
        return Ok(xs.contiguous()?.apply_op3_no_bwd(&factor, &addend, &Modulate { relu })?);
    }
    let per_channel = |xs: &Tensor| xs.reshape((batch, channels, 1, 1));
    let out = xs.broadcast_mul(&per_channel(factor)?)?.broadcast_add(&per_channel(addend)?)?;
    Ok(if relu { out.relu()? } else { out })
}

struct Modulate {
    relu: bool,
}

impl CustomOp3 for Modulate {
    fn name(&self) -> &'static str {
        "modulate"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        factor: &CpuStorage,
        factor_layout: &Layout,
        addend: &CpuStorage,
        addend_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (_, _, height, width) = xs_layout.shape().dims4()?;
        let xs = contiguous(xs, xs_layout)?;
        let (factor, addend) = (contiguous(factor, factor_layout)?, contiguous(addend, addend_layout)?);
        let least = if self.relu { 0.0 } else { f32::NEG_INFINITY };
        let mut out = vec![0f32; xs.len()];
        let plane = (height * width).max(1);
        out.par_chunks_mut(plane).zip(xs.par_chunks(plane)).enumerate().for_each(|(plane, (out, xs))| {
            for (out, x) in out.iter_mut().zip(xs) {
                let value = x * factor[plane] + addend[plane];
                // Not `max`, which would turn not-a-number into 0.
                *out = if value < least { least } else { value };
            }
        });
        Ok((CpuStorage::F32(out), xs_layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::ops::drawn::random;

    #[test]
    fn the_kernel_equals_the_composition() {
        let (xs, factor, addend) = (random(&[2, 3, 5, 7]), random(&[2, 3]), random(&[2, 3]));
        let wide = |xs: &Tensor| xs.to_dtype(DType::F64).unwrap();
        for relu in [false, true] {
            let ours = wide(&modulate(&xs, &factor, &addend, relu).unwrap());
            let composed = modulate(&wide(&xs), &wide(&factor), &wide(&addend), relu).unwrap();
            let error = (ours - composed).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(error < 1e-6, "{error}");
        }
        assert!(modulate(&xs, &random(&[3]), &addend, false).is_err());
    }
}
