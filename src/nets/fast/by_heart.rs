//! Nets that this program trains: the [painter](crate::nets::painter) of the arbitrary-style net with the codes of its
//! styles learned by heart, `code [styles, numbers]` and `palette [styles, 12]`.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::SUBJECT;
use crate::error::{Error, Result};
use crate::nets::painter::{PALETTE, Painter, Sizes, StyleCode};

/// A painter and what it knows.
#[derive(Debug, Clone)]
pub(super) struct ByHeart {
    pub(super) painter: Painter,
    /// `[styles, numbers]`, with the palettes.
    codes: Tensor,
}

impl ByHeart {
    pub(super) fn new(vb: &VarBuilder<'_>) -> Result<Self> {
        let rows = |name: &str| vb.get_unchecked(name).ok()?.dim(0).ok();
        let sizes = Sizes::of(rows).ok_or_else(|| Error::usage(SUBJECT, "the painter's layers are missing"))?;
        let painter = Painter::new(sizes, vb.clone())?;
        let styles = rows("code").unwrap_or(0);
        // Colours are the painting's own: a training has nothing to add to them.
        let palette = vb.get((styles, PALETTE), "palette")?.detach();
        let code = vb.get((styles, sizes.modulation()), "code")?;
        Ok(Self { painter, codes: Tensor::cat(&[code, palette], 1)? })
    }

    pub(super) fn styles(&self) -> usize {
        self.codes.dims()[0]
    }

    pub(super) fn codes(&self) -> &Tensor {
        &self.codes
    }

    /// The mixture `[1, styles]` as a code.
    pub(super) fn code(&self, weights: &Tensor) -> Result<StyleCode> {
        StyleCode::from_tensor(weights.matmul(&self.codes)?, self.painter.sizes())
    }
}
