//! The bundled net over pictures of any size, strip by strip, equal to the whole.

use candle_core::Tensor;

use super::{Compact, StyleCode, normalised};
use crate::error::Result;
use crate::nets::painter::{check_rows, palette_of};
use crate::nets::strips::{self, OnRows, OnStrip, Rows};

impl Compact {
    /// [`forward`](Compact::forward) for one picture of any size in bounded memory: rows are read as they are needed and
    /// handed out as they are finished.
    ///
    /// # Errors
    /// As `forward`, and what the callbacks return.
    pub fn forward_rows(
        &self,
        content: &Rows<'_>,
        code: &StyleCode,
        strength: f64,
        on_rows: &mut OnRows<'_>,
        on_strip: &mut OnStrip<'_>,
    ) -> Result<()> {
        if strength >= 1.0 {
            return self.painter.paint_rows(content, code, 0, on_rows, on_strip);
        }
        let code = self.encode_rows(content)?.towards(code, strength)?;
        self.painter.paint_rows(content, &code, 0, on_rows, on_strip)
    }

    /// [`encode_style`](Compact::encode_style) for a picture of any size.
    ///
    /// # Errors
    /// As `encode_style`.
    pub fn encode_rows(&self, style: &Rows<'_>) -> Result<StyleCode> {
        check_rows(style)?;
        let (mut reach, mut scale) = (0, 1);
        let mut scales = Vec::new();
        for (first, second) in &self.style {
            reach += scale;
            scale *= first.geometry.stride;
            reach += if second.is_some() { scale } else { 0 };
            scales.push(scale);
        }
        let layers = |slab: &Tensor| {
            let mut features = Vec::with_capacity(self.style.len());
            let mut xs = normalised(slab)?;
            for (first, second) in &self.style {
                xs = first.forward_relu(&xs)?;
                if let Some(second) = second {
                    xs = second.forward_relu(&xs)?;
                }
                features.push(xs.clone());
            }
            Ok(features)
        };
        let statistics = strips::measure(style, (scale, reach), &scales, &layers)?;
        let statistics = statistics.into_iter().flat_map(|(mean, deviation)| [mean, deviation]).collect();
        self.code(statistics, &[palette_of(style)?])
    }
}
