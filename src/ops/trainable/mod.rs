//! Operations that a net can be trained through: candle functions whose gradients are right and fast on the CPU.
//!
//! candle's own convolution computes its gradients one dot product at a time, and its instance normalisation would be eight
//! operations with a picture-sized temporary each. On the CPU each
//! function here is one operation with a backward pass of its own; elsewhere the same function is composed of candle's.
//!
//! Results do not depend on the number of threads: every sum has one order.

mod axis;
mod composed;
mod conv;
mod norm;
mod relu;

use candle_core::{DType, Tensor};

use crate::error::Result;

/// How a kernel moves over the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Pixels between two positions of the kernel.
    pub stride: usize,
    /// What lies around the picture.
    pub padding: Padding,
    /// How many times the picture is enlarged (nearest neighbour) before it is padded.
    pub upsample: usize,
}

impl Geometry {
    /// Stride 1 under a kernel of `kernel` taps, mirrored edges, the size kept.
    pub fn same(kernel: usize) -> Self {
        Self { stride: 1, padding: Padding::Reflect(kernel / 2), upsample: 1 }
    }

    /// The same with another stride.
    #[must_use]
    pub fn with_stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// The same over a picture that is enlarged first.
    #[must_use]
    pub fn with_upsample(self, upsample: usize) -> Self {
        Self { upsample, ..self }
    }
}

/// What lies around the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// This many zeros on every side.
    Zeros(usize),
    /// This many mirrored pixels on every side.
    Reflect(usize),
}

impl Padding {
    fn pixels(self) -> usize {
        match self {
            Self::Zeros(n) | Self::Reflect(n) => n,
        }
    }
}

/// Convolves `[batch, in, height, width]` with `weight [out, in, kernel, kernel]` and adds `bias [out]`. All three get
/// gradients.
///
/// # Errors
/// When the shapes do not fit or the picture is too small for kernel and padding.
pub fn conv2d(xs: &Tensor, weight: &Tensor, bias: &Tensor, geometry: Geometry) -> Result<Tensor> {
    convolve(xs, weight, bias, geometry, false)
}

/// [`conv2d`] with negative results set to 0, in one pass.
///
/// # Errors
/// As `conv2d`.
pub fn conv2d_relu(xs: &Tensor, weight: &Tensor, bias: &Tensor, geometry: Geometry) -> Result<Tensor> {
    convolve(xs, weight, bias, geometry, true)
}

fn convolve(xs: &Tensor, weight: &Tensor, bias: &Tensor, geometry: Geometry, rectified: bool) -> Result<Tensor> {
    let (_, inputs, height, width) = xs.dims4()?;
    let (outputs, weight_inputs, kernel, kernel_width) = weight.dims4()?;
    if inputs != weight_inputs || kernel != kernel_width || bias.dims() != [outputs] {
        let (xs, weight, bias) = (xs.dims(), weight.dims(), bias.dims());
        return Err(
            candle_core::Error::Msg(format!("convolution of {weight:?} and {bias:?} cannot take {xs:?}")).into()
        );
    }
    // Also for the composition: it would not see a picture that is too small for the mirror.
    let axes = (axis::Axis::new(height, kernel, geometry)?, axis::Axis::new(width, kernel, geometry)?);
    if on_cpu(xs) {
        return Ok(xs.contiguous()?.apply_op3(
            &weight.contiguous()?,
            bias,
            conv::Conv::new(axes, geometry, rectified),
        )?);
    }
    let out = composed::conv2d(xs, weight, bias, geometry)?;
    Ok(if rectified { out.relu()? } else { out })
}

/// Brings every channel of every picture of `[batch, channels, height, width]` to mean 0 and variance 1 (population, `eps`
/// added), then multiplies by `scale [batch, channels]` and adds `shift [batch, channels]`. All three get gradients.
///
/// # Errors
/// When the shapes do not fit.
pub fn instance_norm(xs: &Tensor, scale: &Tensor, shift: &Tensor, eps: f64) -> Result<Tensor> {
    norm::instance_norm(xs, scale, shift, eps, false)
}

/// [`instance_norm`] with negative values set to 0, in one pass.
///
/// # Errors
/// When the shapes do not fit.
pub fn instance_norm_relu(xs: &Tensor, scale: &Tensor, shift: &Tensor, eps: f64) -> Result<Tensor> {
    norm::instance_norm(xs, scale, shift, eps, true)
}

/// [`instance_norm`], or [`instance_norm_relu`] if `rectified`, of a tensor that nobody else holds: without gradients on the
/// CPU it is overwritten, which saves the memory and the time to reach it.
///
/// # Errors
/// When the shapes do not fit.
pub fn instance_norm_of_own(xs: Tensor, scale: &Tensor, shift: &Tensor, eps: f64, rectified: bool) -> Result<Tensor> {
    norm::instance_norm_of_own(xs, scale, shift, eps, rectified)
}

/// Mean and standard deviation (population, `1e-5` under the root) of every channel of every picture: two `[batch, channels]`
/// with gradients.
///
/// # Errors
/// When `xs` is no `[batch, channels, height, width]`.
pub fn moments(xs: &Tensor) -> Result<(Tensor, Tensor)> {
    norm::moments(xs)
}

/// Sets negative values to 0, with a gradient of 0 there and at 0 itself.
///
/// # Errors
/// When the tensor library fails.
pub fn relu(xs: &Tensor) -> Result<Tensor> {
    if on_cpu(xs) {
        return Ok(xs.contiguous()?.apply_op1(relu::Relu)?);
    }
    Ok(xs.relu()?)
}

/// The gradient to the input of [`relu`], given its output and the gradient to that.
///
/// # Errors
/// When the shapes differ.
pub fn relu_backward(out: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    if on_cpu(out) && on_cpu(gradient) {
        return Ok(out.contiguous()?.apply_op2_no_bwd(&gradient.contiguous()?, &relu::Relu)?);
    }
    Ok((out.gt(0.0)?.to_dtype(gradient.dtype())? * gradient)?)
}

/// Whether the kernels of this module can take a tensor.
fn on_cpu(xs: &Tensor) -> bool {
    xs.device().is_cpu() && xs.dtype() == DType::F32
}

/// Hands the elements of a contiguous f32 tensor on the CPU to `read`.
fn with_floats<R>(xs: &Tensor, read: impl FnOnce(&[f32]) -> candle_core::Result<R>) -> candle_core::Result<R> {
    let xs = xs.contiguous()?;
    let (storage, layout) = xs.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(storage) => read(super::product::contiguous(storage, layout)?),
        _ => candle_core::bail!("this kernel needs a tensor on the CPU"),
    }
}
