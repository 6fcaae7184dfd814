//! Which timesteps and noise levels a run visits, from high noise to low.
//!
//! The arithmetic is numpy's, operation for operation, because rounding and truncation to whole timesteps follow it.

use super::config::{SchedulerConfig, Spacing};
use super::levels::Levels;
use crate::diffusion::sampler::Sampler;
use crate::{Error, Result};

/// The timesteps of `steps` steps, before a sampler repeats any of them.
pub(super) fn timesteps(sampler: Sampler, config: &SchedulerConfig, levels: &Levels, steps: usize) -> Result<Vec<f64>> {
    if sampler == Sampler::Lcm {
        return distilled(config, levels.len(), steps);
    }
    // The multistep solvers plan one step more and drop the last, so that they never evaluate at the lowest level.
    let spare = usize::from(matches!(sampler, Sampler::Dpmpp2m | Sampler::Unipc));
    let usable = match (sampler, config.lambda_min_clipped) {
        (Sampler::Dpmpp2m, Some(floor)) => levels.above_lambda(floor),
        _ => levels.len(),
    };
    let planned: Vec<f64> = match config.spacing(sampler) {
        Spacing::Linspace => {
            let whole = !matches!(sampler, Sampler::Euler | Sampler::EulerA | Sampler::Heun);
            let fit = |time: f64| if whole { time.round_ties_even() } else { f64::from(time as f32) };
            let end = usable.saturating_sub(1) as f64;
            linspace(0.0, end, steps + spare).into_iter().rev().take(steps).map(fit).collect()
        }
        Spacing::Leading => {
            let stride = usable / (steps + spare);
            let offset = config.steps_offset.unwrap_or(0) as f64;
            (spare..steps + spare).rev().map(|index| (index * stride) as f64 + offset).collect()
        }
        Spacing::Trailing => {
            let start = usable as f64;
            let stride = levels.len() as f64 / steps as f64;
            // numpy takes the stride from the first two values, and counts by the given one.
            let down = (start - stride) - start;
            let count = (start / stride).ceil() as usize;
            // For some counts (61, 103, ...) rounding gives numpy one value more, at timestep -1, where diffusers reads
            // the noisiest level: left out here.
            let values = (0..count).map(|index| (start + index as f64 * down).round_ties_even() - 1.0);
            values.filter(|&time| time >= 0.0).collect()
        }
    };
    let end = levels.len() as f64;
    let looked_up = matches!(sampler, Sampler::Ddim | Sampler::Pndm);
    let fits = |time: f64| time >= 0.0 && if looked_up { time < end } else { time <= end };
    if planned.is_empty() || !planned.iter().all(|&time| fits(time)) {
        return Err(Error::usage(
            "--steps",
            format!("{steps} steps leave the {end} timesteps the model was trained on"),
        )
        .with_hint("take fewer steps"));
    }
    Ok(planned)
}

/// A latent consistency model knows only the timesteps it was distilled on: pick evenly among them.
fn distilled(config: &SchedulerConfig, trained: usize, steps: usize) -> Result<Vec<f64>> {
    let known = config.original_inference_steps.unwrap_or(50);
    if known == 0 || known > trained {
        return Err(Error::usage("scheduler_config.json", "its original_inference_steps is out of range"));
    }
    if steps > known {
        return Err(Error::usage("--steps", format!("lcm takes at most {known} steps")).with_hint("4 to 8 are usual"));
    }
    let stride = trained / known;
    let part = known as f64 / steps as f64;
    let pick = |index: usize| known - (index as f64 * part).floor() as usize;
    Ok((0..steps).map(|index| (pick(index) * stride - 1) as f64).collect())
}

/// Karras et al., 2022, equation 5, with rho = 7.
pub(super) fn karras(high: f64, low: f64, count: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let (high, low) = (high.powf(1.0 / RHO), low.powf(1.0 / RHO));
    linspace(0.0, 1.0, count).into_iter().map(|ramp| (high + ramp * (low - high)).powf(RHO)).collect()
}

/// Evenly spaced in the logarithm.
pub(super) fn exponential(high: f64, low: f64, count: usize) -> Vec<f64> {
    linspace(high.ln(), low.ln(), count).into_iter().map(f64::exp).collect()
}

/// numpy.linspace: `count` values from `start` to `end`, both included.
fn linspace(start: f64, end: f64, count: usize) -> Vec<f64> {
    let step = if count > 1 { (end - start) / (count - 1) as f64 } else { 0.0 };
    let value = |index: usize| if count > 1 && index + 1 == count { end } else { index as f64 * step + start };
    (0..count).map(value).collect()
}
