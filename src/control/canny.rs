//! Canny edges, pixel for pixel those of OpenCV's `cv2.Canny(rgb, low, high)`: 3 x 3 Sobel, L1 gradient, no blur, the
//! strongest channel of each pixel.
//!
//! The picture goes in as RGB, the way diffusers' guides call it. OpenCV takes the first of equally strong channels, so BGR
//! order gives slightly other edges.
//!
//! Canny, "A computational approach to edge detection", 1986.

use ::image::{GrayImage, Luma, RgbImage};
use rayon::prelude::*;

/// One row of strongest gradients, with a zero at either end so that neighbours need no bounds.
struct Row {
    /// `|dx| + |dy|`.
    magnitude: Vec<i32>,
    dx: Vec<i32>,
    dy: Vec<i32>,
}

/// Edges of the picture, 255 on 0. The thresholds are absolute, on gradients of 0 to 2040; swapped ones are put right.
/// A threshold that is not a number counts as 0.
pub fn canny(picture: &RgbImage, low: f64, high: f64) -> GrayImage {
    // Whole thresholds, as OpenCV takes them for the L1 gradient. The cast saturates.
    let (low, high) = if low > high { (high, low) } else { (low, high) };
    let (low, high) = (low.floor() as i32, high.floor() as i32);
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let mut edges = GrayImage::new(picture.width(), picture.height());
    if width == 0 || height == 0 {
        return edges;
    }
    let rows: Vec<Row> = (0..height).into_par_iter().map(|y| gradients(picture, y)).collect();
    let outside = vec![0; width + 2];
    let around = |y: usize| {
        let above = if y == 0 { &outside } else { &rows[y - 1].magnitude };
        (above, rows.get(y + 1).map_or(&outside, |row| &row.magnitude))
    };
    // Local maxima across the edge: possible edges, and those that are sure.
    let marks: Vec<Mark> = (0..height)
        .into_par_iter()
        .flat_map_iter(|y| {
            let (above, below) = around(y);
            let row = &rows[y];
            (1..=width).map(move |x| match row.magnitude[x] {
                magnitude if magnitude <= low || !is_peak(row, above, below, x) => Mark::Not,
                magnitude if magnitude > high => Mark::Edge,
                _ => Mark::Possible,
            })
        })
        .collect();
    follow(marks, width, &mut edges);
    edges
}

/// Sobel gradients of one row, edge pixels repeated outwards; per pixel the channel with the largest `|dx| + |dy|`.
fn gradients(picture: &RgbImage, y: usize) -> Row {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let line = |y: usize| &picture.as_raw()[3 * width * y..3 * width * (y + 1)];
    let (above, here, below) = (line(y.saturating_sub(1)), line(y), line((y + 1).min(height - 1)));
    let mut row = Row { magnitude: vec![0; width + 2], dx: vec![0; width + 2], dy: vec![0; width + 2] };
    for x in 0..width {
        let (left, right) = (3 * x.saturating_sub(1), 3 * (x + 1).min(width - 1));
        let mut best = -1;
        for channel in 0..3 {
            let at = |line: &[u8], x: usize| i32::from(line[x + channel]);
            let column = |x: usize| at(above, x) + 2 * at(here, x) + at(below, x);
            let across = |line: &[u8]| at(line, left) + 2 * at(line, 3 * x) + at(line, right);
            let (dx, dy) = (column(right) - column(left), across(below) - across(above));
            let magnitude = dx.abs() + dy.abs();
            if magnitude > best {
                best = magnitude;
                (row.magnitude[x + 1], row.dx[x + 1], row.dy[x + 1]) = (magnitude, dx, dy);
            }
        }
    }
    row
}

/// Whether the gradient at `x` is the largest along its own direction, which is taken as one of four.
fn is_peak(row: &Row, above: &[i32], below: &[i32], x: usize) -> bool {
    // tan 22.5 degrees in 15 bits; tan 67.5 is that plus 2.
    const TAN_22: i32 = 13_573;
    const SHIFT: u32 = 15;
    let (dx, dy) = (row.dx[x], row.dy[x]);
    let magnitude = row.magnitude[x];
    let steep = dy.abs() << SHIFT;
    let flat_limit = dx.abs() * TAN_22;
    if steep < flat_limit {
        // On a plateau the first pixel is the peak.
        magnitude > row.magnitude[x - 1] && magnitude >= row.magnitude[x + 1]
    } else if steep > flat_limit + (dx.abs() << (SHIFT + 1)) {
        magnitude > above[x] && magnitude >= below[x]
    } else if (dx ^ dy) < 0 {
        magnitude > above[x + 1] && magnitude > below[x - 1]
    } else {
        magnitude > above[x - 1] && magnitude > below[x + 1]
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Not,
    Possible,
    Edge,
}

/// Hysteresis: possible edges count where a chain of them touches a sure one.
fn follow(mut marks: Vec<Mark>, width: usize, edges: &mut GrayImage) {
    let height = marks.len() / width;
    let mut open: Vec<usize> = (0..marks.len()).filter(|&at| marks[at] == Mark::Edge).collect();
    while let Some(at) = open.pop() {
        let (x, y) = (at % width, at / width);
        edges.put_pixel(x as u32, y as u32, Luma([255]));
        for y in y.saturating_sub(1)..=(y + 1).min(height - 1) {
            for x in x.saturating_sub(1)..=(x + 1).min(width - 1) {
                let mark = &mut marks[y * width + x];
                if *mark == Mark::Possible {
                    *mark = Mark::Edge;
                    open.push(y * width + x);
                }
            }
        }
    }
}
