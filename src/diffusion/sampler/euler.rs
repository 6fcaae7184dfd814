//! Euler's method: Karras et al., 2022, algorithm 2 without churn.

use candle_core::Tensor;

use super::{Denoise, OnStep};
use crate::Result;
use crate::diffusion::schedule::Schedule;

pub(super) fn euler(
    denoise: &mut Denoise<'_>,
    mut xs: Tensor,
    schedule: &Schedule,
    on_step: &mut OnStep<'_>,
) -> Result<Tensor> {
    for eval in schedule.evaluations() {
        let slope = ((&xs - denoise(&xs, eval)?)? / eval.sigma)?;
        xs = (xs + (slope * (schedule.sigmas[eval.index + 1] - eval.sigma))?)?;
        xs = on_step(&eval, xs, schedule.level_after(eval.index))?;
    }
    Ok(xs)
}
