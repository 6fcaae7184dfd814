//! The AdaIN method: any style in one pass, with the net that came with the program or a file of the same kind.

use std::path::Path;

use ::image::RgbImage;
use candle_core::Device;

use super::bundled::{self, Opened};
use super::{Painter, Style, canvas, strips};
use crate::error::{Error, Result};
use crate::image::{grain, tensor};
use crate::nets::adain::compact::{Compact, Config, GRAIN, SMALLEST, StyleCode};
use crate::nets::strips::Rows;
use crate::progress::{OnProgress, Progress, Stage};

/// The long side of style pictures, where the user does not say: that of the picture painted, within these. Statistics of
/// a painting enlarged beyond the photo are those of a softer painting; the net has learned at 256 and was tried up to 512.
const STYLE_SIDE: std::ops::RangeInclusive<u32> = 256..=512;

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
            let picture = canvas::at_least(&style.picture, SMALLEST as u32);
            let code = self.net.encode_style(&tensor::to_unit(&picture)?.to_device(&self.device)?)?;
            codes.push((code, style.weight));
        }
        self.code = Some(StyleCode::blend(&codes)?);
        Ok(())
    }

    fn paint(&mut self, photo: &RgbImage, on_progress: &mut OnProgress<'_>) -> Result<RgbImage> {
        let missing = || Error::usage("--style", "is missing").with_hint("say which painting: --style IMAGE");
        let code = self.code.as_ref().ok_or_else(missing)?;
        let size = photo.dimensions();
        let mut photo = canvas::at_least(photo, SMALLEST as u32);
        grain::lay(&mut photo, GRAIN, self.noise);
        if strips::needed(&photo) {
            let own = |rows: &Rows<'_>| self.net.encode_rows(rows)?.towards(code, self.strength);
            let code = if self.strength < 1.0 { strips::read(&photo, &self.device, own)? } else { code.clone() };
            let painted = strips::paint(&photo, &self.device, on_progress, |rows, on_rows, on_strip| {
                self.net.painter().paint_rows(rows, &code, self.noise, on_rows, on_strip)
            })?;
            return Ok(canvas::cut(painted, size));
        }
        canvas::report(on_progress, 0)?;
        let pixels = tensor::to_unit(&photo)?.to_device(&self.device)?;
        let code = if self.strength < 1.0 {
            self.net.encode_style(&pixels)?.towards(code, self.strength)?
        } else {
            code.clone()
        };
        let painted = self.net.painter().paint(&pixels, &code, self.noise)?;
        canvas::report(on_progress, 1)?;
        Ok(canvas::cut(canvas::picture(&painted)?, size))
    }
}
