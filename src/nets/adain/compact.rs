//! The bundled arbitrary-style net: small enough to ship, quick on a CPU.
//!
//! A painter of three scales (the shape of Johnson 2016: two steps down, residual blocks, two nearest-neighbour steps up)
//! whose every instance norm takes scale and shift from the style (Dumoulin 2017, Ghiasi 2017). They are a function of the
//! means and deviations of a style encoder's features at four scales, the statistics AdaIN (Huang 2017) exchanges. A
//! fixed noise map enters the coarsest scale with a gain of the style's own, so that an empty sky can be given strokes.
//!
//! Colours do not pass through the net: it sees the photo without its own (whitened) and paints what the palette's Gaussian,
//! the painting's own mean and covariance, is then laid over.

mod palette;
mod rows;

use candle_core::{D, Device, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ops::trainable::{Geometry, conv2d, instance_norm, instance_norm_relu, moments, relu};
use palette::Palette;

/// Under the variance of every instance norm.
const EPS: f64 = 1e-5;

/// Pixels per side below which the mirrored edges of the coarsest scale have nothing to mirror.
pub const SMALLEST: usize = 16;

/// The sizes of a net.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Channels of the painter at full, half and quarter size.
    pub painter: [usize; 3],
    /// Residual blocks at quarter size.
    pub blocks: usize,
    /// Channels of the style encoder at full, half, quarter and eighth size.
    pub style: [usize; 4],
    /// Width of the layer between style statistics and modulation.
    pub hidden: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { painter: [16, 32, 64], blocks: 4, style: [16, 32, 64, 128], hidden: 256 }
    }
}

impl Config {
    /// Refuses sizes that no net of this kind has; a file's word is not trusted.
    ///
    /// # Errors
    /// When a size is zero or out of all proportion.
    pub fn check(&self) -> Result<()> {
        let widths = self.painter.iter().chain(&self.style).chain([&self.hidden]);
        if widths.clone().any(|&width| width == 0 || width > 4096) || self.blocks > 64 {
            return Err(Error::usage("net", format!("{self:?} is no net of this kind")));
        }
        Ok(())
    }

    /// Channels of each modulated layer, in the order of the painter.
    fn modulated(&self) -> Vec<usize> {
        let [full, half, quarter] = self.painter;
        let mut widths = vec![full, half, quarter];
        widths.extend(std::iter::repeat_n(quarter, 2 * self.blocks));
        widths.extend([half, full]);
        widths
    }
}

/// What the painter needs to know about a style: a scale and a shift for every modulated channel, the noise gains, and the
/// palette. `[n, 2 * channels + noise + 12]`.
#[derive(Debug, Clone)]
pub struct StyleCode(Tensor);

impl StyleCode {
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

/// The net. Picture tensors are RGB in 0..1.
#[derive(Debug, Clone)]
pub struct Compact {
    config: Config,
    style: Vec<(Layer, Option<Layer>)>,
    hidden: Dense,
    modulation: Dense,
    down: Vec<Layer>,
    residual: Vec<Layer>,
    up: Vec<Layer>,
    last: Layer,
}

impl Compact {
    /// Loads the net, or makes the variables of a new one where `vb` makes what it is asked for.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn new(config: &Config, vb: VarBuilder<'_>) -> Result<Self> {
        config.check()?;
        let [full, half, quarter] = config.painter;
        let mut style = Vec::new();
        let mut inputs = 3;
        for (scale, &width) in config.style.iter().enumerate() {
            let vb = vb.pp("style").pp(scale);
            let geometry = Geometry::same(3).with_stride(if scale == 0 { 1 } else { 2 });
            let first = Layer::new(inputs, width, 3, geometry, vb.pp("down"))?;
            let second =
                if scale == 0 { None } else { Some(Layer::new(width, width, 3, Geometry::same(3), vb.pp("mix"))?) };
            style.push((first, second));
            inputs = width;
        }
        let statistics = 2 * config.style.iter().sum::<usize>();
        let code = 2 * config.modulated().iter().sum::<usize>() + quarter;
        let step = |inputs, outputs, name: &str| {
            Layer::new(inputs, outputs, 3, Geometry::same(3).with_stride(2), vb.pp("down").pp(name))
        };
        let down = vec![
            Layer::new(3, full, 5, Geometry::same(5), vb.pp("down").pp("0"))?,
            step(full, half, "1")?,
            step(half, quarter, "2")?,
        ];
        let residual = (0..2 * config.blocks)
            .map(|index| Layer::new(quarter, quarter, 3, Geometry::same(3), vb.pp("residual").pp(index)))
            .collect::<Result<_>>()?;
        let enlarged = Geometry::same(3).with_upsample(2);
        let up = vec![
            Layer::new(quarter, half, 3, enlarged, vb.pp("up").pp("0"))?,
            Layer::new(half, full, 3, enlarged, vb.pp("up").pp("1"))?,
        ];
        Ok(Self {
            style,
            hidden: Dense::new(statistics, config.hidden, vb.pp("hidden"), 1.0)?,
            modulation: Dense::new(config.hidden, code, vb.pp("modulation"), 0.5)?,
            down,
            residual,
            up,
            last: Layer::new(full, 3, 5, Geometry::same(5), vb.pp("bare"))?,
            config: config.clone(),
        })
    }

    /// The sizes of the net.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What a painting `[n, 3, h, w]` asks of the painter.
    ///
    /// # Errors
    /// When the picture is smaller than [`SMALLEST`] on a side.
    pub fn encode_style(&self, style: &Tensor) -> Result<StyleCode> {
        check(style)?;
        let mut xs = normalised(style)?;
        let mut statistics = Vec::new();
        for (first, second) in &self.style {
            xs = relu(&first.forward(&xs)?)?;
            if let Some(second) = second {
                xs = relu(&second.forward(&xs)?)?;
            }
            let (mean, deviation) = moments(&xs)?;
            statistics.extend([mean, deviation]);
        }
        self.code(statistics, &Palette::all_of(style)?)
    }

    /// What the means and deviations of the style encoder's features come to, and the palettes.
    fn code(&self, statistics: Vec<Tensor>, palettes: &[Palette]) -> Result<StyleCode> {
        let statistics = layer_norm(&Tensor::cat(&statistics, 1)?)?;
        let modulation = self.modulation.forward(&relu(&self.hidden.forward(&statistics)?)?)?;
        let numbers: Vec<f32> = palettes.iter().flat_map(Palette::numbers).collect();
        let numbers = Tensor::from_vec(numbers, (palettes.len(), palette::WIDTH), modulation.device())?;
        Ok(StyleCode(Tensor::cat(&[&modulation, &numbers.to_dtype(modulation.dtype())?], 1)?))
    }

    /// Repaints `content [n, 3, h, w]` in a style. `strength` is the way from the photo's own code (0) to the style's (1).
    ///
    /// # Errors
    /// When the picture is smaller than [`SMALLEST`] on a side.
    pub fn forward(&self, content: &Tensor, code: &StyleCode, strength: f64) -> Result<Tensor> {
        if strength >= 1.0 {
            return self.paint(content, code, 0);
        }
        self.paint(content, &self.encode_style(content)?.towards(code, strength)?, 0)
    }

    /// Repaints `content [n, 3, h, w]` over the noise map number `noise`. Values are in 0..1.
    ///
    /// # Errors
    /// When the picture is smaller than [`SMALLEST`] on a side.
    pub fn paint(&self, content: &Tensor, code: &StyleCode, noise: u32) -> Result<Tensor> {
        let (batch, _, height, width) = content.dims4()?;
        let mut modulation = Modulation { code: code.0.broadcast_as((batch, code.0.dim(1)?))?.contiguous()?, at: 0 };
        check(content)?;
        let bare = Palette::all_of(content)?.into_iter().enumerate();
        let bare: Vec<Tensor> =
            bare.map(|(index, palette)| palette.out_of(&content.narrow(0, index, 1)?)).collect::<Result<_>>()?;
        let mut xs = Tensor::cat(&bare, 0)?;
        for layer in &self.down {
            xs = modulation.relu(&layer.forward(&xs)?)?;
        }
        let (gains, palette) = modulation.tail(self.config.painter[2])?;
        let (_, _, rows, columns) = xs.dims4()?;
        let map = noise_map(0, rows, columns, noise, xs.device())?.to_dtype(xs.dtype())?;
        xs = (xs + gains.unsqueeze(2)?.unsqueeze(3)?.broadcast_mul(&map)?)?;
        for block in self.residual.chunks_exact(2) {
            let inner = modulation.relu(&block[0].forward(&xs)?)?;
            xs = (xs + modulation.linear(&block[1].forward(&inner)?)?)?;
        }
        for layer in &self.up {
            xs = modulation.relu(&layer.forward(&xs)?)?;
        }
        let (scale, shift) = unit(batch, xs.device())?;
        let painted = instance_norm(&self.last.forward(&xs)?, &scale, &shift, EPS)?;
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

    fn linear(&mut self, xs: &Tensor) -> Result<Tensor> {
        let (scale, shift) = self.next(xs.dim(1)?)?;
        instance_norm(xs, &scale, &shift, EPS)
    }

    fn relu(&mut self, xs: &Tensor) -> Result<Tensor> {
        let (scale, shift) = self.next(xs.dim(1)?)?;
        instance_norm_relu(xs, &scale, &shift, EPS)
    }

    /// The last numbers of the code: noise gains and palette.
    fn tail(&self, channels: usize) -> Result<(Tensor, Tensor)> {
        let palette = self.code.dim(1)? - palette::WIDTH;
        Ok((self.code.narrow(1, palette - channels, channels)?, self.code.narrow(1, palette, palette::WIDTH)?))
    }
}

/// Scale and shift of a norm that leaves mean 0 and variance 1, for the three channels of the picture.
fn unit(batch: usize, device: &Device) -> Result<(Tensor, Tensor)> {
    let zeros = Tensor::zeros((batch, 3), candle_core::DType::F32, device)?;
    Ok((zeros.ones_like()?, zeros))
}

/// Refuses what is no picture or too small.
fn check(xs: &Tensor) -> Result<()> {
    let (_, channels, height, width) = xs.dims4()?;
    if channels != 3 || height < SMALLEST || width < SMALLEST {
        return Err(Error::usage(
            "picture",
            format!("{width}x{height} with {channels} channels; the net needs RGB of at least {SMALLEST}x{SMALLEST}"),
        ));
    }
    Ok(())
}

/// 0..1 to about the unit normal range.
fn normalised(xs: &Tensor) -> Result<Tensor> {
    Ok(xs.affine(4.0, -1.8)?)
}

/// To mean 0 and variance 1 along the last axis.
fn layer_norm(xs: &Tensor) -> Result<Tensor> {
    let centred = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + EPS)?.sqrt()?;
    Ok(centred.broadcast_div(&deviation)?)
}

/// Noise that depends on the position only, from row `first` on: `[1, 1, rows, columns]`, mean 0, variance 1, uniform. Like this a part of a
/// picture sees the same noise as the whole, and a still camera the same noise in every frame.
fn noise_map(first: usize, rows: usize, columns: usize, number: u32, device: &Device) -> Result<Tensor> {
    let mut values = Vec::with_capacity(rows * columns);
    for y in first..first + rows {
        for x in 0..columns {
            // The finaliser of MurmurHash3 over position and number.
            let mut bits = (x as u32).wrapping_mul(0x9e37_79b1) ^ (y as u32).wrapping_mul(0x85eb_ca77);
            bits = bits.wrapping_add(number.wrapping_mul(0xc2b2_ae3d));
            bits = (bits ^ (bits >> 16)).wrapping_mul(0x85eb_ca6b);
            bits = (bits ^ (bits >> 13)).wrapping_mul(0xc2b2_ae35);
            bits ^= bits >> 16;
            let unit = (bits >> 8) as f32 / (1 << 24) as f32;
            values.push((unit - 0.5) * 12f32.sqrt());
        }
    }
    Ok(Tensor::from_vec(values, (1, 1, rows, columns), device)?)
}

/// A convolution with mirrored edges.
#[derive(Debug, Clone)]
struct Layer {
    weight: Tensor,
    bias: Tensor,
    geometry: Geometry,
}

impl Layer {
    fn new(inputs: usize, outputs: usize, kernel: usize, geometry: Geometry, vb: VarBuilder<'_>) -> Result<Self> {
        let bound = 1.0 / ((inputs * kernel * kernel) as f64).sqrt();
        let uniform = candle_nn::Init::Uniform { lo: -bound, up: bound };
        let weight = vb.get_with_hints((outputs, inputs, kernel, kernel), "weight", uniform)?;
        let bias = vb.get_with_hints(outputs, "bias", candle_nn::Init::Const(0.0))?;
        Ok(Self { weight, bias, geometry })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        conv2d(xs, &self.weight, &self.bias, self.geometry)
    }
}

/// A linear map of rows, with gradients.
#[derive(Debug, Clone)]
struct Dense {
    weight: Tensor,
    bias: Tensor,
}

impl Dense {
    fn new(inputs: usize, outputs: usize, vb: VarBuilder<'_>, gain: f64) -> Result<Self> {
        let bound = gain / (inputs as f64).sqrt();
        let uniform = candle_nn::Init::Uniform { lo: -bound, up: bound };
        let weight = vb.get_with_hints((outputs, inputs), "weight", uniform)?;
        let bias = vb.get_with_hints(outputs, "bias", candle_nn::Init::Const(0.0))?;
        Ok(Self { weight, bias })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        Ok(xs.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use candle_nn::VarMap;

    use super::*;

    fn net() -> Compact {
        let config = Config { painter: [4, 6, 8], blocks: 1, style: [4, 4, 6, 8], hidden: 8 };
        Compact::new(&config, VarBuilder::from_varmap(&VarMap::new(), DType::F32, &Device::Cpu)).unwrap()
    }

    #[test]
    fn any_size_comes_back_as_it_was_and_blends_are_between() {
        let net = net();
        let random = |h, w| Tensor::rand(0f32, 1., (1, 3, h, w), &Device::Cpu).unwrap();
        let (one, two) = (net.encode_style(&random(40, 33)).unwrap(), net.encode_style(&random(16, 16)).unwrap());
        for (height, width) in [(16, 16), (17, 19), (31, 22), (18, 64)] {
            let painted = net.forward(&random(height, width), &one, 1.0).unwrap();
            assert_eq!(painted.dims(), [1, 3, height, width]);
        }
        let all_of_one = StyleCode::blend(&[(one.clone(), 2.0), (two.clone(), 0.0)]).unwrap();
        let difference = (all_of_one.0 - &one.0).unwrap().abs().unwrap().max_all().unwrap();
        assert_eq!(difference.to_scalar::<f32>().unwrap(), 0.0);
        assert!(StyleCode::blend(&[(one.clone(), 0.0)]).is_err());
        assert!(StyleCode::blend(&[(one, -1.0), (two, 2.0)]).is_err());
        assert!(net.encode_style(&random(15, 40)).is_err());
    }

    #[test]
    fn strips_come_to_the_same_as_the_whole() {
        let net = net();
        for (height, width) in [(50, 21), (61, 16), (83, 18), (16, 40)] {
            let picture = Tensor::rand(0f32, 1., (1, 3, height, width), &Device::Cpu).unwrap();
            let code = net.encode_style(&Tensor::rand(0f32, 1., (1, 3, 30, 30), &Device::Cpu).unwrap()).unwrap();
            let read = |rows: std::ops::Range<usize>| Ok(picture.narrow(2, rows.start, rows.len())?);
            // One pixel's worth of memory sends everything to a file, many keep it.
            for (strength, pixels) in [(1.0, 1), (0.5, 1), (1.0, 90)] {
                let rows = crate::nets::strips::Rows { height, width, pixels, read: &read };
                let mut parts = Vec::new();
                let mut on_rows = |_, rows| {
                    parts.push(rows);
                    Ok(())
                };
                net.forward_rows(&rows, &code, strength, &mut on_rows, &mut |_, _| Ok(())).unwrap();
                let whole = net.forward(&picture, &code, strength).unwrap();
                let difference = (Tensor::cat(&parts, 2).unwrap() - whole).unwrap().abs().unwrap().max_all().unwrap();
                let difference = difference.to_scalar::<f32>().unwrap();
                assert!(difference < 1e-4, "{height} x {width} at {strength}: {difference}");
            }
        }
    }

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
