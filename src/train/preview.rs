//! The contact sheet: what the net makes of a few photos while it learns.

use ::image::imageops::replace;
use ::image::{Rgb, RgbImage};

const GAP: u32 = 4;

/// Cells side by side, row by row, each as large as the first; short rows stay white at their end.
pub fn sheet(rows: &[Vec<Option<RgbImage>>]) -> RgbImage {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let first = rows.iter().flatten().flatten().next();
    let (width, height) = first.map_or((1, 1), RgbImage::dimensions);
    let length = |cells: u32, side: u32| (cells * (side + GAP)).max(GAP + 1) - GAP;
    let mut sheet = RgbImage::from_pixel(length(columns, width), length(rows.len() as u32, height), Rgb([255; 3]));
    for (y, row) in (0i64..).zip(rows) {
        for (x, cell) in (0i64..).zip(row) {
            if let Some(cell) = cell {
                replace(&mut sheet, cell, x * i64::from(width + GAP), y * i64::from(height + GAP));
            }
        }
    }
    sheet
}
