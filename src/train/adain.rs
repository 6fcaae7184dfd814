//! Training a net that paints any photo in the style of any painting.

use std::fmt;

use ::image::RgbImage;
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use serde_json::{Value, json};

use super::dataset::Dataset;
use super::lesson::{Lesson, leaf};
use super::loss::{Parts, Perceptual, Style, broad, roughness, tone, variation};
use super::preview;
use crate::error::Result;
use crate::image::{grain, tensor};
use crate::nets::adain::compact::GRAIN;
use crate::rng::Stream;

/// A net as the trainings see it: photos and paintings `[batch, 3, height, width]` in 0..1 to painted photos, about 0..1. A
/// net of one style ignores the paintings.
pub type Paint = Box<dyn Fn(&Tensor, &Tensor) -> Result<Tensor>>;

/// Makes the net from weights.
pub type Build = Box<dyn Fn(VarBuilder<'_>) -> Result<Paint>>;

/// Which networks judge a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum Turns {
    /// One after the other.
    Alternate,
    /// All, averaged.
    All,
}

/// The networks that judge, and how.
#[derive(Debug)]
pub struct Panel {
    judges: Vec<Perceptual>,
    turns: Turns,
    weights: Balance,
}

/// How much the parts of the loss weigh.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Balance {
    /// The photo's features. For the record: each judge has its own copy.
    pub content: f64,
    /// The painting's statistics. For the record, too.
    pub style: f64,
    /// Differences between neighbouring pixels ([`variation`]).
    pub variation: f64,
    /// The same where the photo is even ([`roughness`]).
    pub even: f64,
    /// Light and dark where the photo has them ([`tone`]).
    pub tone: f64,
    /// Broad areas in the colours the photo has there ([`broad`]).
    pub broad: f64,
}

impl Panel {
    /// Networks with their turns, and the weights of all parts of the loss.
    pub fn new(judges: Vec<Perceptual>, turns: Turns, weights: Balance) -> Self {
        Self { judges, turns, weights }
    }

    /// The judges of a step.
    fn at(&self, step: u64) -> impl Iterator<Item = (usize, &Perceptual)> {
        let count = self.judges.len() as u64;
        let turns = self.turns;
        self.judges.iter().enumerate().filter(move |(index, _)| turns == Turns::All || step % count == *index as u64)
    }

    /// For the record.
    pub fn note(&self) -> Value {
        let Balance { content, style, variation, even, tone, broad } = self.weights;
        json!({
            "content_weight": content, "style_weight": style, "tv_weight": variation, "even_weight": even, "tone_weight": tone,
            "broad_weight": broad,
            "turns": self.turns,
            "backbones": self.judges.iter().map(Perceptual::note).collect::<Vec<_>>(),
        })
    }

    /// The statistics of paintings as every judge sees them.
    ///
    /// # Errors
    /// When a picture is too small.
    pub fn styles(&self, paintings: &Tensor) -> Result<Vec<Vec<Style>>> {
        self.judges.iter().map(|judge| judge.style(paintings)).collect()
    }

    /// The gradients to the weights behind `out`, and the parts of the loss in the order of `parts`. `style` gives the wanted
    /// statistics for the judge of this number.
    ///
    /// # Errors
    /// When a picture is too small or the tensor library fails.
    pub fn teach(
        &self,
        step: u64,
        photos: &Tensor,
        out: &Tensor,
        style: impl Fn(usize, &Perceptual) -> Result<Vec<Style>>,
    ) -> Result<(GradStore, Vec<f64>)> {
        let whole = out;
        let window = Window::of(step, out)?;
        let (out, photos) = (&window.cut(out)?, &window.cut(photos)?);
        let mut sum: Option<Tensor> = None;
        let mut parts = Parts::default();
        let count = self.at(step).count() as f64;
        for (index, judge) in self.at(step) {
            let targets = judge.targets(photos, &style(index, judge)?)?;
            let (gradient, own) = judge.judge(out, &targets)?;
            let gradient = if count > 1.0 { (gradient / count)? } else { gradient };
            sum = Some(match sum {
                Some(sum) => (sum + gradient)?,
                None => gradient,
            });
            parts.content += own.content / count;
            parts.style += own.style / count;
        }
        let weights = &self.weights;
        let mut gradient = match sum {
            Some(sum) => sum,
            None => out.zeros_like()?,
        };
        let mut of_pixels = |weight: f64, loss: &dyn Fn(&Tensor) -> Result<Tensor>| -> Result<f64> {
            if weight == 0.0 {
                return Ok(0.0);
            }
            let out = leaf(out)?;
            let value = loss(&out)?;
            if let Some(towards) = (&value * weight)?.backward()?.get(&out) {
                gradient = (&gradient + towards)?;
            }
            Ok(f64::from(value.to_scalar::<f32>()?))
        };
        let varied = of_pixels(weights.variation, &variation)?;
        let rough = of_pixels(weights.even, &|out| roughness(out, photos))?;
        let off_tone = of_pixels(weights.tone, &|out| tone(out, photos))?;
        let off_colour = of_pixels(weights.broad, &|out| broad(out, photos))?;
        let loss = weights.content * parts.content
            + weights.style * parts.style
            + weights.variation * varied
            + weights.even * rough
            + weights.tone * off_tone
            + weights.broad * off_colour;
        let gradients = (whole * window.uncut(&gradient.detach())?)?.sum_all()?.backward()?;
        Ok((gradients, vec![loss, parts.content, parts.style, varied, rough, off_tone, off_colour]))
    }
}

/// The part of a picture that is judged at a step. The pools of a network have a grid; a net whose own grid of enlarged pixels always
/// lay upon it in the same way would learn to please it with a weave. So the part begins elsewhere at every step.
struct Window {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
    lost: (usize, usize),
}

impl Window {
    /// The coarsest pool's stride, up to the layers that are compared.
    const GRID: usize = 8;
    /// Sides below this are judged whole.
    const LEAST: usize = 64;

    fn of(step: u64, picture: &Tensor) -> Result<Self> {
        let (_, _, height, width) = picture.dims4()?;
        let mut random = Stream::new(&[step, u64::from_le_bytes(*b"window..")]);
        let mut place = |side: usize| if side < Self::LEAST { (0, 0) } else { (random.below(Self::GRID), Self::GRID) };
        let ((top, lost_rows), (left, lost_columns)) = (place(height), place(width));
        Ok(Self { top, left, height: height - lost_rows, width: width - lost_columns, lost: (lost_rows, lost_columns) })
    }

    fn cut(&self, picture: &Tensor) -> Result<Tensor> {
        Ok(picture.narrow(2, self.top, self.height)?.narrow(3, self.left, self.width)?.contiguous()?)
    }

    /// The gradient to the whole picture.
    fn uncut(&self, gradient: &Tensor) -> Result<Tensor> {
        let (rows, columns) = self.lost;
        if (rows, columns) == (0, 0) {
            return Ok(gradient.clone());
        }
        let rows = gradient.pad_with_zeros(2, self.top, rows - self.top)?;
        Ok(rows.pad_with_zeros(3, self.left, columns - self.left)?)
    }
}

/// The names of what [`Panel::teach`] returns.
pub(super) fn parts() -> Vec<String> {
    ["loss", "content", "style", "tv", "rough", "tone", "broad"].map(str::to_owned).to_vec()
}

/// The training of an arbitrary-style net.
pub struct Adain {
    photos: Dataset,
    paintings: Dataset,
    panel: Panel,
    build: Build,
    paint: Paint,
    net: Value,
    seed: u64,
    batch: usize,
    /// How often the style is that of photos.
    photo_styles: f64,
    device: Device,
    preview: (Vec<RgbImage>, Vec<RgbImage>),
}

impl fmt::Debug for Adain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adain").field("panel", &self.panel).field("net", &self.net).finish_non_exhaustive()
    }
}

impl Adain {
    /// A training on photos and paintings. `net` describes the net for the record and for whoever loads it; a share
    /// `photo_styles` of the steps takes the style of photos, half of them that of the very photo which is painted, so that
    /// its own style gives a photo back; `preview` are the photos and paintings of the contact sheet.
    ///
    /// # Errors
    /// When the net cannot be built.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        (photos, paintings): (Dataset, Dataset),
        panel: Panel,
        (net, build): (Value, Build),
        weights: VarBuilder<'_>,
        (seed, batch, photo_styles): (u64, usize, f64),
        preview: (Vec<RgbImage>, Vec<RgbImage>),
        device: &Device,
    ) -> Result<Self> {
        let paint = build(weights)?;
        Ok(Self {
            photos,
            paintings,
            panel,
            build,
            paint,
            net,
            seed,
            batch,
            photo_styles,
            device: device.clone(),
            preview,
        })
    }
}

impl Lesson for Adain {
    fn parts(&self) -> Vec<String> {
        parts()
    }

    fn step(&mut self, step: u64) -> Result<(GradStore, Vec<f64>)> {
        let photos = self.photos.batch(self.seed, step, self.batch, &self.device)?;
        let chance = Stream::new(&[self.seed, step, u64::from_le_bytes(*b"styles..")]).uniform();
        let paintings = if chance < self.photo_styles / 2.0 {
            photos.clone()
        } else if chance < self.photo_styles {
            let others: Vec<Tensor> = (0..self.batch)
                .map(|index| photos.narrow(0, (index + 1) % self.batch, 1))
                .collect::<candle_core::Result<_>>()?;
            Tensor::cat(&others, 0)?
        } else {
            self.paintings.batch(self.seed, step, self.batch, &self.device)?
        };
        let grained = grained(&photos, step as u32)?;
        let out = (self.paint)(&grained, &paintings)?;
        self.panel.teach(step, &photos, &out, |_, judge| judge.style(&paintings))
    }

    fn preview(&self, weights: VarBuilder<'_>) -> Result<RgbImage> {
        let paint = (self.build)(weights)?;
        let (photos, paintings) = &self.preview;
        let mut rows = vec![vec![None]];
        rows[0].extend(paintings.iter().cloned().map(Some));
        for photo in photos {
            let mut row = vec![Some(photo.clone())];
            let mut grained = photo.clone();
            grain::lay(&mut grained, GRAIN, 0);
            for painting in paintings {
                row.push(painted(&paint, &grained, painting, &self.device)?);
            }
            rows.push(row);
        }
        Ok(preview::sheet(&rows))
    }

    fn note(&self) -> Value {
        json!({
            "kind": "adain", "net": self.net, "loss": self.panel.note(), "photo_styles": self.photo_styles,
            "photos": self.photos.note(), "paintings": self.paintings.note(),
        })
    }
}

/// Photos `[batch, 3, height, width]` in 0..1 with the grain that they have when the net is used.
fn grained(photos: &Tensor, number: u32) -> Result<Tensor> {
    let (_, _, height, width) = photos.dims4()?;
    let grain: Vec<f32> = grain::rows(width, number).take(height).flatten().collect();
    let grain = Tensor::from_vec(grain, (1, 1, height, width), photos.device())?;
    Ok(photos.broadcast_add(&(grain * (f64::from(GRAIN) / 255.0))?)?)
}

/// One photo through a net.
pub(super) fn painted(
    paint: &Paint,
    photo: &RgbImage,
    painting: &RgbImage,
    device: &Device,
) -> Result<Option<RgbImage>> {
    let unit = |picture: &RgbImage| -> Result<Tensor> { Ok(tensor::to_unit(picture)?.to_device(device)?) };
    let out = paint(&unit(photo)?, &unit(painting)?)?.detach();
    Ok(tensor::to_pictures(&out.affine(2.0, -1.0)?)?.pop())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a window's gradient is carried back by is the transpose of what cuts it out, wherever it lies.
    #[test]
    fn a_window_s_gradient_goes_back_to_where_it_was_cut() {
        let picture = Tensor::rand(0f32, 1.0, (2, 3, 70, 65), &Device::Cpu).unwrap();
        let mut places = std::collections::BTreeSet::new();
        for step in 0..20 {
            let window = Window::of(step, &picture).unwrap();
            places.insert((window.top, window.left));
            let part = window.cut(&picture).unwrap();
            assert_eq!(part.dims(), [2, 3, 70 - Window::GRID, 65 - Window::GRID]);
            let gradient = Tensor::rand(0f32, 1.0, part.dims(), &Device::Cpu).unwrap();
            let product = |a: &Tensor, b: &Tensor| (a * b).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            let (here, there) = (product(&part, &gradient), product(&picture, &window.uncut(&gradient).unwrap()));
            assert!((here - there).abs() < 1e-4 * here, "{here} {there}");
        }
        assert!(places.len() > 10, "{places:?}");
        let small = Tensor::zeros((1, 3, 40, 40), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert_eq!(Window::of(3, &small).unwrap().cut(&small).unwrap().dims(), small.dims());
    }

    #[test]
    fn tone_is_where_light_and_dark_lie_and_not_how_strong_they_are() {
        // Patches of 8 x 8 pixels: finer noise has next to no tone.
        let photo = Tensor::rand(0f32, 1.0, (2, 3, 8, 6), &Device::Cpu).unwrap().upsample_nearest2d(64, 48).unwrap();
        let value = |out: &Tensor| tone(out, &photo).unwrap().to_scalar::<f32>().unwrap();
        assert!(value(&photo) < 1e-6);
        let brighter = value(&photo.affine(1.3, 0.2).unwrap());
        assert!(brighter < 1e-3, "{brighter}");
        let turned = value(&photo.affine(-1.0, 1.0).unwrap());
        assert!((1.98..=2.0).contains(&turned), "{turned}");
    }

    #[test]
    fn broad_areas_are_where_the_photo_has_them_in_any_palette_and_under_any_strokes() {
        let photo = Tensor::rand(0f32, 1.0, (2, 3, 8, 6), &Device::Cpu).unwrap().upsample_nearest2d(64, 48).unwrap();
        let value = |out: &Tensor| broad(out, &photo).unwrap().to_scalar::<f32>().unwrap();
        let [red, green, blue] = [0, 1, 2].map(|channel| photo.narrow(1, channel, 1).unwrap());
        // Three colours of a narrow palette: what comes out of its mean and covariance is the photo, but for the root's turn.
        let stretched =
            [(&red, 0.5, 0.2), (&green, 0.3, 0.1), (&blue, 0.7, 0.3)].map(|(c, by, add)| c.affine(by, add).unwrap());
        let out = Tensor::cat(&stretched, 1).unwrap();
        assert!(value(&photo) < 2e-3 && value(&out) < 0.02, "{} {}", value(&photo), value(&out));
        // Strokes of one pixel, and as much as that in clouds.
        let noise = |height: usize, width: usize| {
            let coarse = (Tensor::rand(0f32, 1.0, (2, 3, height, width), &Device::Cpu).unwrap() - 0.5).unwrap();
            coarse.affine(0.2, 0.0).unwrap().upsample_nearest2d(64, 48).unwrap()
        };
        let (strokes, clouds) = ((&out + noise(64, 48)).unwrap(), (&out + noise(8, 6)).unwrap());
        assert!(value(&clouds) > 4.0 * value(&strokes), "{} {}", value(&clouds), value(&strokes));
    }
}
