//! The painter over pictures of any size, strip by strip, equal to the whole.

use candle_core::Tensor;

use super::palette::{self, Palette};
use super::{EPS, Layer, Modulation, Painter, SMALLEST, StyleCode, noise_map, unit};
use crate::error::{Error, Result};
use crate::nets::strips::{self, Body, OnRows, OnStrip, Rows, Step};
use crate::ops::trainable::Padding;

impl Painter {
    /// [`paint`](Painter::paint) for one picture of any size.
    ///
    /// # Errors
    /// As `paint`, and what the callbacks return.
    pub fn paint_rows(
        &self,
        content: &Rows<'_>,
        code: &StyleCode,
        noise: u32,
        on_rows: &mut OnRows<'_>,
        on_strip: &mut OnStrip<'_>,
    ) -> Result<()> {
        check(content)?;
        if code.0.dim(0)? != 1 {
            return Err(Error::usage("style", "strips are painted in one style at a time"));
        }
        let mut modulation = Modulation { code: code.0.clone(), at: 0 };
        let down = self.down.iter().map(|layer| normed(&mut modulation, layer)).collect::<Result<_>>()?;
        let (gains, palette) = modulation.tail(self.sizes.widths[2])?;
        let mut residual = Vec::with_capacity(self.sizes.blocks);
        for block in self.residual.chunks_exact(2) {
            let first = normed(&mut modulation, &block[0])?;
            residual.push((first, Step { relu: false, ..normed(&mut modulation, &block[1])? }));
        }
        let mut up = self.up.iter().map(|layer| normed(&mut modulation, layer)).collect::<Result<Vec<_>>>()?;
        let (scale, shift) = unit(1, code.0.device())?;
        up.push(Step { norm: Some((scale, shift, EPS)), ..plain(&self.last) });
        let own = palette_of(content)?;
        let add = |first: usize, xs: Tensor| -> Result<Tensor> {
            let (_, _, rows, columns) = xs.dims4()?;
            let map = noise_map(first, rows, columns, noise, xs.device())?.to_dtype(xs.dtype())?;
            Ok((xs + gains.unsqueeze(2)?.unsqueeze(3)?.broadcast_mul(&map)?)?)
        };
        let body = Body {
            enter: Box::new(move |xs| own.out_of(xs)),
            down,
            add: Some(Box::new(add)),
            residual,
            up,
            leave: Box::new(|xs| palette::colour(xs, &palette)),
        };
        strips::paint(&body, content, on_rows, on_strip)
    }
}

/// A layer with its norm and a ReLU.
fn normed<'a>(modulation: &mut Modulation, layer: &'a Layer) -> Result<Step<'a>> {
    let (scale, shift) = modulation.next(layer.weight.dim(0)?)?;
    Ok(Step { norm: Some((scale, shift, EPS)), relu: true, ..plain(layer) })
}

fn plain(layer: &Layer) -> Step<'_> {
    let (Padding::Zeros(reach) | Padding::Reflect(reach)) = layer.geometry.padding;
    let (stride, upsample) = (layer.geometry.stride, layer.geometry.upsample);
    Step { convolve: Box::new(|xs| layer.forward(xs)), norm: None, relu: false, reach, stride, upsample }
}

/// [`Palette`] of a picture that is read in rows.
pub(in crate::nets) fn palette_of(picture: &Rows<'_>) -> Result<Palette> {
    Palette::of_rows(picture.height, picture.pixels / picture.width.max(1), picture.read)
}

/// Refuses what is too small.
pub(in crate::nets) fn check(picture: &Rows<'_>) -> Result<()> {
    let Rows { height, width, .. } = *picture;
    if height < SMALLEST || width < SMALLEST {
        let reason = format!("{width}x{height}; the net needs at least {SMALLEST}x{SMALLEST}");
        return Err(Error::usage("picture", reason));
    }
    Ok(())
}
