//! Adam with what training a small net needs around it: a bound on the gradient, a falling step size, and a running mean of
//! the weights that is steadier than the weights themselves (and is what gets shipped).
//!
//! Kingma, Ba 2015. candle's AdamW keeps its moments to itself; a training that resumes to the same bits has to save them.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};

use crate::error::Result;

/// Before the names of the running means in a checkpoint.
pub(super) const MEAN: &str = "mean/";

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPS: f64 = 1e-8;

/// How the step size falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum Decay {
    /// Not at all.
    None,
    /// Along a half cosine to a hundredth.
    Cosine,
    /// As 1 / (1 + 5e-5 step), AdaIN's.
    Inverse,
}

impl Decay {
    /// The factor at a step (counted from 0), after a linear rise over `warm_up` steps.
    pub fn factor(self, step: u64, steps: u64, warm_up: u64) -> f64 {
        let rise = if step < warm_up { (step + 1) as f64 / warm_up as f64 } else { 1.0 };
        let fall = match self {
            Self::None => 1.0,
            Self::Cosine => {
                let done = step as f64 / steps.max(1) as f64;
                0.01 + 0.99 * 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos())
            }
            Self::Inverse => 1.0 / (1.0 + 5e-5 * step as f64),
        };
        rise * fall
    }
}

/// One weight and what the optimiser remembers of it.
#[derive(Debug)]
struct Slot {
    var: Var,
    first: Tensor,
    second: Tensor,
    mean: Tensor,
}

/// The optimiser and its memory.
#[derive(Debug)]
pub struct Adam {
    slots: BTreeMap<String, Slot>,
    /// Updates made.
    step: u64,
    /// The share of the running mean that stays at each update.
    ema: f64,
    /// The largest norm the whole gradient may have; what is above is scaled down.
    clip: f64,
}

impl Adam {
    /// At the start: moments 0, the running mean at the weights.
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn new(vars: BTreeMap<String, Var>, ema: f64, clip: f64) -> Result<Self> {
        let slot = |var: Var| -> Result<Slot> {
            let zeros = || var.zeros_like();
            Ok(Slot { first: zeros()?, second: zeros()?, mean: var.copy()?.detach(), var })
        };
        let slots = vars.into_iter().map(|(name, var)| Ok((name, slot(var)?))).collect::<Result<_>>()?;
        Ok(Self { slots, step: 0, ema, clip })
    }

    /// How many updates were made.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The norm of the whole gradient.
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn norm(&self, gradients: &GradStore) -> Result<f64> {
        let mut squares = 0.0;
        for slot in self.slots.values() {
            if let Some(gradient) = gradients.get(&slot.var) {
                squares += gradient.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
            }
        }
        Ok(squares.sqrt())
    }

    /// One update with a gradient of this norm.
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn update(&mut self, gradients: &GradStore, norm: f64, learning_rate: f64) -> Result<()> {
        self.step += 1;
        let factor = if norm > self.clip { self.clip / norm } else { 1.0 };
        let step = self.step as f64;
        let (bias1, bias2) = (1.0 - BETA1.powf(step), 1.0 - BETA2.powf(step));
        // Early weights are no better than their start and must not linger in the mean.
        let keep = self.ema.min((1.0 + step) / (10.0 + step));
        for slot in self.slots.values_mut() {
            if let Some(gradient) = gradients.get(&slot.var) {
                let gradient = (gradient * factor)?;
                slot.first = ((&slot.first * BETA1)? + (&gradient * (1.0 - BETA1))?)?;
                slot.second = ((&slot.second * BETA2)? + (gradient.sqr()? * (1.0 - BETA2))?)?;
                let root = ((&slot.second / bias2)?.sqrt()? + EPS)?;
                let moved = (slot.var.as_tensor() - ((&slot.first / root)? * (learning_rate / bias1))?)?;
                slot.var.set(&moved.detach())?;
            }
            slot.mean = ((&slot.mean * keep)? + (slot.var.as_tensor() * (1.0 - keep))?)?.detach();
        }
        Ok(())
    }

    /// The running mean of the weights, by name.
    pub fn means(&self) -> BTreeMap<String, Tensor> {
        self.slots.iter().map(|(name, slot)| (name.clone(), slot.mean.clone())).collect()
    }

    /// Everything that an exact continuation needs, by name.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        let mut state = BTreeMap::new();
        for (name, slot) in &self.slots {
            state.insert(format!("weight/{name}"), slot.var.as_tensor().detach());
            state.insert(format!("{MEAN}{name}"), slot.mean.clone());
            state.insert(format!("first/{name}"), slot.first.clone());
            state.insert(format!("second/{name}"), slot.second.clone());
        }
        state
    }

    /// Continues from a state after `step` updates.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn restore(&mut self, step: u64, mut tensor: impl FnMut(&str, &[usize]) -> Result<Tensor>) -> Result<()> {
        for (name, slot) in &mut self.slots {
            let dims = slot.var.dims().to_vec();
            slot.var.set(&tensor(&format!("weight/{name}"), &dims)?)?;
            slot.mean = tensor(&format!("{MEAN}{name}"), &dims)?;
            slot.first = tensor(&format!("first/{name}"), &dims)?;
            slot.second = tensor(&format!("second/{name}"), &dims)?;
        }
        self.step = step;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Against torch.optim.Adam on f(x) = sum x^2 from (1, -2), learning rate 0.1, three steps.
    #[test]
    fn three_steps_equal_torch() {
        let var = Var::new(&[1f32, -2.0], &Device::Cpu).unwrap();
        let mut adam = Adam::new([("x".to_owned(), var.clone())].into(), 0.9, f64::INFINITY).unwrap();
        for _ in 0..3 {
            let gradients = var.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let norm = adam.norm(&gradients).unwrap();
            adam.update(&gradients, norm, 0.1).unwrap();
        }
        let values = var.to_vec1::<f32>().unwrap();
        assert!((values[0] - 0.701_586).abs() < 1e-5 && (values[1] + 1.700_623).abs() < 1e-5, "{values:?}");
    }

    #[test]
    fn a_long_gradient_is_shortened() {
        let var = Var::new(&[3f32, 4.0], &Device::Cpu).unwrap();
        let mut adam = Adam::new([("x".to_owned(), var.clone())].into(), 0.9, 1.0).unwrap();
        let gradients = (var.sqr().unwrap().sum_all().unwrap() * 0.5).unwrap().backward().unwrap();
        assert_eq!(adam.norm(&gradients).unwrap(), 5.0);
        adam.update(&gradients, 5.0, 0.0).unwrap();
        let first = adam.state()["first/x"].to_vec1::<f32>().unwrap();
        assert!((first[0] - 0.06).abs() < 1e-6 && (first[1] - 0.08).abs() < 1e-6, "{first:?}");
    }

    #[test]
    fn the_step_size_rises_and_falls() {
        assert_eq!(Decay::None.factor(0, 100, 10), 0.1);
        assert_eq!(Decay::Cosine.factor(0, 100, 0), 1.0);
        assert!((Decay::Cosine.factor(100, 100, 0) - 0.01).abs() < 1e-12);
        assert!((Decay::Inverse.factor(20_000, 40_000, 0) - 0.5).abs() < 1e-12);
    }
}
