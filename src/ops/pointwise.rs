//! Functions element by element on the CPU, on all threads and in vectors: the framework takes one element after another on one
//! thread, which on large pictures took as long as a convolution.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::activation::Function;
use super::fresh::{Place, fresh, written};
use super::is_ours;
use super::product::contiguous;
use super::simd::{Loops, vectorised};
use crate::error::Result;

/// Elements of a task.
const PIECE: usize = 1 << 14;

/// The sum of two tensors of one shape.
///
/// # Errors
/// When the shapes differ.
pub fn add(first: &Tensor, second: &Tensor) -> Result<Tensor> {
    if !is_ours(first) || !is_ours(second) || first.shape() != second.shape() {
        return Ok((first + second)?);
    }
    Ok(first.contiguous()?.apply_op2_no_bwd(&second.contiguous()?, &Two { function: None })?)
}

/// A function of every element.
pub(super) fn one(xs: &Tensor, function: Function) -> Result<Tensor> {
    Ok(xs.contiguous()?.apply_op1_no_bwd(&One { function })?)
}

/// Every element of the first times a function of that of the second; the shapes are one.
pub(super) fn two(first: &Tensor, second: &Tensor, function: Function) -> Result<Tensor> {
    Ok(first.contiguous()?.apply_op2_no_bwd(&second.contiguous()?, &Two { function: Some(function) })?)
}

struct One {
    function: Function,
}

impl CustomOp1 for One {
    fn name(&self) -> &'static str {
        "function"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let xs = contiguous(storage, layout)?;
        let mut out = fresh(xs.len());
        out.par_chunks_mut(PIECE).zip(xs.par_chunks(PIECE)).for_each(|(out, xs)| {
            let function = self.function;
            vectorised(OneLoop { function, xs, out });
        });
        // SAFETY: pieces of one length each, and the loops write every place of theirs.
        #[allow(unsafe_code)]
        let out = unsafe { written(out) };
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

struct OneLoop<'a> {
    function: Function,
    xs: &'a [f32],
    out: &'a mut [Place],
}

impl Loops for OneLoop<'_> {
    #[inline(always)]
    fn run(self) {
        // The choice outside of the loop.
        match self.function {
            Function::Silu => each(self.xs, self.out, |x| Function::Silu.of(x)),
            Function::QuickGelu => each(self.xs, self.out, |x| Function::QuickGelu.of(x)),
            Function::Gelu => each(self.xs, self.out, |x| Function::Gelu.of(x)),
        }
    }
}

#[inline(always)]
fn each(xs: &[f32], out: &mut [Place], of: impl Fn(f32) -> f32) {
    for (out, &x) in out.iter_mut().zip(xs) {
        out.write(of(x));
    }
}

struct Two {
    /// Of the second; the sum where there is none.
    function: Option<Function>,
}

impl CustomOp2 for Two {
    fn name(&self) -> &'static str {
        "function-of-two"
    }

    fn cpu_fwd(
        &self,
        first_storage: &CpuStorage,
        first_layout: &Layout,
        second_storage: &CpuStorage,
        second_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (first, second) = (contiguous(first_storage, first_layout)?, contiguous(second_storage, second_layout)?);
        if first_layout.shape() != second_layout.shape() {
            candle_core::bail!("{:?} and {:?} are not of one shape", first_layout.shape(), second_layout.shape());
        }
        let mut out = fresh(first.len());
        let inputs = first.par_chunks(PIECE).zip(second.par_chunks(PIECE));
        out.par_chunks_mut(PIECE).zip(inputs).for_each(|(out, (first, second))| {
            let function = self.function;
            vectorised(TwoLoop { function, first, second, out });
        });
        // SAFETY: pieces of one length each, and the loops write every place of theirs.
        #[allow(unsafe_code)]
        let out = unsafe { written(out) };
        Ok((CpuStorage::F32(out), first_layout.shape().clone()))
    }
}

struct TwoLoop<'a> {
    function: Option<Function>,
    first: &'a [f32],
    second: &'a [f32],
    out: &'a mut [Place],
}

impl Loops for TwoLoop<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { function, first, second, out } = self;
        match function {
            None => pairs(first, second, out, |a, b| a + b),
            Some(Function::Silu) => pairs(first, second, out, |a, b| a * Function::Silu.of(b)),
            Some(Function::QuickGelu) => pairs(first, second, out, |a, b| a * Function::QuickGelu.of(b)),
            Some(Function::Gelu) => pairs(first, second, out, |a, b| a * Function::Gelu.of(b)),
        }
    }
}

#[inline(always)]
fn pairs(first: &[f32], second: &[f32], out: &mut [Place], of: impl Fn(f32, f32) -> f32) {
    for (out, (&a, &b)) in out.iter_mut().zip(first.iter().zip(second)) {
        out.write(of(a, b));
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::ops::drawn::random;

    #[test]
    fn sums_are_the_frameworks() {
        // More than a piece, and one that is a view.
        let (first, second) = (random(&[3, 5, 2000]), random(&[5, 3, 2000]).transpose(0, 1).unwrap());
        let flat = |xs: Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(flat(add(&first, &second).unwrap()), flat((&first + &second).unwrap()));
        assert!(add(&first, &random(&[3, 5, 1999])).is_err());
        let half = |xs: &Tensor| xs.to_dtype(DType::F16).unwrap();
        assert_eq!(add(&half(&first), &half(&second)).unwrap().dtype(), DType::F16);
    }
}
