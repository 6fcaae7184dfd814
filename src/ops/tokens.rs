//! A picture's positions as tokens, and back.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::fresh::{Place, fresh, write, written};
use super::is_ours;
use super::product::contiguous;
use crate::error::Result;

/// Rows and columns of a tile that is turned at once: a cache line each way.
const TILE: usize = 16;

/// `[batch, channels, height, width]` to `[batch, height * width, channels]`, contiguous.
///
/// # Errors
/// When the tensor library fails.
pub fn to_tokens(xs: &Tensor) -> Result<Tensor> {
    turned(&xs.flatten_from(2)?)
}

/// `[batch, height * width, channels]` to `[batch, channels, height, width]`, contiguous.
///
/// # Errors
/// When there are not as many tokens.
pub fn from_tokens(xs: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (batch, _, channels) = xs.dims3()?;
    Ok(turned(xs)?.reshape((batch, channels, height, width))?)
}

/// The heads of one of several matrices that lie side by side in `[batch, n, parts * heads * d]`: `[batch, heads, n, d]`,
/// contiguous.
///
/// # Errors
/// When the width does not divide so.
pub fn heads_of(xs: &Tensor, (part, parts): (usize, usize), heads: usize) -> Result<Tensor> {
    let (batch, count, width) = xs.dims3()?;
    if parts * heads == 0 || part >= parts || !width.is_multiple_of(parts * heads) {
        let reason = format!("{parts} matrices of {heads} heads do not make a width of {width}");
        return Err(candle_core::Error::Msg(reason).into());
    }
    if is_ours(xs) {
        return Ok(xs.contiguous()?.apply_op1_no_bwd(&Heads { part, parts, heads })?);
    }
    let split = xs.reshape((batch, count, parts, heads, width / parts / heads))?;
    Ok(split.narrow(2, part, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous()?)
}

struct Heads {
    part: usize,
    parts: usize,
    heads: usize,
}

impl CustomOp1 for Heads {
    fn name(&self) -> &'static str {
        "heads"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let Self { part, parts, heads } = *self;
        let (batch, count, width) = layout.shape().dims3()?;
        let xs = contiguous(storage, layout)?;
        let head = width / parts / heads;
        let shape = Shape::from((batch, heads, count, head));
        let mut out = fresh(shape.elem_count());
        if !out.is_empty() {
            out.par_chunks_mut(count * head).enumerate().for_each(|(plane, out)| {
                let (batch, own) = (plane / heads, plane % heads);
                let xs = &xs[batch * count * width..][..count * width];
                for (out, xs) in out.chunks_mut(head).zip(xs.chunks(width)) {
                    write(out, &xs[(part * heads + own) * head..][..head]);
                }
            });
        }
        // SAFETY: a plane for each head of each picture, and all its rows are written.
        #[allow(unsafe_code)]
        let out = unsafe { written(out) };
        Ok((CpuStorage::F32(out), shape))
    }
}

/// The last two axes exchanged, contiguous.
fn turned(xs: &Tensor) -> Result<Tensor> {
    if is_ours(xs) {
        return Ok(xs.contiguous()?.apply_op1_no_bwd(&Turn)?);
    }
    Ok(xs.transpose(1, 2)?.contiguous()?)
}

struct Turn;

impl CustomOp1 for Turn {
    fn name(&self) -> &'static str {
        "turn"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, rows, columns) = layout.shape().dims3()?;
        let xs = contiguous(storage, layout)?;
        let mut out = fresh(xs.len());
        if !xs.is_empty() {
            for (xs, out) in xs.chunks(rows * columns).zip(out.chunks_mut(rows * columns)) {
                out.par_chunks_mut(TILE * rows).enumerate().for_each(|(strip, out)| {
                    turn(&xs[strip * TILE..], (rows, columns), out);
                });
            }
        }
        // SAFETY: a strip of each batch covers its columns, and `turn` writes all their rows.
        #[allow(unsafe_code)]
        let out = unsafe { written(out) };
        Ok((CpuStorage::F32(out), Shape::from((batch, columns, rows))))
    }
}

/// Some columns of `[rows, columns]`, as many as `out` has room for, to rows.
fn turn(xs: &[f32], (rows, columns): (usize, usize), out: &mut [Place]) {
    for first in (0..rows).step_by(TILE) {
        let count = TILE.min(rows - first);
        for (column, out) in out.chunks_mut(rows).enumerate() {
            for (row, out) in out[first..first + count].iter_mut().enumerate() {
                out.write(xs[(first + row) * columns + column]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::ops::drawn::random;

    #[test]
    fn tokens_are_the_transposed_picture_and_come_back() {
        for shape in [[2, 35, 5, 7], [1, 16, 4, 4], [3, 1, 1, 1], [2, 40, 9, 31]] {
            let xs = random(&shape);
            let tokens = to_tokens(&xs).unwrap();
            let theirs = xs.flatten_from(2).unwrap().transpose(1, 2).unwrap();
            let flat = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!((tokens.dims(), flat(&tokens)), (theirs.dims(), flat(&theirs)));
            assert_eq!(flat(&from_tokens(&tokens, shape[2], shape[3]).unwrap()), flat(&xs));
        }
        let xs = random(&[2, 5, 3 * 4 * 6]);
        let theirs = xs.reshape((2, 5, 3, 4, 6)).unwrap();
        for part in 0..3 {
            let theirs = theirs.narrow(2, part, 1).unwrap().squeeze(2).unwrap().transpose(1, 2).unwrap();
            let ours = heads_of(&xs, (part, 3), 4).unwrap();
            let flat = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!((ours.dims(), flat(&ours)), (theirs.dims(), flat(&theirs)));
        }
        assert!(heads_of(&xs, (0, 3), 5).is_err() && heads_of(&xs, (3, 3), 4).is_err());
        assert_eq!(
            to_tokens(&Tensor::zeros((0, 3, 2, 2), DType::F32, &Device::Cpu).unwrap()).unwrap().dims(),
            [0, 4, 3]
        );
    }
}
