//! The painter of this project's own nets: a photo and a style code in, the painted photo out.
//!
//! Three scales (the shape of Johnson 2016: two steps down, residual blocks, two nearest-neighbour steps up), and every
//! instance norm takes scale and shift from the code (Dumoulin 2017). A fixed noise map enters the coarsest scale with a gain of
//! the code's own, so that an empty sky can be given strokes.
//!
//! Colours do not pass through the net: it sees the photo without its own (whitened) and paints what the palette's Gaussian,
//! the painting's own mean and covariance, is then laid over.
//!
//! Where the code comes from is the business of others: [`adain::compact`](super::adain::compact) reads it off a painting,
//! [`fast`](super::fast) has learned it by heart.

mod palette;
mod rows;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::ops::matrix3::Matrix3;
use crate::ops::trainable::{Geometry, conv2d, conv2d_relu, instance_norm_of_own};
use crate::rng::white;
pub(in crate::nets) use palette::Palette;
pub use palette::RIDGE;
pub(in crate::nets) use rows::{check as check_rows, palette_of};

/// Under the variance of every instance norm.
pub(in crate::nets) const EPS: f64 = 1e-5;

/// Pixels per side below which the mirrored edges of the coarsest scale have nothing to mirror.
pub const SMALLEST: usize = 16;

/// Numbers of a palette at the end of a style code: the mean, and the root of the covariance row by row.
pub const PALETTE: usize = palette::WIDTH;

/// Photos `[n, 3, h, w]` in 0..1 in the colours (mean and covariance) of as many pictures, as a painter that left every pixel where
/// it is would paint them. Without gradients.
///
/// # Errors
/// When there are not as many of both, or the tensor library fails.
pub fn recoloured(photos: &Tensor, like: &Tensor) -> Result<Tensor> {
    palette::colour(&palette::bare(&photos.detach())?, &palette::numbers(&Palette::all_of(like)?, photos.device())?)
}

/// The sizes of a painter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Channels at full, half and quarter size.
    pub widths: [usize; 3],
    /// Residual blocks at quarter size.
    pub blocks: usize,
}

impl Sizes {
    /// The sizes of the painter in a file, given the first side of a tensor by its name. `None` where there is none.
    pub fn of(rows: impl Fn(&str) -> Option<usize>) -> Option<Self> {
        let residual = (0..2 * MAX_BLOCKS).take_while(|i| rows(&format!("residual.{i}.weight")).is_some()).count();
        let widths = [rows("down.0.weight")?, rows("down.1.weight")?, rows("down.2.weight")?];
        Some(Self { widths, blocks: residual / 2 })
    }

    /// Refuses sizes that no painter has; a file's word is not trusted.
    ///
    /// # Errors
    /// When a size is zero or out of all proportion.
    pub fn check(&self) -> Result<()> {
        if self.widths.iter().any(|&width| width == 0 || width > 4096) || self.blocks > MAX_BLOCKS {
            return Err(Error::usage("net", format!("{self:?} is no net of this kind")));
        }
        Ok(())
    }

    /// Channels of each modulated layer, in order.
    fn modulated(&self) -> Vec<usize> {
        let [full, half, quarter] = self.widths;
        let mut widths = vec![full, half, quarter];
        widths.extend(std::iter::repeat_n(quarter, 2 * self.blocks));
        widths.extend([half, full]);
        widths
    }

    /// Numbers of a style code without its palette: a scale and a shift for every modulated channel, and the noise gains.
    pub fn modulation(&self) -> usize {
        2 * self.modulated().iter().sum::<usize>() + self.widths[2]
    }
}

/// More residual blocks than this are no net of this kind.
const MAX_BLOCKS: usize = 64;

/// What the painter needs to know about a style: a scale and a shift for every modulated channel, the noise gains, and the
/// palette. `[n, 2 * channels + noise + 12]`.
#[derive(Debug, Clone)]
pub struct StyleCode(pub(super) Tensor);

impl StyleCode {
    /// Modulations `[n, numbers]` ([`Sizes::modulation`]) with a palette for each.
    pub(super) fn of(modulation: &Tensor, palettes: &[Palette]) -> Result<Self> {
        let numbers = palette::numbers(palettes, modulation.device())?;
        Ok(Self(Tensor::cat(&[modulation, &numbers.to_dtype(modulation.dtype())?], 1)?))
    }

    /// Numbers as they are, `[n, modulation + PALETTE]`.
    pub(super) fn from_tensor(numbers: Tensor, sizes: Sizes) -> Result<Self> {
        if numbers.dim(1)? != sizes.modulation() + PALETTE {
            return Err(Error::usage("style", format!("{:?} is no code for {sizes:?}", numbers.dims())));
        }
        Ok(Self(numbers))
    }

    /// Modulation and palette.
    pub(super) fn parts(&self) -> Result<(Tensor, Tensor)> {
        let palette = self.0.dim(1)? - PALETTE;
        Ok((self.0.narrow(1, 0, palette)?.contiguous()?, self.0.narrow(1, palette, PALETTE)?.contiguous()?))
    }

    /// The palette of a single style: the mean of its colours and the root of their covariance, values from 0 to 1.
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn palette(&self) -> Result<([f64; 3], Matrix3)> {
        let (_, palette) = self.parts()?;
        let numbers = palette.get(0)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        let three = |first: usize| [0, 1, 2].map(|channel| f64::from(numbers[first + channel]));
        Ok((three(0), [three(3), three(6), three(9)]))
    }

    /// The weighted mean of several codes. Weights need not sum to one, but to something positive.
    ///
    /// # Errors
    /// When there are none, a weight is negative or not finite, or all are zero.
    pub fn blend(codes: &[(Self, f64)]) -> Result<Self> {
        let total: f64 = codes.iter().map(|(_, weight)| weight).sum();
        if codes.iter().any(|(_, weight)| !(weight.is_finite() && *weight >= 0.0))
            || !(total.is_finite() && total > 0.0)
        {
            return Err(Error::usage("--style", "weights must be positive numbers"));
        }
        let mut sum: Option<Tensor> = None;
        for (Self(code), weight) in codes {
            let part = (code * (weight / total))?;
            sum = Some(match sum {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        sum.map(Self).ok_or_else(|| Error::usage("--style", "no style was given"))
    }

    /// From `self` at 0 to `other` at 1.
    ///
    /// # Errors
    /// When the codes belong to different nets.
    pub fn towards(&self, other: &Self, share: f64) -> Result<Self> {
        Ok(Self(((&self.0 * (1.0 - share))? + (&other.0 * share)?)?))
    }

    /// The numbers, `[n, width]`.
    pub fn tensor(&self) -> &Tensor {
        &self.0
    }
}

/// The painter. Picture tensors are RGB in 0..1.
#[derive(Debug, Clone)]
pub struct Painter {
    sizes: Sizes,
    down: Vec<Layer>,
    residual: Vec<Layer>,
    up: Vec<Layer>,
    last: Layer,
}

impl Painter {
    /// Loads the net, or makes the variables of a new one where `vb` makes what it is asked for.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn new(sizes: Sizes, vb: VarBuilder<'_>) -> Result<Self> {
        sizes.check()?;
        let [full, half, quarter] = sizes.widths;
        let step = |inputs, outputs, name: &str| {
            Layer::new(inputs, outputs, 3, Geometry::same(3).with_stride(2), vb.pp("down").pp(name))
        };
        let down = vec![
            Layer::new(3, full, 5, Geometry::same(5), vb.pp("down").pp("0"))?,
            step(full, half, "1")?,
            step(half, quarter, "2")?,
        ];
        let residual = (0..2 * sizes.blocks)
            .map(|index| Layer::new(quarter, quarter, 3, Geometry::same(3), vb.pp("residual").pp(index)))
            .collect::<Result<_>>()?;
        let enlarged = Geometry::same(3).with_upsample(2);
        let up = vec![
            Layer::new(quarter, half, 3, enlarged, vb.pp("up").pp("0"))?,
            Layer::new(half, full, 3, enlarged, vb.pp("up").pp("1"))?,
        ];
        let last = Layer::new(full, 3, 5, Geometry::same(5), vb.pp("bare"))?;
        Ok(Self { sizes, down, residual, up, last })
    }

    /// The weights by their names in a file.
    pub(super) fn tensors(&self) -> HashMap<String, Tensor> {
        let groups = [("down", &self.down), ("residual", &self.residual), ("up", &self.up)];
        let numbered = groups.into_iter().flat_map(|(group, layers)| {
            layers.iter().enumerate().map(move |(index, layer)| (format!("{group}.{index}"), layer))
        });
        let named = numbered.chain([("bare".to_owned(), &self.last)]);
        named
            .flat_map(|(name, layer)| {
                [(format!("{name}.weight"), layer.weight.clone()), (format!("{name}.bias"), layer.bias.clone())]
            })
            .collect()
    }

    /// The sizes of the net.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Repaints `content [n, 3, h, w]` over the noise map number `noise`. Values are in 0..1.
    ///
    /// # Errors
    /// When the picture is smaller than [`SMALLEST`] on a side.
    pub fn paint(&self, content: &Tensor, code: &StyleCode, noise: u32) -> Result<Tensor> {
        let (batch, _, height, width) = content.dims4()?;
        let mut modulation = Modulation { code: code.0.broadcast_as((batch, code.0.dim(1)?))?.contiguous()?, at: 0 };
        check(content)?;
        let mut xs = palette::bare(content)?;
        for layer in &self.down {
            xs = modulation.relu(layer.forward(&xs)?)?;
        }
        let (gains, palette) = modulation.tail(self.sizes.widths[2])?;
        let (_, _, rows, columns) = xs.dims4()?;
        let map = noise_map(0, rows, columns, noise, xs.device())?.to_dtype(xs.dtype())?;
        xs = (xs + gains.unsqueeze(2)?.unsqueeze(3)?.broadcast_mul(&map)?)?;
        for block in self.residual.chunks_exact(2) {
            let inner = modulation.relu(block[0].forward(&xs)?)?;
            xs = (xs + modulation.linear(block[1].forward(&inner)?)?)?;
        }
        for layer in &self.up {
            xs = modulation.relu(layer.forward(&xs)?)?;
        }
        let (scale, shift) = unit(batch, xs.device())?;
        let painted = instance_norm_of_own(self.last.forward(&xs)?, &scale, &shift, EPS, false)?;
        // Halving rounds up: an odd side comes back a little longer.
        palette::colour(&painted.narrow(2, 0, height)?.narrow(3, 0, width)?, &palette)
    }
}

/// Walks along a code, layer by layer.
struct Modulation {
    code: Tensor,
    at: usize,
}

impl Modulation {
    fn next(&mut self, channels: usize) -> Result<(Tensor, Tensor)> {
        let scale = (self.code.narrow(1, self.at, channels)? + 1.0)?;
        let shift = self.code.narrow(1, self.at + channels, channels)?;
        self.at += 2 * channels;
        Ok((scale, shift))
    }

    fn linear(&mut self, xs: Tensor) -> Result<Tensor> {
        let (scale, shift) = self.next(xs.dim(1)?)?;
        instance_norm_of_own(xs, &scale, &shift, EPS, false)
    }

    fn relu(&mut self, xs: Tensor) -> Result<Tensor> {
        let (scale, shift) = self.next(xs.dim(1)?)?;
        instance_norm_of_own(xs, &scale, &shift, EPS, true)
    }

    /// The last numbers of the code: noise gains and palette.
    fn tail(&self, channels: usize) -> Result<(Tensor, Tensor)> {
        let palette = self.code.dim(1)? - PALETTE;
        Ok((self.code.narrow(1, palette - channels, channels)?, self.code.narrow(1, palette, PALETTE)?))
    }
}

/// Scale and shift of a norm that leaves mean 0 and variance 1, for the three channels of the picture.
fn unit(batch: usize, device: &Device) -> Result<(Tensor, Tensor)> {
    let zeros = Tensor::zeros((batch, 3), DType::F32, device)?;
    Ok((zeros.ones_like()?, zeros))
}

/// Refuses what is no picture or too small.
pub(super) fn check(xs: &Tensor) -> Result<()> {
    let (_, channels, height, width) = xs.dims4()?;
    if channels != 3 || height < SMALLEST || width < SMALLEST {
        return Err(Error::usage(
            "picture",
            format!("{width}x{height} with {channels} channels; the net needs RGB of at least {SMALLEST}x{SMALLEST}"),
        ));
    }
    Ok(())
}

/// Noise that depends on the position only, from row `first` on: `[1, 1, rows, columns]`, mean 0, variance 1, uniform. Like this a part of a
/// picture sees the same noise as the whole, and a still camera the same noise in every frame.
fn noise_map(first: usize, rows: usize, columns: usize, number: u32, device: &Device) -> Result<Tensor> {
    let mut values = Vec::with_capacity(rows * columns);
    for y in first..first + rows {
        for x in 0..columns {
            values.push(white(x, y, number));
        }
    }
    Ok(Tensor::from_vec(values, (1, 1, rows, columns), device)?)
}

/// A convolution with mirrored edges.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    weight: Tensor,
    bias: Tensor,
    pub(super) geometry: Geometry,
}

impl Layer {
    pub(super) fn new(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        geometry: Geometry,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let bound = 1.0 / ((inputs * kernel * kernel) as f64).sqrt();
        let uniform = candle_nn::Init::Uniform { lo: -bound, up: bound };
        let weight = vb.get_with_hints((outputs, inputs, kernel, kernel), "weight", uniform)?;
        let bias = vb.get_with_hints(outputs, "bias", candle_nn::Init::Const(0.0))?;
        Ok(Self { weight, bias, geometry })
    }

    pub(super) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        conv2d(xs, &self.weight, &self.bias, self.geometry)
    }

    pub(super) fn forward_relu(&self, xs: &Tensor) -> Result<Tensor> {
        conv2d_relu(xs, &self.weight, &self.bias, self.geometry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_depends_on_the_position_only() {
        let whole = noise_map(0, 8, 12, 3, &Device::Cpu).unwrap();
        let part = noise_map(2, 4, 5, 3, &Device::Cpu).unwrap();
        let cut = whole.narrow(2, 2, 4).unwrap().narrow(3, 0, 5).unwrap();
        let difference = (cut - part).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(difference, 0.0);
        let large: Vec<f32> =
            noise_map(0, 100, 100, 0, &Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let mean = large.iter().sum::<f32>() / 1e4;
        let variance = large.iter().map(|x| x * x).sum::<f32>() / 1e4;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
