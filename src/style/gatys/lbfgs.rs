//! L-BFGS with steps of a fixed length, as `torch.optim.LBFGS` with `max_iter=1` and no line search: what PyTorch ports of Gatys'
//! method use.
//!
//! Liu, Nocedal, "On the limited memory BFGS method for large scale optimization", 1989.

use std::collections::VecDeque;

use candle_core::{DType, Tensor};

use crate::error::Result;

/// One remembered step.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    /// How far the picture went.
    pub(super) step: Tensor,
    /// How much the gradient changed.
    pub(super) change: Tensor,
}

/// The memory of the last steps.
#[derive(Debug, Clone)]
pub struct Lbfgs {
    pub(super) rate: f64,
    pub(super) history: usize,
    pub(super) pairs: VecDeque<Pair>,
    /// The gradient before, and the step that was taken there.
    pub(super) last: Option<Pair>,
    /// The scale of the inverse curvature.
    pub(super) scale: f64,
}

impl Lbfgs {
    /// An optimiser that has seen nothing yet and will remember `history` steps.
    pub fn new(rate: f64, history: usize) -> Self {
        Self { rate, history: history.max(1), pairs: VecDeque::new(), last: None, scale: 1.0 }
    }

    /// Moves `xs` by what `gradient` and the steps before say.
    ///
    /// # Errors
    /// When the shapes differ from those before.
    pub fn step(&mut self, xs: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        let rate = match self.last.take() {
            None => self.rate * (1.0 / gradient.abs()?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?).min(1.0),
            Some(last) => {
                let change = (gradient - last.change)?;
                let curvature = dot(&change, &last.step)?;
                if curvature > 1e-10 {
                    if self.pairs.len() == self.history {
                        self.pairs.pop_front();
                    }
                    self.scale = curvature / dot(&change, &change)?;
                    self.pairs.push_back(Pair { step: last.step, change });
                }
                self.rate
            }
        };
        let mut direction = gradient.neg()?;
        let mut shares = Vec::with_capacity(self.pairs.len());
        for Pair { step, change } in self.pairs.iter().rev() {
            let curvature = dot(change, step)?;
            let share = dot(step, &direction)? / curvature;
            direction = (direction - (change * share)?)?;
            shares.push((share, curvature));
        }
        direction = (direction * self.scale)?;
        for (Pair { step, change }, (share, curvature)) in self.pairs.iter().zip(shares.into_iter().rev()) {
            let back = dot(change, &direction)? / curvature;
            direction = (direction + (step * (share - back))?)?;
        }
        // Uphill: torch does not move, and remembers the step as if it had.
        let downhill = dot(gradient, &direction)? <= 0.0;
        let step = (direction * rate)?;
        let moved = if downhill { (xs + &step)? } else { xs.clone() };
        self.last = Some(Pair { step, change: gradient.clone() });
        Ok(moved)
    }
}

fn dot(left: &Tensor, right: &Tensor) -> Result<f64> {
    let lines = (left * right)?.sum(left.rank() - 1)?.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    Ok(lines.iter().sum())
}
