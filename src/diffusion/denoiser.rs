//! From a net's output to the predicted clean latents (Karras et al., 2022, section 5: preconditioning).

use candle_core::Tensor;

use super::schedule::{Evaluation, Prediction, SchedulerConfig};
use crate::Result;

/// Scales what goes into a net and interprets what comes out.
#[derive(Clone, Copy, Debug)]
pub struct Denoiser {
    prediction: Prediction,
}

impl Denoiser {
    /// For a net trained as this configuration says.
    pub fn new(config: &SchedulerConfig) -> Self {
        Self { prediction: config.prediction() }
    }

    /// The clean latents predicted for noisy ones. `net` is given the scaled latents and the timestep, and returns its
    /// output with guidance applied, in whatever precision it runs.
    pub fn denoise(
        &self,
        xs: &Tensor,
        eval: Evaluation,
        net: impl FnOnce(&Tensor, f64) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let total = eval.sigma.hypot(1.0);
        let output = net(&(xs / total)?, eval.timestep)?.to_dtype(xs.dtype())?;
        Ok(match self.prediction {
            Prediction::Epsilon => (xs - (output * eval.sigma)?)?,
            Prediction::VPrediction => ((xs / (total * total))? - (output * (eval.sigma / total))?)?,
            Prediction::Sample => output,
        })
    }
}
