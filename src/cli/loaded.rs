//! The Stable Diffusion that is in memory, for who paints with several settings one after the other: the same checkpoint is
//! not read twice, and two are never held at once.

use candle_core::{Device, DeviceLocation};
use impasto::Result;
use impasto::device::Precision;
use impasto::pipeline::{Diffusion, ModelPaths};
use std::cell::RefCell;
use std::rc::Rc;

/// At most one opened model.
#[derive(Default)]
pub(crate) struct Loaded {
    open: Option<Open>,
    keep_encoded: bool,
}

struct Open {
    paths: ModelPaths,
    device: DeviceLocation,
    precision: Precision,
    diffusion: Rc<RefCell<Diffusion>>,
}

impl Loaded {
    /// Keeps the encoded prompt and style pictures too: see [`Diffusion::keep_encoded`].
    pub(crate) fn for_many() -> Self {
        Self { open: None, keep_encoded: true }
    }

    /// The model of these paths: the one in memory where it is the same, its adapters changed, else opened. The one before
    /// is let go of first; who still holds it keeps its memory.
    pub(crate) fn diffusion(
        &mut self,
        paths: &ModelPaths,
        device: &Device,
        precision: Precision,
    ) -> Result<Rc<RefCell<Diffusion>>> {
        if let Some(open) = &mut self.open
            && open.device == device.location()
            && open.precision == precision
            && open.paths.same_model(paths)
        {
            open.diffusion.borrow_mut().change_adapters(paths);
            open.paths = paths.clone();
            return Ok(Rc::clone(&open.diffusion));
        }
        self.open = None;
        let mut diffusion = Diffusion::open(paths, device, precision)?;
        diffusion.keep_encoded(self.keep_encoded);
        let diffusion = Rc::new(RefCell::new(diffusion));
        let open =
            Open { paths: paths.clone(), device: device.location(), precision, diffusion: Rc::clone(&diffusion) };
        self.open = Some(open);
        Ok(diffusion)
    }
}
