//! Pointwise activations, exact where the reference is exact.

use candle_core::Tensor;

use crate::error::Result;

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
    Ok(xs.silu()?)
}

/// `x * Phi(x)` per element, with the exact normal distribution function: candle's own `gelu` is the tanh approximation.
///
/// # Errors
/// When the tensor library fails.
pub fn gelu(xs: &Tensor) -> Result<Tensor> {
    Ok(xs.gelu_erf()?)
}

/// `x * sigmoid(1.702 x)` per element (OpenAI CLIP).
///
/// # Errors
/// When the tensor library fails.
pub fn quick_gelu(xs: &Tensor) -> Result<Tensor> {
    // silu(1.702 x) / 1.702 is the same function in one fused operation.
    Ok((xs * 1.702)?.silu()?.affine(1.0 / 1.702, 0.0)?)
}

/// `1 / (1 + e^-x)`, branch-free so that the compiler vectorises loops over it.
pub(super) fn sigmoid_f32(x: f32) -> f32 {
    1.0 / (1.0 + exp_f32(-x))
}

/// `e^x` within 1.5 units in the last place over the range of f32 normals; clamped to it outside.
///
/// Cody-Waite reduction to |r| <= ln(2)/2, then the degree-6 minimax polynomial of Cephes' `expf`.
pub(super) fn exp_f32(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer in the low bits without a call to `round`.
    const ROUND: f32 = 12_582_912.0;
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

#[cfg(test)]
mod tests {
    use super::*;

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
