//! Lays an inspection out as one picture with captions.

use ::image::imageops::{FilterType, overlay, resize};
use ::image::{Rgb, RgbImage};

use super::{Inspection, Layer, maps};
use crate::image::letters::Lettering;

const PAPER: [u8; 3] = [251, 249, 244];
const INK: [u8; 3] = [34, 32, 40];
const GREY: [u8; 3] = [112, 108, 118];

const MARGIN: u32 = 44;
const GAP: u32 = 16;
/// The column of explanations.
const EXPLAINED: u32 = 268;
/// The long side of a picture on the sheet.
const PANEL: u32 = 264;
/// The least width of a column: room for its heading.
const COLUMN: u32 = 208;
/// Below a picture: room for what it is.
const CAPTION: u32 = 15;
/// Between the maps of one layer.
const SEAM: u32 = 3;

/// What the sheet says beside the pictures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    /// What the picture is called.
    pub picture: String,
    /// What the style is called; `None` where the picture is its own.
    pub style: Option<String>,
    /// What the network is called.
    pub network: String,
    /// How the sheet was made: sizes, steps, seed.
    pub settings: String,
}

struct Row<'a> {
    heading: &'a str,
    text: &'a str,
    /// What stands left of the layers, and what it is.
    first: (RgbImage, String),
}

/// Draws the sheet.
pub fn draw(inspection: &Inspection, words: &Words) -> RgbImage {
    let (width, height) = panel(&inspection.picture);
    let column = width.max(COLUMN);
    let body = Lettering::new(9.5, INK);
    let small = Lettering::new(8.0, GREY);
    let heading = Lettering::new(12.0, INK).bold();
    let title = Lettering::new(24.0, INK).bold();

    let rows = rows(inspection, words, (width, height));
    let wrapped: Vec<_> = rows.iter().map(|row| body.wrap(row.text, EXPLAINED as f32)).collect();
    let tall = |lines: &Vec<String>| 2 * GAP + heading.leading() as u32 + lines.len() as u32 * body.leading() as u32;
    let row_heights: Vec<u32> = wrapped.iter().map(|lines| tall(lines).max(height + 2 * GAP + CAPTION)).collect();

    let columns = inspection.layers.len() as u32 + 1;
    let grid = MARGIN + EXPLAINED + 2 * GAP;
    let sheet_width = grid + columns * (column + GAP) - GAP + MARGIN;
    let intro = body.wrap(&introduction(words), (sheet_width - 2 * MARGIN).min(1100) as f32);
    let top = MARGIN + 28 + 20 + intro.len() as u32 * body.leading() as u32 + GAP;
    let headings = 62;
    let sheet_height = top + headings + row_heights.iter().sum::<u32>() + 30 + MARGIN;
    let mut sheet = RgbImage::from_pixel(sheet_width, sheet_height, Rgb(PAPER));

    let left = MARGIN as f32;
    let about = title.fit(&format!("What a network keeps of {}", words.picture), (sheet_width - 2 * MARGIN) as f32);
    title.draw(&mut sheet, left, (MARGIN + 24) as f32, &about);
    body.draw_lines(&mut sheet, left, (MARGIN + 28 + 30) as f32, &intro);

    for (number, layer) in inspection.layers.iter().enumerate() {
        let x = (grid + (number as u32 + 1) * (column + GAP)) as f32;
        heading.draw(&mut sheet, x, (top + 26) as f32, &heading.fit(&layer.name, column as f32));
        for (line, text) in facts(layer).into_iter().enumerate() {
            small.draw(&mut sheet, x, (top + 43) as f32 + line as f32 * 15.0, &small.fit(&text, column as f32));
        }
    }

    let mut y = top + headings;
    for (row, (place, lines)) in rows.iter().zip(wrapped.iter().enumerate()) {
        rule(&mut sheet, y);
        heading.draw(&mut sheet, left, (y + GAP + 12) as f32, row.heading);
        let below = (y + GAP + 12) as f32 + heading.leading();
        body.draw_lines(&mut sheet, left, below, lines);
        let at = y + GAP;
        overlay(&mut sheet, &row.first.0, i64::from(grid), i64::from(at));
        let below = (at + row.first.0.height() + CAPTION) as f32;
        small.draw(&mut sheet, grid as f32, below, &small.fit(&row.first.1, column as f32));
        for (number, layer) in inspection.layers.iter().enumerate() {
            let x = grid + (number as u32 + 1) * (column + GAP);
            let shown = match place {
                0 => mosaic(layer, (width, height)),
                1 => scaled(&layer.rebuilt, (width, height)),
                _ => scaled(&layer.texture, (width, height)),
            };
            overlay(&mut sheet, &shown, i64::from(x), i64::from(at));
        }
        y += row_heights[place];
    }
    rule(&mut sheet, y);
    let foot = small.fit(&format!("{}. {}", words.network, words.settings), (sheet_width - 2 * MARGIN) as f32);
    small.draw(&mut sheet, left, (y + 24) as f32, &foot);
    sheet
}

fn introduction(words: &Words) -> String {
    let style = match &words.style {
        Some(style) => format!("the style of {style}"),
        None => "its own style".to_owned(),
    };
    format!(
        "A network trained on photographs looks at a picture in layers, from left to right: each layer answers to \
         patterns in what the one before it found. The sheet shows what each layer of {} still knows of the picture, and what \
         it knows of {style}. That these two can be told apart is what style transfer is made of.",
        words.network
    )
}

fn rows<'a>(inspection: &Inspection, words: &Words, size: (u32, u32)) -> [Row<'a>; 3] {
    let style = match &words.style {
        Some(style) => style.clone(),
        None => words.picture.clone(),
    };
    let longest = size.0.max(size.1);
    let (width, height) = inspection.style.dimensions();
    let long = f64::from(width.max(height));
    let side = |side: u32| ((f64::from(side) * f64::from(longest) / long).round() as u32).max(1);
    // A style of another shape fits into the same row.
    let shrink = (f64::from(size.1) / f64::from(side(height))).min(f64::from(size.0) / f64::from(side(width))).min(1.0);
    let within = |side: u32| ((f64::from(side) * shrink).round() as u32).max(1);
    let style_size = (within(side(width)), within(side(height)));
    [
        Row {
            heading: "What it answers to",
            text: "The four feature maps of the layer that the picture excites most. Dark is no answer, bright a strong one. \
                   Early maps mark edges and colours, point by point; deep ones mark parts of things, and only roughly where.",
            first: (scaled(&inspection.picture, size), words.picture.clone()),
        },
        Row {
            heading: "What it keeps: content",
            text: "Noise, changed until this one layer answers as it does to the picture. Early layers hold every pixel. Deep \
                   ones hold what is where, and let go of exact colours and lines. That is what is called content.",
            first: (scaled(&inspection.noise, size), "the noise that everything begins as".to_owned()),
        },
        Row {
            heading: "What it keeps: style",
            text: "Noise, changed until the maps of this layer and all before it are strong together as often as for the style \
                   picture, no matter where. Places are lost; grain, colours and strokes stay, in larger forms with each \
                   layer. That is what is called style.",
            first: (scaled(&inspection.style, style_size), style),
        },
    ]
}

/// What a newcomer wants to know of a layer.
fn facts(layer: &Layer) -> [String; 2] {
    let (width, height) = layer.dimensions;
    [format!("{} maps of {width} × {height}", layer.channels), format!("each value sees {0} × {0} pixels", layer.sight)]
}

/// How large a picture appears.
fn panel(picture: &RgbImage) -> (u32, u32) {
    let (width, height) = picture.dimensions();
    let long = f64::from(width.max(height));
    let side = |side: u32| ((f64::from(side) * f64::from(PANEL) / long).round() as u32).max(24);
    (side(width), side(height))
}

fn scaled(picture: &RgbImage, (width, height): (u32, u32)) -> RgbImage {
    resize(picture, width, height, FilterType::CatmullRom)
}

/// Four maps in two rows, each value a block of its own: how coarse a layer is should be seen.
fn mosaic(layer: &Layer, (width, height): (u32, u32)) -> RgbImage {
    let mut shown = RgbImage::from_pixel(width, height, Rgb(PAPER));
    let (cell_width, cell_height) = ((width.saturating_sub(SEAM) / 2).max(1), (height.saturating_sub(SEAM) / 2).max(1));
    let number = Lettering::new(6.5, [255; 3]);
    for place in 0..maps::SHOWN {
        let (x, y) = ((place as u32 % 2) * (cell_width + SEAM), (place as u32 / 2) * (cell_height + SEAM));
        let mut cell = match layer.maps.get(place) {
            Some((_, map)) => {
                // Shrinking needs the average, enlarging must keep the blocks.
                let filter = if map.width() > cell_width { FilterType::Triangle } else { FilterType::Nearest };
                resize(map, cell_width, cell_height, filter)
            }
            None => RgbImage::from_pixel(cell_width, cell_height, Rgb(maps::colour(0.0))),
        };
        if let Some((channel, _)) = layer.maps.get(place) {
            // Dark round the digits: a map may be bright there.
            let at = (6.0, cell_height as f32 - 7.0);
            let shade = Lettering { weight: 4.0, colour: maps::colour(0.0), ..number };
            shade.draw(&mut cell, at.0, at.1, &channel.to_string());
            number.draw(&mut cell, at.0, at.1, &channel.to_string());
        }
        overlay(&mut shown, &cell, i64::from(x), i64::from(y));
    }
    shown
}

/// A thin line across the sheet.
fn rule(sheet: &mut RgbImage, y: u32) {
    for x in MARGIN..sheet.width().saturating_sub(MARGIN) {
        if y < sheet.height() {
            sheet.put_pixel(x, y, Rgb([222, 217, 208]));
        }
    }
}
