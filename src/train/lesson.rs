//! The loop that all trainings share: step, check, update, record, save; stop and go on at any step.

use std::path::{Path, PathBuf};
use std::time::Instant;

use ::image::RgbImage;
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde_json::{Value, json};

use super::adam::{Adam, Decay};
use super::checkpoint::{self, Saved};
use super::curve::Curve;
use super::variables::Variables;
use crate::error::{Error, Result};
use crate::image::write;
use crate::progress::{OnProgress, Progress, Stage};

/// What one kind of training does.
pub trait Lesson {
    /// The names of the numbers that [`Self::step`] returns; the first is the whole loss.
    fn parts(&self) -> Vec<String>;

    /// The gradients to the weights at a step (counted from 0), and the parts of the loss. A function of the weights and of the
    /// step alone.
    ///
    /// # Errors
    /// When a picture cannot be read or the tensor library fails.
    fn step(&mut self, step: u64) -> Result<(GradStore, Vec<f64>)>;

    /// A sheet of what the net with these weights makes of a few pictures.
    ///
    /// # Errors
    /// When a weight is missing or the tensor library fails.
    fn preview(&self, weights: VarBuilder<'_>) -> Result<RgbImage>;

    /// What is trained, on what and towards what: goes into every file, and must be the same for a training to go on.
    fn note(&self) -> Value;
}

/// What all trainings can be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Course {
    /// Updates to make in all.
    pub steps: u64,
    /// Pictures per step.
    pub batch: usize,
    /// Adam's step size.
    pub learning_rate: f64,
    /// How it falls.
    pub decay: Decay,
    /// Steps over which it rises at the start.
    pub warm_up: u64,
    /// The largest norm of the whole gradient.
    pub clip: f64,
    /// The share of the running mean of the weights that stays at each step.
    pub ema: f64,
    /// What crops and first weights are drawn from.
    pub seed: u64,
    /// Steps averaged into one row of the curve.
    pub log_every: u64,
    /// Steps between two checkpoints.
    pub checkpoint_every: u64,
    /// Steps between two preview sheets; 0 makes none.
    pub preview_every: u64,
    /// Whether to go on where the checkpoint beside the output is.
    pub resume: bool,
    /// The type of the weights in the file.
    pub dtype: DType,
}

impl Default for Course {
    fn default() -> Self {
        Self {
            steps: 10_000,
            batch: 4,
            learning_rate: 1e-3,
            decay: Decay::Cosine,
            warm_up: 100,
            clip: 10.0,
            ema: 0.999,
            seed: 0,
            log_every: 10,
            checkpoint_every: 500,
            preview_every: 500,
            resume: false,
            dtype: DType::F32,
        }
    }
}

impl Course {
    /// What must be the same for a training to go on to the same result.
    fn note(&self) -> Value {
        json!({
            "steps": self.steps, "batch": self.batch, "learning_rate": self.learning_rate, "decay": self.decay,
            "warm_up": self.warm_up, "clip": self.clip, "ema": self.ema, "seed": self.seed, "log_every": self.log_every,
        })
    }

    fn check(&self) -> Result<()> {
        let wrong = |flag: &str, reason: &str| Err(Error::usage(flag, reason));
        if self.steps == 0 {
            return wrong("--steps", "must be 1 or more");
        }
        if self.batch == 0 {
            return wrong("--batch", "must be 1 or more");
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return wrong("--lr", "must be above 0");
        }
        if self.checkpoint_every == 0 {
            return wrong("--checkpoint-every", "must be 1 or more");
        }
        Ok(())
    }
}

/// The files of a training, all named after the net they lead to.
#[derive(Debug, Clone)]
pub struct Files {
    net: PathBuf,
}

impl Files {
    /// The files beside `net`.
    pub fn new(net: &Path) -> Self {
        Self { net: net.to_path_buf() }
    }

    /// The finished net.
    pub fn net(&self) -> &Path {
        &self.net
    }

    /// Everything a resumed training needs.
    pub fn checkpoint(&self) -> PathBuf {
        self.net.with_extension("checkpoint.safetensors")
    }

    /// The loss over the steps.
    pub fn curve(&self, extension: &str) -> PathBuf {
        self.net.with_extension(format!("curve.{extension}"))
    }

    /// The preview sheet after so many steps.
    pub fn preview(&self, step: u64) -> PathBuf {
        self.net.with_extension(format!("preview-{step:06}.png"))
    }
}

/// Trains to the end, or until `on_progress` asks to stop; a checkpoint is written then, too.
///
/// # Errors
/// When a setting cannot be used, a file cannot be read or written, the loss stops being a number, or the work is interrupted.
pub fn run(
    lesson: &mut impl Lesson,
    variables: &Variables,
    course: &Course,
    files: &Files,
    device: &Device,
    on_progress: &mut OnProgress<'_>,
) -> Result<()> {
    course.check()?;
    let note = json!({ "format": 1, "trained": lesson.note(), "course": course.note() });
    let mut state = State {
        adam: Adam::new(variables.all(), course.ema, course.clip)?,
        curve: Curve::new(lesson.parts(), course.log_every),
        files,
        note,
        saved: 0,
    };
    state.start(course.resume, device)?;
    let rate = Rate::new(state.adam.step());
    while state.adam.step() < course.steps {
        let step = state.adam.step();
        let label = rate.label(&state.curve, step, course.batch);
        if let Err(stop) = on_progress(&Progress { stage: Stage::Train, done: step, total: course.steps, label }) {
            state.save()?;
            return Err(stop);
        }
        let (gradients, values) = lesson.step(step)?;
        let norm = state.adam.norm(&gradients)?;
        if !norm.is_finite() || values.iter().any(|value| !value.is_finite()) {
            return Err(state.diverged(step + 1));
        }
        let factor = course.decay.factor(step, course.steps, course.warm_up);
        state.adam.update(&gradients, norm, course.learning_rate * factor)?;
        let done = step + 1;
        state.curve.add(done, &values);
        if done.is_multiple_of(course.checkpoint_every) || done == course.steps {
            state.save()?;
        }
        if course.preview_every > 0 && (done.is_multiple_of(course.preview_every) || done == course.steps) {
            let weights = state.adam.means().into_iter().collect();
            let sheet = lesson.preview(VarBuilder::from_tensors(weights, DType::F32, device))?;
            write::png(files.preview(done), &sheet, &[])?;
        }
    }
    let weights = state.adam.means().into_iter().map(|(name, mean)| Ok((name, mean.to_dtype(course.dtype)?)));
    checkpoint::write(files.net(), &weights.collect::<Result<_>>()?, &state.note)
}

/// What changes while the training runs, and where it is kept.
struct State<'a> {
    adam: Adam,
    curve: Curve,
    files: &'a Files,
    note: Value,
    /// The step of the last checkpoint.
    saved: u64,
}

impl State<'_> {
    /// Goes on where the checkpoint is, or begins with one: a folder that cannot be written to is found out now, not after the
    /// first hour.
    fn start(&mut self, resume: bool, device: &Device) -> Result<()> {
        let path = self.files.checkpoint();
        if !path.exists() {
            return self.save();
        }
        if !resume {
            return Err(Error::usage("--output", format!("{} holds an unfinished training", path.display()))
                .with_hint("go on with it by --resume, or move the file away to begin anew"));
        }
        let saved = Saved::open(&path)?;
        for group in ["trained", "course"] {
            if let Some(what) = difference(&saved.note[group], &self.note[group]) {
                return Err(Error::file(&path, format!("was written by another training: {what}"))
                    .with_hint("give the settings it was started with, or move the file away to begin anew"));
            }
        }
        let step = saved.note["step"].as_u64().unwrap_or(0);
        self.adam.restore(step, |name, dims| saved.tensor(name, dims, device))?;
        let window = saved.table("curve/window")?.into_iter().next().unwrap_or_default();
        self.curve.restore(saved.table("curve/rows")?, window);
        self.saved = step;
        Ok(())
    }

    fn save(&mut self) -> Result<()> {
        let mut tensors = self.adam.state();
        let (rows, window) = self.curve.state();
        let tables =
            [("curve/rows", checkpoint::table(rows)?), ("curve/window", checkpoint::table(&[window.to_vec()])?)];
        tensors.extend(tables.into_iter().filter_map(|(name, table)| Some((name.to_owned(), table?))));
        let mut note = self.note.clone();
        note["step"] = json!(self.adam.step());
        checkpoint::write(&self.files.checkpoint(), &tensors, &note)?;
        self.curve.write(&self.files.curve("csv"), &self.files.curve("png"))?;
        self.saved = self.adam.step();
        Ok(())
    }

    fn diverged(&self, step: u64) -> Error {
        let reason =
            format!("the loss is not a number any more at step {step}; this checkpoint of step {} is kept", self.saved);
        Error::file(self.files.checkpoint(), reason)
            .with_hint("begin anew with a smaller --lr, or look at the preview sheets for when it went wrong")
    }
}

/// The first setting in which two notes differ.
fn difference(before: &Value, now: &Value) -> Option<String> {
    match (before, now) {
        (Value::Object(before), Value::Object(now)) => {
            let names = before.keys().chain(now.keys().filter(|name| !before.contains_key(*name)));
            names.into_iter().find_map(|name| {
                let of = |note: &serde_json::Map<String, Value>| note.get(name).cloned().unwrap_or(Value::Null);
                difference(&of(before), &of(now))
                    .map(|what| if what.starts_with('.') { format!("{name}{what}") } else { format!("{name} {what}") })
            })
        }
        _ if before == now => None,
        _ => Some(format!("was {before}, is {now}")),
    }
}

/// How fast it goes.
struct Rate {
    began: Instant,
    from: u64,
}

impl Rate {
    fn new(from: u64) -> Self {
        Self { began: Instant::now(), from }
    }

    fn label(&self, curve: &Curve, step: u64, batch: usize) -> String {
        let mut label = String::new();
        for (name, value) in curve.last() {
            label += &format!("{name} {value:.4}  ");
        }
        if step > self.from {
            let pictures = (step - self.from) as f64 * batch as f64;
            label += &format!("{:.2} pictures/s", pictures / self.began.elapsed().as_secs_f64().max(1e-9));
        }
        label
    }
}

/// A tensor with the data of another and none of its history: where a gradient is to begin.
pub(super) fn leaf(tensor: &Tensor) -> Result<candle_core::Var> {
    Ok(candle_core::Var::from_tensor(&tensor.detach())?)
}
