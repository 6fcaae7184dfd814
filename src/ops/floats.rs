//! Elements in single or half precision, widened where a kernel wants them: a net that stays in the half precision of its
//! file takes half the memory and computes the same to the bit.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Layout};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::scratch::Scratch;

/// Elements that one thread widens at a time.
const PIECE: usize = 1 << 16;

/// The elements of a contiguous tensor.
#[derive(Clone, Copy)]
pub(super) enum Floats<'a> {
    Single(&'a [f32]),
    Half(&'a [f16]),
    Brain(&'a [bf16]),
}

/// Elements in single precision: the tensor's own, or widened.
pub(super) enum Wide<'a> {
    Own(&'a [f32]),
    Widened(Scratch),
}

impl Deref for Wide<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Own(floats) => floats,
            Self::Widened(floats) => floats,
        }
    }
}

impl<'a> Floats<'a> {
    /// Those of a tensor.
    pub(super) fn of(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<Self> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("this kernel needs contiguous tensors");
        };
        Ok(match storage {
            CpuStorage::F16(half) => Self::Half(&half[start..end]),
            CpuStorage::BF16(half) => Self::Brain(&half[start..end]),
            other => Self::Single(&other.as_slice::<f32>()?[start..end]),
        })
    }

    /// How many there are.
    pub(super) fn len(self) -> usize {
        match self {
            Self::Single(floats) => floats.len(),
            Self::Half(floats) => floats.len(),
            Self::Brain(floats) => floats.len(),
        }
    }

    /// All of them, widened on all threads.
    pub(super) fn whole(self) -> Wide<'a> {
        if let Self::Single(floats) = self {
            return Wide::Own(floats);
        }
        let mut wide = Scratch::new(self.len());
        wide.par_chunks_mut(PIECE).enumerate().for_each(|(piece, to)| {
            let start = piece * PIECE;
            self.widen(start..start + to.len(), to);
        });
        Wide::Widened(wide)
    }

    /// Copies some of them, widened.
    pub(super) fn widen(self, range: Range<usize>, to: &mut [f32]) {
        match self {
            Self::Single(floats) => to.copy_from_slice(&floats[range]),
            Self::Half(floats) => floats[range].convert_to_f32_slice(to),
            // The upper half of a float.
            Self::Brain(floats) => {
                for (to, from) in to.iter_mut().zip(&floats[range]) {
                    *to = f32::from_bits(u32::from(from.to_bits()) << 16);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::drawn::random;
    use candle_core::{DType, Tensor};

    use super::super::{Conv2d, Linear};

    /// Largest difference of two tensors.
    fn apart(first: &Tensor, second: &Tensor) -> f32 {
        (first - second).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn layers_in_half_precision_compute_what_their_widened_weights_do() {
        for dtype in [DType::F16, DType::BF16] {
            let of = |shape: &[usize]| {
                let half = random(shape).to_dtype(dtype).unwrap();
                (half.to_dtype(DType::F32).unwrap(), half)
            };
            // Large enough for several pieces.
            let (wide, half) = of(&[301, 257]);
            let (bias, xs) = (random(&[301]), random(&[3, 5, 257]));
            for bias in [None, Some(bias)] {
                let there = Linear::from_tensors(wide.clone(), bias.clone()).forward(&xs).unwrap();
                assert_eq!(apart(&Linear::from_tensors(half.clone(), bias).forward(&xs).unwrap(), &there), 0.0);
            }
            // Rows of a larger matrix.
            let rows = |xs: &Tensor| Linear::from_tensors(xs.narrow(0, 100, 50).unwrap(), None);
            assert_eq!(apart(&rows(&half).forward(&xs).unwrap(), &rows(&wide).forward(&xs).unwrap()), 0.0);
            for (kernel, stride, padding, inputs, side) in
                [(3, 1, 1, 21, 9), (3, 1, 1, 4, 64), (3, 2, 1, 40, 9), (1, 1, 0, 21, 6), (4, 4, 0, 3, 8)]
            {
                let (wide, half) = of(&[37, inputs, kernel, kernel]);
                let (bias, xs) = (random(&[37]), random(&[2, inputs, side, side]));
                let conv = |weight: &Tensor| Conv2d::from_tensors(weight.clone(), Some(bias.clone()), stride, padding);
                let there = conv(&wide).forward(&xs).unwrap();
                assert_eq!(apart(&conv(&half).forward(&xs).unwrap(), &there), 0.0, "{kernel} {stride}");
                if kernel == 3 && stride == 1 {
                    let back = conv(&wide).backward(&there).unwrap();
                    assert_eq!(apart(&conv(&half).backward(&there).unwrap(), &back), 0.0);
                }
            }
        }
    }
}
