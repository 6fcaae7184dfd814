//! The bundled arbitrary-style net: small enough to ship, quick on a CPU.
//!
//! A [`Painter`] whose style code is a function of the means and deviations of a style encoder's features at four scales
//! (Ghiasi 2017), the statistics AdaIN (Huang 2017) exchanges, and of the painting's palette.

mod rows;

use candle_core::{D, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::nets::painter::{EPS, Layer, Painter, Palette, Sizes, check};
pub use crate::nets::painter::{SMALLEST, StyleCode};
use crate::ops::trainable::{Geometry, moments, relu};

/// Deviation of the [grain](crate::image::grain) that photos get before the net sees them, in training and in use: in the steps of a
/// byte, of 255.
pub const GRAIN: f32 = 1.0;

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
        self.painter().check()?;
        if self.style.iter().chain([&self.hidden]).any(|&width| width == 0 || width > 4096) {
            return Err(Error::usage("net", format!("{self:?} is no net of this kind")));
        }
        Ok(())
    }

    /// The sizes of the net in a file, given the first side of a tensor by its name. `None` where it is no such net.
    pub fn of(rows: impl Fn(&str) -> Option<usize>) -> Option<Self> {
        let painter = Sizes::of(&rows)?;
        let style = |scale: usize| rows(&format!("style.{scale}.down.weight"));
        Some(Self {
            painter: painter.widths,
            blocks: painter.blocks,
            style: [style(0)?, style(1)?, style(2)?, style(3)?],
            hidden: rows("hidden.weight")?,
        })
    }

    fn painter(&self) -> Sizes {
        Sizes { widths: self.painter, blocks: self.blocks }
    }
}

/// The net. Picture tensors are RGB in 0..1.
#[derive(Debug, Clone)]
pub struct Compact {
    config: Config,
    style: Vec<(Layer, Option<Layer>)>,
    hidden: Dense,
    modulation: Dense,
    painter: Painter,
}

impl Compact {
    /// Loads the net, or makes the variables of a new one where `vb` makes what it is asked for.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn new(config: &Config, vb: VarBuilder<'_>) -> Result<Self> {
        config.check()?;
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
        let painter = config.painter();
        Ok(Self {
            style,
            hidden: Dense::new(statistics, config.hidden, vb.pp("hidden"), 1.0)?,
            modulation: Dense::new(config.hidden, painter.modulation(), vb.pp("modulation"), 0.5)?,
            painter: Painter::new(painter, vb)?,
            config: config.clone(),
        })
    }

    /// The sizes of the net.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The half that paints.
    pub fn painter(&self) -> &Painter {
        &self.painter
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
            xs = first.forward_relu(&xs)?;
            if let Some(second) = second {
                xs = second.forward_relu(&xs)?;
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
        StyleCode::of(&modulation, palettes)
    }

    /// Repaints `content [n, 3, h, w]` in a style. `strength` is the way from the photo's own code (0) to the style's (1).
    ///
    /// # Errors
    /// When the picture is smaller than [`SMALLEST`] on a side.
    pub fn forward(&self, content: &Tensor, code: &StyleCode, strength: f64) -> Result<Tensor> {
        if strength >= 1.0 {
            return self.painter.paint(content, code, 0);
        }
        self.painter.paint(content, &self.encode_style(content)?.towards(code, strength)?, 0)
    }
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
    use candle_core::{DType, Device};
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
}
