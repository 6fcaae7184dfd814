//! The same functions composed of candle's operations, for GPUs and other types. Gradients come from candle; none of the
//! operations used is one whose gradient candle gets wrong (nearest enlargement is a broadcast, padding a selection).

use candle_core::Tensor;

use super::super::pad::reflect_pad;
use super::{Geometry, Padding};
use crate::error::Result;

pub(super) fn conv2d(xs: &Tensor, weight: &Tensor, bias: &Tensor, geometry: Geometry) -> Result<Tensor> {
    let xs = upsample(xs, geometry.upsample)?;
    let (xs, zeros) = match geometry.padding {
        Padding::Reflect(n) => (reflect_pad(&xs, n)?, 0),
        Padding::Zeros(n) => (xs, n),
    };
    let out = xs.contiguous()?.conv2d(weight, zeros, geometry.stride, 1, 1)?;
    Ok(out.broadcast_add(&bias.reshape((1, (), 1, 1))?)?)
}

fn upsample(xs: &Tensor, factor: usize) -> Result<Tensor> {
    if factor == 1 {
        return Ok(xs.clone());
    }
    let (batch, channels, height, width) = xs.dims4()?;
    let xs = xs.reshape((batch, channels, height, 1, width, 1))?;
    let xs = xs.broadcast_as((batch, channels, height, factor, width, factor))?;
    Ok(xs.reshape((batch, channels, height * factor, width * factor))?)
}

pub(super) fn instance_norm(xs: &Tensor, scale: &Tensor, shift: &Tensor, eps: f64, relu: bool) -> Result<Tensor> {
    let (batch, channels, _, _) = xs.dims4()?;
    let per_plane = |xs: &Tensor| xs.reshape((batch, channels, 1, 1));
    let centred = xs.broadcast_sub(&xs.mean_keepdim((2, 3))?)?;
    let deviation = (centred.sqr()?.mean_keepdim((2, 3))? + eps)?.sqrt()?;
    let out = centred.broadcast_mul(&per_plane(scale)?.div(&deviation)?)?.broadcast_add(&per_plane(shift)?)?;
    Ok(if relu { out.relu()? } else { out })
}

pub(super) fn moments(xs: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let (batch, channels, _, _) = xs.dims4()?;
    let mean = xs.mean_keepdim((2, 3))?;
    let variance = xs.broadcast_sub(&mean)?.sqr()?.mean_keepdim((2, 3))?;
    Ok((mean.reshape((batch, channels))?, (variance + eps)?.sqrt()?.reshape((batch, channels))?))
}
