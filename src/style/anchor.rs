//! Broad areas of a painting brought nearer to the photo's: a net that works for a style's statistics invents clouds in an even
//! sky and rims of light around what is dark. Strokes are narrower than that and stay as they are.

use ::image::RgbImage;
use rayon::prelude::*;

use super::colour::{self, colours};
use crate::nets::painter::RIDGE;
use crate::ops::matrix3::{Matrix3, power, product};

/// About the side, in pixels, of the areas whose mean colours are compared. Between their centres the difference changes evenly, so
/// that what it takes off has a deviation of half this.
const AREA: usize = 12;

type Colour = [f32; 3];

/// A painting's colours, of values from 0 to 1: their mean, and the root of their covariance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Palette {
    /// Of each channel.
    pub mean: [f64; 3],
    /// Symmetric.
    pub root: Matrix3,
}

/// The painting with the mean colour of each area `share` (0..1) of the way to what the photo has there, were it in the colours of
/// the palette; and all of it, then, in those. Both pictures of one size.
///
/// The map of colours is that of Li et al., "Universal style transfer via feature transforms", 2017, on pixels.
pub fn anchor(painted: &mut RgbImage, photo: &RgbImage, palette: &Palette, share: f64) {
    let size = painted.dimensions();
    if painted.is_empty() || photo.dimensions() != size {
        return;
    }
    let Palette { mean, root } = *palette;
    let (own_mean, mut own) = colours(photo);
    (0..3).for_each(|channel| own[channel][channel] += RIDGE);
    let recoloured = Affine::new(product(root, power(own, -0.5)), own_mean, mean);
    let mut missing = Areas::of(photo);
    for (missing, there) in missing.values.iter_mut().zip(Areas::of(painted).values) {
        let wanted = recoloured.of(*missing);
        *missing = [0, 1, 2].map(|channel| share as f32 * (wanted[channel] - there[channel]));
    }

    let columns = places(size.0 as usize, missing.columns);
    let rows = places(size.1 as usize, missing.rows);
    let row = 3 * size.0 as usize;
    let lines = || rows.par_iter().zip(painted.par_chunks_exact(row));
    let parts: Vec<Sums> = lines().map(|(&at, line)| Sums::of(&missing.laid_over(line, at, &columns))).collect();
    let (moved_mean, mut moved) = Sums::total(&parts);
    (0..3).for_each(|channel| moved[channel][channel] += colour::RIDGE);
    let back = Affine::new(product(root, power(moved, -0.5)), moved_mean, mean);
    painted.par_chunks_exact_mut(row).zip(rows).for_each(|(line, at)| {
        let moved = missing.laid_over(line, at, &columns);
        for (pixel, moved) in line.as_chunks_mut::<3>().0.iter_mut().zip(moved) {
            // A cast keeps to the range.
            *pixel = back.of(moved).map(|value| (255.0 * value + 0.5) as u8);
        }
    });
}

/// Colours turned and stretched around a mean, which moves.
struct Affine {
    map: [[f32; 3]; 3],
    add: Colour,
}

impl Affine {
    fn new(map: Matrix3, from: [f64; 3], to: [f64; 3]) -> Self {
        let add = [0, 1, 2].map(|row| (to[row] - (0..3).map(|k| map[row][k] * from[k]).sum::<f64>()) as f32);
        Self { map: map.map(|row| row.map(|value| value as f32)), add }
    }

    fn of(&self, [red, green, blue]: Colour) -> Colour {
        [0, 1, 2].map(|row| {
            let map = self.map[row];
            map[0] * red + map[1] * green + map[2] * blue + self.add[row]
        })
    }
}

/// One colour for each area of a picture, row by row.
struct Areas {
    columns: usize,
    rows: usize,
    values: Vec<Colour>,
}

/// Where a pixel lies between the centres of areas: the one before, the one after, and how near it is to the latter.
type Place = (usize, usize, f32);

fn places(side: usize, areas: usize) -> Vec<Place> {
    let place = |pixel: usize| {
        let at = (pixel as f64 + 0.5) * areas as f64 / side as f64 - 0.5;
        let before = at.floor().max(0.0) as usize;
        (before, (before + 1).min(areas - 1), (at - before as f64).clamp(0.0, 1.0) as f32)
    };
    (0..side).map(place).collect()
}

impl Areas {
    fn of(picture: &RgbImage) -> Self {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let (columns, rows) = (width.div_ceil(AREA), height.div_ceil(AREA));
        let start = |area: usize, side: usize, areas: usize| area * side / areas;
        let values = (0..rows).into_par_iter().flat_map_iter(|y| {
            let lines = start(y, height, rows)..start(y + 1, height, rows);
            let lines = &picture.as_raw()[lines.start * 3 * width..lines.end * 3 * width];
            (0..columns).map(move |x| {
                let (from, to) = (start(x, width, columns), start(x + 1, width, columns));
                let mut sums = [0u32; 3];
                for line in lines.chunks_exact(3 * width) {
                    for pixel in line[3 * from..3 * to].chunks_exact(3) {
                        (0..3).for_each(|channel| sums[channel] += u32::from(pixel[channel]));
                    }
                }
                let pixels = (lines.len() / (3 * width) * (to - from)) as f32;
                sums.map(|sum| sum as f32 / (255.0 * pixels))
            })
        });
        Self { columns, rows, values: values.collect() }
    }

    /// A line of pixels with the values added, those between the centres evenly.
    fn laid_over(&self, line: &[u8], (above, below, share): Place, columns: &[Place]) -> Vec<Colour> {
        let between = |one: Colour, other: Colour, share: f32| {
            [0, 1, 2].map(|channel| one[channel] + (other[channel] - one[channel]) * share)
        };
        let (above, below) = (above * self.columns, below * self.columns);
        let areas: Vec<Colour> =
            (0..self.columns).map(|x| between(self.values[above + x], self.values[below + x], share)).collect();
        let pixels = line.as_chunks::<3>().0.iter().zip(columns);
        pixels
            .map(|(pixel, &(before, after, share))| {
                let add = between(areas[before], areas[after], share);
                [0, 1, 2].map(|channel| f32::from(pixel[channel]) * (1.0 / 255.0) + add[channel])
            })
            .collect()
    }
}

/// What mean and covariance are made of.
struct Sums {
    pixels: f64,
    sums: [f64; 3],
    products: Matrix3,
}

impl Sums {
    fn of(line: &[Colour]) -> Self {
        let (mut sums, mut products) = ([0.0; 3], [[0.0; 3]; 3]);
        for pixel in line {
            // Around the middle of the range, so that the difference at the end loses little.
            let pixel = pixel.map(|value| value - 0.5);
            for row in 0..3 {
                sums[row] += pixel[row];
                for column in 0..3 {
                    products[row][column] += pixel[row] * pixel[column];
                }
            }
        }
        Self {
            pixels: line.len() as f64,
            sums: sums.map(f64::from),
            products: products.map(|row: [f32; 3]| row.map(f64::from)),
        }
    }

    /// Mean and covariance (population) of all that several have seen.
    fn total(parts: &[Self]) -> ([f64; 3], Matrix3) {
        let pixels: f64 = parts.iter().map(|part| part.pixels).sum();
        let mean = [0, 1, 2].map(|row| parts.iter().map(|part| part.sums[row]).sum::<f64>() / pixels);
        let covariance = [0, 1, 2].map(|row| {
            [0, 1, 2].map(|column| {
                parts.iter().map(|part| part.products[row][column]).sum::<f64>() / pixels - mean[row] * mean[column]
            })
        });
        (mean.map(|mean| mean + 0.5), covariance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::white;

    /// Even areas, dark to the left and light to the right, with strokes of one pixel.
    fn striped(strokes: f32, cloud: impl Fn(u32, u32) -> f32) -> RgbImage {
        RgbImage::from_fn(240, 170, |x, y| {
            let side = if x < 120 { 70.0 } else { 180.0 };
            let noise = [0, 1, 2].map(|channel| white(x as usize, y as usize, channel) * strokes);
            ::image::Rgb(noise.map(|noise| (side + noise + cloud(x, y)).round() as u8))
        })
    }

    fn palette_of(picture: &RgbImage) -> Palette {
        let (mean, covariance) = colours(picture);
        Palette { mean, root: power(covariance, 0.5) }
    }

    fn mean(picture: &RgbImage, at: std::ops::Range<u32>) -> f64 {
        let inside = picture.enumerate_pixels().filter(|(x, y, _)| at.contains(x) && (60..110).contains(y));
        let values: Vec<f64> = inside.map(|(_, _, pixel)| f64::from(pixel.0[1])).collect();
        values.iter().sum::<f64>() / values.len() as f64
    }

    #[test]
    fn a_cloud_goes_by_the_share_and_strokes_stay() {
        let photo = striped(0.0, |_, _| 0.0);
        let cloud = |x: u32, y: u32| if (24..96).contains(&x) && (48..120).contains(&y) { 30.0 } else { 0.0 };
        let painted = striped(12.0, cloud);
        let cloud_of = |picture: &RgbImage| mean(picture, 48..72) - mean(picture, 0..12);
        let palette = palette_of(&painted);
        let before = cloud_of(&painted);
        assert!((before - 30.0).abs() < 1.5, "{before}");
        for (share, left) in [(0.5, 15.0), (1.0, 0.0)] {
            let mut out = painted.clone();
            anchor(&mut out, &photo, &palette, share);
            assert!((cloud_of(&out) - left).abs() < 3.0, "{share}: {}", cloud_of(&out));
            // Mean and covariance are the palette's.
            let ((mean, covariance), (own_mean, own)) = (colours(&out), colours(&painted));
            for row in 0..3 {
                assert!((mean[row] - own_mean[row]).abs() < 1e-3, "{mean:?} {own_mean:?}");
                for column in 0..3 {
                    assert!((covariance[row][column] - own[row][column]).abs() < 1e-3, "{covariance:?} {own:?}");
                }
            }
            // Neighbours differ by what they did, but for the stretching of all colours.
            let rough = |picture: &RgbImage| {
                let pairs = (0..11).map(|x| (picture.get_pixel(x, 5).0[0], picture.get_pixel(x + 1, 5).0[0]));
                pairs.map(|(left, right)| f64::from(left.abs_diff(right))).sum::<f64>()
            };
            assert!((rough(&out) / rough(&painted) - 1.0).abs() < 0.15, "{} {}", rough(&out), rough(&painted));
        }
        // In another palette, also where nothing is taken off.
        let sepia = RgbImage::from_fn(30, 30, |x, y| ::image::Rgb([(90 + 3 * x) as u8, (60 + 2 * x + y) as u8, 50]));
        let mut out = painted.clone();
        anchor(&mut out, &photo, &palette_of(&sepia), 0.0);
        let ((mean, covariance), (own_mean, own)) = (colours(&out), colours(&sepia));
        for row in 0..3 {
            assert!((mean[row] - own_mean[row]).abs() < 2e-3, "{mean:?} {own_mean:?}");
            assert!(
                (0..3).all(|column| (covariance[row][column] - own[row][column]).abs() < 2e-3),
                "{covariance:?} {own:?}"
            );
        }
    }

    #[test]
    fn flat_grey_and_tiny_pictures_are_no_trouble() {
        let flat = RgbImage::from_pixel(50, 31, ::image::Rgb([90, 120, 7]));
        let grey = RgbImage::from_fn(50, 31, |x, y| ::image::Rgb([(x * 5) as u8 ^ y as u8; 3]));
        for (photo, painting) in [(&flat, &grey), (&grey, &flat), (&flat, &flat), (&grey, &grey)] {
            let mut out = painting.clone();
            anchor(&mut out, photo, &palette_of(painting), 0.5);
            assert_eq!(out.dimensions(), (50, 31));
            if painting == &flat || photo == painting {
                let far = out.iter().zip(painting.iter()).map(|(out, own)| out.abs_diff(*own)).max();
                assert!(far.is_some_and(|far| far <= 6), "{far:?}");
            }
        }
        let mut dot = RgbImage::from_pixel(1, 1, ::image::Rgb([3, 2, 1]));
        let palette = palette_of(&dot);
        anchor(&mut dot, &RgbImage::from_pixel(1, 1, ::image::Rgb([200, 0, 9])), &palette, 1.0);
        assert!(dot.iter().zip([3, 2, 1]).all(|(&out, own)| out.abs_diff(own) <= 1), "{dot:?}");
        let mut nothing = RgbImage::new(0, 0);
        anchor(&mut nothing, &RgbImage::new(0, 0), &palette, 1.0);
    }
}
