//! lengstrom's nets, whose TensorFlow variables are numbered in the order they were made: for every layer the kernel
//! (height, width, in, out), the shift and the scale. The first is `Variable`, the next `Variable_1`, and so on.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::layer::{Kind, Layer, Stage, single_norm};
use super::{MAX_BLOCKS, SUBJECT};
use crate::error::{Error, Result};

const EPS: f64 = 1e-3;

/// Layers outside the residual blocks.
const OUTSIDE: usize = 6;

pub(super) fn stages(vb: &VarBuilder<'_>) -> Result<Vec<Stage>> {
    let layers =
        (0..).take_while(|layer| vb.contains_tensor(&variable(3 * layer))).take(OUTSIDE + 2 * MAX_BLOCKS).count();
    let Some(blocks) = layers.checked_sub(OUTSIDE).filter(|inside| inside.is_multiple_of(2)).map(|inside| inside / 2)
    else {
        return Err(Error::usage(SUBJECT, format!("{layers} layers do not make a net of lengstrom's kind")));
    };
    let layer = |number: usize, kind: Kind| -> Result<Layer> {
        let weight = vb.get_unchecked(&variable(3 * number))?;
        let weight = if kind == Kind::Transposed { transposed(&weight)? } else { outputs_first(&weight)? };
        let norm = single_norm(vb, &variable(3 * number + 2), &variable(3 * number + 1), EPS)?;
        Layer::new(weight, None, kind)?.with_norm(norm)
    };
    let down = |number, stride| -> Result<Stage> { Ok(Stage::Plain(layer(number, Kind::Same(stride))?.with_relu())) };
    let mut stages = vec![down(0, 1)?, down(1, 2)?, down(2, 2)?];
    for block in 0..blocks {
        let first = layer(3 + 2 * block, Kind::Same(1))?.with_relu();
        stages.push(Stage::Residual(first, layer(4 + 2 * block, Kind::Same(1))?));
    }
    let up = 3 + 2 * blocks;
    for number in [up, up + 1] {
        stages.push(Stage::Plain(layer(number, Kind::Transposed)?.with_relu()));
    }
    stages.push(Stage::Plain(layer(up + 2, Kind::Same(1))?));
    Ok(stages)
}

fn variable(number: usize) -> String {
    if number == 0 { "Variable".to_owned() } else { format!("Variable_{number}") }
}

/// `[height, width, in, out]` to `[out, in, height, width]`.
fn outputs_first(weight: &Tensor) -> Result<Tensor> {
    weight.dims4().map_err(|_| no_kernel(weight))?;
    Ok(weight.permute((3, 2, 0, 1))?.contiguous()?)
}

/// The kernel of a transposed convolution, `[3, 3, out, in]`, as that of a convolution with a kernel of 2 which makes the
/// four pixels of a position: even ones see the pixel before through the last tap and their own through the first, odd ones
/// their own through the middle tap.
fn transposed(weight: &Tensor) -> Result<Tensor> {
    let (height, width, outputs, inputs) = weight.dims4().map_err(|_| no_kernel(weight))?;
    if (height, width) != (3, 3) {
        return Err(no_kernel(weight));
    }
    let taps = weight.permute((2, 3, 0, 1))?;
    let tap = |y: Option<usize>, x: Option<usize>| -> Result<Tensor> {
        Ok(match (y, x) {
            (Some(y), Some(x)) => taps.narrow(2, y, 1)?.narrow(3, x, 1)?.contiguous()?,
            _ => Tensor::zeros((outputs, inputs, 1, 1), weight.dtype(), weight.device())?,
        })
    };
    const SEEN: [[Option<usize>; 2]; 2] = [[Some(2), Some(0)], [None, Some(1)]];
    let mut pixels = Vec::with_capacity(4);
    for rows in SEEN {
        for columns in SEEN {
            let lines: Vec<Tensor> = rows
                .iter()
                .map(|&y| Ok(Tensor::cat(&[tap(y, columns[0])?, tap(y, columns[1])?], 3)?))
                .collect::<Result<_>>()?;
            pixels.push(Tensor::cat(&lines, 2)?);
        }
    }
    Ok(Tensor::stack(&pixels, 1)?.reshape((4 * outputs, inputs, 2, 2))?)
}

fn no_kernel(weight: &Tensor) -> Error {
    Error::usage(SUBJECT, format!("{:?} is not the shape of a kernel in a net of lengstrom's kind", weight.dims()))
}
