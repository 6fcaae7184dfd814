//! Keeping a photo's colours: either the style picture takes them on before painting, or the painting afterwards.
//!
//! Everything is computed on sRGB values as they lie in the file, as the papers do; nothing here knows about nets.
//!
//! Gatys et al., "Preserving color in neural artistic style transfer", 2016, and their code for "Controlling perceptual
//! factors in neural style transfer", 2017.

use ::image::{Rgb, RgbImage};
use rayon::prelude::*;

use crate::ops::matrix3::{Matrix3, power, product};

/// What of the photo's colours is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum PreserveColor {
    /// Nothing: the painting has the style's colours
    #[default]
    None,
    /// The painting's lightness under the photo's own colours
    Luminance,
    /// The style picture gets the photo's colours first, channel by channel, by their histograms
    Histogram,
    /// The style picture gets the photo's colours first, by mean and covariance (CORAL)
    Coral,
}

/// The style picture as the painter should see it: with the photo's colours for [`PreserveColor::Histogram`] and
/// [`PreserveColor::Coral`], as it is otherwise.
pub fn prepare_style(kind: PreserveColor, style: &RgbImage, content: &RgbImage) -> RgbImage {
    if style.is_empty() || content.is_empty() {
        return style.clone();
    }
    match kind {
        PreserveColor::None | PreserveColor::Luminance => style.clone(),
        PreserveColor::Histogram => match_histograms(style, content),
        PreserveColor::Coral => match_covariance(style, content),
    }
}

/// The finished picture: for [`PreserveColor::Luminance`] the painting's lightness with the photo's colours, the painting
/// otherwise. A photo of another size is sampled where each pixel lies in it.
pub fn finish(kind: PreserveColor, painted: &RgbImage, content: &RgbImage) -> RgbImage {
    if kind != PreserveColor::Luminance || painted.is_empty() || content.is_empty() {
        return painted.clone();
    }
    let (width, height) = painted.dimensions();
    let place = |at: u32, of: u32, there: u32| (u64::from(at) * u64::from(there) / u64::from(of)) as u32;
    RgbImage::from_fn(width, height, |x, y| {
        let photo = content.get_pixel(place(x, width, content.width()), place(y, height, content.height()));
        with_luma(luma(painted.get_pixel(x, y)), photo)
    })
}

/// Rec. 601, as JPEG has it.
fn luma(pixel: &Rgb<u8>) -> f64 {
    let [red, green, blue] = pixel.0.map(f64::from);
    0.299 * red + 0.587 * green + 0.114 * blue
}

/// A pixel's colour at another lightness. Where that does not exist in RGB the colour is paler, never the lightness
/// different and never the hue: cutting each channel for itself would change both.
fn with_luma(wanted: f64, pixel: &Rgb<u8>) -> Rgb<u8> {
    let own = luma(pixel);
    let colour = pixel.0.map(|value| f64::from(value) - own);
    let room = |colour: f64| match colour {
        colour if colour > 0.0 => (255.0 - wanted) / colour,
        colour if colour < 0.0 => wanted / -colour,
        _ => 1.0,
    };
    let share = colour.iter().fold(1.0, |share: f64, &colour| share.min(room(colour)));
    Rgb(colour.map(|colour| to_byte(wanted + share * colour)))
}

fn to_byte(value: f64) -> u8 {
    value.clamp(0.0, 255.0).round_ties_even() as u8
}

/// scikit-image's `match_histograms` with rounding instead of cutting: each channel's value goes to where the photo has the
/// same share of its pixels below.
fn match_histograms(style: &RgbImage, content: &RgbImage) -> RgbImage {
    let tables = [0, 1, 2].map(|channel| {
        let ours = cumulative(style, channel);
        let theirs: Vec<(f64, f64)> = {
            let cumulative = cumulative(content, channel);
            let present =
                |value: &usize| cumulative[*value] > value.checked_sub(1).map_or(0.0, |below| cumulative[below]);
            (0..256).filter(present).map(|value| (cumulative[value], value as f64)).collect()
        };
        ours.map(|share| to_byte(interpolate(&theirs, share)))
    });
    let mut out = style.clone();
    for pixel in out.pixels_mut() {
        for (value, table) in pixel.0.iter_mut().zip(&tables) {
            *value = table[usize::from(*value)];
        }
    }
    out
}

/// The share of pixels at or below each value.
fn cumulative(picture: &RgbImage, channel: usize) -> [f64; 256] {
    let mut counts = [0u64; 256];
    for pixel in picture.pixels() {
        counts[usize::from(pixel.0[channel])] += 1;
    }
    let all: u64 = counts.iter().sum();
    let mut sum = 0;
    counts.map(|count| {
        sum += count;
        sum as f64 / all as f64
    })
}

/// Between points of rising `x`, held beyond the ends: numpy's `interp`.
fn interpolate(points: &[(f64, f64)], x: f64) -> f64 {
    let after = points.partition_point(|&(at, _)| at <= x);
    match (after.checked_sub(1).map(|before| points[before]), points.get(after)) {
        (Some((x0, y0)), Some(&(x1, y1))) => y0 + (x - x0) / (x1 - x0) * (y1 - y0),
        (Some((_, y)), None) | (None, Some(&(_, y))) => y,
        (None, None) => 0.0,
    }
}

/// Added to the variances (of values from 0 to 1), so that a grey picture's missing directions are not blown up.
pub(super) const RIDGE: f64 = 1e-5;

/// The colours turned and stretched by `C_content^1/2 C_style^-1/2` around their mean, which moves to the photo's.
fn match_covariance(style: &RgbImage, content: &RgbImage) -> RgbImage {
    let (style_mean, style_covariance) = colours(style);
    let (mean, covariance) = colours(content);
    let map = product(power(covariance, 0.5), power(style_covariance, -0.5));
    let mut out = style.clone();
    for pixel in out.pixels_mut() {
        let [red, green, blue] = [0, 1, 2].map(|channel| f64::from(pixel.0[channel]) / 255.0 - style_mean[channel]);
        let moved = |row: usize| map[row][0] * red + map[row][1] * green + map[row][2] * blue + mean[row];
        *pixel = Rgb([0, 1, 2].map(|row| to_byte(255.0 * moved(row))));
    }
    out
}

/// Mean and covariance (population, with [`RIDGE`]) of values from 0 to 1.
pub(super) fn colours(picture: &RgbImage) -> ([f64; 3], Matrix3) {
    // Exact whole numbers, whatever the size of the picture: of so many pixels they fit into 32 bits.
    const AT_ONCE: usize = 1 << 14;
    type Sums = ([u64; 3], [[u64; 3]; 3]);
    let of_some = |pixels: &[u8]| {
        let (mut sums, mut products) = ([0u32; 3], [[0u32; 3]; 3]);
        for pixel in pixels.as_chunks::<3>().0 {
            let values = pixel.map(u32::from);
            for row in 0..3 {
                sums[row] += values[row];
                for column in 0..3 {
                    products[row][column] += values[row] * values[column];
                }
            }
        }
        (sums.map(u64::from), products.map(|row| row.map(u64::from)))
    };
    let add = |(sums, products): Sums, (more, further): Sums| {
        let sum = |one: [u64; 3], other: [u64; 3]| [0, 1, 2].map(|at| one[at] + other[at]);
        (sum(sums, more), [0, 1, 2].map(|row| sum(products[row], further[row])))
    };
    let none = || ([0; 3], [[0; 3]; 3]);
    let (sums, products) = picture.par_chunks(3 * AT_ONCE).map(of_some).reduce(none, add);
    let count = f64::from(picture.width()) * f64::from(picture.height());
    let mean = sums.map(|sum| sum as f64 / count / 255.0);
    let mut covariance = [[0.0; 3]; 3];
    for row in 0..3 {
        for column in 0..3 {
            let ridge = if row == column { RIDGE } else { 0.0 };
            let square = products[row][column] as f64 / count / (255.0 * 255.0);
            covariance[row][column] = square - mean[row] * mean[column] + ridge;
        }
    }
    (mean, covariance)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twelve colours over a whole picture.
    fn picture(shift: u8) -> RgbImage {
        RgbImage::from_fn(16, 12, |x, y| {
            let (x, y) = (x as u8, y as u8);
            Rgb([x * 15 + shift, (x ^ y) * 9 + shift / 2, y * 20])
        })
    }

    #[test]
    fn a_picture_with_its_own_colours_stays() {
        let own = picture(20);
        for kind in [PreserveColor::Histogram, PreserveColor::Coral, PreserveColor::None] {
            assert_eq!(prepare_style(kind, &own, &own), own, "{kind:?}");
        }
        assert_eq!(finish(PreserveColor::Luminance, &own, &own), own);
    }

    #[test]
    fn luminance_keeps_the_painting_s_lightness_whatever_the_photo() {
        let (painted, photo) = (picture(30), picture(0));
        let out = finish(PreserveColor::Luminance, &painted, &photo);
        for (out, painted) in out.pixels().zip(painted.pixels()) {
            assert!((luma(out) - luma(painted)).abs() < 0.6, "{out:?} {painted:?}");
        }
        // A photo of another size gives the colours of the same places.
        let blue = finish(PreserveColor::Luminance, &painted, &RgbImage::from_pixel(3, 40, Rgb([0, 0, 255])));
        assert!(blue.pixels().all(|pixel| pixel.0[2] >= pixel.0[0] && pixel.0[0] == pixel.0[1]));
    }

    #[test]
    fn flat_and_grey_pictures_are_no_trouble() {
        let flat = RgbImage::from_pixel(5, 4, Rgb([90, 90, 90]));
        let grey = RgbImage::from_fn(16, 16, |x, y| Rgb([(x * 16 + y) as u8; 3]));
        for kind in [PreserveColor::Histogram, PreserveColor::Coral] {
            for (style, content) in [(&flat, &grey), (&grey, &flat), (&picture(0), &grey), (&grey, &picture(0))] {
                let out = prepare_style(kind, style, content);
                assert_eq!(out.dimensions(), style.dimensions());
            }
            // A grey photo makes the style grey.
            let out = prepare_style(kind, &grey, &flat);
            assert!(out.pixels().all(|pixel| pixel.0.iter().all(|value| value.abs_diff(90) <= 2)), "{kind:?}");
        }
        let nothing = RgbImage::new(0, 0);
        assert_eq!(prepare_style(PreserveColor::Coral, &nothing, &grey), nothing);
        assert_eq!(finish(PreserveColor::Luminance, &grey, &nothing), grey);
    }
}
