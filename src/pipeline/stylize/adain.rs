//! The AdaIN method: any style in one pass, with the net that came with the program or a file of the same kind.

use std::path::Path;

use ::image::RgbImage;
use candle_core::Device;

use super::bundled::{self, Opened};
use super::{Painter, Style, canvas, sizes, strips};
use crate::error::{Error, Result};
use crate::image::{grain, tensor};
use crate::nets::adain::compact::{Compact, Config, GRAIN, SMALLEST, StyleCode};
use crate::progress::{OnProgress, Progress, Stage};
use crate::style::anchor::{self, Palette};

/// The long side of style pictures, where the user does not say: that of the picture painted, within these. Statistics of
/// a painting enlarged beyond the photo are those of a softer painting; the net has learned at 256 and was tried up to 512.
const STYLE_SIDE: std::ops::RangeInclusive<u32> = 256..=512;

/// The strength of all passes but the first: what is fine in a large picture is less painted than what is broad.
const FINER: f64 = 0.6;

/// How far broad areas are brought towards the photo's own.
const ANCHORED: f64 = 0.5;

/// Repaints with the compact net.
#[derive(Debug)]
pub struct AdainPainter {
    net: Compact,
    device: Device,
    strength: f64,
    noise: u32,
    code: Option<StyleCode>,
}

impl AdainPainter {
    /// A painter with the net in a file, as `impasto train adain` writes it, or with the one that came with the program.
    /// The seed chooses the noise that even areas get their strokes from.
    ///
    /// # Errors
    /// When the file is broken or holds another net.
    pub fn open(net: Option<&Path>, device: &Device, strength: f64, seed: u64) -> Result<Self> {
        let opened = match (net, bundled::ADAIN) {
            (Some(path), _) => Opened::file(path, device)?,
            (None, Some(bytes)) => Opened::bytes(bytes, device)?,
            (None, None) => {
                return Err(Error::usage("--net", "is missing: this program was built without a net of its own")
                    .with_hint("give a file of `impasto train adain`"));
            }
        };
        let wrong = |reason: String| match net {
            Some(path) => Error::file(path, reason),
            None => Error::usage("--net", reason),
        };
        let config = Config::of(|name| opened.side(name, 0)).ok_or_else(|| {
            wrong("holds no net for any style".into()).with_hint("such files are made by `impasto train adain`")
        })?;
        let net = Compact::new(&config, opened.vb).map_err(|error| wrong(error.to_string()))?;
        // The low half of the seed: seeds are small numbers, and each of them is another map.
        Ok(Self { net, device: device.clone(), strength, noise: seed as u32, code: None })
    }
}

impl Painter for AdainPainter {
    fn canvas(&self, photo: (u32, u32), size: Option<u32>) -> Result<(u32, u32)> {
        canvas::own_size(photo, size)
    }

    fn style_side(&self, (width, height): (u32, u32)) -> Option<u32> {
        Some(width.max(height).clamp(*STYLE_SIDE.start(), *STYLE_SIDE.end()))
    }

    fn learn(&mut self, styles: &[Style], on_progress: &mut OnProgress<'_>) -> Result<()> {
        let mut codes = Vec::with_capacity(styles.len());
        for (done, style) in styles.iter().enumerate() {
            let (done, total) = (done as u64, styles.len() as u64);
            on_progress(&Progress { stage: Stage::Encode, done, total, label: "style".into() })?;
            let picture = canvas::at_least(style.picture.clone(), SMALLEST as u32);
            let code = self.net.encode_style(&tensor::to_unit(&picture)?.to_device(&self.device)?)?;
            codes.push((code, style.weight));
        }
        self.code = Some(StyleCode::blend(&codes)?);
        Ok(())
    }

    fn paint(&mut self, photo: &RgbImage, on_progress: &mut OnProgress<'_>) -> Result<RgbImage> {
        let missing = || Error::usage("--style", "is missing").with_hint("say which painting: --style IMAGE");
        let code = self.code.as_ref().ok_or_else(missing)?;
        let below = sizes::below(photo)?;
        let (code, finer_code) = if self.strength >= 1.0 && below.is_empty() {
            (code.clone(), code.clone())
        } else {
            // The photo's own code, read off a size at which that takes next to no time where there are several.
            let own = below.last().map_or_else(|| Ok(photo.clone()), sizes::reduced)?;
            let own = canvas::at_least(own, SMALLEST as u32);
            let own = self.net.encode_style(&tensor::to_unit(&own)?.to_device(&self.device)?)?;
            (own.towards(code, self.strength)?, own.towards(code, self.strength * FINER)?)
        };
        let (mean, root) = code.palette()?;
        let palette = Palette { mean, root };
        let broadest = below.last().unwrap_or(photo).dimensions();
        sizes::paint(photo, &below, on_progress, &mut |seen, photo, on_progress| {
            let code = if photo.dimensions() == broadest { &code } else { &finer_code };
            let mut painted = self.pass(seen, code, on_progress)?;
            anchor::anchor(&mut painted, photo, &palette, ANCHORED);
            Ok(painted)
        })
    }
}

impl AdainPainter {
    /// What the net makes of a photo at its own size.
    fn pass(&self, photo: RgbImage, code: &StyleCode, on_progress: &mut OnProgress<'_>) -> Result<RgbImage> {
        let size = photo.dimensions();
        let mut photo = canvas::at_least(photo, SMALLEST as u32);
        grain::lay(&mut photo, GRAIN, self.noise);
        let painted = if strips::needed(&photo) {
            strips::paint(&photo, &self.device, on_progress, |rows, on_rows, on_strip| {
                self.net.painter().paint_rows(rows, code, self.noise, on_rows, on_strip)
            })?
        } else {
            canvas::report(on_progress, 0)?;
            let pixels = tensor::to_unit(&photo)?.to_device(&self.device)?;
            let painted = canvas::picture(&self.net.painter().paint(&pixels, code, self.noise)?)?;
            canvas::report(on_progress, 1)?;
            painted
        };
        Ok(canvas::cut(painted, size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn painter() -> AdainPainter {
        let mut painter = AdainPainter::open(None, &Device::Cpu, 1.0, 0).unwrap();
        let stripes = RgbImage::from_fn(256, 256, |x, y| {
            ::image::Rgb(if (x + y) % 24 < 12 { [230, 190, 80] } else { [20, 40, 120] })
        });
        painter.learn(&[Style { picture: stripes, weight: 1.0 }], &mut |_| Ok(())).unwrap();
        painter
    }

    /// How much of what neighbours eight pixels apart differ by is left when areas of eight by eight pixels are taken as one.
    fn breadth(picture: &RgbImage) -> f64 {
        let value = |x: u32, y: u32| f64::from(picture.get_pixel(x, y).0[1]);
        let mean = |x: u32, y: u32| (0..64).map(|at| value(8 * x + at % 8, 8 * y + at / 8)).sum::<f64>() / 64.0;
        let (columns, rows) = (picture.width() / 8 - 1, picture.height() / 8);
        let places = || (0..rows).flat_map(|y| (0..columns).map(move |x| (x, y)));
        let areas: f64 = places().map(|(x, y)| (mean(x + 1, y) - mean(x, y)).abs()).sum();
        let pixels: f64 = places().map(|(x, y)| (value(8 * x + 8, 8 * y) - value(8 * x, 8 * y)).abs()).sum();
        areas / pixels
    }

    #[test]
    fn a_large_sky_gets_broader_strokes_than_one_pass_gives_it() {
        let mut painter = painter();
        let (width, height) = (1280, 192);
        let photo = RgbImage::from_fn(width, height, |x, _| ::image::Rgb([(60 + 100 * x / width) as u8; 3]));
        let code = painter.code.clone().unwrap();
        let once = painter.pass(photo.clone(), &code, &mut |_| Ok(())).unwrap();
        let painted = painter.paint(&photo, &mut |_| Ok(())).unwrap();
        assert_eq!(painted.dimensions(), (width, height));
        assert!(breadth(&painted) > 1.1 * breadth(&once), "{} {}", breadth(&painted), breadth(&once));
    }
}
