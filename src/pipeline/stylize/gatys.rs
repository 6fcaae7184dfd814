//! Gatys' method: [`crate::style::gatys`] on photos of any size, with pictures on the way and work that is taken up again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ::image::RgbImage;

use super::{Painter, Style, canvas};
use crate::error::{Error, Result};
use crate::image::write;
use crate::nets::vgg::Backbone;
use crate::progress::{OnProgress, Progress, Stage};
use crate::style::gatys::{self, Region, Settings, Step};

/// The long side of a painting where the user does not say: larger ones take their time.
const SIDE: u32 = 512;
/// The most pixels: the optimiser's memory and the pictures it averages are whole.
const MAX_PIXELS: u64 = 25_000_000;
/// The smallest side that every layer of the network still sees something of.
const MIN_SIDE: u32 = 32;

/// What is kept of a painting on its way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Saving {
    /// Steps between pictures on the way, and between states to go on from; none are written otherwise.
    pub every: Option<u32>,
    /// Whether to go on from a state that is there.
    pub resume: bool,
}

/// Repaints by optimising the pixels.
#[derive(Debug)]
pub struct GatysPainter {
    backbone: Backbone,
    settings: Settings,
    regions: Vec<Region>,
    style_size: Option<u32>,
    saving: Saving,
    styles: Vec<(RgbImage, f64)>,
    output: PathBuf,
    warnings: Vec<String>,
}

impl GatysPainter {
    /// A painter with a perceptual network. `style_size` is the long side of the style pictures, `strength` from 0 to 1
    /// weakens the style.
    ///
    /// # Errors
    /// When a setting is out of range.
    pub fn new(
        backbone: Backbone,
        settings: Settings,
        regions: Vec<Region>,
        (style_size, strength): (Option<u32>, f64),
        saving: Saving,
    ) -> Result<Self> {
        // What the eye takes for half of the style is far less than half of its weight.
        let settings = Settings { style_weight: settings.style_weight * strength.powi(3), ..settings };
        settings.check()?;
        let (styles, output, warnings) = (Vec::new(), PathBuf::new(), Vec::new());
        Ok(Self { backbone, settings, regions, style_size, saving, styles, output, warnings })
    }
}

impl Painter for GatysPainter {
    fn canvas(&self, photo: (u32, u32), size: Option<u32>) -> Result<(u32, u32)> {
        let side = size.unwrap_or_else(|| photo.0.max(photo.1).min(SIDE));
        canvas::at_most(canvas::with_long_side(photo, side), MAX_PIXELS)
    }

    fn begin(&mut self, output: &Path) {
        self.output = output.to_path_buf();
    }

    fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    fn learn(&mut self, styles: &[Style], _: &mut OnProgress<'_>) -> Result<()> {
        self.styles = styles.iter().map(|style| (style.picture.clone(), style.weight)).collect();
        Ok(())
    }

    fn paint(&mut self, photo: &RgbImage, on_progress: &mut OnProgress<'_>) -> Result<RgbImage> {
        let size = photo.dimensions();
        let photo = canvas::at_least(photo.clone(), MIN_SIDE);
        let long = photo.width().max(photo.height());
        // So wide that it keeps a shortest side worth looking at when it is brought to the photo's size.
        let wide =
            |style: &RgbImage| canvas::at_least(style.clone(), MIN_SIDE.max(style.width().max(style.height()) / 8));
        let styles: Vec<_> = self.styles.iter().map(|(style, weight)| (wide(style), *weight)).collect();
        let mut settings = self.settings.clone();
        if let Some(side) = self.style_size {
            settings.style_scale = f64::from(side) / f64::from(long);
        }
        let state = beside(&self.output, ".state");
        let (every, output) = (self.saving.every, &self.output);
        let mut on_step = |step: &Step<'_>| {
            let progress = Progress {
                stage: Stage::Stylize,
                done: step.done.into(),
                total: step.total.into(),
                label: String::new(),
            };
            let told = on_progress(&progress);
            let Some(every) = every else { return told };
            let due = step.done.is_multiple_of(every) && step.done < step.total;
            if due {
                write::png(beside(output, &format!("-{:05}.png", step.done)), &step.picture()?, &[])?;
            }
            if told.is_err() || due {
                step.save(&state)?;
            }
            told
        };
        let painted = if self.saving.resume && state.exists() {
            gatys::resume(&state, &self.backbone, &photo, &styles, &self.regions, &settings, &mut on_step)?
        } else {
            gatys::run(&self.backbone, &photo, &styles, &self.regions, &settings, &mut on_step)?
        };
        if let Some(step) = painted.diverged {
            self.warnings.push(format!(
                "the loss ran away at step {step}: this is the last good picture (a smaller --learning-rate helps)"
            ));
        }
        if every.is_some() && state.exists() {
            std::fs::remove_file(&state).map_err(|error| Error::io(&state, error))?;
        }
        Ok(canvas::cut(painted.picture, size))
    }
}

/// A file beside the painting, with its name and another ending.
fn beside(output: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(output.file_stem().unwrap_or_default());
    name.push(ending);
    output.with_file_name(name)
}
