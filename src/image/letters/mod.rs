//! Lettering for sheets and previews: a small typeface of strokes, drawn smoothly at any size.
//!
//! Our own drawing (`glyphs.txt`), so that captions look the same on every machine without a font file. Each line of the file
//! is a character, its width, and strokes parted by `|`: points `x,y` joined by straight lines, a `~` before the control point
//! of a quadratic curve. The baseline is at 0, capitals end at 14, small letters at 10; y goes up.
//! Must not know what it captions.

use std::collections::HashMap;
use std::sync::OnceLock;

use ::image::{Rgb, RgbImage};

/// The height of capitals in the units of the drawing.
const CAPITALS: f32 = 14.0;
/// From one letter to the next, in the same units.
const GAP: f32 = 4.2;
/// Half a regular stroke.
const HALF_STROKE: f32 = 0.75;
/// Straight pieces per curve.
const PIECES: u8 = 8;

struct Glyph {
    width: f32,
    /// Straight lines; a dot is a line of no length.
    lines: Vec<[(f32, f32); 2]>,
}

/// How text is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lettering {
    /// The height of capitals in pixels.
    pub size: f32,
    /// The thickness of strokes: 1 is regular, 1.5 bold.
    pub weight: f32,
    /// The colour.
    pub colour: [u8; 3],
}

impl Lettering {
    /// Regular strokes.
    pub fn new(size: f32, colour: [u8; 3]) -> Self {
        Self { size, weight: 1.0, colour }
    }

    /// The same with strong strokes.
    #[must_use]
    pub fn bold(self) -> Self {
        Self { weight: 1.5, ..self }
    }

    /// The distance between the baselines of two lines.
    pub fn leading(&self) -> f32 {
        (self.size * 1.9).round()
    }

    /// How wide a text gets, in pixels.
    pub fn width(&self, text: &str) -> f32 {
        let advance: f32 = text.chars().map(advance).sum();
        (advance - GAP).max(0.0) * self.size / CAPITALS
    }

    /// Breaks a text at its spaces into lines no wider than `width`, where its words allow that. A line break in the text
    /// stays one.
    pub fn wrap(&self, text: &str, width: f32) -> Vec<String> {
        let mut lines = Vec::new();
        for paragraph in text.lines() {
            let mut line = String::new();
            for word in paragraph.split_whitespace() {
                if !line.is_empty() && self.width(&line) + self.width(word) + self.width(". .") > width {
                    lines.push(std::mem::take(&mut line));
                }
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            lines.push(line);
        }
        lines
    }

    /// Cuts a text off with two dots where it would get wider than `width`.
    pub fn fit(&self, text: &str, width: f32) -> String {
        if self.width(text) <= width {
            return text.to_owned();
        }
        let mut cut: Vec<char> = text.chars().collect();
        while cut.pop().is_some() {
            let shown = format!("{}..", cut.iter().collect::<String>().trim_end());
            if self.width(&shown) <= width {
                return shown;
            }
        }
        String::new()
    }

    /// Draws one line of text with its baseline at `y` from `x` on. What lies outside the picture is cut off; characters
    /// that were never drawn appear as a question mark.
    pub fn draw(&self, picture: &mut RgbImage, x: f32, y: f32, text: &str) {
        let scale = self.size / CAPITALS;
        let mut at = x;
        for letter in text.chars() {
            if let Some(glyph) = glyph(letter) {
                self.ink(picture, (at, y), scale, glyph);
            }
            at += advance(letter) * scale;
        }
    }

    /// Draws several lines, the first with its baseline at `y`, and gives the baseline after the last.
    pub fn draw_lines(&self, picture: &mut RgbImage, x: f32, y: f32, lines: &[String]) -> f32 {
        let mut y = y;
        for line in lines {
            self.draw(picture, x, y, line);
            y += self.leading();
        }
        y
    }

    /// One letter: how much of a pixel is covered follows from its distance to the nearest line.
    fn ink(&self, picture: &mut RgbImage, (x, y): (f32, f32), scale: f32, glyph: &Glyph) {
        let half = HALF_STROKE * self.weight * scale;
        let lines: Vec<_> =
            glyph.lines.iter().map(|line| line.map(|(px, py)| (x + px * scale, y - py * scale))).collect();
        let points = || lines.iter().flatten();
        let reach = half + 1.0;
        let clip = |value: f32, side: u32| value.clamp(0.0, side as f32) as u32;
        let bounds = |value: fn(&(f32, f32)) -> f32, side: u32| {
            let least = points().map(value).fold(f32::INFINITY, f32::min) - reach;
            let most = points().map(value).fold(f32::NEG_INFINITY, f32::max) + reach;
            clip(least.floor(), side)..clip(most.ceil(), side)
        };
        let (columns, rows) = (bounds(|p| p.0, picture.width()), bounds(|p| p.1, picture.height()));
        for py in rows {
            for px in columns.clone() {
                let centre = (px as f32 + 0.5, py as f32 + 0.5);
                let nearest = lines.iter().map(|line| distance(centre, *line)).fold(f32::INFINITY, f32::min);
                let cover = (half + 0.5 - nearest).clamp(0.0, 1.0);
                if cover > 0.0 {
                    let Rgb(under) = picture.get_pixel_mut(px, py);
                    for (under, over) in under.iter_mut().zip(self.colour) {
                        *under = (f32::from(*under) * (1.0 - cover) + f32::from(over) * cover).round() as u8;
                    }
                }
            }
        }
    }
}

/// The distance of a point from a line between two points.
fn distance((x, y): (f32, f32), [(ax, ay), (bx, by)]: [(f32, f32); 2]) -> f32 {
    let (dx, dy) = (bx - ax, by - ay);
    let length = dx * dx + dy * dy;
    let along = if length > 0.0 { (((x - ax) * dx + (y - ay) * dy) / length).clamp(0.0, 1.0) } else { 0.0 };
    (x - ax - along * dx).hypot(y - ay - along * dy)
}

fn glyphs() -> &'static HashMap<char, Glyph> {
    static GLYPHS: OnceLock<HashMap<char, Glyph>> = OnceLock::new();
    GLYPHS.get_or_init(|| include_str!("glyphs.txt").lines().filter_map(read).collect())
}

/// The drawing of a letter; `None` for a space.
fn glyph(letter: char) -> Option<&'static Glyph> {
    if letter == ' ' { None } else { glyphs().get(&letter).or_else(|| glyphs().get(&'?')) }
}

fn advance(letter: char) -> f32 {
    glyph(letter).map_or(GAP + 0.3, |glyph| glyph.width + GAP)
}

/// One line of the file.
fn read(line: &str) -> Option<(char, Glyph)> {
    let mut letters = line.chars();
    let letter = letters.next()?;
    let (width, strokes) = letters.as_str().trim_start().split_once(' ')?;
    let mut lines = Vec::new();
    for stroke in strokes.split('|') {
        let mut last: Option<(f32, f32)> = None;
        let mut control = None;
        for word in stroke.split_whitespace() {
            let (x, y) = word.trim_start_matches('~').split_once(',')?;
            let point = (x.parse().ok()?, y.parse().ok()?);
            if word.starts_with('~') {
                control = Some(point);
                continue;
            }
            if let Some(from) = last {
                match control.take() {
                    Some(control) => curve(from, control, point, &mut lines),
                    None => lines.push([from, point]),
                }
            }
            last = Some(point);
        }
    }
    Some((letter, Glyph { width: width.parse().ok()?, lines }))
}

fn curve(from: (f32, f32), control: (f32, f32), to: (f32, f32), lines: &mut Vec<[(f32, f32); 2]>) {
    let mut last = from;
    for piece in 1..=PIECES {
        let t = f32::from(piece) / f32::from(PIECES);
        let mix = |a: f32, b: f32, c: f32| (1.0 - t) * (1.0 - t) * a + 2.0 * t * (1.0 - t) * b + t * t * c;
        let next = (mix(from.0, control.0, to.0), mix(from.1, control.1, to.1));
        lines.push([last, next]);
        last = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ink(letter: char, size: f32) -> usize {
        let mut picture = RgbImage::from_pixel(80, 80, Rgb([255; 3]));
        Lettering::new(size, [0; 3]).draw(&mut picture, 20.0, 50.0, &letter.to_string());
        picture.pixels().filter(|pixel| pixel.0[0] < 128).count()
    }

    #[test]
    fn every_character_of_ascii_is_drawn_and_none_like_another() {
        let mut seen = HashMap::new();
        for letter in '!'..='~' {
            assert!(glyphs().contains_key(&letter), "{letter} is missing");
            assert!(ink(letter, 28.0) > 3, "{letter} is blank");
            let mut picture = RgbImage::from_pixel(40, 40, Rgb([255; 3]));
            Lettering::new(14.0, [0; 3]).draw(&mut picture, 8.0, 28.0, &letter.to_string());
            if let Some(other) = seen.insert(picture.into_raw(), letter) {
                panic!("{letter} looks like {other}");
            }
        }
        assert!(
            glyphs().values().all(|glyph| glyph.lines.iter().flatten().all(|(x, y)| x.abs() < 20.0 && y.abs() < 20.0))
        );
    }

    #[test]
    fn what_is_unknown_or_outside_does_no_harm() {
        assert_eq!(ink('雪', 20.0), ink('?', 20.0));
        assert_eq!(ink(' ', 20.0), 0);
        let mut picture = RgbImage::new(5, 5);
        let lettering = Lettering::new(30.0, [255; 3]);
        for (x, y) in [(-100.0, -100.0), (1e9, 3.0), (f32::NAN, 3.0), (3.0, f32::INFINITY), (-3.0, 4.0)] {
            lettering.draw(&mut picture, x, y, "Impasto");
        }
        Lettering::new(0.0, [255; 3]).draw(&mut RgbImage::new(0, 0), 0.0, 0.0, "x");
    }

    #[test]
    fn lines_break_between_words() {
        let lettering = Lettering::new(10.0, [0; 3]);
        let text = "strokes and palette of the painting, structure of the photo\nand a line of its own";
        let lines = lettering.wrap(text, 140.0);
        assert!(lines.len() > 3 && lines.iter().all(|line| lettering.width(line) <= 140.0), "{lines:?}");
        assert_eq!(lines.join(" "), text.replace('\n', " "));
        assert_eq!(lettering.wrap("immeasurable", 5.0), ["immeasurable"]);
        assert_eq!(lettering.fit("structure of the photo", 1000.0), "structure of the photo");
        let cut = lettering.fit("structure of the photo", 90.0);
        assert!(cut.ends_with("..") && lettering.width(&cut) <= 90.0, "{cut}");
    }
}
