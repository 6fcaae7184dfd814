//! Scaled dot-product attention that never holds all scores.
//!
//! On the CPU blocks of queries are taken against packed keys and values (`block`), and the inputs are read through their
//! strides: splitting heads copies nothing. On CUDA the feature `flash-attn` brings the fused kernel (Dao et al. 2022) for half
//! precision. Elsewhere the framework's operations run on blocks of bounded size.

mod block;

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

use self::block::{Block, Rows};
use super::fresh::zeros;
use super::scratch::Scratch;
use super::simd::Isa;
use crate::error::Result;

/// Scores held at a time off the CPU, in elements: 64 Mi (256 MiB in f32).
const MAX_SCORES: usize = 64 << 20;

/// Packed keys and values held at a time on the CPU, in elements: 4 Mi (16 MiB), or one head's.
const MAX_PACKED: usize = 4 << 20;

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
    if q.device().is_cpu() {
        let kernel = AttentionKernel::new(scale as f32, mask, queries, keys)?;
        let floats = |xs: &Tensor| {
            let xs = xs.to_dtype(DType::F32)?;
            if xs.stride().last() == Some(&1) { Ok(xs) } else { xs.contiguous() }
        };
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
    isa: Isa,
    scale: f32,
    /// Added to the scores: `[n, m]`.
    mask: Option<Vec<f32>>,
}

impl AttentionKernel {
    fn new(scale: f32, mask: Option<&Tensor>, queries: usize, keys: usize) -> candle_core::Result<Self> {
        let mask = mask.map(|mask| mask.broadcast_as((queries, keys))?.to_dtype(DType::F32)?.flatten_all()?.to_vec1());
        Ok(Self { isa: Isa::best(), scale, mask: mask.transpose()? })
    }
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
        if sd != 1 && d > 1 {
            candle_core::bail!("attention needs the elements of a head side by side");
        }
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

    /// Rows of one head, from one on.
    fn rows(&self, batch: usize, head: usize, first: usize) -> Rows<'a> {
        let [s_batch, s_head, row, _] = self.strides;
        Rows { data: &self.data[batch * s_batch + head * s_head + first * row..], row }
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
        let cut = block::Shape::new(self.isa, keys, width);
        let packed = cut.packed();
        let at_once = (MAX_PACKED / (batch * packed).max(1)).clamp(1, heads);
        let mut store = Scratch::new(batch * at_once * packed);
        for first in (0..heads).step_by(at_once) {
            let group = first..heads.min(first + at_once);
            // Those of a batch's heads lie together.
            let store = &mut store[..batch * group.len() * packed];
            store.par_chunks_mut(packed).enumerate().for_each(|(at, to)| {
                let (batch, head) = (at / group.len(), first + at % group.len());
                cut.pack(k.rows(batch, head, 0), v.rows(batch, head, 0), to);
            });
            let batches = out.par_chunks_mut(queries * heads * width).zip(store.par_chunks(group.len() * packed));
            batches.enumerate().for_each(|(batch, (out, store))| {
                // A chunk holds whole rows of all heads, of which the group's are done in turn.
                out.par_chunks_mut(cut.queries * heads * width).enumerate().for_each(|(block, out)| {
                    let (first, count) = (block * cut.queries, out.len() / (heads * width));
                    for (head, packed) in group.clone().zip(store.chunks_exact(packed)) {
                        let block = Block {
                            q: q.rows(batch, head, first),
                            count,
                            scale: self.scale,
                            mask: self.mask.as_ref().map(|mask| &mask[first * keys..(first + count) * keys]),
                            out: &mut out[head * width..],
                            out_row: heads * width,
                        };
                        cut.attend(packed, block);
                    }
                });
            });
        }
        Ok((CpuStorage::F32(out), shape))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// The CPU kernel against the formula in f64, on head-split (strided) inputs, blocks and panels that are not full, and masks.
    #[test]
    fn every_instruction_set_gives_the_formula_in_double_precision() {
        let mut rng = crate::rng::TorchRng::new(1);
        let sizes = [(1, 1, 1), (5, 77, 40), (130, 130, 8), (64, 3, 16), (50, 300, 13), (77, 77, 64), (24, 513, 160)];
        for (isa, (queries, keys, width)) in Isa::all().into_iter().flat_map(|isa| sizes.map(|sizes| (isa, sizes))) {
            let mut split = |rows: usize| {
                let xs = rng.normal(&[2, rows, 3 * width]).unwrap();
                xs.reshape((2, rows, 3, width)).unwrap().transpose(1, 2).unwrap()
            };
            let (q, k, v) = (split(queries), split(keys), split(keys));
            let causal = (0..queries * keys).map(|at| if at % keys > at / keys { f32::NEG_INFINITY } else { 0.5 });
            let causal = Tensor::from_iter(causal, &Device::Cpu).unwrap().reshape((queries, keys)).unwrap();
            // With wide heads what nets take: scores that are far apart magnify the rounding of each.
            let scale = if width > 100 { (width as f64).powf(-0.5) } else { 0.3 };
            for mask in [None, Some(&causal)] {
                let kernel = AttentionKernel::new(scale as f32, mask, queries, keys).unwrap();
                let kernel = AttentionKernel { isa, ..kernel };
                let ours = q.apply_op3_no_bwd(&k, &v, &kernel).unwrap().transpose(1, 2).unwrap();
                let double = |xs: &Tensor| xs.to_dtype(DType::F64).unwrap().contiguous().unwrap();
                let mut scores = (double(&q).matmul(&double(&k).t().unwrap()).unwrap() * scale).unwrap();
                if let Some(mask) = mask {
                    scores = scores.broadcast_add(&double(mask)).unwrap();
                }
                let exact = candle_nn::ops::softmax(&scores, 3).unwrap().matmul(&double(&v)).unwrap();
                assert_eq!(ours.dims(), exact.dims());
                let error = (double(&ours) - exact).unwrap().abs().unwrap().max_all().unwrap();
                let error = error.to_scalar::<f64>().unwrap();
                assert!(error < 3e-6, "{isa:?}, {queries} queries, {keys} keys, {width} wide: {error}");
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let zeros = |heads: usize, rows: usize| Tensor::zeros((1, heads, rows, 4), DType::F32, &Device::Cpu).unwrap();
        assert!(attention(&zeros(2, 3), &zeros(1, 3), &zeros(1, 3), 1.0, None).is_err());
        assert!(attention(&zeros(2, 3), &zeros(2, 3), &zeros(2, 4), 1.0, None).is_err());
        let flat = Tensor::zeros((2, 3, 4), DType::F32, &Device::Cpu).unwrap();
        assert!(attention(&zeros(2, 3), &flat, &flat, 1.0, None).is_err());
    }
}
