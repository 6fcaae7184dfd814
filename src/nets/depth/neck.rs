//! The dense prediction part: tokens reassembled into maps, maps fused from coarse to fine, one number per pixel.
//!
//! Ranftl et al., "Vision transformers for dense prediction", 2021.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::{DepthConfig, Estimation, SUBJECT};
use crate::error::{Error, Result};
use crate::ops::{Conv2d, Resample};

#[derive(Debug, Clone)]
pub(super) struct Neck {
    reassemble: Vec<Reassemble>,
    convs: Vec<Conv2d>,
    fusion: Vec<Fusion>,
}

impl Neck {
    pub(super) fn new(config: &DepthConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let width = config.fusion_hidden_size;
        let stage = vb.pp("reassemble_stage").pp("layers");
        let fusion = vb.pp("fusion_stage").pp("layers");
        let sizes = config.neck_hidden_sizes.iter().zip(&config.reassemble_factors).enumerate();
        let conv = |(i, &channels): (usize, &usize)| -> Result<Conv2d> {
            let weight = vb.pp("convs").pp(i).get((width, channels, 3, 3), "weight")?;
            Ok(Conv2d::from_tensors(weight, None, 1, 1))
        };
        Ok(Self {
            reassemble: sizes
                .map(|(i, (&channels, &factor))| {
                    Reassemble::new(config.reassemble_hidden_size, channels, factor, stage.pp(i))
                })
                .collect::<Result<_>>()?,
            convs: config.neck_hidden_sizes.iter().enumerate().map(conv).collect::<Result<_>>()?,
            fusion: (0..config.neck_hidden_sizes.len())
                .map(|i| Fusion::new(width, i > 0, fusion.pp(i)))
                .collect::<Result<_>>()?,
        })
    }

    /// Tokens `[batch, 1 + patches, width]` per layer taken to fused maps, coarse to fine.
    pub(super) fn forward(&self, features: &[Tensor], (rows, columns): (usize, usize)) -> Result<Vec<Tensor>> {
        let mut maps = Vec::with_capacity(features.len());
        for ((feature, reassemble), conv) in features.iter().zip(&self.reassemble).zip(&self.convs) {
            let (batch, tokens, width) = feature.dims3()?;
            let patches = feature.narrow(1, 1, tokens - 1)?.transpose(1, 2)?.contiguous()?;
            let map = reassemble.forward(&patches.reshape((batch, width, rows, columns))?)?;
            maps.push(conv.forward(&map)?);
        }
        maps.reverse();
        let mut fused: Vec<Tensor> = Vec::with_capacity(maps.len());
        for (i, (map, layer)) in maps.iter().zip(&self.fusion).enumerate() {
            // Up to the next finer map; the finest is doubled.
            let (height, width) = match maps.get(i + 1) {
                Some(next) => (next.dim(2)?, next.dim(3)?),
                None => (2 * map.dim(2)?, 2 * map.dim(3)?),
            };
            let next = match fused.last() {
                None => layer.forward(map, None, height, width)?,
                Some(coarser) => layer.forward(coarser, Some(map), height, width)?,
            };
            fused.push(next);
        }
        Ok(fused)
    }
}

/// Tokens' channels to a map's, then the map to its size.
#[derive(Debug, Clone)]
struct Reassemble {
    projection: Conv2d,
    resize: Resize,
}

#[derive(Debug, Clone)]
enum Resize {
    Keep,
    Shrink(Conv2d),
    /// A transposed convolution whose kernel is its stride: each pixel becomes a tile, a matrix product.
    Tile {
        /// `[in, channels * factor * factor]`.
        weight: Tensor,
        /// `[channels, 1, 1]`.
        bias: Tensor,
        factor: usize,
    },
}

impl Reassemble {
    fn new(width: usize, channels: usize, factor: f64, vb: VarBuilder<'_>) -> Result<Self> {
        let projection = Conv2d::new(width, channels, 1, 1, 0, vb.pp("projection"))?;
        let vb = vb.pp("resize");
        let resize = if factor == 1.0 {
            Resize::Keep
        } else if factor > 1.0 && factor <= 64.0 && factor.fract() == 0.0 {
            let factor = factor as usize;
            let weight = vb.get((channels, channels, factor, factor), "weight")?;
            Resize::Tile {
                weight: weight.reshape((channels, channels * factor * factor))?,
                bias: vb.get(channels, "bias")?.reshape((channels, 1, 1))?,
                factor,
            }
        } else if (1.0 / 64.0..1.0).contains(&factor) {
            Resize::Shrink(Conv2d::new(channels, channels, 3, (1.0 / factor) as usize, 1, vb)?)
        } else {
            let reason = format!("{factor} is no reassemble factor: a whole number, or a fraction of one");
            return Err(Error::usage(SUBJECT, reason));
        };
        Ok(Self { projection, resize })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = self.projection.forward(xs)?;
        match &self.resize {
            Resize::Keep => Ok(xs),
            Resize::Shrink(conv) => conv.forward(&xs),
            Resize::Tile { weight, bias, factor } => {
                let (batch, channels, height, width) = xs.dims4()?;
                let pixels = xs.permute((0, 2, 3, 1))?.contiguous()?.reshape((batch * height * width, channels))?;
                let tiles = pixels.matmul(weight)?.reshape(&[batch, height, width, channels, *factor, *factor][..])?;
                let map = tiles.permute(vec![0, 3, 1, 4, 2, 5])?.contiguous()?;
                let map = map.reshape((batch, channels, height * factor, width * factor))?;
                Ok(map.broadcast_add(bias)?)
            }
        }
    }
}

/// A coarser map joined with a finer one, then enlarged.
#[derive(Debug, Clone)]
struct Fusion {
    /// The first fusion has nothing to join; its unit lies in the files unused.
    unit1: Option<Unit>,
    unit2: Unit,
    projection: Conv2d,
}

impl Fusion {
    fn new(width: usize, joins: bool, vb: VarBuilder<'_>) -> Result<Self> {
        let unit1 = || Unit::new(width, vb.pp("residual_layer1"));
        Ok(Self {
            unit1: joins.then(unit1).transpose()?,
            unit2: Unit::new(width, vb.pp("residual_layer2"))?,
            projection: Conv2d::new(width, width, 1, 1, 0, vb.pp("projection"))?,
        })
    }

    fn forward(&self, xs: &Tensor, finer: Option<&Tensor>, height: usize, width: usize) -> Result<Tensor> {
        let mut xs = xs.clone();
        if let (Some(unit), Some(finer)) = (&self.unit1, finer) {
            xs = (xs + unit.forward(finer)?)?;
        }
        let xs = Resample::BilinearAligned.apply(&self.unit2.forward(&xs)?, height, width)?;
        self.projection.forward(&xs)
    }
}

/// Two convolutions, each after its activation, added to what came in.
#[derive(Debug, Clone)]
struct Unit {
    conv1: Conv2d,
    conv2: Conv2d,
}

impl Unit {
    fn new(width: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let conv = |name| Conv2d::new(width, width, 3, 1, 1, vb.pp(name));
        Ok(Self { conv1: conv("convolution1")?, conv2: conv("convolution2")? })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let inner = self.conv1.forward(&xs.relu()?)?;
        Ok((self.conv2.forward(&inner.relu()?)? + xs)?)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Head {
    conv1: Conv2d,
    conv2: Conv2d,
    conv3: Conv2d,
    index: usize,
    estimation: Estimation,
    max_depth: f64,
}

impl Head {
    pub(super) fn new(config: &DepthConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let width = config.fusion_hidden_size;
        let maps = config.neck_hidden_sizes.len() as i64;
        let index =
            if config.head_in_index < 0 { config.head_in_index.saturating_add(maps) } else { config.head_in_index };
        if !(0..maps).contains(&index) {
            return Err(Error::usage(SUBJECT, format!("head_in_index {} names no map", config.head_in_index)));
        }
        Ok(Self {
            conv1: Conv2d::new(width, width / 2, 3, 1, 1, vb.pp("conv1"))?,
            conv2: Conv2d::new(width / 2, config.head_hidden_size, 3, 1, 1, vb.pp("conv2"))?,
            conv3: Conv2d::new(config.head_hidden_size, 1, 1, 1, 0, vb.pp("conv3"))?,
            index: index as usize,
            estimation: config.depth_estimation_type,
            max_depth: config.max_depth.unwrap_or(1.0),
        })
    }

    pub(super) fn forward(&self, fused: &[Tensor], height: usize, width: usize) -> Result<Tensor> {
        let xs = self.conv1.forward(&fused[self.index])?;
        let xs = Resample::BilinearAligned.apply(&xs, height, width)?;
        let xs = self.conv3.forward(&self.conv2.forward(&xs)?.relu()?)?;
        let xs = match self.estimation {
            Estimation::Relative => xs.relu()?,
            Estimation::Metric => candle_nn::ops::sigmoid(&xs)?,
        };
        Ok((xs * self.max_depth)?.squeeze(1)?)
    }
}
