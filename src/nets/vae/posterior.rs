//! What the encoder knows about the latents: a Gaussian per value.

use candle_core::Tensor;

use crate::error::Result;

/// A diagonal Gaussian over latents.
#[derive(Debug, Clone)]
pub struct Posterior {
    /// The means `[batch, 4, height, width]`.
    pub mean: Tensor,
    /// The logarithms of the variances, within -30..20.
    pub logvar: Tensor,
}

impl Posterior {
    /// Splits the encoder's output: the first half of the channels are means, the second log variances.
    pub(super) fn new(moments: &Tensor) -> Result<Self> {
        let channels = moments.dim(1)? / 2;
        let mean = moments.narrow(1, 0, channels)?.contiguous()?;
        let logvar = moments.narrow(1, channels, channels)?.clamp(-30f64, 20f64)?;
        Ok(Self { mean, logvar })
    }

    /// The most probable latents.
    pub fn mode(&self) -> Tensor {
        self.mean.clone()
    }

    /// Latents drawn with the given unit noise, which has the means' shape.
    ///
    /// # Errors
    /// When the noise has another shape.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        let noise = noise.to_device(self.mean.device())?.to_dtype(self.mean.dtype())?;
        let deviation = (&self.logvar * 0.5)?.exp()?;
        Ok((&self.mean + (deviation * noise)?)?)
    }
}
