//! The noise levels a net was trained on, one per timestep.
//!
//! A level is sigma, the noise's deviation relative to the signal's: x = x0 + sigma * noise. Computed in single precision
//! in torch's order of operations: later steps round and truncate timesteps found from these values.

use super::config::{BetaSchedule, SchedulerConfig};
use crate::diffusion::sampler::Sampler;
use crate::{Error, Result};

/// Stands for the infinite level of pure noise, where the betas were rescaled to end there: large enough that the signal
/// vanishes in single precision, small enough that its square does not overflow.
pub(super) const PURE_NOISE: f32 = 1e8;

/// The trained noise levels.
#[derive(Clone, Debug)]
pub(super) struct Levels {
    /// sigma at every timestep, rising.
    sigmas: Vec<f64>,
    /// Their logarithms.
    logs: Vec<f32>,
    /// The level below timestep 0.
    below: f64,
}

impl Levels {
    pub(super) fn new(config: &SchedulerConfig, sampler: Sampler) -> Result<Self> {
        let broken = |reason: &str| Err(Error::usage("scheduler_config.json", reason));
        if !(1..=100_000).contains(&config.train_timesteps()) {
            return broken("num_train_timesteps must be between 1 and 100000");
        }
        if config.trained_betas.as_ref().is_some_and(|betas| betas.len() != config.train_timesteps()) {
            return broken("trained_betas must have num_train_timesteps values");
        }
        let rescales = config.rescale_betas_zero_snr == Some(true) && !matches!(sampler, Sampler::Heun | Sampler::Pndm);
        let mut betas = betas(config, sampler);
        if rescales {
            betas = rescale_to_zero_snr(&betas);
        }
        let mut signal = cumulative(&betas);
        // As diffusers: these samplers divide by the first level, so it is kept finite.
        if rescales
            && !matches!(sampler, Sampler::Ddim | Sampler::Lcm)
            && let Some(last) = signal.last_mut()
        {
            *last = 2f32.powi(-24);
        }
        let sigma = |alpha: f32| if alpha == 0.0 { PURE_NOISE } else { ((1.0 - alpha) / alpha).sqrt() };
        let sigmas: Vec<f64> = signal.iter().map(|&alpha| f64::from(sigma(alpha))).collect();
        if sigmas.iter().any(|sigma| !(sigma.is_finite() && *sigma > 0.0)) {
            return broken("its betas give no usable noise levels: they must lie between 0 and 1");
        }
        let logs = sigmas.iter().map(|sigma| sigma.ln() as f32).collect();
        let ends_clean = config.set_alpha_to_one.unwrap_or(sampler != Sampler::Pndm);
        let below = if ends_clean { 0.0 } else { sigmas[0] };
        Ok(Self { sigmas, logs, below })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.sigmas.len()
    }

    pub(super) fn lowest(&self) -> f64 {
        self.sigmas[0]
    }

    pub(super) fn highest(&self) -> f64 {
        self.sigmas[self.len() - 1]
    }

    /// The level at a timestep; below the first one, the level a run ends at.
    pub(super) fn at(&self, timestep: i64) -> f64 {
        match usize::try_from(timestep) {
            Ok(index) => self.sigmas[index.min(self.len() - 1)],
            Err(_) => self.below,
        }
    }

    /// The level between two timesteps, interpolated linearly.
    pub(super) fn between(&self, timestep: f64) -> f64 {
        let low = (timestep.max(0.0) as usize).min(self.len() - 1);
        let high = (low + 1).min(self.len() - 1);
        let fraction = (timestep - low as f64).clamp(0.0, 1.0);
        (self.sigmas[high] - self.sigmas[low]) * fraction + self.sigmas[low]
    }

    /// The fractional timestep of a level, interpolated in the logarithm.
    pub(super) fn timestep(&self, sigma: f64) -> f64 {
        let log = sigma.max(1e-10).ln();
        let low = self.logs.iter().rposition(|&trained| log >= f64::from(trained)).unwrap_or(0);
        let low = low.min(self.len().saturating_sub(2));
        let high = (low + 1).min(self.len() - 1);
        let gap = f64::from(self.logs[low] - self.logs[high]);
        let fraction = if gap == 0.0 { 0.0 } else { ((f64::from(self.logs[low]) - log) / gap).clamp(0.0, 1.0) };
        (1.0 - fraction) * low as f64 + fraction * high as f64
    }

    /// How many levels have at least the log signal-to-noise ratio `floor`.
    pub(super) fn above_lambda(&self, floor: f64) -> usize {
        self.sigmas.iter().filter(|sigma| -sigma.ln() >= floor).count()
    }
}

fn betas(config: &SchedulerConfig, sampler: Sampler) -> Vec<f32> {
    if let Some(betas) = &config.trained_betas {
        return betas.iter().map(|&beta| beta as f32).collect();
    }
    let latent = matches!(sampler, Sampler::Heun | Sampler::Lcm);
    let (start, end) = if latent { (0.00085, 0.012) } else { (0.0001, 0.02) };
    let (start, end) = (config.beta_start.unwrap_or(start), config.beta_end.unwrap_or(end));
    let default = if sampler == Sampler::Lcm { BetaSchedule::ScaledLinear } else { BetaSchedule::Linear };
    let count = config.train_timesteps();
    match config.beta_schedule.unwrap_or(default) {
        BetaSchedule::Linear => linspace(start as f32, end as f32, count),
        BetaSchedule::ScaledLinear => {
            linspace(start.sqrt() as f32, end.sqrt() as f32, count).iter().map(|root| root * root).collect()
        }
        BetaSchedule::SquaredCosine => {
            let signal = |time: f64| ((time + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
            let at = |index: usize| signal(index as f64 / count as f64);
            (0..count).map(|index| (1.0 - at(index + 1) / at(index)).min(0.999) as f32).collect()
        }
    }
}

/// torch.linspace in single precision: the upper half counts down from the end, with one rounding per value.
fn linspace(start: f32, end: f32, count: usize) -> Vec<f32> {
    let step = if count > 1 { f64::from((end - start) / (count - 1) as f32) } else { 0.0 };
    let value = |index: usize| {
        if count == 1 || index < count / 2 {
            f64::from(start) + step * index as f64
        } else {
            f64::from(end) - step * (count - 1 - index) as f64
        }
    };
    (0..count).map(|index| value(index) as f32).collect()
}

/// The share of the signal left at each timestep: the running product of 1 - beta, summed up in double precision.
fn cumulative(betas: &[f32]) -> Vec<f32> {
    let product = |left: &mut f64, beta: &f32| {
        *left *= f64::from(1.0 - beta);
        Some(*left as f32)
    };
    betas.iter().scan(1.0, product).collect()
}

/// Lin et al., 2023, algorithm 1: shift and scale the signal's deviation so that it ends at zero.
fn rescale_to_zero_snr(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = cumulative(betas).iter().map(|alpha| alpha.sqrt()).collect();
    let (Some(&first), Some(&last)) = (roots.first(), roots.last()) else { return Vec::new() };
    let scale = first / (first - last);
    let signal: Vec<f32> = roots.iter().map(|root| ((root - last) * scale).powi(2)).collect();
    let mut before = 1.0;
    let beta = |&alpha: &f32| 1.0 - alpha / std::mem::replace(&mut before, alpha);
    signal.iter().map(beta).collect()
}
