//! The samplers: how latents are brought from noise to a picture, one file each.
//!
//! Each is a function over a [`Schedule`] in k-diffusion's manner: latents as x0 + sigma * noise, a closure that predicts
//! x0, noise as an argument. Nothing is read back to the host inside a loop. Equal to diffusers' schedulers step by step.

mod ddim;
mod dpmpp_2m;
mod euler;
mod euler_ancestral;
mod heun;
mod lcm;
mod pndm;
mod unipc;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::schedule::{Evaluation, Schedule};
use crate::{Error, Result};

/// Predicts the clean latents from noisy ones.
pub type Denoise<'a> = dyn FnMut(&Tensor, Evaluation) -> Result<Tensor> + 'a;

/// Draws unit Gaussian noise of a shape; a sampler moves it to the latents' device and precision.
pub type Noise<'a> = dyn FnMut(&[usize]) -> Result<Tensor> + 'a;

/// Called after every evaluation with the latents it led to and their noise level, 0 for the finished ones; returns the
/// latents to go on with. An error ends the run.
pub type OnStep<'a> = dyn FnMut(&Evaluation, Tensor, f64) -> Result<Tensor> + 'a;

/// How latents are brought from noise to a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sampler {
    /// Denoising diffusion implicit models (Song et al., 2020)
    Ddim,
    /// Euler's method on the probability-flow ODE (Karras et al., 2022)
    Euler,
    /// Euler's method with fresh noise at every step
    EulerA,
    /// Heun's method: two evaluations a step (Karras et al., 2022)
    Heun,
    /// DPM-Solver++ with two steps' memory (Lu et al., 2022)
    #[serde(rename = "dpmpp-2m")]
    #[value(name = "dpmpp-2m")]
    Dpmpp2m,
    /// A predictor and a corrector from one evaluation (Zhao et al., 2023)
    Unipc,
    /// Pseudo numerical methods, the first sampler of Stable Diffusion (Liu et al., 2022)
    Pndm,
    /// Latent consistency: 4 to 8 steps, with a model or LoRA made for it (Luo et al., 2023)
    Lcm,
}

impl Sampler {
    /// The sampler that a diffusers scheduler class stands for.
    pub fn from_class(name: &str) -> Option<Self> {
        Some(match name {
            "DDIMScheduler" => Self::Ddim,
            "EulerDiscreteScheduler" => Self::Euler,
            "EulerAncestralDiscreteScheduler" => Self::EulerA,
            "HeunDiscreteScheduler" => Self::Heun,
            "DPMSolverMultistepScheduler" => Self::Dpmpp2m,
            "UniPCMultistepScheduler" => Self::Unipc,
            "PNDMScheduler" => Self::Pndm,
            "LCMScheduler" => Self::Lcm,
            _ => return None,
        })
    }

    /// Whether it takes karras and exponential noise levels.
    pub fn has_sigmas(self) -> bool {
        matches!(self, Self::Euler | Self::Heun | Self::Dpmpp2m | Self::Unipc)
    }

    /// Whether it draws noise while it runs.
    pub fn is_stochastic(self) -> bool {
        matches!(self, Self::EulerA | Self::Lcm)
    }

    /// Brings `xs` through the whole schedule, which must have been made for this sampler, and returns the latents for
    /// the autoencoder. The latents should be in single precision whatever the net's is: levels go up to 100 and more.
    pub fn sample(
        self,
        denoise: &mut Denoise<'_>,
        xs: Tensor,
        schedule: &Schedule,
        noise: &mut Noise<'_>,
        on_step: &mut OnStep<'_>,
    ) -> Result<Tensor> {
        if self != schedule.sampler() {
            let reason = format!("{self} was given the schedule of {}", schedule.sampler());
            return Err(Error::usage("sampler", reason));
        }
        match self {
            Self::Ddim => ddim::ddim(denoise, xs, schedule, on_step),
            Self::Euler => euler::euler(denoise, xs, schedule, on_step),
            Self::EulerA => euler_ancestral::euler_ancestral(denoise, xs, schedule, noise, on_step),
            Self::Heun => heun::heun(denoise, xs, schedule, on_step),
            Self::Dpmpp2m => dpmpp_2m::dpmpp_2m(denoise, xs, schedule, on_step),
            Self::Unipc => unipc::unipc(denoise, xs, schedule, on_step),
            Self::Pndm => pndm::pndm(denoise, xs, schedule, on_step),
            Self::Lcm => lcm::lcm(denoise, xs, schedule, noise, on_step),
        }
    }
}

impl std::fmt::Display for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ddim => "ddim",
            Self::Euler => "euler",
            Self::EulerA => "euler-a",
            Self::Heun => "heun",
            Self::Dpmpp2m => "dpmpp-2m",
            Self::Unipc => "unipc",
            Self::Pndm => "pndm",
            Self::Lcm => "lcm",
        })
    }
}

/// Takes latents known at one level for latents at another, as a variance-preserving sampler does without noticing when
/// its steps end beside the timestep the next one starts at: the latents divided by sqrt(sigma^2 + 1) stay the same.
fn relabel(xs: Tensor, from: f64, to: f64) -> Result<Tensor> {
    if from == to { Ok(xs) } else { Ok((xs * (to.hypot(1.0) / from.hypot(1.0)))?) }
}

/// Noise like `xs`, on its device.
fn noise_like(xs: &Tensor, noise: &mut Noise<'_>) -> Result<Tensor> {
    Ok(noise(xs.dims())?.to_device(xs.device())?.to_dtype(xs.dtype())?)
}
