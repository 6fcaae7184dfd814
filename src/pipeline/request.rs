//! What a picture is asked to be: everything that decides it beside the nets and the seed.

use ::image::{GrayImage, RgbImage};
use candle_core::Tensor;

use crate::control::Preprocessor;
use crate::diffusion::sampler::Sampler;
use crate::diffusion::schedule::Sigmas;
use crate::error::{Error, Result};
use crate::nets::ip_adapter::BlockScales;
use crate::pipeline::fast::Fast;

/// Largest side of a picture, in pixels.
pub const MAX_SIDE: u32 = 8192;

/// Where the size is taken from a given picture, larger ones are scaled down to this many pixels.
const MAX_IMPLIED_PIXELS: f64 = 1024.0 * 1024.0;

/// One picture to paint. Pictures are in memory; numbers are checked by [`Request::validate`].
#[derive(Debug, Clone)]
pub struct Request {
    /// What to paint.
    pub prompt: String,
    /// What to keep away from.
    pub negative: String,
    /// Text encoder layers left out at the end: none, 1, 2, ...
    pub clip_skip: Option<usize>,
    /// Style images; the tokens of several stand side by side in one attention.
    pub style: Vec<RgbImage>,
    /// Weight of the style images' attention, usually 0..1.
    pub style_scale: f64,
    /// Which UNet blocks see the style images, and how much.
    pub style_blocks: BlockScales,
    /// The image that gives the structure.
    pub structure: Option<RgbImage>,
    /// How the structure image becomes the ControlNet's map.
    pub control: Preprocessor,
    /// Weight of the ControlNet's residuals, usually 0..2.
    pub control_scale: f64,
    /// The part of the steps, 0..1, at which the ControlNet sets in.
    pub control_start: f64,
    /// The part of the steps, 0..1, after which it is silent.
    pub control_end: f64,
    /// The picture to start from (image to image, inpainting).
    pub init: Option<RgbImage>,
    /// How much of the schedule an initial picture goes through, above 0 up to 1.
    pub strength: f64,
    /// White where the initial picture is repainted, black where it stays.
    pub mask: Option<GrayImage>,
    /// The integration method.
    pub sampler: Sampler,
    /// The spacing of noise levels.
    pub sigmas: Sigmas,
    /// Denoising steps.
    pub steps: usize,
    /// Guidance scale; 1 and below runs without the negative prompt.
    pub guidance: f64,
    /// The part of the steps, 0..1, at which guidance sets in.
    pub guidance_start: f64,
    /// The part of the steps, 0..1, after which there is none, at half the work.
    pub guidance_end: f64,
    /// Work left out for speed.
    pub fast: Fast,
    /// Width in pixels, a multiple of 8; by default the given picture's or the model's.
    pub width: Option<u32>,
    /// Height in pixels, a multiple of 8.
    pub height: Option<u32>,
    /// Unit noise `[n, 4, height/8, width/8]` instead of the seed's first draw; picture `i` uses row `i`.
    pub latents: Option<Tensor>,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            prompt: String::new(),
            negative: String::new(),
            clip_skip: None,
            style: Vec::new(),
            style_scale: 1.0,
            style_blocks: BlockScales::Full,
            structure: None,
            control: Preprocessor::None,
            control_scale: 1.0,
            control_start: 0.0,
            control_end: 1.0,
            init: None,
            strength: 0.8,
            mask: None,
            sampler: Sampler::Unipc,
            sigmas: Sigmas::Default,
            steps: 20,
            guidance: 7.5,
            guidance_start: 0.0,
            guidance_end: 1.0,
            fast: Fast::None,
            width: None,
            height: None,
            latents: None,
        }
    }
}

impl Request {
    /// Checks every number that can be checked without the nets.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the flag.
    pub fn validate(&self) -> Result<()> {
        let finite = [
            ("--style-scale", self.style_scale, -10.0..=10.0),
            ("--control-scale", self.control_scale, -10.0..=10.0),
            ("--control-start", self.control_start, 0.0..=1.0),
            ("--control-end", self.control_end, 0.0..=1.0),
            ("--guidance", self.guidance, 0.0..=1000.0),
            ("--guidance-start", self.guidance_start, 0.0..=1.0),
            ("--guidance-end", self.guidance_end, 0.0..=1.0),
        ];
        for (flag, value, range) in finite {
            if !range.contains(&value) {
                let (low, high) = range.into_inner();
                return Err(Error::usage(flag, format!("{value} is not between {low} and {high}")));
            }
        }
        if !(self.strength > 0.0 && self.strength <= 1.0) {
            return Err(Error::usage("--strength", format!("{} is not above 0 and up to 1", self.strength)));
        }
        for (what, start, end) in
            [("control", self.control_start, self.control_end), ("guidance", self.guidance_start, self.guidance_end)]
        {
            if start > end {
                return Err(Error::usage(format!("--{what}-start"), format!("{start} lies behind --{what}-end {end}")));
            }
        }
        if self.steps == 0 || self.steps > 1000 {
            return Err(Error::usage("--steps", format!("{} is not between 1 and 1000", self.steps)));
        }
        for (flag, side) in [("--width", self.width), ("--height", self.height)] {
            if let Some(side) = side {
                check_side(flag, side)?;
            }
        }
        if self.mask.is_some() && self.init.is_none() {
            return Err(Error::usage("--mask", "there is no picture to repaint").with_hint("give it with --init"));
        }
        Ok(())
    }

    /// Width and height of the picture in pixels, for a model whose own size is `native`.
    ///
    /// As in the reference the size comes from the initial picture, else from the structure image, floored to a multiple
    /// of 8. Ours differs where that picture is larger than a megapixel: it is scaled down to one, because a photo as it
    /// comes from a camera would not fit into memory; the second part of the answer says so.
    ///
    /// # Errors
    /// When the size that follows is too small or too large.
    pub fn canvas(&self, native: u32) -> Result<((u32, u32), Option<String>)> {
        let given = self.init.as_ref().or(self.structure.as_ref()).map(RgbImage::dimensions);
        let (width, height) = match (self.width, self.height, given) {
            (Some(width), Some(height), _) => return Ok(((width, height), None)),
            (width, height, None) => return Ok(((width.unwrap_or(native), height.unwrap_or(native)), None)),
            (Some(width), None, Some(given)) => (width, floor8(scale(given.1, width, given.0))),
            (None, Some(height), Some(given)) => (floor8(scale(given.0, height, given.1)), height),
            (None, None, Some(given)) => {
                let (size, shrunk) = implied(given);
                if shrunk {
                    let note = format!(
                        "the given picture is {}x{}; painting at {}x{} (choose with --width and --height)",
                        given.0, given.1, size.0, size.1
                    );
                    return Ok((size, Some(note)));
                }
                size
            }
        };
        check_side("--width", width)?;
        check_side("--height", height)?;
        Ok(((width, height), None))
    }
}

/// The size that follows from a picture's, and whether that had to be scaled down.
pub(super) fn implied((width, height): (u32, u32)) -> ((u32, u32), bool) {
    let shrink = (MAX_IMPLIED_PIXELS / (f64::from(width) * f64::from(height))).sqrt();
    if shrink < 1.0 {
        let shrunk = |side: u32| floor8(f64::from(side) * shrink).max(8);
        return ((shrunk(width), shrunk(height)), true);
    }
    ((floor8(f64::from(width)), floor8(f64::from(height))), false)
}

fn scale(side: u32, wanted: u32, other: u32) -> f64 {
    f64::from(side) * f64::from(wanted) / f64::from(other.max(1))
}

fn floor8(side: f64) -> u32 {
    (side / 8.0) as u32 * 8
}

fn check_side(flag: &str, side: u32) -> Result<()> {
    if side == 0 || !side.is_multiple_of(8) || side > MAX_SIDE {
        let reason = format!("{side} is not a multiple of 8 between 8 and {MAX_SIDE}");
        let error = Error::usage(flag, reason);
        let nearest = (side.clamp(8, MAX_SIDE) + 4) / 8 * 8;
        return Err(error.with_hint(format!("the nearest is {nearest}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_name_their_flag() {
        let refused = |change: &dyn Fn(&mut Request)| {
            let mut request = Request::default();
            change(&mut request);
            let error = request.validate().unwrap_err();
            assert_eq!(error.exit_code(), 2);
            error.to_string().split(':').next().unwrap().to_string()
        };
        assert_eq!(refused(&|request| request.steps = 0), "--steps");
        assert_eq!(refused(&|request| request.strength = 2.0), "--strength");
        assert_eq!(refused(&|request| request.strength = f64::NAN), "--strength");
        assert_eq!(refused(&|request| request.guidance = f64::NAN), "--guidance");
        assert_eq!(refused(&|request| request.style_scale = f64::INFINITY), "--style-scale");
        assert_eq!(refused(&|request| request.width = Some(7)), "--width");
        assert_eq!(refused(&|request| request.height = Some(100_000)), "--height");
        assert_eq!(refused(&|request| request.control_start = 1.5), "--control-start");
        assert_eq!(refused(&|request| (request.control_start, request.control_end) = (0.6, 0.5)), "--control-start");
        assert_eq!(refused(&|request| (request.guidance_start, request.guidance_end) = (0.6, 0.5)), "--guidance-start");
        assert_eq!(refused(&|request| request.guidance_end = f64::NAN), "--guidance-end");
        assert_eq!(refused(&|request| request.mask = Some(GrayImage::new(8, 8))), "--mask");
    }

    #[test]
    fn the_size_comes_from_flags_then_pictures_then_the_model() {
        let mut request = Request::default();
        assert_eq!(request.canvas(512).unwrap().0, (512, 512));
        request.structure = Some(RgbImage::new(203, 101));
        assert_eq!(request.canvas(512).unwrap().0, (200, 96));
        request.init = Some(RgbImage::new(64, 32));
        assert_eq!(request.canvas(512).unwrap().0, (64, 32));
        request.width = Some(128);
        assert_eq!(request.canvas(512).unwrap().0, (128, 64));
        request.width = None;
        request.init = Some(RgbImage::new(4000, 3000));
        let ((width, height), note) = request.canvas(512).unwrap();
        assert_eq!((width, height), (1176, 880));
        assert!(note.unwrap().contains("4000x3000"));
        request.init = Some(RgbImage::new(5, 900));
        assert!(request.canvas(512).is_err());
    }
}
