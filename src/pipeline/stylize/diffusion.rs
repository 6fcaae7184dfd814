//! The diffusion method: image to image from the photo, its structure kept by a ControlNet, the style brought in by an
//! IP-Adapter. Everything is [`crate::pipeline::diffusion`]'s; this only puts photo and style pictures into the request.

use std::cell::RefCell;
use std::rc::Rc;

use ::image::RgbImage;

use super::{Painter, Style, canvas};
use crate::error::{Error, Result};
use crate::pipeline::diffusion::Diffusion;
use crate::pipeline::request::{self, Request};
use crate::progress::OnProgress;

/// The smallest side: below this the deepest level of the UNet has no pixels left.
const MIN_SIDE: u32 = 64;

/// Repaints with Stable Diffusion.
#[derive(Debug)]
pub struct DiffusionPainter {
    diffusion: Rc<RefCell<Diffusion>>,
    request: Request,
    seed: u64,
    keep_structure: bool,
    warnings: Vec<String>,
}

impl DiffusionPainter {
    /// A painter that fills photo and style pictures into `request`. With `keep_structure` the photo goes through the
    /// ControlNet too.
    pub fn new(diffusion: Diffusion, request: Request, seed: u64, keep_structure: bool) -> Self {
        Self::sharing(Rc::new(RefCell::new(diffusion)), request, seed, keep_structure)
    }

    /// The same with a model that others paint with too.
    pub fn sharing(diffusion: Rc<RefCell<Diffusion>>, request: Request, seed: u64, keep_structure: bool) -> Self {
        Self { diffusion, request, seed, keep_structure, warnings: Vec::new() }
    }
}

impl Painter for DiffusionPainter {
    fn canvas(&self, photo: (u32, u32), size: Option<u32>) -> Result<(u32, u32)> {
        if let (Some(width), Some(height)) = (self.request.width, self.request.height) {
            return Ok((width, height));
        }
        let wanted = match size {
            Some(size) => canvas::with_long_side(photo, size),
            None => request::implied(photo).0,
        };
        let eighths = |side: u32| (side / 8 * 8).max(MIN_SIDE);
        let (width, height) = (eighths(wanted.0), eighths(wanted.1));
        if width > request::MAX_SIDE || height > request::MAX_SIDE {
            let reason = format!("{width}x{height} is beyond {} a side", request::MAX_SIDE);
            return Err(Error::usage("--size", reason));
        }
        Ok((width, height))
    }

    fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    fn learn(&mut self, styles: &[Style], _: &mut OnProgress<'_>) -> Result<()> {
        let first = styles.first().map_or(1.0, |style| style.weight);
        if styles.iter().any(|style| style.weight != first) {
            return Err(Error::usage("--style", "diffusion blends style pictures in equal parts")
                .with_hint("leave the weights out, or give a picture twice"));
        }
        self.request.style = styles.iter().map(|style| style.picture.clone()).collect();
        Ok(())
    }

    fn paint(&mut self, photo: &RgbImage, on_progress: &mut OnProgress<'_>) -> Result<RgbImage> {
        let (width, height) = photo.dimensions();
        let mut request = self.request.clone();
        (request.width, request.height) = (Some(width), Some(height));
        request.structure = self.keep_structure.then(|| photo.clone());
        request.init = Some(photo.clone());
        let mut diffusion = self.diffusion.borrow_mut();
        let prepared = diffusion.prepare(&request, on_progress)?;
        drop(request);
        self.warnings.clone_from(&prepared.warnings);
        diffusion.paint(&prepared, self.seed, 0, on_progress)
    }
}
