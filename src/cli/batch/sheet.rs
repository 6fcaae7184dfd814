//! Many pictures on one: the contact sheet of a batch, and grids of a matrix with labelled axes.

use image::imageops::{FilterType, overlay, resize};
use image::{Rgb, RgbImage};
use impasto::image::letters::Lettering;
use impasto::image::read;
use std::path::Path;

const PAPER: [u8; 3] = [251, 249, 244];
const INK: [u8; 3] = [34, 32, 40];
const GREY: [u8; 3] = [112, 108, 118];
const EMPTY: [u8; 3] = [232, 228, 220];

const MARGIN: u32 = 32;
const GAP: u32 = 8;
/// The long side of a picture on a contact sheet, at most and at least.
const THUMB: std::ops::RangeInclusive<u32> = 72..=144;
/// Below a picture on a contact sheet: room for what it is called.
const CAPTION: u32 = 18;
/// Pictures on one contact sheet.
pub(super) const PAGE: usize = 400;

/// The long side of a picture in a grid, at most and at least.
const CELL: std::ops::RangeInclusive<u32> = 40..=320;
/// The widest and highest a grid becomes.
const WIDEST: u32 = 16_000;
/// Left of the rows of a grid: room for their labels, at most.
const ROW_LABEL: u32 = 168;
/// The most lines of a label.
const LINES: usize = 4;

/// A page of pictures in their order, each with its name below; one that is not there is an empty place.
pub(super) fn contact(heading: &str, pictures: &[(&Path, String)]) -> RgbImage {
    let columns = ((pictures.len() as f64 * 1.3).sqrt().ceil() as u32).clamp(1, 25);
    let rows = (pictures.len() as u32).div_ceil(columns);
    let top = MARGIN + 34;
    let sides = pictures.iter().filter_map(|(path, _)| image::image_dimensions(path).ok());
    let thumb = sides.map(|(width, height)| width.max(height)).max().unwrap_or(0);
    let thumb = thumb.clamp(*THUMB.start(), *THUMB.end());
    let (cell_width, cell_height) = (thumb + GAP, thumb + CAPTION + GAP);
    let mut sheet = paper(2 * MARGIN + columns * cell_width - GAP, top + rows * cell_height - GAP + MARGIN);
    let width = (sheet.width() - 2 * MARGIN) as f32;
    let title = Lettering::new(13.0, INK).bold();
    title.draw(&mut sheet, MARGIN as f32, (MARGIN + 13) as f32, &title.fit(heading, width));
    let small = Lettering::new(6.5, GREY);
    for (at, (path, name)) in (0u32..).zip(pictures) {
        let (x, y) = (MARGIN + at % columns * cell_width, top + at / columns * cell_height);
        put(&mut sheet, (x, y), (thumb, thumb), path);
        small.draw(&mut sheet, x as f32, (y + thumb + CAPTION - 6) as f32, &small.fit(name, thumb as f32));
    }
    sheet
}

/// The labels of a grid and its pictures.
pub(super) struct Grid<'a> {
    /// What stands above it.
    pub(super) heading: String,
    /// What holds for all its pictures.
    pub(super) settings: String,
    /// The name of the axis from left to right, and its labels.
    pub(super) x: (String, Vec<String>),
    /// The name of the axis from top to bottom, and its labels; none where there is one row.
    pub(super) y: (String, Vec<String>),
    /// One panel below the other: what it is, and its pictures row by row.
    pub(super) panels: Vec<(String, Vec<&'a Path>)>,
}

impl Grid<'_> {
    /// Draws it. Nothing where it would be too large to look at.
    pub(super) fn draw(&self) -> Option<RgbImage> {
        let columns = self.x.1.len().max(1) as u32;
        let rows = self.y.1.len().max(1) as u32;
        let panels = self.panels.len().max(1) as u32;
        let body = Lettering::new(8.0, INK);
        let name = Lettering::new(7.0, GREY);
        let widest = self.y.1.iter().map(|label| body.width(label)).fold(name.width(&self.y.0), f32::max);
        let left = if self.y.1.is_empty() { 0 } else { (widest as u32 + 2 * GAP + 2).min(ROW_LABEL) };
        let leading = body.leading() as u32;
        let (wide, high) = self.shape();
        // As large as the pictures are, and as small as it takes.
        let room = |cells: u32, taken: u32| (WIDEST.saturating_sub(taken) / cells).saturating_sub(GAP);
        let headings = 64 + LINES as u32 * leading;
        let long = wide.max(high);
        let scale_x = f64::from(room(columns, 2 * MARGIN + left)) / f64::from(wide);
        let scale_y = f64::from(room(rows * panels, 2 * MARGIN + 60 + panels * headings)) / f64::from(high);
        let scale = scale_x.min(scale_y).min(f64::from(*CELL.end()) / f64::from(long)).min(1.0);
        if scale * f64::from(long) < f64::from(*CELL.start()).min(f64::from(long)) {
            return None;
        }
        let side = |side: u32| ((f64::from(side) * scale).round() as u32).max(1);
        // Labels need some width, whatever the pictures'.
        let (cell_width, cell_height) = (side(wide).max(56), side(high));

        let wrapped = |labels: &[String], width: u32| -> Vec<Vec<String>> {
            labels.iter().map(|label| lines(&body, label, width)).collect()
        };
        let above = wrapped(&self.x.1, cell_width);
        let beside = wrapped(&self.y.1, left.saturating_sub(2 * GAP));
        let label_height = above.iter().map(Vec::len).max().unwrap_or(0) as u32 * leading;
        let row = |at: usize| {
            let label = beside.get(at).map_or(0, Vec::len) as u32 * leading;
            label.max(cell_height) + GAP
        };
        let panel_heading = if self.panels.len() > 1 { 40 } else { 0 };
        let panel_height = panel_heading + 24 + label_height + 8 + (0..rows as usize).map(row).sum::<u32>() + 16;
        let width = 2 * MARGIN + left + columns * (cell_width + GAP) - GAP;
        let mut sheet = paper(width.max(320), MARGIN + 52 + panels * panel_height + MARGIN);

        let title = Lettering::new(13.0, INK).bold();
        let across = (sheet.width() - 2 * MARGIN) as f32;
        title.draw(&mut sheet, MARGIN as f32, (MARGIN + 13) as f32, &title.fit(&self.heading, across));
        name.draw(&mut sheet, MARGIN as f32, (MARGIN + 34) as f32, &name.fit(&self.settings, across));
        let bold = Lettering::new(10.0, INK).bold();
        let mut y = MARGIN + 52;
        for (panel, pictures) in &self.panels {
            let mut at = y;
            if panel_heading > 0 {
                bold.draw(&mut sheet, MARGIN as f32, (at + 24) as f32, &bold.fit(panel, across));
                at += panel_heading;
            }
            let begin = (MARGIN + left) as f32;
            name.draw(&mut sheet, begin, (at + 12) as f32, &name.fit(&self.x.0, across - left as f32));
            if left > 0 {
                name.draw(&mut sheet, MARGIN as f32, (at + 12) as f32, &name.fit(&self.y.0, (left - GAP) as f32));
            }
            at += 24;
            for (column, label) in (0u32..).zip(&above) {
                let x = MARGIN + left + column * (cell_width + GAP);
                // Down to the pictures, however many lines there are.
                let lower = label_height.saturating_sub(label.len() as u32 * leading);
                body.draw_lines(&mut sheet, x as f32, (at + lower) as f32 + body.size + 2.0, label);
            }
            at += label_height + 8;
            for (number, cells) in pictures.chunks(columns as usize).enumerate() {
                if let Some(label) = beside.get(number) {
                    body.draw_lines(&mut sheet, MARGIN as f32, at as f32 + body.size + 2.0, label);
                }
                for (column, path) in (0u32..).zip(cells) {
                    let x = MARGIN + left + column * (cell_width + GAP);
                    put(&mut sheet, (x, at), (cell_width, cell_height), path);
                }
                at += row(number);
            }
            y += panel_height;
        }
        Some(sheet)
    }

    /// What the pictures fit into.
    fn shape(&self) -> (u32, u32) {
        let pictures = self.panels.iter().flat_map(|(_, pictures)| pictures);
        let sizes = pictures.filter_map(|path| image::image_dimensions(path).ok());
        sizes.reduce(|a, b| (a.0.max(b.0), a.1.max(b.1))).unwrap_or((256, 256))
    }
}

fn lines(lettering: &Lettering, text: &str, width: u32) -> Vec<String> {
    let mut lines = lettering.wrap(text, width as f32);
    if lines.len() > LINES {
        lines.truncate(LINES);
        if let Some(last) = lines.last_mut() {
            last.push_str(" ..");
        }
    }
    lines.iter().map(|line| lettering.fit(line, width as f32)).collect()
}

fn paper(width: u32, height: u32) -> RgbImage {
    RgbImage::from_pixel(width, height, Rgb(PAPER))
}

// A picture within a cell, as large as it fits and never larger than it is.
fn put(sheet: &mut RgbImage, (x, y): (u32, u32), (width, height): (u32, u32), path: &Path) {
    let Ok(picture) = read::open(path) else {
        overlay(sheet, &RgbImage::from_pixel(width, height, Rgb(EMPTY)), i64::from(x), i64::from(y));
        return;
    };
    let (own_width, own_height) = (f64::from(picture.width()), f64::from(picture.height()));
    let scale = (f64::from(width) / own_width).min(f64::from(height) / own_height).min(1.0);
    let side = |side: f64| ((side * scale).round() as u32).max(1);
    let shown = resize(&picture, side(own_width), side(own_height), FilterType::Triangle);
    // On the ground of its cell, next to its caption.
    let down = height.saturating_sub(shown.height());
    overlay(sheet, &shown, i64::from(x), i64::from(y + down));
}
