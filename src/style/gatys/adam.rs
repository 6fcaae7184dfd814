//! Adam, as `torch.optim.Adam` steps.
//!
//! Kingma, Ba, "Adam: a method for stochastic optimization", 2014.

use candle_core::Tensor;

use crate::error::Result;
use crate::ops::Resample;

/// As torch has it.
const EPSILON: f64 = 1e-8;

/// The memory of the gradients so far.
#[derive(Debug, Clone)]
pub struct Adam {
    pub(super) rate: f64,
    pub(super) betas: (f64, f64),
    pub(super) steps: u32,
    /// Averages of the gradients and of their squares.
    pub(super) moments: Option<(Tensor, Tensor)>,
}

impl Adam {
    /// An optimiser that has seen nothing yet.
    pub fn new(rate: f64, betas: (f64, f64)) -> Self {
        Self { rate, betas, steps: 0, moments: None }
    }

    /// Moves `xs` by what `gradient` says.
    ///
    /// # Errors
    /// When the shapes differ from those before.
    pub fn step(&mut self, xs: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        let (first, second) = self.betas;
        let (mean, square) = match &self.moments {
            Some((mean, square)) => (mean.clone(), square.clone()),
            None => (gradient.zeros_like()?, gradient.zeros_like()?),
        };
        let mean = ((mean * first)? + (gradient * (1.0 - first))?)?;
        let square = ((square * second)? + (gradient.sqr()? * (1.0 - second))?)?;
        self.steps = self.steps.saturating_add(1);
        let unbiased = |beta: f64| 1.0 - beta.powf(f64::from(self.steps));
        let size = ((square.sqrt()? / unbiased(second).sqrt())? + EPSILON)?;
        let moved = (xs - ((&mean / size)? * (self.rate / unbiased(first)))?)?;
        self.moments = Some((mean, square));
        Ok(moved)
    }

    /// Carries the memory over to a picture of another size.
    ///
    /// # Errors
    /// When a side is 0.
    pub fn resize(&mut self, height: usize, width: usize) -> Result<()> {
        if let Some((mean, square)) = &mut self.moments {
            *mean = Resample::Bicubic.apply(mean, height, width)?;
            // Squares must not fall below 0, as a cubic would have them.
            *square = Resample::Bilinear.apply(square, height, width)?;
        }
        Ok(())
    }
}
