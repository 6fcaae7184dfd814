//! Scaled dot-product attention, blocked over queries so that the score matrix stays small.
//!
//! On the CPU each block's scores live in one thread's cache between two matrix products, and the inputs are read through
//! their strides: splitting heads copies nothing. On CUDA the feature `flash-attn` brings the fused kernel (Dao et al. 2022)
//! for half precision. Elsewhere the framework's operations run on blocks of bounded size.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::activation::exp_f32;
use super::fresh::zeros;
use super::product::{Matrix, Target, multiply};
use super::simd::{Loops, vectorised};
use crate::error::Result;

/// Scores held at a time off the CPU, in elements: 64 Mi (256 MiB in f32).
const MAX_SCORES: usize = 64 << 20;

/// Queries per block on the CPU: enough rows for an efficient product, few enough for the scores to stay in the cache.
const BLOCK: usize = 64;

/// `softmax(q k^T * scale + mask) v` per head.
///
/// Shapes: `q [batch, heads, n, d]`, `k` and `v [batch, heads, m, d]`, `mask [n, m]` added to the scores; the result is
/// `[batch, heads, n, d]` in `q`'s type, laid out so that merging the heads is a view. The softmax is taken in f32 whatever
/// the type.
///
/// # Errors
/// When the shapes do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, mask: Option<&Tensor>) -> Result<Tensor> {
    let (batch, heads, queries, _) = q.dims4()?;
    let keys = k.dim(2)?;
    if q.device().is_cpu() && mask.is_none() {
        let kernel = AttentionKernel { scale: scale as f32 };
        let floats = |xs: &Tensor| xs.to_dtype(DType::F32);
        let merged = floats(q)?.apply_op3_no_bwd(&floats(k)?, &floats(v)?, &kernel)?;
        return Ok(merged.transpose(1, 2)?.to_dtype(q.dtype())?);
    }
    #[cfg(feature = "flash-attn")]
    if q.device().is_cuda() && mask.is_none() && matches!(q.dtype(), DType::F16 | DType::BF16) && q.dim(3)? % 8 == 0 {
        let rows_first = |xs: &Tensor| xs.transpose(1, 2)?.contiguous();
        let (q, k, v) = (rows_first(q)?, rows_first(k)?, rows_first(v)?);
        return Ok(candle_flash_attn::flash_attn(&q, &k, &v, scale as f32, false)?.transpose(1, 2)?);
    }
    let q = (q * scale)?.contiguous()?;
    let k = k.transpose(2, 3)?.contiguous()?;
    let v = v.contiguous()?;
    let block = (MAX_SCORES / (batch * heads * keys).max(1)).clamp(1, queries.max(1));
    if block >= queries {
        return attend(&q, &k, &v, mask);
    }
    let mut blocks = Vec::with_capacity(queries.div_ceil(block));
    for start in (0..queries).step_by(block) {
        let length = block.min(queries - start);
        let mask = mask.map(|mask| mask.narrow(0, start, length)).transpose()?;
        blocks.push(attend(&q.narrow(2, start, length)?.contiguous()?, &k, &v, mask.as_ref())?);
    }
    Ok(Tensor::cat(&blocks, 2)?)
}

fn attend(q: &Tensor, k_transposed: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let mut scores = q.matmul(k_transposed)?.to_dtype(DType::F32)?;
    if let Some(mask) = mask {
        scores = scores.broadcast_add(mask)?;
    }
    let weights = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(v.dtype())?;
    Ok(weights.matmul(v)?)
}

/// Attention in f32 on the CPU; its result is `[batch, n, heads, d]`.
struct AttentionKernel {
    scale: f32,
}

/// A rank-4 view `[batch, heads, rows, width]` into a slice, checked once so that every index below its sizes is inside.
#[derive(Clone, Copy)]
struct View<'a> {
    data: &'a [f32],
    sizes: [usize; 4],
    strides: [usize; 4],
}

impl<'a> View<'a> {
    fn new(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<Self> {
        let (&[a, b, c, d], &[sa, sb, sc, sd]) = (layout.dims(), layout.stride()) else {
            candle_core::bail!("attention needs rank 4, not {:?}", layout.shape());
        };
        let (sizes, strides) = ([a, b, c, d], [sa, sb, sc, sd]);
        let Some(data) = storage.as_slice::<f32>()?.get(layout.start_offset()..) else {
            candle_core::bail!("attention input starts outside its storage");
        };
        let last: usize = sizes.iter().zip(strides).map(|(size, stride)| size.saturating_sub(1) * stride).sum();
        if sizes.iter().all(|&size| size > 0) && last >= data.len() {
            candle_core::bail!("attention input of shape {:?} reaches outside its storage", layout.shape());
        }
        Ok(Self { data, sizes, strides })
    }

    /// The part of the slice that starts at a row of one head.
    fn starting_at(&self, batch: usize, head: usize, row: usize) -> &'a [f32] {
        &self.data[batch * self.strides[0] + head * self.strides[1] + row * self.strides[2]..]
    }
}

impl CustomOp3 for AttentionKernel {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q_storage: &CpuStorage,
        q_layout: &Layout,
        k_storage: &CpuStorage,
        k_layout: &Layout,
        v_storage: &CpuStorage,
        v_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let q = View::new(q_storage, q_layout)?;
        let k = View::new(k_storage, k_layout)?;
        let v = View::new(v_storage, v_layout)?;
        let [batch, heads, queries, width] = q.sizes;
        let keys = k.sizes[2];
        if k.sizes != [batch, heads, keys, width] || v.sizes != k.sizes {
            candle_core::bail!("attention shapes do not fit: {:?} {:?} {:?}", q.sizes, k.sizes, v.sizes);
        }
        let shape = Shape::from((batch, queries, heads, width));
        let mut out = zeros(shape.elem_count());
        if out.is_empty() || keys == 0 {
            return Ok((CpuStorage::F32(out), shape));
        }
        // A chunk holds BLOCK whole rows of all heads (the last of a batch may be shorter); its heads are done in turn.
        for (batch, out) in out.chunks_mut(queries * heads * width).enumerate() {
            out.par_chunks_mut(BLOCK * heads * width).enumerate().for_each_init(
                || vec![0f32; BLOCK.min(queries) * keys],
                |scores, (block, out)| {
                    let first = block * BLOCK;
                    let rows = out.len() / (heads * width);
                    let scores = &mut scores[..rows * keys];
                    let mut shares = [0f32; BLOCK];
                    for head in 0..heads {
                        let q_rows = q.starting_at(batch, head, first);
                        let k_rows = k.starting_at(batch, head, 0);
                        let v_rows = v.starting_at(batch, head, 0);
                        multiply(
                            Matrix { data: q_rows, row: q.strides[2], column: q.strides[3] },
                            Matrix { data: k_rows, row: k.strides[3], column: k.strides[2] },
                            (rows, width, keys),
                            self.scale,
                            Target::Overwrite,
                            (&mut *scores, keys),
                            1,
                        );
                        vectorised(Softmax { scores: &mut *scores, keys, shares: &mut shares[..rows] });
                        multiply(
                            Matrix { data: scores, row: keys, column: 1 },
                            Matrix { data: v_rows, row: v.strides[2], column: v.strides[3] },
                            (rows, keys, width),
                            1.0,
                            Target::Overwrite,
                            (&mut out[head * width..], heads * width),
                            1,
                        );
                        for (out, &share) in out.chunks_mut(heads * width).zip(&shares) {
                            out[head * width..][..width].iter_mut().for_each(|value| *value *= share);
                        }
                    }
                },
            );
        }
        Ok((CpuStorage::F32(out), shape))
    }
}

/// Turns every row of scores into their exponentials, and says what each is to be multiplied by for the sum to be 1.
struct Softmax<'a> {
    scores: &'a mut [f32],
    keys: usize,
    shares: &'a mut [f32],
}

/// Running values side by side, so that none waits for the one before.
const LANES: usize = 16;

impl Loops for Softmax<'_> {
    #[inline(always)]
    fn run(self) {
        for (row, share) in self.scores.chunks_mut(self.keys).zip(self.shares) {
            let (whole, rest) = row.as_chunks::<LANES>();
            let mut tops = [f32::NEG_INFINITY; LANES];
            for scores in whole {
                for (top, &score) in tops.iter_mut().zip(scores) {
                    *top = if score > *top { score } else { *top };
                }
            }
            let top = tops.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
            let mut total = 0f64;
            for part in row.chunks_mut(16 * LANES) {
                let (whole, rest) = part.as_chunks_mut::<LANES>();
                let mut sums = [0f32; LANES];
                for scores in whole {
                    for (sum, score) in sums.iter_mut().zip(scores) {
                        *score = exp_f32(*score - top);
                        *sum += *score;
                    }
                }
                for score in rest.iter_mut() {
                    *score = exp_f32(*score - top);
                }
                total += f64::from(sums.iter().chain(rest.iter()).sum::<f32>());
            }
            *share = (1.0 / total) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// The CPU kernel against the formula in f64, on head-split (strided) inputs and blocks that are not full.
    #[test]
    fn the_kernel_equals_the_formula_in_double_precision() {
        for (queries, keys, width) in [(1, 1, 1), (5, 77, 40), (130, 130, 8), (64, 3, 16)] {
            let split = |rows: usize| {
                let xs = Tensor::randn(0f32, 1., (2, rows, 3 * width), &Device::Cpu).unwrap();
                xs.reshape((2, rows, 3, width)).unwrap().transpose(1, 2).unwrap()
            };
            let (q, k, v) = (split(queries), split(keys), split(keys));
            let ours = attention(&q, &k, &v, 0.3, None).unwrap();
            let double = |xs: &Tensor| xs.to_dtype(DType::F64).unwrap().contiguous().unwrap();
            let scores = (double(&q).matmul(&double(&k).t().unwrap()).unwrap() * 0.3).unwrap();
            let exact = candle_nn::ops::softmax(&scores, 3).unwrap().matmul(&double(&v)).unwrap();
            assert_eq!(ours.dims(), exact.dims());
            let error = (double(&ours) - exact).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(error < 3e-6, "{queries} queries, {keys} keys: {error}");
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let zeros = |heads: usize, rows: usize| Tensor::zeros((1, heads, rows, 4), DType::F32, &Device::Cpu).unwrap();
        assert!(attention(&zeros(2, 3), &zeros(1, 3), &zeros(1, 3), 1.0, None).is_err());
        assert!(attention(&zeros(2, 3), &zeros(2, 3), &zeros(2, 4), 1.0, None).is_err());
    }
}
