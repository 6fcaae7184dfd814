//! The rectifier, whose backward pass reads its own output.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::super::product::contiguous;
use super::with_floats;

/// Values per task: enough to be worth one.
const BLOCK: usize = 1 << 16;

pub(super) struct Relu;

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let xs = contiguous(storage, layout)?;
        let mut out = vec![0f32; xs.len()];
        out.par_chunks_mut(BLOCK).zip(xs.par_chunks(BLOCK)).for_each(|(out, xs)| {
            for (out, &x) in out.iter_mut().zip(xs) {
                // Not `max`, which would turn not-a-number into 0.
                *out = if x < 0.0 { 0.0 } else { x };
            }
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, out: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let values = with_floats(out, |out| {
            with_floats(gradient, |gradient| {
                let mut values = vec![0f32; out.len()];
                values.par_chunks_mut(BLOCK).zip(out.par_chunks(BLOCK)).zip(gradient.par_chunks(BLOCK)).for_each(
                    |((values, out), gradient)| {
                        for ((value, &out), &gradient) in values.iter_mut().zip(out).zip(gradient) {
                            *value = if out > 0.0 { gradient } else { 0.0 };
                        }
                    },
                );
                Ok(values)
            })
        })?;
        Tensor::from_vec(values, out.shape(), out.device()).map(Some)
    }
}
