//! A painting in progress on disk: everything that the rest of it depends on, bit for bit, so that a run that was interrupted
//! ends with the same bytes as one that was not.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::adam::Adam;
use super::lbfgs::{Lbfgs, Pair};
use super::settings::{Optimizer, Settings};
use crate::error::{Error, Result};
use crate::image::write;

/// The key of the text beside the tensors.
const KEY: &str = "impasto-gatys";

/// Which way the pixels are moved, with its memory.
#[derive(Debug, Clone)]
pub(super) enum Mover {
    Adam(Adam),
    Lbfgs(Lbfgs),
}

impl Mover {
    pub(super) fn new(settings: &Settings) -> Self {
        let rate = settings.learning_rate();
        match settings.optimizer {
            Optimizer::Adam => Self::Adam(Adam::new(rate, settings.betas)),
            Optimizer::Lbfgs => Self::Lbfgs(Lbfgs::new(rate, settings.history)),
        }
    }

    pub(super) fn step(&mut self, image: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        match self {
            // Kept within what can be shown; L-BFGS would take the cut for curvature.
            Self::Adam(adam) => Ok(adam.step(image, gradient)?.clamp(0.0, 1.0)?),
            Self::Lbfgs(lbfgs) => lbfgs.step(image, gradient),
        }
    }
}

/// Where a painting is.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// Which size, and how many steps have been taken at it.
    pub(super) level: usize,
    pub(super) iteration: u32,
    pub(super) image: Tensor,
    pub(super) mover: Mover,
    /// The sum of pictures, each weaker by the decay than the one after, and the sum of their weights.
    pub(super) average: Option<(Tensor, f64)>,
}

/// What the tensors of a file are.
#[derive(Serialize, Deserialize)]
struct Note {
    settings: Settings,
    /// Of photo, paintings and masks.
    inputs: String,
    level: usize,
    iteration: u32,
    steps: u32,
    pairs: usize,
    scale: f64,
    average: f64,
}

impl State {
    /// Writes everything.
    pub(super) fn save(&self, path: &Path, settings: &Settings, inputs: &str) -> Result<()> {
        let mut tensors = BTreeMap::from([("image".to_owned(), self.image.clone())]);
        let (mut steps, mut pairs, mut scale) = (0, 0, 1.0);
        match &self.mover {
            Mover::Adam(adam) => {
                steps = adam.steps;
                if let Some((mean, square)) = &adam.moments {
                    tensors.insert("mean".into(), mean.clone());
                    tensors.insert("square".into(), square.clone());
                }
            }
            Mover::Lbfgs(lbfgs) => {
                (pairs, scale) = (lbfgs.pairs.len(), lbfgs.scale);
                for (index, pair) in lbfgs.pairs.iter().chain(&lbfgs.last).enumerate() {
                    tensors.insert(format!("step.{index}"), pair.step.clone());
                    tensors.insert(format!("change.{index}"), pair.change.clone());
                }
            }
        }
        let average = self.average.as_ref().map_or(0.0, |(_, weight)| *weight);
        if let Some((sum, _)) = &self.average {
            tensors.insert("average".into(), sum.clone());
        }
        let note = Note {
            settings: settings.clone(),
            inputs: inputs.to_owned(),
            level: self.level,
            iteration: self.iteration,
            steps,
            pairs,
            scale,
            average,
        };
        let broken = |reason: String| Error::file(path, format!("cannot be written: {reason}"));
        let note = serde_json::to_string(&note).map_err(|error| broken(error.to_string()))?;
        let metadata = Some(HashMap::from([(KEY.to_owned(), note)]));
        let bytes = safetensors::serialize(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)), metadata)
            .map_err(|error| broken(error.to_string()))?;
        write::bytes(path, &bytes)
    }

    /// Reads what [`Self::save`] wrote with the same settings and pictures. `sizes` are those of the levels.
    pub(super) fn load(
        path: &Path,
        settings: &Settings,
        inputs: &str,
        sizes: &[(u32, u32)],
        device: &Device,
    ) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|reason| Error::io(path, reason))?;
        let foreign = |reason: String| Error::file(path, format!("is no painting in progress: {reason}"));
        let (_, metadata) =
            safetensors::SafeTensors::read_metadata(&bytes).map_err(|error| foreign(error.to_string()))?;
        let note = metadata.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
        let note = note.ok_or_else(|| foreign("it does not say what it holds".into()))?;
        let note: Note = serde_json::from_str(note).map_err(|error| foreign(error.to_string()))?;
        let other = |what: &str| {
            Error::file(path, format!("was painted with other {what}")).with_hint("delete it to begin anew")
        };
        if note.settings != *settings {
            return Err(other("settings"));
        }
        if note.inputs != inputs {
            return Err(other("pictures"));
        }
        let &(width, height) = sizes.get(note.level).ok_or_else(|| foreign("it has another size".into()))?;
        let tensors =
            candle_core::safetensors::load_buffer(&bytes, device).map_err(|error| foreign(error.to_string()))?;
        let there = |name: &str| tensors.contains_key(name);
        let tensor = |name: &str| match tensors.get(name) {
            Some(tensor) if tensor.dims() == [1, 3, height as usize, width as usize] => {
                Ok(tensor.to_dtype(candle_core::DType::F32)?)
            }
            _ => Err(foreign(format!("`{name}` is missing or of another size"))),
        };
        let pair = |index: usize| {
            Ok::<_, Error>(Pair {
                step: tensor(&format!("step.{index}"))?,
                change: tensor(&format!("change.{index}"))?,
            })
        };
        let mover = match Mover::new(settings) {
            Mover::Adam(mut adam) => {
                adam.steps = note.steps;
                adam.moments =
                    there("mean").then(|| Ok::<_, Error>((tensor("mean")?, tensor("square")?))).transpose()?;
                Mover::Adam(adam)
            }
            Mover::Lbfgs(mut lbfgs) => {
                if note.pairs > settings.history {
                    return Err(foreign("it remembers too much".into()));
                }
                lbfgs.pairs = (0..note.pairs).map(pair).collect::<Result<VecDeque<_>>>()?;
                lbfgs.last = there(&format!("step.{}", note.pairs)).then(|| pair(note.pairs)).transpose()?;
                lbfgs.scale = note.scale;
                Mover::Lbfgs(lbfgs)
            }
        };
        let average = there("average").then(|| Ok::<_, Error>((tensor("average")?, note.average))).transpose()?;
        Ok(Self { level: note.level, iteration: note.iteration, image: tensor("image")?, mover, average })
    }
}
