//! Nets of several styles: every norm has a row of scales and shifts per style, the kernels are shared.
//!
//! Names are those of Magenta's 26-style net as published: `contract.i.w`, `res.i.j.w`, `expand.i.w`, each with
//! `norm.gamma` and `norm.beta`. Our own trained nets use them too; their last layer has a bias `b` in place of a norm, so
//! that a dark photo stays darker than a bright one.

use candle_nn::VarBuilder;

use super::layer::{Kind, Layer, Norm, Stage};
use super::{MAX_BLOCKS, SUBJECT};
use crate::error::{Error, Result};

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
