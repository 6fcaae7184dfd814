//! The rectifier, whose backward pass reads its own output.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::super::product::contiguous;

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
        out.contiguous()?.apply_op2_no_bwd(&gradient.contiguous()?, &Self).map(Some)
    }
}

/// The gradient to the input from the output and the gradient to that.
impl CustomOp2 for Relu {
    fn name(&self) -> &'static str {
        "relu-backward"
    }

    fn cpu_fwd(
        &self,
        out_storage: &CpuStorage,
        out_layout: &Layout,
        gradient_storage: &CpuStorage,
        gradient_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let out = contiguous(out_storage, out_layout)?;
        let gradient = contiguous(gradient_storage, gradient_layout)?;
        if out.len() != gradient.len() {
            candle_core::bail!("a gradient of {} values for {}", gradient.len(), out.len());
        }
        let mut values = vec![0f32; out.len()];
        values.par_chunks_mut(BLOCK).zip(out.par_chunks(BLOCK)).zip(gradient.par_chunks(BLOCK)).for_each(
            |((values, out), gradient)| {
                for ((value, &out), &gradient) in values.iter_mut().zip(out).zip(gradient) {
                    *value = if out > 0.0 { gradient } else { 0.0 };
                }
            },
        );
        Ok((CpuStorage::F32(values), out_layout.shape().clone()))
    }
}
