//! The pictures of a report, brought to the size they are shown at.

use std::path::Path;

use ::image::RgbImage;

use super::{Report, Row, Source};
use crate::error::Result;
use crate::image::{read, resize};

/// Photos and paintings, read once; the pictures made of them are read when they are needed.
pub(super) struct Gallery<'a> {
    folder: &'a Path,
    /// The photos, `None` where one cannot be read.
    pub(super) contents: Vec<Option<RgbImage>>,
    /// The paintings.
    pub(super) styles: Vec<Option<RgbImage>>,
}

impl<'a> Gallery<'a> {
    /// Reads photos and paintings, with no side longer than `side`.
    pub(super) fn open(report: &Report, folder: &'a Path, side: u32) -> Self {
        let open = |source: &Source| read::open(&source.file).and_then(|picture| within(&picture, (side, side))).ok();
        Self {
            folder,
            contents: report.contents.iter().map(open).collect(),
            styles: report.styles.iter().map(open).collect(),
        }
    }

    /// The picture of a row; `None` where there is none, or it cannot be read any more.
    pub(super) fn painted(&self, row: &Row) -> Option<RgbImage> {
        read::open(self.folder.join(row.picture.as_ref()?)).ok()
    }
}

/// A picture that fits into a box with its shape kept; never enlarged.
///
/// # Errors
/// When memory runs out.
pub(super) fn within(picture: &RgbImage, (width, height): (u32, u32)) -> Result<RgbImage> {
    let own = picture.dimensions();
    let scale = (f64::from(width) / f64::from(own.0)).min(f64::from(height) / f64::from(own.1));
    if scale >= 1.0 {
        return Ok(picture.clone());
    }
    let side = |side: u32| ((f64::from(side) * scale).round() as u32).max(1);
    resize::lanczos(picture, side(own.0), side(own.1))
}
