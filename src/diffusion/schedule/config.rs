//! What a checkpoint's `scheduler_config.json` says, read as diffusers' `X.from_config(pipe.scheduler.config)` reads it:
//! every key may be missing, and a missing key takes the default of the algorithm asked for, not of the one that wrote
//! the file. Unknown keys are ignored.

use serde::Deserialize;

use crate::diffusion::sampler::Sampler;
use crate::{Error, Result};

/// How the variance of the noise grows over training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Evenly spaced betas.
    Linear,
    /// Evenly spaced square roots of betas: the latent diffusion models.
    ScaledLinear,
    /// Betas from a squared cosine of the remaining signal.
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredCosine,
}

/// What the net was trained to predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// The velocity of Salimans and Ho, 2022.
    VPrediction,
    /// The clean sample.
    Sample,
}

/// Which of the trained timesteps a short run visits: Lin et al., 2023, table 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// From 0 upwards in whole strides, plus `steps_offset`.
    Leading,
    /// Evenly from the first to the last.
    Linspace,
    /// From the last downwards.
    Trailing,
}

/// The noise level a run ends at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigma {
    /// No noise.
    Zero,
    /// The lowest trained level.
    SigmaMin,
}

/// The keys of `scheduler_config.json` that the samplers here follow.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// The diffusers class that wrote the file; see [`Sampler::from_class`].
    #[serde(rename = "_class_name")]
    pub class_name: Option<String>,
    /// How many noise levels the net was trained on.
    pub num_train_timesteps: Option<usize>,
    /// The first beta.
    pub beta_start: Option<f64>,
    /// The last beta.
    pub beta_end: Option<f64>,
    /// How the betas grow.
    pub beta_schedule: Option<BetaSchedule>,
    /// The betas themselves, in place of the three keys above.
    pub trained_betas: Option<Vec<f64>>,
    /// What the net predicts.
    pub prediction_type: Option<Prediction>,
    /// Which timesteps are visited.
    pub timestep_spacing: Option<Spacing>,
    /// Added to every timestep under leading spacing.
    pub steps_offset: Option<i64>,
    /// Stretch the betas so that the last level is pure noise: Lin et al., 2023.
    pub rescale_betas_zero_snr: Option<bool>,
    /// ddim, pndm: end without noise instead of at the first trained level.
    pub set_alpha_to_one: Option<bool>,
    /// ddim, heun, lcm: clip the predicted sample.
    pub clip_sample: Option<bool>,
    /// The bound of that clipping.
    pub clip_sample_range: Option<f64>,
    /// Dynamic thresholding, which no latent model uses: refused.
    pub thresholding: Option<bool>,
    /// pndm: skip the Runge-Kutta start.
    pub skip_prk_steps: Option<bool>,
    /// The noise level at the end of euler, dpmpp-2m and unipc.
    pub final_sigmas_type: Option<FinalSigma>,
    /// The noise levels of Karras et al., 2022.
    pub use_karras_sigmas: Option<bool>,
    /// Noise levels evenly spaced in their logarithm.
    pub use_exponential_sigmas: Option<bool>,
    /// Levels by a beta distribution: refused.
    pub use_beta_sigmas: Option<bool>,
    /// Levels by Lu et al.: refused.
    pub use_lu_lambdas: Option<bool>,
    /// Levels of flow matching: refused.
    pub use_flow_sigmas: Option<bool>,
    /// Lower end of the karras and exponential levels.
    pub sigma_min: Option<f64>,
    /// Upper end of the karras and exponential levels.
    pub sigma_max: Option<f64>,
    /// euler: how levels between timesteps are found; only `linear` is taken.
    pub interpolation_type: Option<String>,
    /// euler: only `discrete` is taken.
    pub timestep_type: Option<String>,
    /// dpmpp-2m, unipc: how many predictions a step draws on.
    pub solver_order: Option<usize>,
    /// dpmpp-2m: `midpoint` or `heun`; unipc: `bh1` or `bh2`.
    pub solver_type: Option<String>,
    /// dpmpp-2m, unipc: fewer predictions in the last steps.
    pub lower_order_final: Option<bool>,
    /// dpmpp-2m: one prediction in the last step.
    pub euler_at_final: Option<bool>,
    /// dpmpp-2m: the lowest log signal-to-noise ratio visited.
    pub lambda_min_clipped: Option<f64>,
    /// unipc: whether the solver works on the clean sample; only true is taken.
    pub predict_x0: Option<bool>,
    /// unipc: the steps after which nothing is corrected.
    pub disable_corrector: Option<Vec<usize>>,
    /// lcm: how many steps the distillation used.
    pub original_inference_steps: Option<usize>,
    /// lcm: how fast the boundary condition fades with the timestep.
    pub timestep_scaling: Option<f64>,
}

impl SchedulerConfig {
    /// Reads the parsed file.
    pub fn from_json(file: &serde_json::Value) -> Result<Self> {
        serde_json::from_value(file.clone()).map_err(|err| Error::usage("scheduler_config.json", err.to_string()))
    }

    /// The configuration as diffusers' Stable Diffusion pipelines correct it when they load a checkpoint: outdated files
    /// lack the offset that the models were trained for, or would clip the latents. A key that the file lacks is
    /// corrected for the checkpoint's own sampler only, since `from_config` forgets defaults.
    #[must_use]
    pub fn corrected(mut self, sampler: Sampler) -> Self {
        let own = self.class_name.as_deref().and_then(Sampler::from_class) == Some(sampler);
        if self.steps_offset.is_some() || own {
            self.steps_offset = Some(1);
        }
        if self.clip_sample == Some(true) || (own && self.clip_sample.is_none()) {
            self.clip_sample = Some(false);
        }
        self
    }

    /// What the net predicts.
    pub fn prediction(&self) -> Prediction {
        self.prediction_type.unwrap_or(Prediction::Epsilon)
    }

    pub(in crate::diffusion) fn train_timesteps(&self) -> usize {
        self.num_train_timesteps.unwrap_or(1000)
    }

    pub(in crate::diffusion) fn spacing(&self, sampler: Sampler) -> Spacing {
        self.timestep_spacing.unwrap_or(match sampler {
            Sampler::Ddim | Sampler::Pndm | Sampler::Lcm => Spacing::Leading,
            _ => Spacing::Linspace,
        })
    }

    pub(in crate::diffusion) fn final_sigma(&self) -> FinalSigma {
        self.final_sigmas_type.unwrap_or(FinalSigma::Zero)
    }

    pub(in crate::diffusion) fn skips_prk(&self) -> bool {
        self.skip_prk_steps.unwrap_or(false)
    }

    /// The bound the predicted sample is clipped to, where the sampler clips.
    pub(in crate::diffusion) fn clip(&self, sampler: Sampler) -> Option<f64> {
        let clips = match sampler {
            Sampler::Ddim => self.clip_sample.unwrap_or(true),
            Sampler::Heun | Sampler::Lcm => self.clip_sample.unwrap_or(false),
            _ => false,
        };
        clips.then(|| self.clip_sample_range.unwrap_or(1.0))
    }

    /// Refuses what the file asks for and the sampler here does not do, rather than paint another picture.
    pub(in crate::diffusion) fn check(&self, sampler: Sampler) -> Result<()> {
        use Sampler::{Ddim, Dpmpp2m, Euler, Lcm, Pndm, Unipc};
        let other = |value: &Option<String>, taken: &str| value.as_deref().is_some_and(|given| given != taken);
        let on = |value: Option<bool>| value == Some(true);
        let refused = [
            ("thresholding", on(self.thresholding) && matches!(sampler, Ddim | Dpmpp2m | Unipc | Lcm)),
            ("use_beta_sigmas", on(self.use_beta_sigmas) && sampler.has_sigmas()),
            ("use_lu_lambdas", on(self.use_lu_lambdas) && sampler == Dpmpp2m),
            ("use_flow_sigmas", on(self.use_flow_sigmas) && matches!(sampler, Dpmpp2m | Unipc)),
            ("interpolation_type", other(&self.interpolation_type, "linear") && sampler == Euler),
            ("timestep_type", other(&self.timestep_type, "discrete") && sampler == Euler),
            ("predict_x0", self.predict_x0 == Some(false) && sampler == Unipc),
            ("prediction_type", self.prediction() == Prediction::Sample && sampler == Pndm),
            ("solver_order", matches!(self.solver_order, Some(0 | 4..)) && matches!(sampler, Dpmpp2m | Unipc)),
            ("clip_sample_range", self.clip(sampler).is_some_and(|bound| bound.is_nan() || bound <= 0.0)),
        ];
        match refused.iter().find(|(_, refuse)| *refuse) {
            None => Ok(()),
            Some((key, _)) => Err(Error::usage(
                "scheduler_config.json",
                format!("its {key} is not supported by the sampler {sampler}"),
            )
            .with_hint("choose another sampler with --sampler")),
        }
    }
}
