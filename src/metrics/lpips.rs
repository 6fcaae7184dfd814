//! LPIPS: how different people find two pictures, learned from their judgements. Version 0.1, as the package lpips has it.
//!
//! The features of five layers are scaled to length 1 over the channels; the squared differences, averaged over places, are
//! weighted per channel by layers that were fitted to judgements, and added. The two flavours see through different
//! networks and give different numbers, so they are two metrics. Only torchvision's own weights go under the layers: they
//! were fitted to those and to no others.
//!
//! Zhang, Isola, Efros, Shechtman, Wang, "The unreasonable effectiveness of deep features as a perceptual metric", 2018.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use super::style::values;
use super::{Better, Metric, With};
use crate::error::{Error, Result};
use crate::nets::alexnet::{self, AlexNet};
use crate::nets::vgg::{Backbone, Kind};

/// Through AlexNet: the package's default, and what papers report.
pub const ALEX: Metric = Metric {
    name: "lpips-alex",
    title: "LPIPS, AlexNet",
    about: "perceived difference from the photo (Zhang et al. 2018, v0.1, AlexNet)",
    with: With::Photo,
    better: Better::Lower,
    range: (0.0, f64::INFINITY),
    digits: 4,
};

/// Through VGG-16.
pub const VGG: Metric = Metric {
    name: "lpips-vgg",
    title: "LPIPS, VGG-16",
    about: "perceived difference from the photo (Zhang et al. 2018, v0.1, VGG-16)",
    ..ALEX
};

const VGG_LAYERS: [&str; 5] = ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"];
const EPS: f64 = 1e-10;

/// What the fitted layers look through.
#[derive(Debug, Clone)]
pub enum Trunk {
    /// torchvision's AlexNet.
    Alex(AlexNet),
    /// torchvision's VGG-16, with the pools it was trained with.
    Vgg(Backbone),
}

/// LPIPS, ready to compare.
#[derive(Debug, Clone)]
pub struct Lpips {
    trunk: Trunk,
    weights: Vec<Vec<f32>>,
}

impl Lpips {
    /// The fitted layers `lin0` to `lin4` of `vb` on a trunk.
    ///
    /// # Errors
    /// When the trunk is another network than torchvision's, or the layers were fitted to another.
    pub fn new(trunk: Trunk, vb: VarBuilder<'_>) -> Result<Self> {
        if let Trunk::Vgg(net) = &trunk
            && (net.kind() != Kind::Vgg16 || !net.layers().contains(&VGG_LAYERS[4]))
        {
            let reason = format!("{} is not the network that LPIPS was fitted to", net.kind());
            return Err(Error::usage("LPIPS", reason).with_hint("it takes all of torchvision's VGG-16, or its AlexNet"));
        }
        let vb = vb.set_dtype(DType::F32);
        let mut weights = Vec::new();
        for layer in 0..VGG_LAYERS.len() {
            weights.push(vb.get_unchecked(&format!("lin{layer}.model.1.weight"))?.flatten_all()?.to_vec1()?);
        }
        Ok(Self { trunk, weights })
    }

    /// Which flavour it is.
    pub fn metric(&self) -> Metric {
        match self.trunk {
            Trunk::Alex(_) => ALEX,
            Trunk::Vgg(_) => VGG,
        }
    }

    /// The smallest side of a picture.
    pub fn least_side(&self) -> u32 {
        match self.trunk {
            Trunk::Alex(_) => alexnet::LEAST_SIDE,
            Trunk::Vgg(_) => 16,
        }
    }

    /// The distance of two pictures `[1, 3, height, width]` of one size, RGB from 0 to 1: 0 and more, 0 where they are
    /// equal.
    ///
    /// # Errors
    /// When the sizes differ or a side is below [`Self::least_side`].
    pub fn distance(&self, a: &Tensor, b: &Tensor) -> Result<f64> {
        let features = |image: &Tensor| match &self.trunk {
            Trunk::Alex(net) => net.features(image),
            Trunk::Vgg(net) => net.features(image, &VGG_LAYERS),
        };
        let mut total = 0.0;
        for ((a, b), weights) in features(a)?.iter().zip(&features(b)?).zip(&self.weights) {
            let apart = (unit_length(a)? - unit_length(b)?)?.sqr()?.mean((2, 3))?;
            let apart = values(&apart)?;
            if apart.len() != weights.len() {
                let reason = format!("a layer fitted to {} channels is given {}", weights.len(), apart.len());
                return Err(Error::usage("LPIPS", reason).with_hint("the layers and the network are of two flavours"));
            }
            total +=
                apart.iter().zip(weights).map(|(&apart, &weight)| f64::from(apart) * f64::from(weight)).sum::<f64>();
        }
        Ok(total)
    }
}

fn unit_length(features: &Tensor) -> Result<Tensor> {
    Ok(features.broadcast_div(&(features.sqr()?.sum_keepdim(1)?.sqrt()? + EPS)?)?)
}
