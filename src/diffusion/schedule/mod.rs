//! The noise levels and timesteps of one run, for every sampler and every way of spacing them, equal to diffusers'.
//!
//! Between steps the latents live in variance-exploding space, x = x0 + sigma * noise (k-diffusion's convention);
//! diffusers keeps them divided by sqrt(sigma^2 + 1) for its variance-preserving samplers. A level names both.

mod config;
mod levels;
mod spacing;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

pub use config::{BetaSchedule, FinalSigma, Prediction, SchedulerConfig, Spacing};

use self::levels::{Levels, PURE_NOISE};
use crate::diffusion::sampler::Sampler;
use crate::{Error, Result};

/// How the noise levels of a run are spaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sigmas {
    /// As the checkpoint's scheduler configuration says
    #[default]
    Default,
    /// More steps at low noise (Karras et al., 2022)
    Karras,
    /// Evenly spaced in the logarithm
    Exponential,
}

/// One evaluation of the net.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Counted from 0.
    pub index: usize,
    /// How many there are in this run.
    pub total: usize,
    /// The noise level of the latents.
    pub sigma: f64,
    /// What the net is told; euler and heun pass fractions.
    pub timestep: f64,
}

/// The noise levels and timesteps of one run.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The noise level at every evaluation, and the one the last step leaves.
    pub sigmas: Vec<f64>,
    /// The timestep at every evaluation.
    pub timesteps: Vec<f64>,
    /// What diffusers multiplies unit noise by to start: 1 for the variance-preserving samplers.
    pub init_noise_sigma: f64,
    sampler: Sampler,
    config: SchedulerConfig,
    levels: Levels,
    steps: usize,
    begin: usize,
}

impl Schedule {
    /// The schedule of `steps` steps of a sampler on a model with this configuration.
    pub fn new(sampler: Sampler, config: &SchedulerConfig, steps: usize, sigmas: Sigmas) -> Result<Self> {
        config.check(sampler)?;
        let levels = Levels::new(config, sampler)?;
        if !(1..=levels.len()).contains(&steps) {
            return Err(Error::usage("--steps", format!("must be between 1 and {}, not {steps}", levels.len())));
        }
        let mut timesteps = spacing::timesteps(sampler, config, &levels, steps)?;
        let spaced = choose(sampler, config, sigmas)?;
        let mut sigmas = match spaced {
            Sigmas::Default => timesteps.iter().map(|&time| levels.between(time)).collect(),
            _ => {
                let (high, low) = match sampler {
                    Sampler::Dpmpp2m | Sampler::Unipc => (levels.highest(), levels.lowest()),
                    _ => (levels.between(timesteps[0]), levels.between(timesteps[timesteps.len() - 1])),
                };
                let (high, low) = (config.sigma_max.unwrap_or(high), config.sigma_min.unwrap_or(low));
                let spread = if spaced == Sigmas::Karras { spacing::karras } else { spacing::exponential };
                let sigmas = spread(high, low, steps);
                timesteps = sigmas.iter().map(|&sigma| told(sampler, config, spaced, levels.timestep(sigma))).collect();
                sigmas
            }
        };
        // diffusers keeps levels in single precision.
        sigmas.iter_mut().for_each(|sigma| *sigma = f64::from(*sigma as f32));
        if !sigmas.iter().all(|sigma| sigma.is_finite() && *sigma > 0.0) {
            return Err(Error::usage("scheduler_config.json", "its sigma_min or sigma_max is out of range"));
        }
        if config.prediction() == Prediction::Epsilon && sigmas.contains(&f64::from(PURE_NOISE)) {
            let reason = "predicting the noise of pure noise says nothing of the picture (rescale_betas_zero_snr)";
            return Err(Error::usage("scheduler_config.json", reason)
                .with_hint("such models predict velocity: prediction_type v_prediction"));
        }
        if matches!(sampler, Sampler::Dpmpp2m | Sampler::Unipc) && sigmas.windows(2).any(|pair| pair[0] <= pair[1]) {
            return Err(Error::usage("--steps", format!("{steps} steps of {sampler} visit a noise level twice"))
                .with_hint("take fewer steps"));
        }
        match sampler {
            Sampler::Heun => {
                timesteps = twice_after_first(&timesteps);
                sigmas = twice_after_first(&sigmas);
            }
            Sampler::Pndm => {
                timesteps = pndm_timesteps(&timesteps, config, levels.len() / steps / 2)?;
                sigmas = timesteps.iter().map(|&time| levels.at(time as i64)).collect();
            }
            _ => {}
        }
        let last = timesteps.last().map_or(0, |&time| time as i64);
        sigmas.push(match (sampler, config.final_sigma()) {
            (Sampler::Ddim | Sampler::Pndm, _) => levels.at(last - (levels.len() / steps) as i64),
            (Sampler::Unipc, FinalSigma::SigmaMin) if spaced != Sigmas::Default => sigmas[sigmas.len() - 1],
            (Sampler::Euler | Sampler::Dpmpp2m | Sampler::Unipc, FinalSigma::SigmaMin) => levels.lowest(),
            _ => 0.0,
        });
        let highest = sigmas.iter().copied().fold(0.0, f64::max);
        let init_noise_sigma = match (sampler, config.spacing(sampler)) {
            (Sampler::Euler | Sampler::EulerA | Sampler::Heun, Spacing::Leading) => highest.hypot(1.0),
            (Sampler::Euler | Sampler::EulerA | Sampler::Heun, _) => highest,
            _ => 1.0,
        };
        let config = config.clone();
        Ok(Self { sigmas, timesteps, init_noise_sigma, sampler, config, levels, steps, begin: 0 })
    }

    /// The end of this schedule that image to image runs: `strength` 1 keeps all of it.
    #[allow(clippy::wrong_self_convention)] // Reads as "the schedule from this strength on".
    pub fn from_strength(&self, strength: f64) -> Result<Self> {
        if !(strength > 0.0 && strength <= 1.0) {
            return Err(Error::usage("--strength", format!("must be above 0 and at most 1, not {strength}")));
        }
        if self.sampler == Sampler::Pndm && !self.config.skips_prk() && strength < 1.0 {
            return Err(Error::usage("--sampler", "pndm cannot start in the middle with its Runge-Kutta steps")
                .with_hint("choose another sampler, or set skip_prk_steps in scheduler_config.json"));
        }
        let kept = (self.steps as f64 * strength) as usize;
        let order = if self.sampler == Sampler::Heun { 2 } else { 1 };
        let skip = (self.steps - kept.min(self.steps)) * order;
        if kept == 0 || skip < self.begin || skip - self.begin >= self.timesteps.len() {
            let reason = format!("{strength} of {} steps leaves none to run", self.steps);
            return Err(Error::usage("--strength", reason).with_hint("raise --strength or --steps"));
        }
        let cut = skip - self.begin;
        let mut tail = self.clone();
        tail.timesteps.drain(..cut);
        tail.sigmas.drain(..cut);
        tail.begin = skip;
        Ok(tail)
    }

    /// The evaluations of the net, in order. A sampler makes every one of them.
    pub fn evaluations(&self) -> impl Iterator<Item = Evaluation> {
        let total = self.timesteps.len();
        let levels = self.sigmas.iter().zip(&self.timesteps).enumerate();
        levels.map(move |(index, (&sigma, &timestep))| Evaluation { index, total, sigma, timestep })
    }

    /// The latents a run from noise starts at, from unit noise.
    pub fn start(&self, noise: &Tensor) -> Result<Tensor> {
        let preserving = match self.sampler {
            Sampler::Euler | Sampler::EulerA | Sampler::Heun => 1.0,
            _ => self.sigmas[0].hypot(1.0),
        };
        Ok((noise * (self.init_noise_sigma * preserving))?)
    }

    /// Known latents with noise as they would be before evaluation `index`; without noise after the last.
    pub fn noised(&self, latents: &Tensor, noise: &Tensor, index: usize) -> Result<Tensor> {
        match self.timesteps.get(index) {
            Some(_) => Ok((latents + (noise * self.sigmas[index])?)?),
            None => Ok(latents.clone()),
        }
    }

    pub(super) fn sampler(&self) -> Sampler {
        self.sampler
    }

    pub(super) fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// The level that known latents have before the evaluation after `index`: 0 after the last, where the latents are
    /// what the autoencoder decodes.
    pub(super) fn level_after(&self, index: usize) -> f64 {
        if index + 1 < self.timesteps.len() { self.sigmas[index + 1] } else { 0.0 }
    }

    /// The trained level at a whole timestep; below 0, the level a run ends at.
    pub(super) fn level_at(&self, timestep: i64) -> f64 {
        self.levels.at(timestep)
    }

    /// The distance of two planned timesteps, in whole trained ones.
    pub(super) fn stride(&self) -> i64 {
        (self.levels.len() / self.steps) as i64
    }

    /// How many evaluations were cut off the start of the whole run.
    pub(super) fn begin(&self) -> usize {
        self.begin
    }

    /// Clips a predicted sample where the configuration asks for it.
    pub(super) fn clip(&self, denoised: Tensor) -> Result<Tensor> {
        match self.config.clip(self.sampler) {
            Some(bound) => Ok(denoised.clamp(-bound, bound)?),
            None => Ok(denoised),
        }
    }
}

/// Which spacing of levels is meant, and whether the sampler has it.
fn choose(sampler: Sampler, config: &SchedulerConfig, asked: Sigmas) -> Result<Sigmas> {
    let on = |key: Option<bool>| key == Some(true) && sampler.has_sigmas();
    match asked {
        Sigmas::Default if on(config.use_karras_sigmas) => Ok(Sigmas::Karras),
        Sigmas::Default if on(config.use_exponential_sigmas) => Ok(Sigmas::Exponential),
        Sigmas::Karras | Sigmas::Exponential if !sampler.has_sigmas() => {
            Err(Error::usage("--sigmas", format!("the sampler {sampler} has only its default noise levels"))
                .with_hint("use euler, heun, dpmpp-2m or unipc"))
        }
        _ => Ok(asked),
    }
}

/// The timestep the net is told for a level between the trained ones: the multistep solvers tell whole ones, rounded
/// under karras and truncated under exponential.
fn told(sampler: Sampler, config: &SchedulerConfig, sigmas: Sigmas, timestep: f64) -> f64 {
    let cosine = config.beta_schedule == Some(BetaSchedule::SquaredCosine);
    match (sampler, sigmas) {
        (Sampler::Dpmpp2m, Sigmas::Karras) if !cosine => timestep.round_ties_even(),
        (Sampler::Unipc, Sigmas::Karras) => timestep.round_ties_even(),
        (Sampler::Dpmpp2m | Sampler::Unipc, _) => timestep.trunc(),
        _ => f64::from(timestep as f32),
    }
}

/// Heun evaluates at both ends of every step but the last.
fn twice_after_first(values: &[f64]) -> Vec<f64> {
    let later = values.iter().skip(1).flat_map(|&value| [value, value]);
    values.iter().take(1).copied().chain(later).collect()
}

/// pndm evaluates its second timestep twice, or starts with three Runge-Kutta steps of four evaluations.
fn pndm_timesteps(planned: &[f64], config: &SchedulerConfig, half: usize) -> Result<Vec<f64>> {
    if config.skips_prk() {
        let head = planned.iter().take(2).copied();
        return Ok(head.chain(planned.iter().skip(1).copied()).collect());
    }
    let [first, second, third, fourth, ..] = *planned else {
        return Err(Error::usage("--steps", "pndm with Runge-Kutta steps takes at least 4 steps")
            .with_hint("take more steps, or set skip_prk_steps in scheduler_config.json"));
    };
    let half = half as f64;
    let legs = [(first, second), (second, third), (third, fourth)];
    let start = legs.into_iter().flat_map(|(from, to)| [from, to + half, to + half, to]);
    Ok(start.chain(planned.iter().skip(3).copied()).collect())
}
