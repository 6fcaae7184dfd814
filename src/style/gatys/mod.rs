//! Gatys' method: the pixels themselves are moved until a perceptual network sees the photo's content and the painting's style.
//!
//! [`run`] paints; [`resume`] goes on where a painting was saved. Both call back after every step. The picture is painted
//! coarse to fine, the optimiser's memory and the average of the last pictures carried from size to size.
//!
//! Gatys et al., "Image style transfer using convolutional neural networks", 2016; "Controlling perceptual factors", 2017
//! (regions, sizes); Crowson, style-transfer-pytorch, 2021 (Gaussians, Adam's moments resampled, averaged pictures).

mod adam;
mod lbfgs;
mod mask;
mod objective;
mod pyramid;
mod settings;
mod state;
mod tile;

use std::path::Path;

use ::image::RgbImage;
use candle_core::{Device, Tensor};
use sha2::{Digest, Sha256};

pub use adam::Adam;
pub use lbfgs::Lbfgs;
pub use mask::Region;
pub use objective::Losses;
pub use settings::{Init, Layers, Optimizer, Settings};

use crate::error::{Error, Result};
use crate::image::resize;
use crate::image::tensor::{to_pictures, to_unit};
use crate::nets::vgg::Backbone;
use crate::ops::Resample;
use crate::rng::TorchRng;
use objective::Objective;
use state::{Mover, State};

/// A loss this many times the first one has run away.
const RUNAWAY: f64 = 1e6;

/// A step that has been taken.
pub struct Step<'a> {
    /// Steps taken so far, at all sizes.
    pub done: u32,
    /// Steps in all.
    pub total: u32,
    /// The size being painted, width and height.
    pub size: (u32, u32),
    /// The losses of the picture before the step.
    pub losses: Losses,
    state: &'a State,
    settings: &'a Settings,
    inputs: &'a str,
}

impl Step<'_> {
    /// The picture as it would be given out now.
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn picture(&self) -> Result<RgbImage> {
        picture(&shown(self.state)?)
    }

    /// Writes everything that [`resume`] needs.
    ///
    /// # Errors
    /// When the file cannot be written. Nothing is left behind then.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.state.save(path.as_ref(), self.settings, self.inputs)
    }
}

/// Receives steps. Returning an error (usually [`Error::Interrupted`]) stops the work at this point.
pub type OnStep<'a> = dyn FnMut(&Step<'_>) -> Result<()> + 'a;

/// A finished painting.
#[derive(Debug)]
pub struct Painted {
    /// The picture.
    pub picture: RgbImage,
    /// Its losses, before it was rounded to bytes.
    pub losses: Losses,
    /// Steps taken.
    pub iterations: u32,
    /// The step at which the loss was no longer a number or had run away; the picture is the last good one then.
    pub diverged: Option<u32>,
}

/// Paints `content` in the styles of `styles`, each with its part. With `regions`, each of them has a style of its own, and
/// the parts do not count.
///
/// # Errors
/// When settings or pictures cannot be used, memory runs out, or `on_step` stops the work. A loss that runs away is not an
/// error: see [`Painted::diverged`].
pub fn run(
    backbone: &Backbone,
    content: &RgbImage,
    styles: &[(RgbImage, f64)],
    regions: &[Region],
    settings: &Settings,
    on_step: &mut OnStep<'_>,
) -> Result<Painted> {
    let work = Work::new(backbone, content, styles, regions, settings)?;
    let state = work.start()?;
    work.finish(state, on_step)
}

/// Goes on with a painting that [`Step::save`] wrote, to the very picture that [`run`] would have made.
///
/// # Errors
/// As [`run`], and when the file was painted with other settings or pictures, or is none.
pub fn resume(
    path: impl AsRef<Path>,
    backbone: &Backbone,
    content: &RgbImage,
    styles: &[(RgbImage, f64)],
    regions: &[Region],
    settings: &Settings,
    on_step: &mut OnStep<'_>,
) -> Result<Painted> {
    let work = Work::new(backbone, content, styles, regions, settings)?;
    let state = State::load(path.as_ref(), settings, &work.inputs, &work.sizes, backbone.device())?;
    work.finish(state, on_step)
}

/// Everything that does not change while painting.
struct Work<'a> {
    backbone: &'a Backbone,
    content: &'a RgbImage,
    styles: &'a [(RgbImage, f64)],
    regions: &'a [Region],
    settings: &'a Settings,
    sizes: Vec<(u32, u32)>,
    inputs: String,
}

impl<'a> Work<'a> {
    fn new(
        backbone: &'a Backbone,
        content: &'a RgbImage,
        styles: &'a [(RgbImage, f64)],
        regions: &'a [Region],
        settings: &'a Settings,
    ) -> Result<Self> {
        settings.check()?;
        if styles.is_empty() {
            return Err(Error::usage("style", "is missing"));
        }
        if content.is_empty() || styles.iter().any(|(style, _)| style.is_empty()) {
            return Err(Error::usage("picture", "has no pixels"));
        }
        if let Some((_, wrong)) = styles.iter().find(|(_, part)| !(part.is_finite() && *part >= 0.0)) {
            return Err(Error::usage("style", format!("the weight {wrong} is not a number from 0 up")));
        }
        if regions
            .iter()
            .any(|region| region.content.is_empty() || region.within.as_ref().is_some_and(|it| it.is_empty()))
        {
            return Err(Error::usage("mask", "has no pixels"));
        }
        let sizes = pyramid::sizes(content.width(), content.height(), settings.smallest);
        let inputs = fingerprint(content, styles, regions);
        Ok(Self { backbone, content, styles, regions, settings, sizes, inputs })
    }

    fn device(&self) -> &Device {
        self.backbone.device()
    }

    fn start(&self) -> Result<State> {
        let (width, height) = self.sizes[0];
        let image = match (self.settings.init, self.styles.first()) {
            (Init::Style, Some((style, _))) => to_unit(&resize::lanczos(style, width, height)?)?,
            (Init::Noise, _) => {
                let noise = TorchRng::new(self.settings.seed).normal(&[1, 3, height as usize, width as usize])?;
                ((noise * 0.2)? + 0.5)?.clamp(0.0, 1.0)?
            }
            _ => to_unit(&resize::lanczos(self.content, width, height)?)?,
        };
        let image = image.to_device(self.device())?;
        Ok(State { level: 0, iteration: 0, image, mover: Mover::new(self.settings), average: None })
    }

    fn finish(&self, mut state: State, on_step: &mut OnStep<'_>) -> Result<Painted> {
        let settings = self.settings;
        let coarse = self.sizes.len() as u32 - 1;
        let total = settings.iterations.saturating_add(settings.coarse_iterations.saturating_mul(coarse));
        let mut first = None;
        loop {
            let is_last = state.level + 1 == self.sizes.len();
            let size = self.sizes[state.level];
            let steps = if is_last { settings.iterations } else { settings.coarse_iterations };
            let before = settings.coarse_iterations.saturating_mul(state.level as u32);
            let objective = self.objective(size)?;
            let mut good = shown(&state)?;
            while state.iteration < steps {
                let (losses, gradient) = objective.evaluate(&state.image)?;
                let done = before.saturating_add(state.iteration);
                if !(is_finite(&gradient)? && losses.total() <= RUNAWAY * *first.get_or_insert(losses.total())) {
                    return self.rescue(&good, done);
                }
                good = shown(&state)?;
                state.image = state.mover.step(&state.image, &gradient)?;
                state.iteration += 1;
                state.average = averaged(state.average.take(), &state.image, settings.average)?;
                let done = done.saturating_add(1);
                on_step(&Step { done, total, size, losses, state: &state, settings, inputs: &self.inputs })?;
            }
            let image = shown(&state)?;
            if is_last {
                let losses = objective.losses(&image)?;
                if !losses.total().is_finite() {
                    return self.rescue(&good, total);
                }
                return Ok(Painted { picture: picture(&image)?, losses, iterations: total, diverged: None });
            }
            state.level += 1;
            state.iteration = 0;
            state.average = None;
            let (width, height) = self.sizes[state.level];
            let (width, height) = (width as usize, height as usize);
            state.image = Resample::Bicubic.apply(&image, height, width)?.clamp(0.0, 1.0)?;
            match &mut state.mover {
                Mover::Adam(adam) => adam.resize(height, width)?,
                // Curvature between pixels that are no longer there says nothing about the new ones.
                Mover::Lbfgs(_) => state.mover = Mover::new(settings),
            }
        }
    }

    /// The last good picture, at the full size.
    fn rescue(&self, good: &Tensor, done: u32) -> Result<Painted> {
        let (width, height) = self.content.dimensions();
        let (_, _, rows, columns) = good.dims4()?;
        let good = match (rows, columns) == (height as usize, width as usize) {
            true => good.clone(),
            false => Resample::Bicubic.apply(good, height as usize, width as usize)?,
        };
        let losses = self.objective((width, height))?.losses(&good)?;
        Ok(Painted { picture: picture(&good)?, losses, iterations: done, diverged: Some(done) })
    }

    /// The losses at one of the sizes: photo, paintings and masks are all seen at it.
    fn objective(&self, (width, height): (u32, u32)) -> Result<Objective<'a>> {
        let content = resize::lanczos(self.content, width, height)?;
        let long = f64::from(width.max(height)) * self.settings.style_scale;
        let fit = |(style, part): &(RgbImage, f64)| {
            let (style_width, style_height) = style.dimensions();
            let shrink = (long / f64::from(style_width.max(style_height))).min(1.0);
            let side = |side: u32| ((f64::from(side) * shrink).round() as u32).max(1);
            Ok((resize::lanczos(style, side(style_width), side(style_height))?, *part))
        };
        let styles = self.styles.iter().map(fit).collect::<Result<Vec<_>>>()?;
        let full = self.content.width().max(self.content.height());
        let feather = self.settings.feather * f64::from(width.max(height)) / f64::from(full);
        Objective::new(self.backbone, &content, &styles, self.regions, feather, self.settings)
    }
}

/// The picture that a state stands for: the average where there is one.
fn shown(state: &State) -> Result<Tensor> {
    Ok(match &state.average {
        Some((sum, weight)) => (sum / *weight)?,
        None => state.image.clone(),
    })
}

fn averaged(average: Option<(Tensor, f64)>, image: &Tensor, decay: f64) -> Result<Option<(Tensor, f64)>> {
    if decay == 0.0 {
        return Ok(None);
    }
    let newest = (image * (1.0 - decay))?;
    Ok(Some(match average {
        Some((sum, weight)) => (((sum * decay)? + newest)?, weight * decay + (1.0 - decay)),
        None => (newest, 1.0 - decay),
    }))
}

/// Whether every value is a number.
fn is_finite(xs: &Tensor) -> Result<bool> {
    // Nothing times infinity or not-a-number is not 0.
    let sum = (xs * 0.0)?.sum_all()?.to_scalar::<f32>()?;
    Ok(sum == 0.0)
}

fn picture(image: &Tensor) -> Result<RgbImage> {
    let signed = ((image.clamp(0.0, 1.0)? * 2.0)? - 1.0)?;
    to_pictures(&signed)?.pop().ok_or_else(|| Error::usage("picture", "there is none"))
}

/// One number for everything that goes in.
fn fingerprint(content: &RgbImage, styles: &[(RgbImage, f64)], regions: &[Region]) -> String {
    let mut hash = Sha256::new();
    let mut add = |(width, height): (u32, u32), bytes: &[u8], number: f64| {
        hash.update(width.to_le_bytes());
        hash.update(height.to_le_bytes());
        hash.update(number.to_le_bytes());
        hash.update(bytes);
    };
    add(content.dimensions(), content.as_raw(), 0.0);
    for (style, part) in styles {
        add(style.dimensions(), style.as_raw(), *part);
    }
    for region in regions {
        add(region.content.dimensions(), region.content.as_raw(), region.style as f64);
        if let Some(within) = &region.within {
            add(within.dimensions(), within.as_raw(), -1.0);
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
