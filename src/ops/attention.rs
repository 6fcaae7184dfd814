//! Scaled dot-product attention, blocked over queries so that the score matrix stays small.

use candle_core::{DType, Tensor};

use crate::error::Result;

/// Scores held at a time, in elements: 16 Mi (64 MiB in f32). A whole 4096 x 4096 map of 16 heads would take 1 GiB.
const MAX_SCORES: usize = 16 << 20;

/// `softmax(q k^T * scale + mask) v` per head.
///
/// Shapes: `q [batch, heads, n, d]`, `k` and `v [batch, heads, m, d]`, `mask [n, m]` added to the scores; the result is
/// `[batch, heads, n, d]` in `q`'s type. The softmax is taken in f32 whatever the type.
///
/// # Errors
/// When the shapes do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, mask: Option<&Tensor>) -> Result<Tensor> {
    let (batch, heads, queries, _) = q.dims4()?;
    let keys = k.dim(2)?;
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
