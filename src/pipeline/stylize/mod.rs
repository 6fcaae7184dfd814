//! Repainting a photo in the style of a painting, by any of the methods: what is the same for all of them stands here once.
//!
//! A [`Painter`] is one method with its nets. A [`Stylizer`] brings the photo to size, keeps its colours where that is
//! asked for, has the painter paint, and fits the result under the mask and to the frame before.

mod adain;
pub mod bundled;
pub mod canvas;
mod diffusion;
mod fast;
mod frames;
mod gatys;
mod original;
mod recipe;
mod sizes;
mod strips;

use std::path::Path;
use std::time::{Duration, Instant};

use ::image::{GrayImage, RgbImage};
use serde::{Deserialize, Serialize};

pub use adain::AdainPainter;
pub use diffusion::DiffusionPainter;
pub use fast::FastPainter;
pub use frames::Smoother;
pub use gatys::{GatysPainter, Saving};
pub use original::OriginalPainter;
pub use recipe::{KEYWORD, Recipe, VERSION, WeightedInput};

use crate::error::{Error, Result};
use crate::image::read::MAX_SIDE;
use crate::progress::OnProgress;
use crate::style::colour::{self, PreserveColor};

/// How the style is brought over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum Method {
    /// Any style in one pass: the net takes the statistics of the painting (AdaIN, 2017)
    Adain,
    /// The pixels themselves are optimised until a net sees the photo's content and the painting's style (Gatys, 2015)
    Gatys,
    /// One pass through a net that was trained for one style (Johnson, 2016)
    Fast,
    /// Image to image with Stable Diffusion, ControlNet and IP-Adapter
    Diffusion,
}

impl Method {
    /// The method's name, as the user writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Adain => "adain",
            Self::Gatys => "gatys",
            Self::Fast => "fast",
            Self::Diffusion => "diffusion",
        }
    }
}

/// A style picture and its part in the blend.
#[derive(Debug, Clone)]
pub struct Style {
    /// The picture.
    pub picture: RgbImage,
    /// Its part; the parts of a blend are relative to their sum.
    pub weight: f64,
}

/// One method with its nets, ready to paint any number of photos.
pub trait Painter {
    /// The size a photo is painted at, for the `--size` that was asked for.
    ///
    /// # Errors
    /// When that is too large, or too small, for the method.
    fn canvas(&self, photo: (u32, u32), size: Option<u32>) -> Result<(u32, u32)>;

    /// The long side that style pictures are brought to for a photo painted at `canvas`, where the user does not say;
    /// `None` leaves them as they are.
    fn style_side(&self, canvas: (u32, u32)) -> Option<u32> {
        let _ = canvas;
        None
    }

    /// Takes in the style pictures: everything that depends on them alone. Not called when there are none.
    ///
    /// # Errors
    /// When they cannot be used, or the work is stopped.
    fn learn(&mut self, styles: &[Style], on_progress: &mut OnProgress<'_>) -> Result<()>;

    /// Told where the next painting goes, for who writes more than one file.
    fn begin(&mut self, output: &Path) {
        let _ = output;
    }

    /// What the user should know about the last painting.
    fn warnings(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// Paints a photo that has the size of its [`Painter::canvas`]; the painting has it too.
    ///
    /// # Errors
    /// When memory runs out or the work is stopped.
    fn paint(&mut self, photo: &RgbImage, on_progress: &mut OnProgress<'_>) -> Result<RgbImage>;
}

/// What holds for every photo, whatever the method.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// The long side of the painting; the photo's own, or the method's, by default.
    pub size: Option<u32>,
    /// The long side of the style pictures, and so the size of their strokes; the method's choice by default.
    pub style_size: Option<u32>,
    /// What of the photo's colours is kept.
    pub preserve_color: PreserveColor,
    /// How much the painting of the frame before is kept where the film stands still, from 0 to 1; `None` where photos
    /// have nothing to do with each other.
    pub smooth: Option<f64>,
}

/// A finished painting.
#[derive(Debug)]
pub struct Painting {
    /// The picture.
    pub picture: RgbImage,
    /// What the user should know: a prompt that was cut, a loss that ran away.
    pub warnings: Vec<String>,
    /// How long the style pictures took. Nothing for all but the first photo, where one encoding serves them all.
    pub encoding: Duration,
    /// How long everything else took.
    pub painting: Duration,
}

/// A method, style pictures and settings: paints photos.
pub struct Stylizer {
    painter: Box<dyn Painter>,
    styles: Vec<Style>,
    settings: Settings,
    /// The side at which the painter has seen the style pictures, once it has.
    learnt: Option<Option<u32>>,
    smoother: Option<Smoother>,
}

impl Stylizer {
    /// Checks the settings. There may be no styles where the painter's net is the style.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the flag.
    pub fn new(painter: Box<dyn Painter>, styles: Vec<Style>, settings: Settings) -> Result<Self> {
        settings.check()?;
        check_weights(styles.iter().map(|style| style.weight))?;
        let smoother = settings.smooth.filter(|&strength| strength > 0.0).map(Smoother::new);
        Ok(Self { painter, styles, settings, learnt: None, smoother })
    }

    /// Goes on in other styles and with other settings, with the same nets.
    ///
    /// # Errors
    /// As [`Stylizer::new`]; nothing has changed then.
    pub fn restyle(&mut self, styles: Vec<Style>, settings: Settings) -> Result<()> {
        settings.check()?;
        check_weights(styles.iter().map(|style| style.weight))?;
        self.smoother = settings.smooth.filter(|&strength| strength > 0.0).map(Smoother::new);
        (self.styles, self.settings, self.learnt) = (styles, settings, None);
        Ok(())
    }

    /// Says where the next painting goes, to painters that write pictures on the way.
    pub fn begin(&mut self, output: &Path) {
        self.painter.begin(output);
    }

    /// Paints one photo; where `mask` is given, only what is white in it.
    ///
    /// # Errors
    /// When the photo or the mask does not suit the method, memory runs out, or the work is stopped.
    pub fn paint(
        &mut self,
        photo: &RgbImage,
        mask: Option<&GrayImage>,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<Painting> {
        let started = Instant::now();
        let size = self.painter.canvas(photo.dimensions(), self.settings.size)?;
        let mask = mask.map(|mask| canvas::fit_mask(mask, photo.dimensions(), size)).transpose()?;
        let resized = (photo.dimensions() != size).then(|| canvas::resized(photo, size)).transpose()?;
        let photo = resized.as_ref().unwrap_or(photo);
        let before_encoding = started.elapsed();
        self.learn(photo, on_progress)?;
        let after_encoding = started.elapsed();
        let painted = self.painter.paint(photo, on_progress)?;
        let mut painted = self.finish(photo, painted)?;
        if let Some(smoother) = &mut self.smoother {
            painted = smoother.next(photo, painted);
        }
        if let Some(mask) = mask {
            painted = canvas::compose(photo, painted, &mask);
        }
        let encoding = after_encoding.saturating_sub(before_encoding);
        let warnings = self.painter.warnings();
        Ok(Painting { picture: painted, warnings, encoding, painting: started.elapsed().saturating_sub(encoding) })
    }

    // Style pictures whose colours become the photo's are other pictures for every photo. The frames of a film share those
    // of the first: adapted to each, they would flicker.
    fn learn(&mut self, photo: &RgbImage, on_progress: &mut OnProgress<'_>) -> Result<()> {
        let kind = self.settings.preserve_color;
        let follows_photo = adapts_style(kind) && self.settings.smooth.is_none();
        let side = self.settings.style_size.or_else(|| self.painter.style_side(photo.dimensions()));
        if self.styles.is_empty() || (self.learnt == Some(side) && !follows_photo) {
            return Ok(());
        }
        let ready = |style: &Style| -> Result<Style> {
            let picture = match side {
                Some(side) => {
                    canvas::resized(&style.picture, canvas::with_long_side(style.picture.dimensions(), side))?
                }
                None => style.picture.clone(),
            };
            let picture = if adapts_style(kind) { colour::prepare_style(kind, &picture, photo) } else { picture };
            Ok(Style { picture, weight: style.weight })
        };
        let styles = self.styles.iter().map(ready).collect::<Result<Vec<_>>>()?;
        self.painter.learn(&styles, on_progress)?;
        self.learnt = Some(side);
        Ok(())
    }

    fn finish(&self, photo: &RgbImage, painted: RgbImage) -> Result<RgbImage> {
        if painted.dimensions() != photo.dimensions() {
            let reason = format!("came out as {:?} instead of {:?}", painted.dimensions(), photo.dimensions());
            return Err(Error::usage("painting", reason));
        }
        let kind = self.settings.preserve_color;
        // Where the net is the style there is no style picture whose colours could be changed: the painting's are.
        let painted = if self.styles.is_empty() && adapts_style(kind) {
            colour::prepare_style(kind, &painted, photo)
        } else {
            painted
        };
        Ok(colour::finish(kind, &painted, photo))
    }
}

impl Settings {
    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the flag.
    pub fn check(&self) -> Result<()> {
        for (flag, side) in [("--size", self.size), ("--style-size", self.style_size)] {
            if let Some(side) = side.filter(|side| !(1..=MAX_SIDE).contains(side)) {
                return Err(Error::usage(flag, format!("{side} is not between 1 and {MAX_SIDE}")));
            }
        }
        check_part("--smooth", self.smooth)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { size: None, style_size: None, preserve_color: PreserveColor::None, smooth: None }
    }
}

/// Checks a number that may be from 0 to 1.
///
/// # Errors
/// [`Error::Usage`] that names `flag`.
pub fn check_part(flag: &str, value: Option<f64>) -> Result<()> {
    match value {
        Some(value) if !(0.0..=1.0).contains(&value) => {
            Err(Error::usage(flag, format!("{value} is not between 0 and 1")))
        }
        _ => Ok(()),
    }
}

/// Checks the parts of a blend.
///
/// # Errors
/// [`Error::Usage`] that names `--style`, when one is not a number from 0 up, or all are 0.
pub fn check_weights(weights: impl Iterator<Item = f64> + Clone) -> Result<()> {
    if let Some(wrong) = weights.clone().find(|weight| !(weight.is_finite() && *weight >= 0.0)) {
        return Err(Error::usage("--style", format!("the weight {wrong} is not a number from 0 up")));
    }
    let sum: f64 = weights.clone().sum();
    if weights.count() > 0 && !(sum > 0.0 && sum.is_finite()) {
        return Err(Error::usage("--style", "the weights add up to nothing").with_hint("give one of them more than 0"));
    }
    Ok(())
}

fn adapts_style(kind: PreserveColor) -> bool {
    matches!(kind, PreserveColor::Histogram | PreserveColor::Coral)
}
