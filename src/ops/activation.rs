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
