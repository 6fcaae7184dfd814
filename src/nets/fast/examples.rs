//! The names of pytorch/examples `fast_neural_style`, with and without the `running_mean` of old torch versions, which
//! nothing here asks for.

use candle_nn::VarBuilder;

use super::MAX_BLOCKS;
use super::layer::{Kind, Layer, Stage, single_norm};
use crate::error::Result;

/// torch's default.
const EPS: f64 = 1e-5;

pub(super) fn stages(vb: &VarBuilder<'_>) -> Result<Vec<Stage>> {
    let conv = |vb: &VarBuilder<'_>, name: &str, stride, upsample| {
        let vb = vb.pp(name).pp("conv2d");
        Layer::new(vb.get_unchecked("weight")?, Some(vb.get_unchecked("bias")?), Kind::Mirrored(stride, upsample))
    };
    let norm = |vb: &VarBuilder<'_>, name: &str| single_norm(&vb.pp(name), "weight", "bias", EPS);
    let down = |i: usize, stride| -> Result<Stage> {
        let layer = conv(vb, &format!("conv{i}"), stride, 1)?.with_norm(norm(vb, &format!("in{i}"))?)?;
        Ok(Stage::Plain(layer.with_relu()))
    };
    let up = |i: usize| -> Result<Stage> {
        let layer = conv(vb, &format!("deconv{i}"), 1, 2)?.with_norm(norm(vb, &format!("in{}", i + 3))?)?;
        Ok(Stage::Plain(layer.with_relu()))
    };
    let mut stages = vec![down(1, 1)?, down(2, 2)?, down(3, 2)?];
    for block in (1..=MAX_BLOCKS).map(|i| vb.pp(format!("res{i}"))) {
        if !block.contains_tensor("conv1.conv2d.weight") {
            break;
        }
        let first = conv(&block, "conv1", 1, 1)?.with_norm(norm(&block, "in1")?)?.with_relu();
        let second = conv(&block, "conv2", 1, 1)?.with_norm(norm(&block, "in2")?)?;
        stages.push(Stage::Residual(first, second));
    }
    stages.extend([up(1)?, up(2)?, Stage::Plain(conv(vb, "deconv3", 1, 1)?)]);
    Ok(stages)
}
