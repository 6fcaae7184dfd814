//! PNDM: Liu et al., 2022, algorithm 2. The linear multistep method of the net's outputs, started by repeating the second
//! timestep (as the latent diffusion authors do) or by three Runge-Kutta steps of four evaluations.

use candle_core::Tensor;

use super::{Denoise, OnStep, relabel};
use crate::Result;
use crate::diffusion::schedule::{Prediction, Schedule};

/// Evaluations of the Runge-Kutta start.
const RUNGE_KUTTA: usize = 12;

pub(super) fn pndm(
    denoise: &mut Denoise<'_>,
    mut xs: Tensor,
    schedule: &Schedule,
    on_step: &mut OnStep<'_>,
) -> Result<Tensor> {
    let velocity = schedule.config().prediction() == Prediction::VPrediction;
    let stride = schedule.stride();
    let runge_kutta = if schedule.config().skips_prk() { 0 } else { RUNGE_KUTTA };
    let mut outputs: Vec<Tensor> = Vec::with_capacity(4); // newest last
    let mut legs: Vec<Tensor> = Vec::with_capacity(4);
    // Where a step with several evaluations starts, and its level.
    let mut start = (xs.clone(), schedule.sigmas[0]);
    for eval in schedule.evaluations() {
        let denoised = denoise(&xs, eval)?;
        let output = output(&xs, &denoised, eval.sigma, velocity)?;
        let timestep = eval.timestep as i64;
        let (from, to, output) = if eval.index < runge_kutta {
            let leg = eval.index % 4;
            if leg == 0 {
                start = (xs, eval.sigma);
                outputs.push(output.clone());
                legs.clear();
            }
            legs.push(output.clone());
            let output = match legs.as_slice() {
                [first, second, third, fourth] => ((first + fourth)? + ((second + third)? * 2.0)?)? / 6.0,
                _ => Ok(output),
            };
            let to = if leg % 2 == 0 { timestep - stride / 2 } else { timestep };
            (start.1, schedule.level_at(to), output?)
        } else if runge_kutta == 0 && eval.index == 1 {
            // The first step again, with the mean of the outputs at both ends.
            let mean = ((&outputs[0] + output)? / 2.0)?;
            (schedule.level_at(timestep + stride), eval.sigma, mean)
        } else {
            start = (xs, eval.sigma);
            let old = outputs.len().saturating_sub(3);
            outputs.drain(..old);
            outputs.push(output);
            (eval.sigma, schedule.level_at(timestep - stride), multistep(&outputs)?)
        };
        let base = relabel(start.0.clone(), start.1, from)?;
        let noise = if velocity { noise_of(&output, &base, from)? } else { output };
        xs = (base + (noise * (to - from))?)?;
        let level = schedule.level_after(eval.index);
        xs = on_step(&eval, relabel(xs, to, level)?, level)?;
    }
    Ok(xs)
}

/// What the net returned for the prediction: noise, or velocity. diffusers combines those, not the predictions.
fn output(xs: &Tensor, denoised: &Tensor, sigma: f64, velocity: bool) -> Result<Tensor> {
    if velocity {
        let total = sigma.hypot(1.0);
        Ok((((xs / (total * total))? - denoised)? * (total / sigma))?)
    } else {
        Ok(((xs - denoised)? / sigma)?)
    }
}

/// The noise that a velocity stands for at latents of a level.
fn noise_of(velocity: &Tensor, xs: &Tensor, sigma: f64) -> Result<Tensor> {
    let total = sigma.hypot(1.0);
    Ok(((velocity / total)? + (xs * (sigma / (total * total)))?)?)
}

/// Adams and Bashforth's combination of up to four outputs, newest last.
fn multistep(outputs: &[Tensor]) -> Result<Tensor> {
    let factors: &[f64] = match outputs.len() {
        1 => &[1.0],
        2 => &[-1.0 / 2.0, 3.0 / 2.0],
        3 => &[5.0 / 12.0, -16.0 / 12.0, 23.0 / 12.0],
        _ => &[-9.0 / 24.0, 37.0 / 24.0, -59.0 / 24.0, 55.0 / 24.0],
    };
    let mut terms = outputs.iter().zip(factors).map(|(output, factor)| output * *factor);
    let first = terms.next().unwrap_or_else(|| Err(candle_core::Error::Msg("no outputs to combine".into())))?;
    Ok(terms.try_fold(first, |sum, term| sum + term?)?)
}
