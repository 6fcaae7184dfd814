//! Matrix layers: linear maps and embedding tables.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Module, Shape, Tensor};
use candle_nn::VarBuilder;

use super::floats::Floats;
use super::fresh::{repeated, zeros};
use super::int8::Int8;
use super::is_ours;
use super::product::{Matrix, Target, contiguous, multiply};
use crate::error::Result;

/// `x W^T + b` over the last axis. Weights in half precision are widened for what comes in single precision on the CPU.
#[derive(Debug, Clone)]
pub struct Linear {
    map: Map,
}

#[derive(Debug, Clone)]
enum Map {
    Floats(candle_nn::Linear),
    /// Rounded: [`Linear::quantize`].
    Int8(Arc<Int8>),
}

impl Linear {
    /// Loads `weight [out, in]` and `bias [out]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn new(inputs: usize, outputs: usize, vb: VarBuilder<'_>) -> Result<Self> {
        let weight = vb.get((outputs, inputs), "weight")?;
        let bias = vb.get(outputs, "bias")?;
        Ok(Self::from_tensors(weight, Some(bias)))
    }

    /// Loads `weight [out, in]` only.
    ///
    /// # Errors
    /// When the tensor is missing or has another shape.
    pub fn without_bias(inputs: usize, outputs: usize, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self::from_tensors(vb.get((outputs, inputs), "weight")?, None))
    }

    /// Wraps tensors that are already loaded: `weight [out, in]`, `bias [out]`.
    pub fn from_tensors(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { map: Map::Floats(candle_nn::Linear::new(weight, bias)) }
    }

    /// Rounds the weights to eight bits, and from now on the inputs as well: faster, half the memory of half precision, and another
    /// result by about a hundredth of its size. Leaves the map as it is off the CPU, and where a weight is not finite.
    ///
    /// # Errors
    /// When the weights cannot be read.
    pub fn quantize(&mut self) -> Result<()> {
        let Map::Floats(floats) = &self.map else { return Ok(()) };
        let (weight, bias) = (floats.weight(), floats.bias());
        if !weight.device().is_cpu() {
            return Ok(());
        }
        let sizes = weight.dims2()?;
        let list = |xs: &Tensor| xs.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let bias = bias.map(list).transpose()?;
        if let Some(rounded) = Int8::new(&list(weight)?, sizes, bias.as_deref()) {
            self.map = Map::Int8(Arc::new(rounded));
        }
        Ok(())
    }

    /// Maps `[.., in]` to `[.., out]`.
    ///
    /// # Errors
    /// When the last axis is not `in` long.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let floats = match &self.map {
            Map::Floats(floats) => floats,
            Map::Int8(rounded) => {
                let dtype = xs.dtype();
                let xs = xs.to_dtype(DType::F32)?.contiguous()?;
                return Ok(xs.apply_op1_no_bwd(&Int8Kernel(Arc::clone(rounded)))?.to_dtype(dtype)?);
            }
        };
        if !is_ours(xs) {
            return Ok(floats.forward(xs)?);
        }
        let xs = xs.contiguous()?;
        let weight = floats.weight();
        Ok(match floats.bias() {
            Some(bias) => xs.apply_op3_no_bwd(weight, bias, &LinearKernel)?,
            None => xs.apply_op2_no_bwd(weight, &LinearKernel)?,
        })
    }
}

/// A map in whole numbers.
struct Int8Kernel(Arc<Int8>);

impl CustomOp1 for Int8Kernel {
    fn name(&self) -> &'static str {
        "linear-int8"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (_, _, shape) = LinearKernel::shape(layout, (self.0.outputs(), self.0.inputs()))?;
        Ok((CpuStorage::F32(self.0.forward(contiguous(xs, layout)?)), shape))
    }
}

/// A linear map in f32 on the CPU: the bias is laid down first and the product added to it in place.
struct LinearKernel;

impl LinearKernel {
    fn run(
        xs: &[f32],
        dims: &[usize],
        weight: &[f32],
        (outputs, inputs): (usize, usize),
        bias: Option<&[f32]>,
    ) -> Vec<f32> {
        let rows = dims.iter().rev().skip(1).product::<usize>();
        let mut out = match bias {
            Some(bias) => repeated(bias, rows),
            None => zeros(rows * outputs),
        };
        multiply(
            Matrix { data: xs, row: inputs, column: 1 },
            Matrix { data: weight, row: 1, column: inputs },
            (rows, inputs, outputs),
            1.0,
            if bias.is_some() { Target::Add } else { Target::Overwrite },
            (&mut out, outputs),
            rayon::current_num_threads(),
        );
        out
    }

    fn check(xs: &Layout, weight: &Layout) -> candle_core::Result<(usize, usize, Shape)> {
        Self::shape(xs, weight.shape().dims2()?)
    }

    fn shape(xs: &Layout, (outputs, inputs): (usize, usize)) -> candle_core::Result<(usize, usize, Shape)> {
        let mut dims = xs.dims().to_vec();
        if dims.last() != Some(&inputs) || outputs == 0 {
            candle_core::bail!("linear layer of {inputs} inputs and {outputs} outputs cannot take {:?}", xs.dims());
        }
        dims.pop();
        dims.push(outputs);
        Ok((outputs, inputs, Shape::from(dims)))
    }
}

impl CustomOp2 for LinearKernel {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (outputs, inputs, shape) = Self::check(xs_layout, weight_layout)?;
        let (xs, weight) = (contiguous(xs, xs_layout)?, Floats::of(weight, weight_layout)?.whole());
        Ok((CpuStorage::F32(Self::run(xs, xs_layout.dims(), &weight, (outputs, inputs), None)), shape))
    }
}

impl CustomOp3 for LinearKernel {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (outputs, inputs, shape) = Self::check(xs_layout, weight_layout)?;
        let (xs, weight) = (contiguous(xs, xs_layout)?, Floats::of(weight, weight_layout)?.whole());
        let bias = contiguous(bias, bias_layout)?;
        if bias.len() != outputs {
            candle_core::bail!("{outputs} outputs but {} biases", bias.len());
        }
        Ok((CpuStorage::F32(Self::run(xs, xs_layout.dims(), &weight, (outputs, inputs), Some(bias))), shape))
    }
}

/// A table of vectors looked up by index.
#[derive(Debug, Clone)]
pub struct Embedding {
    table: Tensor,
}

impl Embedding {
    /// Loads `weight [entries, width]`.
    ///
    /// # Errors
    /// When the tensor is missing or has another shape.
    pub fn new(entries: usize, width: usize, vb: VarBuilder<'_>) -> Result<Self> {
        Ok(Self { table: vb.get((entries, width), "weight")? })
    }

    /// Looks up `[batch, n]` (u32) to `[batch, n, width]`.
    ///
    /// # Errors
    /// When an index lies outside the table.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let (batch, count) = ids.dims2()?;
        let width = self.table.dim(1)?;
        Ok(self.table.index_select(&ids.flatten_all()?, 0)?.reshape((batch, count, width))?)
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::ops::drawn::random;

    #[test]
    fn the_kernel_equals_the_framework() {
        for bias in [None, Some(random(&[5]))] {
            let linear = Linear::from_tensors(random(&[5, 9]), bias);
            for shape in [&[2, 7, 9][..], &[1, 9], &[3, 9]] {
                let xs = random(shape);
                let Map::Floats(floats) = &linear.map else { unreachable!() };
                let (ours, theirs) = (linear.forward(&xs).unwrap(), floats.forward(&xs).unwrap());
                assert_eq!(ours.dims(), theirs.dims());
                let error = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(error < 5e-6, "{shape:?}: {error}");
            }
            assert!(linear.forward(&random(&[2, 8])).is_err());
        }
    }

    #[test]
    fn a_quantized_map_is_near_and_takes_the_same_shapes() {
        let mut rng = crate::rng::TorchRng::new(1);
        for dtype in [DType::F32, DType::F16] {
            let weight = rng.normal(&[40, 96]).unwrap().to_dtype(dtype).unwrap();
            // Rows of a larger matrix, as the halves of a gated map are.
            let exact = Linear::from_tensors(weight.narrow(0, 8, 24).unwrap(), Some(rng.normal(&[24]).unwrap()));
            let mut rounded = exact.clone();
            rounded.quantize().unwrap();
            rounded.quantize().unwrap();
            let xs = rng.normal(&[2, 96, 7]).unwrap().transpose(1, 2).unwrap();
            let (ours, exact) = (rounded.forward(&xs).unwrap(), exact.forward(&xs).unwrap());
            assert_eq!(ours.dims(), [2, 7, 24]);
            let norm = |xs: Tensor| xs.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
            let error = norm((&ours - &exact).unwrap()) / norm(exact);
            assert!(error > 1e-4 && error < 0.02, "{error}");
            assert!(rounded.forward(&rng.normal(&[2, 95]).unwrap()).is_err());
            let half = rounded.forward(&xs.to_dtype(DType::F16).unwrap()).unwrap();
            assert_eq!(half.dtype(), DType::F16);
        }
    }
}
