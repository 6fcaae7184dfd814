//! Pointwise activations, exact where the reference is exact.

use candle_core::Tensor;

use super::simd::ROUND;
use super::{is_ours, pointwise};
use crate::error::Result;

/// A function of one number that has a kernel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Function {
    Silu,
    QuickGelu,
    Gelu,
}

/// The activations named in the models' `config.json` files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`: OpenAI's CLIP.
    #[default]
    QuickGelu,
    /// The exact (erf) GELU: OpenCLIP's encoders.
    #[serde(alias = "gelu_new_exact")]
    Gelu,
    /// `x * sigmoid(x)`, also called swish: the UNet and the VAE.
    #[serde(alias = "swish")]
    Silu,
}

impl Activation {
    /// Applies the activation to every element.
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn apply(self, xs: &Tensor) -> Result<Tensor> {
        match self {
            Self::QuickGelu => quick_gelu(xs),
            Self::Gelu => gelu(xs),
            Self::Silu => silu(xs),
        }
    }
}

/// `x * sigmoid(x)` per element.
///
/// # Errors
/// When the tensor library fails.
pub fn silu(xs: &Tensor) -> Result<Tensor> {
    if is_ours(xs) { pointwise::one(xs, Function::Silu) } else { Ok(xs.silu()?) }
}

/// `x * Phi(x)` per element, with the exact normal distribution function: candle's own `gelu` is the tanh approximation.
///
/// # Errors
/// When the tensor library fails.
pub fn gelu(xs: &Tensor) -> Result<Tensor> {
    if is_ours(xs) { pointwise::one(xs, Function::Gelu) } else { Ok(xs.gelu_erf()?) }
}

/// `x * sigmoid(1.702 x)` per element (OpenAI CLIP).
///
/// # Errors
/// When the tensor library fails.
pub fn quick_gelu(xs: &Tensor) -> Result<Tensor> {
    if is_ours(xs) {
        return pointwise::one(xs, Function::QuickGelu);
    }
    // silu(1.702 x) / 1.702 is the same function in one fused operation.
    Ok((xs * 1.702)?.silu()?.affine(1.0 / 1.702, 0.0)?)
}

/// `value * gelu(gate)` per element (GEGLU: Shazeer 2020, arXiv:2002.05202).
///
/// # Errors
/// When the shapes differ.
pub fn gated_gelu(value: &Tensor, gate: &Tensor) -> Result<Tensor> {
    if is_ours(value) && is_ours(gate) && value.shape() == gate.shape() {
        return pointwise::two(value, gate, Function::Gelu);
    }
    Ok((value * gate.gelu_erf()?)?)
}

/// `1 / (1 + e^-x)`, branch-free so that the compiler vectorises loops over it.
#[inline(always)]
pub(super) fn sigmoid_f32(x: f32) -> f32 {
    1.0 / (1.0 + exp_f32(-x))
}

/// `e^x` within 1.5 units in the last place over the range of f32 normals; clamped to it outside.
///
/// Cody-Waite reduction to |r| <= ln(2)/2, then the degree-6 minimax polynomial of Cephes' `expf`.
#[inline(always)]
pub(super) fn exp_f32(x: f32) -> f32 {
    let x = x.clamp(-87.3, 88.3);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4;
    let r = r - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.500_000_1;
    let e = p * r * r + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    e * f32::from_bits(exponent)
}

/// The Gaussian error function within 5e-7: the quotient of polynomials that Eigen and XLA take.
#[inline(always)]
fn erf_f32(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let mut above = -2.726_142e-10;
    for factor in [2.770_681_4e-8, -2.101_024e-6, -5.692_506_3e-5, -7.349_906_4e-4, -2.954_6e-3, -1.609_603_3e-2] {
        above = above * square + factor;
    }
    let mut below = -1.456_607_2e-5;
    for factor in [-2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2] {
        below = below * square + factor;
    }
    x * above / below
}

impl Function {
    /// Its value.
    #[inline(always)]
    pub(super) fn of(self, x: f32) -> f32 {
        match self {
            Self::Silu => x * sigmoid_f32(x),
            Self::QuickGelu => x * sigmoid_f32(1.702 * x),
            Self::Gelu => 0.5 * x * (1.0 + erf_f32(x * std::f32::consts::FRAC_1_SQRT_2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    /// candle's are libm's, and its `f64` ones exact for our purpose.
    #[test]
    fn functions_are_those_of_double_precision() {
        let xs: Vec<f32> = (-90_000..90_000).map(|step| step as f32 / 9_000.0).collect();
        let xs = Tensor::new(xs, &candle_core::Device::Cpu).unwrap();
        let wide = xs.to_dtype(DType::F64).unwrap();
        let gate = wide.gelu_erf().unwrap();
        for (ours, exact) in [
            (silu(&xs), wide.silu().unwrap()),
            (gelu(&xs), gate.clone()),
            (quick_gelu(&xs), ((&wide * 1.702).unwrap().silu().unwrap() / 1.702).unwrap()),
            (gated_gelu(&(&xs * 0.5).unwrap(), &xs), ((&wide * 0.5).unwrap() * gate).unwrap()),
        ] {
            let error = (ours.unwrap().to_dtype(DType::F64).unwrap() - &exact).unwrap().abs().unwrap();
            let error = (error / (exact.abs().unwrap() + 1.0).unwrap()).unwrap();
            let error = error.max_all().unwrap().to_scalar::<f64>().unwrap();
            // torch's gelu in f32 is off by 1.1e-6 on the same values.
            assert!(error < 4e-6, "{error:e}");
        }
    }

    #[test]
    fn exponentials_are_exact_to_the_last_places() {
        for step in -8_700..8_800 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp_f32(x)) - exact).abs() / exact;
            assert!(error < 2e-7, "exp({x}) is off by {error:e}");
        }
        assert!(sigmoid_f32(-1e30) < 1e-37 && sigmoid_f32(1e30) == 1.0);
    }
}
