//! The loss over the steps, as CSV for programs and as a PNG for eyes.

use std::path::Path;

use ::image::{Rgb, RgbImage};

use crate::error::Result;
use crate::image::write;

const WIDTH: u32 = 960;
const HEIGHT: u32 = 480;
/// Room for the numbers.
const LEFT: u32 = 70;
const BOTTOM: u32 = 30;
const TOP: u32 = 30;
const RIGHT: u32 = 16;
/// Colours of the parts, in the order of the CSV's columns (Okabe, Ito 2008: told apart by colour-blind eyes too).
const COLOURS: [[u8; 3]; 6] = [[0, 0, 0], [0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0]];
const GREY: [u8; 3] = [225, 225, 225];

/// Averages of the loss's parts over every few steps.
#[derive(Debug, Clone)]
pub struct Curve {
    parts: Vec<String>,
    every: u64,
    /// The last step of each row, then the parts.
    rows: Vec<Vec<f64>>,
    /// How many steps are summed up, then their sums.
    window: Vec<f64>,
}

impl Curve {
    /// An empty curve with a row every `every` steps.
    pub fn new(parts: Vec<String>, every: u64) -> Self {
        let window = vec![0.0; parts.len() + 1];
        Self { parts, every: every.max(1), rows: Vec::new(), window }
    }

    /// Takes in the parts of the loss at a step (counted from 1).
    pub fn add(&mut self, step: u64, values: &[f64]) {
        self.window[0] += 1.0;
        for (sum, value) in self.window[1..].iter_mut().zip(values) {
            *sum += value;
        }
        if step.is_multiple_of(self.every) {
            let mut row = vec![step as f64];
            row.extend(self.window[1..].iter().map(|sum| sum / self.window[0]));
            self.rows.push(row);
            self.window.fill(0.0);
        }
    }

    /// The parts of the last row with their names.
    pub fn last(&self) -> impl Iterator<Item = (&str, f64)> {
        let values = self.rows.last().map(|row| &row[1..]).unwrap_or_default();
        self.parts.iter().map(String::as_str).zip(values.iter().copied())
    }

    /// What [`Self::restore`] takes: the rows, and the steps since the last one.
    pub fn state(&self) -> (&[Vec<f64>], &[f64]) {
        (&self.rows, &self.window)
    }

    /// Continues a curve.
    pub fn restore(&mut self, rows: Vec<Vec<f64>>, window: Vec<f64>) {
        if window.len() == self.window.len() && rows.iter().all(|row| row.len() == self.window.len()) {
            (self.rows, self.window) = (rows, window);
        }
    }

    /// The rows as CSV.
    pub fn csv(&self) -> String {
        let mut text = format!("step,{}\n", self.parts.join(","));
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(f64::to_string).collect();
            text += &cells.join(",");
            text += "\n";
        }
        text
    }

    /// Writes the CSV and the plot.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, csv: &Path, png: &Path) -> Result<()> {
        write::bytes(csv, self.csv().as_bytes())?;
        write::png(png, &self.plot(), &[])
    }

    /// The plot: steps to the right, the loss upwards on a logarithmic scale, one colour per part.
    pub fn plot(&self) -> RgbImage {
        let mut sheet = RgbImage::from_pixel(WIDTH, HEIGHT, Rgb([255; 3]));
        let values = || self.rows.iter().flat_map(|row| &row[1..]).copied().filter(|value| *value > 0.0);
        let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
        if !(least.is_finite() && most.is_finite() && most > 0.0) {
            return sheet;
        }
        // Four decades are enough: a part that vanishes must not flatten the others.
        let high = (most.log10() + 0.05).max(least.log10() + 0.2);
        let low = (least.log10() - 0.05).max(high - 4.0);
        let steps = self.rows.last().map_or(1.0, |row| row[0]).max(1.0);
        let (inner_width, inner_height) = (f64::from(WIDTH - LEFT - RIGHT), f64::from(HEIGHT - TOP - BOTTOM));
        let x = |step: f64| f64::from(LEFT) + step / steps * inner_width;
        let y = |value: f64| {
            let up = ((value.max(1e-300).log10() - low) / (high - low)).clamp(0.0, 1.0);
            f64::from(HEIGHT - BOTTOM) - up * inner_height
        };
        for decade in low.floor() as i32..=high.ceil() as i32 {
            for digit in 1..10 {
                let value = f64::from(digit) * 10f64.powi(decade);
                if (low..=high).contains(&value.log10()) {
                    line(&mut sheet, (x(0.0), y(value)), (x(steps), y(value)), GREY);
                    if [1, 2, 5].contains(&digit) {
                        let text = format!("{value:.*}", usize::try_from(-decade).unwrap_or(0));
                        number(&mut sheet, &text, LEFT as f64 - 8.0 * text.len() as f64 - 6.0, y(value) - 5.0);
                    }
                }
            }
        }
        for tick in 0..=4 {
            let step = steps * f64::from(tick) / 4.0;
            line(&mut sheet, (x(step), y(10f64.powf(low))), (x(step), y(10f64.powf(high))), GREY);
            let text = format!("{step:.0}");
            let left = (x(step) - 4.0 * text.len() as f64).min(f64::from(WIDTH) - 8.0 * text.len() as f64 - 2.0);
            number(&mut sheet, &text, left, f64::from(HEIGHT - BOTTOM) + 8.0);
        }
        // The whole loss is drawn last, over the others.
        for part in (1..self.window.len()).rev() {
            let colour = &COLOURS[(part - 1) % COLOURS.len()];
            for pair in self.rows.windows(2) {
                let end = |row: &[f64]| (x(row[0]), y(row[part]));
                line(&mut sheet, end(&pair[0]), end(&pair[1]), *colour);
            }
            // The legend: a swatch per part, in the order of the CSV's columns.
            let left = f64::from(LEFT) + 40.0 * (part - 1) as f64;
            for thick in 0..4 {
                line(&mut sheet, (left, 12.0 + f64::from(thick)), (left + 24.0, 12.0 + f64::from(thick)), *colour);
            }
        }
        sheet
    }
}

fn line(sheet: &mut RgbImage, (x0, y0): (f64, f64), (x1, y1): (f64, f64), colour: [u8; 3]) {
    let count = (x1 - x0).abs().max((y1 - y0).abs()).ceil().max(1.0) as u32;
    for at in 0..=count {
        let along = f64::from(at) / f64::from(count);
        let (x, y) = ((x0 + along * (x1 - x0)).round() as u32, (y0 + along * (y1 - y0)).round() as u32);
        if let Some(pixel) = sheet.get_pixel_mut_checked(x, y) {
            *pixel = Rgb(colour);
        }
    }
}

/// Digits and a point, 3 x 5 dots of 2 x 2 pixels each: a plot needs no more letters than these.
fn number(sheet: &mut RgbImage, text: &str, left: f64, top: f64) {
    const DIGITS: [u16; 10] = [
        0b111_101_101_101_111,
        0b010_110_010_010_111,
        0b111_001_111_100_111,
        0b111_001_111_001_111,
        0b101_101_111_001_001,
        0b111_100_111_001_111,
        0b111_100_111_101_111,
        0b111_001_001_010_010,
        0b111_101_111_101_111,
        0b111_101_111_001_111,
    ];
    for (index, letter) in text.chars().enumerate() {
        let dots = letter.to_digit(10).map_or(0b000_000_000_000_010, |digit| DIGITS[digit as usize]);
        for dot in (0..15u32).filter(|dot| dots >> (14 - dot) & 1 == 1) {
            for (dx, dy) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let (x, y) = (left as u32 + 8 * index as u32 + dot % 3 * 2 + dx, top as u32 + dot / 3 * 2 + dy);
                if let Some(pixel) = sheet.get_pixel_mut_checked(x, y) {
                    *pixel = Rgb([60; 3]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_averages_and_a_restored_curve_goes_on() {
        let parts = || vec!["loss".to_owned(), "style".to_owned()];
        let mut whole = Curve::new(parts(), 2);
        let mut start = Curve::new(parts(), 2);
        for step in 1..=5u64 {
            let values = [step as f64, 1.0];
            whole.add(step, &values);
            if step == 3 {
                let (rows, window) = start.state();
                let (rows, window) = (rows.to_vec(), window.to_vec());
                start = Curve::new(parts(), 2);
                start.restore(rows, window);
            }
            start.add(step, &values);
        }
        assert_eq!(whole.csv(), "step,loss,style\n2,1.5,1\n4,3.5,1\n");
        assert_eq!(whole.csv(), start.csv());
        assert_eq!(whole.plot(), start.plot());
    }

    #[test]
    fn a_plot_survives_any_numbers() {
        let mut curve = Curve::new(vec!["loss".to_owned()], 1);
        assert_eq!(curve.plot().dimensions(), (WIDTH, HEIGHT));
        for (step, value) in [0.0, 1e300, 1e-300, -1.0, 2.0].into_iter().enumerate() {
            curve.add(step as u64 + 1, &[value]);
            curve.plot();
        }
    }
}
