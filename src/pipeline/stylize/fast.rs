//! The fast method: one pass through a net that knows its style by heart.
//!
//! A net of several styles mixes them inside, so that their strokes mix. Nets of their own are mixed as pictures, which is all that
//! can be done with them.

use std::path::Path;

use ::image::RgbImage;
use candle_core::Device;

use super::bundled::{BundledStyle, Opened};
use super::{Painter, Style, canvas, sizes, strips};
use crate::error::{Error, Result};
use crate::image::tensor;
use crate::nets::fast::{Blend, FastNet, Flavour};
use crate::progress::{OnProgress, Progress};

/// Nets with the styles that are wanted of them.
#[derive(Debug)]
pub struct FastPainter {
    parts: Vec<Part>,
    device: Device,
    strength: f64,
}

#[derive(Debug)]
struct Part {
    net: FastNet,
    blend: Blend,
    weight: f64,
}

impl FastPainter {
    /// A painter without nets. `strength` mixes the photo in: these nets have no knob of their own.
    pub fn new(device: &Device, strength: f64) -> Self {
        Self { parts: Vec::new(), device: device.clone(), strength }
    }

    /// Adds a style that came with the program.
    ///
    /// # Errors
    /// When the program was built with a damaged file.
    pub fn add_bundled(&mut self, style: &BundledStyle, weight: f64) -> Result<()> {
        let net = FastNet::new(Opened::bytes(style.weights, &self.device)?.vb)?;
        let blend = net.blend(&[(0, 1.0)])?;
        self.parts.push(Part { net, blend, weight });
        Ok(())
    }

    /// Adds the net in a file, with some of its styles by number.
    ///
    /// # Errors
    /// When the file is broken or holds another net, or the net has no such style.
    pub fn add_file(&mut self, path: &Path, styles: &[(usize, f64)], weight: f64) -> Result<()> {
        let net = FastNet::new(Opened::file(path, &self.device)?.vb).map_err(|error| {
            let hint = error.hint().map(str::to_owned);
            let error = Error::file(path, error.to_string());
            hint.into_iter().fold(error, Error::with_hint)
        })?;
        let blend = net.blend(styles)?;
        self.parts.push(Part { net, blend, weight });
        Ok(())
    }
}

impl Painter for FastPainter {
    fn canvas(&self, photo: (u32, u32), size: Option<u32>) -> Result<(u32, u32)> {
        canvas::own_size(photo, size)
    }

    fn learn(&mut self, _: &[Style], _: &mut OnProgress<'_>) -> Result<()> {
        Err(Error::usage("--style", "is a picture, and a fast net knows its own style alone")
            .with_hint("use --method adain for pictures"))
    }

    fn paint(&mut self, photo: &RgbImage, on_progress: &mut OnProgress<'_>) -> Result<RgbImage> {
        let mut painted: Option<RgbImage> = None;
        let mut so_far = 0.0;
        let count = self.parts.len() as u64;
        for (number, part) in self.parts.iter().enumerate().filter(|(_, part)| part.weight > 0.0) {
            let mut on_progress = |progress: &Progress| {
                let done = number as u64 * progress.total + progress.done;
                on_progress(&Progress { done, total: count * progress.total, ..progress.clone() })
            };
            let next = match part.net.flavour() {
                Flavour::ByHeart => {
                    let below = sizes::below(photo)?;
                    sizes::paint(photo, &below, &mut on_progress, &mut |seen, _, on_progress| {
                        self.pass(part, &seen, on_progress)
                    })?
                }
                // What others have trained paints as it does elsewhere.
                _ => self.pass(part, photo, &mut on_progress)?,
            };
            so_far += part.weight;
            painted = Some(match painted {
                Some(before) => canvas::mix(&before, next, part.weight / so_far),
                None => next,
            });
        }
        match painted {
            Some(painted) => Ok(canvas::mix(photo, painted, self.strength)),
            None => Err(Error::usage("--style", "is missing").with_hint("`impasto stylize --list` names the styles")),
        }
    }
}

impl FastPainter {
    /// What one net makes of a photo at its own size.
    fn pass(&self, part: &Part, photo: &RgbImage, on_progress: &mut OnProgress<'_>) -> Result<RgbImage> {
        if strips::needed(photo) {
            return strips::paint(photo, &self.device, on_progress, |rows, on_rows, on_strip| {
                part.net.forward_rows(rows, &part.blend, on_rows, on_strip)
            });
        }
        canvas::report(on_progress, 0)?;
        let pixels = tensor::to_unit(photo)?.to_device(&self.device)?;
        let painted = canvas::picture(&part.net.forward(&pixels, &part.blend)?)?;
        canvas::report(on_progress, 1)?;
        Ok(painted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a painter's only net paints a large photo as it does in one pass.
    fn at_once(mut painter: FastPainter) -> bool {
        let photo = RgbImage::from_fn(700, 40, |x, y| ::image::Rgb([(x / 3) as u8, (3 * y) as u8, 90]));
        let once = painter.pass(&painter.parts[0], &photo, &mut |_| Ok(())).unwrap();
        let painted = painter.paint(&photo, &mut |_| Ok(())).unwrap();
        painted == once
    }

    #[test]
    fn large_photos_get_broad_strokes_from_nets_of_this_program_and_others_paint_as_elsewhere() {
        let mut ours = FastPainter::new(&Device::Cpu, 1.0);
        ours.add_bundled(&super::super::bundled::STYLES[0], 1.0).unwrap();
        assert_eq!(ours.parts[0].net.flavour(), Flavour::ByHeart);
        assert!(!at_once(ours));
        let mut theirs = FastPainter::new(&Device::Cpu, 1.0);
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stylize/fast.safetensors");
        theirs.add_file(&file, &[(0, 1.0)], 1.0).unwrap();
        assert_ne!(theirs.parts[0].net.flavour(), Flavour::ByHeart);
        assert!(at_once(theirs));
    }
}
