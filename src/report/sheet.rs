//! The contact sheet: every pair of photo and painting in a row, every variant in a column, with names.

use ::image::imageops::{FilterType, overlay, resize};
use ::image::{Rgb, RgbImage};

use super::gallery::Gallery;
use super::{Report, Row};
use crate::image::letters::Lettering;

const PAPER: [u8; 3] = [251, 249, 244];
const INK: [u8; 3] = [34, 32, 40];
const GREY: [u8; 3] = [112, 108, 118];
const LINE: [u8; 3] = [222, 217, 208];
const RED: [u8; 3] = [168, 50, 40];

const MARGIN: u32 = 36;
const GAP: u32 = 10;
/// Between the pictures that went in and those that came out.
const APART: u32 = 20;
/// The long side of a picture on the sheet.
const PANEL: u32 = 168;
/// Below a picture: room for its name.
const CAPTION: u32 = 20;
const TITLE: u32 = 62;
const HEADING: u32 = 34;
/// The most pixels of a sheet: programs that show pictures give up beyond.
const MOST: u64 = 80_000_000;

/// Draws the sheet, as many rows of it as fit.
pub(super) fn draw(report: &Report, gallery: &Gallery<'_>) -> RgbImage {
    let shown: Vec<usize> = (0..report.variants.len()).filter(|&at| report.variants[at].anchor.is_none()).collect();
    let columns = shown.len() as u32 + 2;
    let tall = gallery.contents.iter().flatten().map(|photo| f64::from(photo.height()) / f64::from(photo.width()));
    let panel = (PANEL, (f64::from(PANEL) * tall.fold(0.6, f64::max).min(1.0)) as u32);
    let pairs = pairs(report);
    let width = (2 * MARGIN + columns * (panel.0 + GAP) - GAP + APART).max(520);
    let each = panel.1 + CAPTION + GAP;
    let room = (MOST / u64::from(width)).saturating_sub(u64::from(MARGIN * 2 + TITLE + HEADING)) / u64::from(each);
    let fitting = pairs.len().min(usize::try_from(room).unwrap_or(usize::MAX)).max(1);
    let height = MARGIN + TITLE + HEADING + fitting as u32 * each + MARGIN;
    let mut sheet = RgbImage::from_pixel(width, height, Rgb(PAPER));

    let title = Lettering::new(18.0, INK).bold();
    let (body, small) = (Lettering::new(9.0, INK).bold(), Lettering::new(8.0, GREY));
    let across = (width - 2 * MARGIN) as f32;
    title.draw(&mut sheet, MARGIN as f32, (MARGIN + 18) as f32, &title.fit(&report.title, across));
    let mut about = format!("{} pairs of photo and painting", pairs.len());
    if fitting < pairs.len() {
        about = format!("The first {fitting} of {about}");
    }
    small.draw(&mut sheet, MARGIN as f32, (MARGIN + 40) as f32, &about);

    let x = |column: u32| MARGIN + column * (panel.0 + GAP) + if column > 1 { APART } else { 0 };
    let top = MARGIN + TITLE + HEADING;
    let names = shown.iter().map(|&variant| report.variants[variant].name());
    let headings = ["photo".to_owned(), "painting".to_owned()].into_iter().chain(names);
    for (column, name) in (0..).zip(headings) {
        body.draw(&mut sheet, x(column) as f32, (top - 12) as f32, &body.fit(&name, panel.0 as f32));
    }
    for (place, &(style, content)) in pairs.iter().take(fitting).enumerate() {
        let y = top + place as u32 * each;
        let caption = |sheet: &mut RgbImage, column: u32, text: &str| {
            small.draw(sheet, x(column) as f32, (y + panel.1 + 13) as f32, &small.fit(text, panel.0 as f32));
        };
        for (column, picture, name) in [
            (0, &gallery.contents[content], &report.contents[content].name),
            (1, &gallery.styles[style], &report.styles[style].name),
        ] {
            match picture {
                Some(picture) => place_in(&mut sheet, picture, (x(column), y), panel),
                None => frame(&mut sheet, (x(column), y), panel),
            }
            caption(&mut sheet, column, name);
        }
        for (column, &variant) in (2..).zip(&shown) {
            let row = report.row(content, style, variant);
            match row.and_then(|row| gallery.painted(row)) {
                Some(picture) => place_in(&mut sheet, &picture, (x(column), y), panel),
                None => {
                    frame(&mut sheet, (x(column), y), panel);
                    let (text, colour) =
                        if row.is_some_and(failed) { ("failed", RED) } else { ("not its style", GREY) };
                    let note = Lettering::new(8.0, colour);
                    note.draw(&mut sheet, (x(column) + 10) as f32, (y + 20) as f32, text);
                }
            }
        }
    }
    sheet
}

fn failed(row: &Row) -> bool {
    row.error.is_some()
}

/// The pairs that were painted or tried, painting by painting.
fn pairs(report: &Report) -> Vec<(usize, usize)> {
    let mut pairs: Vec<_> = report.rows.iter().map(|row| (row.style, row.content)).collect();
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

/// A picture in the middle of its box.
fn place_in(sheet: &mut RgbImage, picture: &RgbImage, (x, y): (u32, u32), (width, height): (u32, u32)) {
    let own = picture.dimensions();
    let scale = (f64::from(width) / f64::from(own.0)).min(f64::from(height) / f64::from(own.1));
    let side = |side: u32| ((f64::from(side) * scale).round() as u32).max(1);
    let shown = resize(picture, side(own.0), side(own.1), FilterType::CatmullRom);
    let (left, above) = ((width - shown.width().min(width)) / 2, (height - shown.height().min(height)) / 2);
    overlay(sheet, &shown, i64::from(x + left), i64::from(y + above));
}

/// The outline of a box that stays empty.
fn frame(sheet: &mut RgbImage, (x, y): (u32, u32), (width, height): (u32, u32)) {
    for dx in 0..width {
        for edge in [y, y + height.saturating_sub(1)] {
            put(sheet, (x + dx, edge));
        }
    }
    for dy in 0..height {
        for edge in [x, x + width.saturating_sub(1)] {
            put(sheet, (edge, y + dy));
        }
    }
}

fn put(sheet: &mut RgbImage, (x, y): (u32, u32)) {
    if let Some(pixel) = sheet.get_pixel_mut_checked(x, y) {
        *pixel = Rgb(LINE);
    }
}
