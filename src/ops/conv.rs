//! Two-dimensional convolution.
//!
//! On the CPU 3x3 kernels of stride 1 go by [`Winograd`], others over few channels by [`Direct`]. All else is one matrix
//! product per tile of output rows: the weights as they lie in the file, times the tile's patches gathered row by row,
//! straight into the result that already holds the bias. Nothing is repacked.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Module, Shape, Tensor};
use candle_nn::{Conv2dConfig, VarBuilder};
use rayon::prelude::*;

use super::direct::Direct;
use super::floats::Floats;
use super::fresh::rows_of;
use super::product::{Matrix, Target, contiguous, multiply};
use super::upsample::{nearest, upsample_nearest};
use super::winograd::{NOWHERE, Winograd, zero_padded};
use crate::error::Result;

/// Patches gathered at a time on the CPU, in elements: 4 Mi (16 MiB) keeps them near the cache.
const MAX_PATCHES: usize = 4 << 20;

/// A square convolution over `[batch, channels, height, width]`. Weights in half precision are widened for what comes in single
/// precision on the CPU.
#[derive(Debug, Clone)]
pub struct Conv2d {
    framework: candle_nn::Conv2d,
    /// The layer that carries gradients back, made when first asked for.
    transposed: Arc<OnceLock<Conv2d>>,
}

impl Conv2d {
    /// Loads `weight [out, in, kernel, kernel]` and `bias [out]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn new(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        let weight = vb.get((outputs, inputs, kernel, kernel), "weight")?;
        let bias = vb.get(outputs, "bias")?;
        Ok(Self::from_tensors(weight, Some(bias), stride, padding))
    }

    /// Wraps tensors that are already loaded: `weight [out, in, kernel, kernel]`, `bias [out]`.
    pub fn from_tensors(weight: Tensor, bias: Option<Tensor>, stride: usize, padding: usize) -> Self {
        let config = Conv2dConfig { padding, stride, ..Default::default() };
        Self { framework: candle_nn::Conv2d::new(weight, bias, config), transposed: Arc::default() }
    }

    /// Convolves `[batch, in, height, width]` with zeros around it.
    ///
    /// # Errors
    /// When the channels do not fit or the picture is smaller than the kernel.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.apply(xs, false)
    }

    /// Convolves, then sets negative results to zero.
    ///
    /// # Errors
    /// When the channels do not fit or the picture is smaller than the kernel.
    pub fn forward_relu(&self, xs: &Tensor) -> Result<Tensor> {
        self.apply(xs, true)
    }

    /// Convolves, and adds a number to every output channel: `shift [1, out]`.
    ///
    /// # Errors
    /// When the channels do not fit or the picture is smaller than the kernel.
    pub fn forward_shifted(&self, xs: &Tensor, shift: &Tensor) -> Result<Tensor> {
        let shift = shift.squeeze(0)?;
        let bias = match self.framework.bias() {
            Some(bias) => (bias + shift)?,
            None => shift,
        };
        let &Conv2dConfig { padding, stride, .. } = self.framework.config();
        Self::from_tensors(self.framework.weight().clone(), Some(bias), stride, padding).forward(xs)
    }

    fn apply(&self, xs: &Tensor, relu: bool) -> Result<Tensor> {
        let (weight, bias) = (self.framework.weight(), self.framework.bias());
        let &Conv2dConfig { padding, stride, .. } = self.framework.config();
        let out = if !xs.device().is_cpu() || xs.dtype() != DType::F32 {
            self.framework.forward(xs)?
        } else if self.is_winograd() {
            let (_, _, height, width) = xs.dims4()?;
            return self.winograd(xs, (zero_padded(height, padding), zero_padded(width, padding)), relu);
        } else if let Some(bias) = bias {
            xs.contiguous()?.apply_op3_no_bwd(weight, bias, &Conv2dKernel { padding, stride })?
        } else {
            self.framework.forward(xs)?
        };
        Ok(if relu { out.relu()? } else { out })
    }

    /// Enlarges to `height` by `width`, each pixel taken from the nearest one at or before it, and convolves: the enlarged picture
    /// is never made on the CPU.
    ///
    /// # Errors
    /// When the channels do not fit.
    pub fn forward_enlarged(&self, xs: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        if !xs.device().is_cpu() || xs.dtype() != DType::F32 || !self.is_winograd() {
            return self.forward(&upsample_nearest(xs, height, width)?);
        }
        let (_, _, from_height, from_width) = xs.dims4()?;
        let padding = self.framework.config().padding;
        let sources = |from: usize, to: usize| {
            let nearest = nearest(from, to);
            let source = |at: u32| if at == NOWHERE { NOWHERE } else { nearest[at as usize] };
            zero_padded(to, padding).into_iter().map(source).collect()
        };
        self.winograd(xs, (sources(from_height, height), sources(from_width, width)), false)
    }

    /// Convolves with given sources of the padded lines and columns.
    fn winograd(&self, xs: &Tensor, (rows, columns): (Vec<u32>, Vec<u32>), relu: bool) -> Result<Tensor> {
        let (weight, bias) = (self.framework.weight(), self.framework.bias());
        let kernel = WinogradKernel { rows, columns, turned: false, bias: bias.cloned(), relu };
        Ok(xs.contiguous()?.apply_op2_no_bwd(&weight.contiguous()?, &kernel)?)
    }

    /// Whether the kernel is 3 x 3 and visits every pixel.
    fn is_winograd(&self) -> bool {
        self.framework.weight().dims().get(2..) == Some(&[3, 3]) && self.framework.config().stride == 1
    }

    /// The gradient to the input, given that to the output: a convolution with the kernel turned by 180 degrees and its
    /// channels exchanged. The weights count as frozen.
    ///
    /// # Errors
    /// When the stride is not 1, the padding is as wide as the kernel or the channels do not fit.
    pub fn backward(&self, gradient: &Tensor) -> Result<Tensor> {
        let weight = self.framework.weight();
        let (_, inputs, kernel, _) = weight.dims4()?;
        let &Conv2dConfig { padding, stride, .. } = self.framework.config();
        if stride != 1 || padding >= kernel {
            let reason = format!("no gradient through a convolution of stride {stride} and padding {padding}");
            return Err(candle_core::Error::Msg(reason).into());
        }
        if gradient.device().is_cpu() && gradient.dtype() == DType::F32 && self.is_winograd() {
            let (_, _, height, width) = gradient.dims4()?;
            let (rows, columns) = (zero_padded(height, 2 - padding), zero_padded(width, 2 - padding));
            let kernel = WinogradKernel { rows, columns, turned: true, bias: None, relu: false };
            return Ok(gradient.contiguous()?.apply_op2_no_bwd(&weight.contiguous()?, &kernel)?);
        }
        if let Some(transposed) = self.transposed.get() {
            return transposed.forward(gradient);
        }
        let turned = weight.transpose(0, 1)?.contiguous()?.flip(&[2, 3])?.contiguous()?;
        let bias = Tensor::zeros(inputs, weight.dtype(), weight.device())?;
        let transposed = Self::from_tensors(turned, Some(bias), 1, kernel - 1 - padding);
        self.transposed.get_or_init(|| transposed).forward(gradient)
    }
}

/// A 3 x 3 convolution of stride 1 in f32 on the CPU.
struct WinogradKernel {
    /// The sources of the padded lines and columns.
    rows: Vec<u32>,
    columns: Vec<u32>,
    /// Carries a gradient back.
    turned: bool,
    bias: Option<Tensor>,
    relu: bool,
}

impl CustomOp2 for WinogradKernel {
    fn name(&self) -> &'static str {
        "winograd"
    }

    fn cpu_fwd(
        &self,
        xs_storage: &CpuStorage,
        xs_layout: &Layout,
        weight_storage: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, inputs, height, width) = xs_layout.shape().dims4()?;
        let (first, second, _, _) = weight_layout.shape().dims4()?;
        let (weight_inputs, outputs) = if self.turned { (first, second) } else { (second, first) };
        let (rows, columns) = (&self.rows, &self.columns);
        if inputs != weight_inputs || rows.len() < 3 || columns.len() < 3 {
            candle_core::bail!(
                "convolution of {:?} cannot take {:?}",
                weight_layout.shape().dims(),
                xs_layout.shape().dims()
            );
        }
        let bias = self.bias.as_ref().map(Tensor::to_vec1::<f32>).transpose()?;
        if let Some(bias) = bias.as_ref().filter(|bias| bias.len() != outputs) {
            candle_core::bail!("{outputs} output channels but {} biases", bias.len());
        }
        let weight = Floats::of(weight_storage, weight_layout)?;
        // Turned, an output's taps do not lie together.
        let wide = self.turned.then(|| weight.whole());
        let weight = wide.as_deref().map_or(weight, Floats::Single);
        let convolution = Winograd {
            xs: contiguous(xs_storage, xs_layout)?,
            batch,
            inputs,
            outputs,
            height,
            width,
            rows,
            columns,
            weight,
            turned: self.turned,
            bias: bias.as_deref(),
            relu: self.relu,
        };
        let shape = Shape::from((batch, outputs, rows.len() - 2, columns.len() - 2));
        Ok((CpuStorage::F32(convolution.run()), shape))
    }
}

/// Convolution with bias in f32 on the CPU.
struct Conv2dKernel {
    padding: usize,
    stride: usize,
}

impl CustomOp3 for Conv2dKernel {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        xs_storage: &CpuStorage,
        xs_layout: &Layout,
        weight_storage: &CpuStorage,
        weight_layout: &Layout,
        bias_storage: &CpuStorage,
        bias_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, inputs, height, width) = xs_layout.shape().dims4()?;
        let (outputs, weight_inputs, kernel, kernel_width) = weight_layout.shape().dims4()?;
        let (padded_height, padded_width) = (height + 2 * self.padding, width + 2 * self.padding);
        if inputs != weight_inputs || kernel != kernel_width || padded_height < kernel || padded_width < kernel {
            candle_core::bail!(
                "convolution of {:?} cannot take {:?}",
                weight_layout.shape().dims(),
                xs_layout.shape().dims()
            );
        }
        let xs = contiguous(xs_storage, xs_layout)?;
        let weight = Floats::of(weight_storage, weight_layout)?.whole();
        let weight = &weight[..];
        let bias = contiguous(bias_storage, bias_layout)?;
        if bias.len() != outputs {
            candle_core::bail!("{outputs} output channels but {} biases", bias.len());
        }
        let out_height = (padded_height - kernel) / self.stride + 1;
        let out_width = (padded_width - kernel) / self.stride + 1;
        let pixels = out_height * out_width;
        let depth = inputs * kernel * kernel;
        let threads = rayon::current_num_threads();
        let shape = Shape::from((batch, outputs, out_height, out_width));
        if kernel > 1 && depth <= Direct::DEEPEST {
            let (rows, columns) = (zero_padded(height, self.padding), zero_padded(width, self.padding));
            let (rows, columns, stride) = (&rows[..], &columns[..], self.stride);
            let direct = Direct { batch, inputs, outputs, height, width, kernel, stride, rows, columns };
            return Ok((CpuStorage::F32(direct.run(xs, weight, false, Some(bias), false)), shape));
        }
        let mut out = rows_of(bias, batch * outputs, pixels);
        if out.is_empty() {
            return Ok((CpuStorage::F32(out), shape));
        }

        let weights = Matrix { data: weight, row: depth, column: 1 };
        if kernel == 1 && self.stride == 1 && self.padding == 0 {
            for (xs, out) in xs.chunks(inputs * pixels).zip(out.chunks_mut(outputs * pixels)) {
                let xs = Matrix { data: xs, row: pixels, column: 1 };
                multiply(weights, xs, (outputs, depth, pixels), 1.0, Target::Add, (out, pixels), threads);
            }
            return Ok((CpuStorage::F32(out), shape));
        }
        let rows_per_tile = (MAX_PATCHES / (depth * out_width)).clamp(1, out_height);
        let mut patches = vec![0f32; depth * rows_per_tile * out_width];
        for (xs, out) in xs.chunks(inputs * height * width).zip(out.chunks_mut(outputs * pixels)) {
            for first in (0..out_height).step_by(rows_per_tile) {
                let rows = rows_per_tile.min(out_height - first);
                let tile = rows * out_width;
                let patches = &mut patches[..depth * tile];
                patches.par_chunks_mut(tile).enumerate().for_each(|(tap, patch)| {
                    let (channel, dy, dx) = (tap / (kernel * kernel), tap / kernel % kernel, tap % kernel);
                    let plane = &xs[channel * height * width..][..height * width];
                    for (row, patch) in patch.chunks_mut(out_width).enumerate() {
                        let y = ((first + row) * self.stride + dy).wrapping_sub(self.padding);
                        match plane.chunks(width).nth(y) {
                            Some(line) => gather(line, patch, dx, self.stride, self.padding),
                            None => patch.fill(0.0),
                        }
                    }
                });
                let right = Matrix { data: patches, row: tile, column: 1 };
                let out = &mut out[first * out_width..];
                multiply(weights, right, (outputs, depth, tile), 1.0, Target::Add, (out, pixels), threads);
            }
        }
        Ok((CpuStorage::F32(out), shape))
    }
}

/// Copies what one tap of the kernel sees along a line: `patch[i] = line[i * stride + dx - padding]`, zero outside.
fn gather(line: &[f32], patch: &mut [f32], dx: usize, stride: usize, padding: usize) {
    let start = padding.saturating_sub(dx).div_ceil(stride).min(patch.len());
    let end = (line.len() + padding).saturating_sub(dx).div_ceil(stride).clamp(start, patch.len());
    patch[..start].fill(0.0);
    patch[end..].fill(0.0);
    let inside = &mut patch[start..end];
    if inside.is_empty() {
        return;
    }
    let seen = &line[start * stride + dx - padding..];
    if stride == 1 {
        inside.copy_from_slice(&seen[..inside.len()]);
    } else {
        for (value, &x) in inside.iter_mut().zip(seen.iter().step_by(stride)) {
            *value = x;
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::drawn::random;

    /// The CPU kernel against candle's own convolution, over kernels, strides, paddings and odd sizes.
    #[test]
    fn the_kernel_equals_the_framework() {
        for (kernel, stride, padding, height, width) in [
            (3, 1, 1, 7, 5),
            (3, 2, 1, 8, 9),
            (3, 2, 0, 9, 8),
            (1, 1, 0, 4, 6),
            (1, 2, 0, 5, 5),
            (3, 1, 1, 1, 1),
            (7, 3, 5, 4, 9),
        ] {
            let weight = random(&[6, 4, kernel, kernel]);
            let conv = Conv2d::from_tensors(weight, Some(random(&[6])), stride, padding);
            let xs = random(&[2, 4, height, width]);
            let (ours, theirs) = (conv.forward(&xs).unwrap(), conv.framework.forward(&xs).unwrap());
            assert_eq!(ours.dims(), theirs.dims());
            let relu = (conv.forward_relu(&xs).unwrap() - ours.relu().unwrap()).unwrap();
            assert_eq!(relu.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
            let error = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(error < 2e-5, "kernel {kernel} stride {stride} padding {padding}: {error}");
        }
    }

    /// The gradient of the sum of `forward(xs) * gradient`, which is linear in `xs`, against differences.
    #[test]
    fn gradients_equal_finite_differences() {
        for (kernel, padding) in [(3, 1), (3, 0), (5, 2), (1, 0), (3, 2)] {
            let conv = Conv2d::from_tensors(random(&[6, 4, kernel, kernel]), Some(random(&[6])), 1, padding);
            let xs = random(&[2, 4, 8, 7]);
            let out = conv.forward(&xs).unwrap();
            let gradient = random(out.dims());
            let ours = conv.backward(&gradient).unwrap();
            assert_eq!(ours.dims(), xs.dims());
            let sum = |xs: Tensor| xs.sum_all().unwrap().to_scalar::<f32>().unwrap();
            for _ in 0..4 {
                let step = random(xs.dims());
                let moved = conv.forward(&(&xs + &step).unwrap()).unwrap();
                let change = sum(((moved - &out).unwrap() * &gradient).unwrap());
                let predicted = sum((&ours * step).unwrap());
                assert!((change - predicted).abs() < 2e-2, "kernel {kernel} padding {padding}: {change} {predicted}");
            }
        }
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let strided = Conv2d::from_tensors(zeros(&[6, 4, 3, 3]), None, 2, 1);
        assert!(strided.backward(&zeros(&[1, 6, 4, 4])).is_err());
    }

    #[test]
    fn an_enlarged_picture_is_convolved_as_if_it_had_been_made() {
        let conv = Conv2d::from_tensors(random(&[6, 4, 3, 3]), Some(random(&[6])), 1, 1);
        for (from, to) in [((7, 5), (14, 10)), ((7, 5), (13, 9)), ((1, 1), (2, 2)), ((40, 33), (80, 66))] {
            let xs = random(&[2, 4, from.0, from.1]);
            let ours = conv.forward_enlarged(&xs, to.0, to.1).unwrap();
            let theirs = conv.forward(&upsample_nearest(&xs, to.0, to.1).unwrap()).unwrap();
            assert_eq!(ours.dims(), theirs.dims());
            let error = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(error < 1e-6, "{from:?} {to:?}: {error}");
        }
    }

    #[test]
    fn a_shift_is_added_to_every_channel() {
        for bias in [None, Some(random(&[6]))] {
            let conv = Conv2d::from_tensors(random(&[6, 4, 3, 3]), bias, 1, 1);
            let (xs, shift) = (random(&[2, 4, 9, 8]), random(&[1, 6]));
            let theirs = conv.forward(&xs).unwrap().broadcast_add(&shift.reshape((1, 6, 1, 1)).unwrap()).unwrap();
            let ours = conv.forward_shifted(&xs, &shift).unwrap();
            let error = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(error < 1e-5, "{error}");
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let conv = Conv2d::from_tensors(zeros(&[6, 4, 3, 3]), Some(zeros(&[6])), 1, 0);
        assert!(conv.forward(&zeros(&[1, 3, 8, 8])).is_err());
        assert!(conv.forward(&zeros(&[1, 4, 2, 8])).is_err());
    }
}
