//! The bundled net over pictures of any size, strip by strip, equal to the whole.

use candle_core::Tensor;

use super::palette::{self, Palette};
use super::{Compact, EPS, Layer, Modulation, SMALLEST, StyleCode, noise_map, normalised, unit};
use crate::error::{Error, Result};
use crate::nets::strips::{self, Body, OnRows, OnStrip, Rows, Step};
use crate::ops::trainable::{Padding, relu};

impl Compact {
    /// [`forward`](Compact::forward) for one picture of any size in bounded memory: rows are read as they are needed and
    /// handed out as they are finished.
    ///
    /// # Errors
    /// As `forward`, and what the callbacks return.
    pub fn forward_rows(
        &self,
        content: &Rows<'_>,
        code: &StyleCode,
        strength: f64,
        on_rows: &mut OnRows<'_>,
        on_strip: &mut OnStrip<'_>,
    ) -> Result<()> {
        if strength >= 1.0 {
            return self.paint_rows(content, code, 0, on_rows, on_strip);
        }
        let code = self.encode_rows(content)?.towards(code, strength)?;
        self.paint_rows(content, &code, 0, on_rows, on_strip)
    }

    /// [`encode_style`](Compact::encode_style) for a picture of any size.
    ///
    /// # Errors
    /// As `encode_style`.
    pub fn encode_rows(&self, style: &Rows<'_>) -> Result<StyleCode> {
        check(style)?;
        let (mut reach, mut scale) = (0, 1);
        let mut scales = Vec::new();
        for (first, second) in &self.style {
            reach += scale;
            scale *= first.geometry.stride;
            reach += if second.is_some() { scale } else { 0 };
            scales.push(scale);
        }
        let layers = |slab: &Tensor| {
            let mut features = Vec::with_capacity(self.style.len());
            let mut xs = normalised(slab)?;
            for (first, second) in &self.style {
                xs = relu(&first.forward(&xs)?)?;
                if let Some(second) = second {
                    xs = relu(&second.forward(&xs)?)?;
                }
                features.push(xs.clone());
            }
            Ok(features)
        };
        let statistics = strips::measure(style, (scale, reach), &scales, &layers)?;
        let statistics = statistics.into_iter().flat_map(|(mean, deviation)| [mean, deviation]).collect();
        self.code(statistics, &[palette_of(style)?])
    }

    /// [`paint`](Compact::paint) for one picture of any size.
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
        let (gains, palette) = modulation.tail(self.config.painter[2])?;
        let mut residual = Vec::with_capacity(self.config.blocks);
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

fn palette_of(picture: &Rows<'_>) -> Result<Palette> {
    Palette::of_rows(picture.height, picture.pixels / picture.width.max(1), picture.read)
}

fn check(picture: &Rows<'_>) -> Result<()> {
    let Rows { height, width, .. } = *picture;
    if height < SMALLEST || width < SMALLEST {
        let reason = format!("{width}x{height}; the net needs at least {SMALLEST}x{SMALLEST}");
        return Err(Error::usage("picture", reason));
    }
    Ok(())
}
