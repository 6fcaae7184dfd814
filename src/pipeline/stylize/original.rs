//! The AdaIN method with the nets of its authors: the normalised VGG-19 and a decoder, as the files of theirs.

use std::path::Path;

use ::image::RgbImage;
use candle_core::{DType, Device};

use super::{Painter, Style, canvas, strips};
use crate::error::{Error, Result};
use crate::image::tensor;
use crate::nets::adain::original::{Original, Statistics};
use crate::nets::vgg::{Backbone, Kind};
use crate::ops::Pooling;
use crate::progress::OnProgress;
use crate::weights::load::Checkpoint;

/// The long side of style pictures, where the user does not say: what the decoder was trained with.
const STYLE_SIDE: u32 = 512;
/// A picture of this many pixels takes a gigabyte in one piece.
const WHOLE: u32 = 1 << 19;

/// Repaints with AdaIN as published.
#[derive(Debug)]
pub struct OriginalPainter {
    net: Original,
    device: Device,
    strength: f64,
    style: Option<Statistics>,
}

impl OriginalPainter {
    /// Opens encoder and decoder.
    ///
    /// # Errors
    /// When a file is broken or holds another net.
    pub fn open(encoder: &Path, decoder: &Path, device: &Device, strength: f64) -> Result<Self> {
        let wrong = |path: &Path, error: Error| Error::file(path, error.to_string());
        let vb = Checkpoint::open(encoder)?.var_builder(DType::F32, device);
        let backbone = Backbone::new(Kind::VggNormalised, Pooling::Max, vb).map_err(|error| wrong(encoder, error))?;
        let vb = Checkpoint::open(decoder)?.var_builder(DType::F32, device);
        let net = Original::new(backbone, vb).map_err(|error| wrong(decoder, error))?;
        Ok(Self { net, device: device.clone(), strength, style: None })
    }
}

impl Painter for OriginalPainter {
    fn canvas(&self, photo: (u32, u32), size: Option<u32>) -> Result<(u32, u32)> {
        canvas::own_size(photo, size)
    }

    fn style_side(&self, _: (u32, u32)) -> Option<u32> {
        Some(STYLE_SIDE)
    }

    fn learn(&mut self, styles: &[Style], _: &mut OnProgress<'_>) -> Result<()> {
        let encode = |style: &Style| {
            let pixels = tensor::to_unit(&style.picture)?.to_device(&self.device)?;
            Ok((self.net.encode_style(&pixels)?, style.weight))
        };
        self.style = Some(Statistics::blend(&styles.iter().map(encode).collect::<Result<Vec<_>>>()?)?);
        Ok(())
    }

    fn paint(&mut self, photo: &RgbImage, on_progress: &mut OnProgress<'_>) -> Result<RgbImage> {
        let missing = || Error::usage("--style", "is missing").with_hint("say which painting: --style IMAGE");
        let style = self.style.as_ref().ok_or_else(missing)?;
        if photo.width().saturating_mul(photo.height()) > WHOLE {
            return strips::paint(photo, &self.device, on_progress, |rows, on_rows, on_strip| {
                self.net.forward_rows(rows, style, self.strength, None, on_rows, on_strip)
            });
        }
        canvas::report(on_progress, 0)?;
        let pixels = tensor::to_unit(photo)?.to_device(&self.device)?;
        canvas::picture(&self.net.forward(&pixels, style, self.strength, None)?)
    }
}
