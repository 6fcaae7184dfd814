//! Heun's method: Karras et al., 2022, algorithm 1 without churn.
//!
//! A step is two evaluations: Euler's step, then again from where it started with the mean of the slopes at both ends.
//! The last step, to no noise, is Euler's alone.

use candle_core::Tensor;

use super::{Denoise, OnStep};
use crate::Result;
use crate::diffusion::schedule::Schedule;

pub(super) fn heun(
    denoise: &mut Denoise<'_>,
    mut xs: Tensor,
    schedule: &Schedule,
    on_step: &mut OnStep<'_>,
) -> Result<Tensor> {
    let mut pending: Option<(Tensor, Tensor, f64)> = None;
    for eval in schedule.evaluations() {
        let denoised = schedule.clip(denoise(&xs, eval)?)?;
        let slope = ((&xs - denoised)? / eval.sigma)?;
        xs = match pending.take() {
            None => {
                let length = schedule.sigmas[eval.index + 1] - eval.sigma;
                let reached = (&xs + (&slope * length)?)?;
                pending = Some((xs, slope, length));
                reached
            }
            Some((start, first, length)) => (start + ((first + slope)? * (length / 2.0))?)?,
        };
        xs = on_step(&eval, xs, schedule.level_after(eval.index))?;
    }
    Ok(xs)
}
