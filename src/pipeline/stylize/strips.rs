//! A photo through a net strip by strip, so that a picture of any size takes the same memory.

use std::ops::Range;

use ::image::RgbImage;
use candle_core::Device;

use super::canvas;
use crate::error::Result;
use crate::image::tensor;
use crate::nets::strips::{OnRows, OnStrip, Rows};
use crate::progress::OnProgress;

/// Pictures of more pixels than this pass in strips; below it the whole is quicker and takes less than a gigabyte.
const WHOLE: usize = 1 << 21;

/// Whether a picture is large enough to be painted in strips.
pub(super) fn needed(picture: &RgbImage) -> bool {
    picture.width() as usize * picture.height() as usize > WHOLE
}

/// The rows of a picture, read as they are needed; handed to `with`.
pub(super) fn read<T>(photo: &RgbImage, device: &Device, with: impl FnOnce(&Rows<'_>) -> Result<T>) -> Result<T> {
    let (width, height) = (photo.width() as usize, photo.height() as usize);
    let read = |rows: Range<usize>| {
        let bytes = photo.as_raw()[rows.start * 3 * width..rows.end * 3 * width].to_vec();
        let part = RgbImage::from_raw(photo.width(), rows.len() as u32, bytes).unwrap_or_default();
        Ok(tensor::to_unit(&part)?.to_device(device)?)
    };
    with(&Rows { height, width, pixels: Rows::PIXELS, read: &read })
}

/// The picture that `net` makes of a photo, row by row.
pub(super) fn paint(
    photo: &RgbImage,
    device: &Device,
    on_progress: &mut OnProgress<'_>,
    net: impl FnOnce(&Rows<'_>, &mut OnRows<'_>, &mut OnStrip<'_>) -> Result<()>,
) -> Result<RgbImage> {
    let mut painted = RgbImage::new(photo.width(), photo.height());
    let row = 3 * photo.width() as usize;
    let mut on_rows = |first: usize, rows| {
        let part = canvas::picture(&rows)?;
        painted.as_flat_samples_mut().samples[first * row..first * row + part.len()].copy_from_slice(&part);
        Ok(())
    };
    let mut on_strip = |done: usize, total: usize| canvas::report_of(on_progress, done as u64, total as u64);
    read(photo, device, |rows| net(rows, &mut on_rows, &mut on_strip))?;
    Ok(painted)
}
