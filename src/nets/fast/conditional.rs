//! Nets of several styles: every norm has a row of scales and shifts per style, the kernels are shared.
//!
//! Names are those of Magenta's 26-style net as published: `contract.i.w`, `res.i.j.w`, `expand.i.w`, each with
//! `norm.gamma` and `norm.beta`. Our own trained nets use them too; their last layer has a bias `b` in place of a norm, so
//! that a dark photo stays darker than a bright one.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::layer::{Kind, Layer, Norm, Stage};
use super::{MAX_BLOCKS, SUBJECT};
use crate::error::{Error, Result};
use crate::rng::TorchRng;

const EPS: f64 = 1e-5;

pub(super) fn stages(vb: &VarBuilder<'_>) -> Result<Vec<Stage>> {
    let layer = |vb: VarBuilder<'_>, stride, upsample| -> Result<Layer> {
        let optional = |name: &str| vb.contains_tensor(name).then(|| vb.get_unchecked(name)).transpose();
        let layer = Layer::new(vb.get_unchecked("w")?, optional("b")?, Kind::Mirrored(stride, upsample))?;
        match (optional("norm.gamma")?, optional("norm.beta")?) {
            (Some(scale), Some(shift)) => layer.with_norm(Norm { scale, shift, eps: EPS }),
            (None, None) => Ok(layer),
            _ => Err(Error::usage(SUBJECT, format!("{} has half a norm", vb.prefix()))),
        }
    };
    let plain = |part: &str, i: usize, stride, upsample| layer(vb.pp(part).pp(i), stride, upsample);
    let mut stages = Vec::new();
    for (i, stride) in [1, 2, 2].into_iter().enumerate() {
        stages.push(Stage::Plain(plain("contract", i, stride, 1)?.with_relu()));
    }
    for block in (0..MAX_BLOCKS).map(|i| vb.pp("res").pp(i)) {
        if !block.contains_tensor("0.w") {
            break;
        }
        stages.push(Stage::Residual(layer(block.pp(0), 1, 1)?.with_relu(), layer(block.pp(1), 1, 1)?));
    }
    for i in 0..2 {
        stages.push(Stage::Plain(plain("expand", i, 1, 2)?.with_relu()));
    }
    stages.push(Stage::Plain(plain("expand", 2, 1, 1)?));
    Ok(stages)
}

/// The size of a net to be trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Channels at full, half and quarter size on the way down.
    pub contract: [usize; 3],
    /// Residual blocks at quarter size.
    pub blocks: usize,
    /// Channels at half and full size on the way up.
    pub expand: [usize; 2],
    /// Styles in the net.
    pub styles: usize,
}

impl Default for Config {
    /// 350,000 numbers: 0.7 MB in half precision.
    fn default() -> Self {
        Self { contract: [16, 32, 64], blocks: 4, expand: [32, 16], styles: 1 }
    }
}

impl Config {
    /// Untrained weights by name, the same for the same seed. Kernels are drawn so that signals keep their size (He 2015),
    /// the last one smaller, so that training begins at an even grey.
    ///
    /// # Errors
    /// When a width is zero or too large.
    pub fn initial(&self, seed: u64) -> Result<HashMap<String, Tensor>> {
        let [a, b, c] = self.contract;
        let [d, e] = self.expand;
        let widths = [a, b, c, d, e];
        if widths.iter().any(|width| !(1..=1024).contains(width)) || self.blocks > MAX_BLOCKS || self.styles == 0 {
            return Err(Error::usage("the net's size", format!("{self:?} cannot be built")));
        }
        let mut rng = TorchRng::new(seed);
        let mut tensors = HashMap::new();
        let mut layer = |name: String, inputs: usize, outputs: usize, kernel: usize, last: bool| -> Result<()> {
            let gain = if last { 0.1 } else { 2.0 };
            let deviation = (gain / (inputs * kernel * kernel) as f64).sqrt();
            let weight = (rng.normal(&[outputs, inputs, kernel, kernel])? * deviation)?;
            tensors.insert(format!("{name}.w"), weight);
            if last {
                tensors.insert(format!("{name}.b"), Tensor::zeros(outputs, DType::F32, &Device::Cpu)?);
            } else {
                let shape = (self.styles, outputs);
                tensors.insert(format!("{name}.norm.gamma"), Tensor::ones(shape, DType::F32, &Device::Cpu)?);
                tensors.insert(format!("{name}.norm.beta"), Tensor::zeros(shape, DType::F32, &Device::Cpu)?);
            }
            Ok(())
        };
        layer("contract.0".into(), 3, a, 9, false)?;
        layer("contract.1".into(), a, b, 3, false)?;
        layer("contract.2".into(), b, c, 3, false)?;
        for block in 0..self.blocks {
            layer(format!("res.{block}.0"), c, c, 3, false)?;
            layer(format!("res.{block}.1"), c, c, 3, false)?;
        }
        layer("expand.0".into(), c, d, 3, false)?;
        layer("expand.1".into(), d, e, 3, false)?;
        layer("expand.2".into(), e, 3, 9, true)?;
        Ok(tensors)
    }
}
