//! A film's frames in order: areas of the film that stand still stand still in the painted film too.
//!
//! A net paints each frame on its own, and a little noise or a person walking through makes it paint the wall behind
//! differently each time. So the painting of the frame before is kept where the film did not change. No optical flow: what
//! moves is painted anew.

use ::image::RgbImage;
use rayon::prelude::*;

/// Differences up to this many levels are the camera's noise, once averaged over a window.
const STILL: f32 = 4.0;
/// Differences from this many levels on are motion.
const MOVING: f32 = 14.0;
/// Half the side of the window that differences are averaged over.
const WINDOW: usize = 2;
/// How far around something that moves the picture is painted anew: a net's strokes reach beyond it.
const REACH: usize = 6;

/// Keeps still areas still from frame to frame.
#[derive(Debug, Clone)]
pub struct Smoother {
    strength: f32,
    before: Option<Before>,
}

/// The painting so far and the film it stands for, mixed alike. Comparing with this mixture rather than with the frame
/// before means that a slow fade adds up until it is seen; frame to frame it never would be.
#[derive(Debug, Clone)]
struct Before {
    size: (u32, u32),
    film: Vec<f32>,
    painting: Vec<f32>,
}

impl Smoother {
    /// `strength` from 0, which leaves every frame as it was painted, to 1, which repaints nothing that does not move.
    pub fn new(strength: f64) -> Self {
        Self { strength: strength.clamp(0.0, 1.0) as f32, before: None }
    }

    /// The painting of the next frame, smoothed. A frame of another size than the one before begins anew.
    pub fn next(&mut self, frame: &RgbImage, painted: RgbImage) -> RgbImage {
        let floats = |picture: &RgbImage| picture.iter().map(|&byte| f32::from(byte)).collect::<Vec<f32>>();
        let (film, painting) = (floats(frame), floats(&painted));
        let size = frame.dimensions();
        let Some(before) = self.before.as_mut().filter(|before| before.size == size) else {
            self.before = Some(Before { size, film, painting });
            return painted;
        };
        let keep = still(&film, &before.film, (size.0 as usize, size.1 as usize));
        let strength = self.strength;
        let mix = |before: &mut Vec<f32>, now: &[f32]| {
            let pixels = before.par_chunks_mut(3).zip(now.par_chunks(3)).zip(&keep);
            pixels.for_each(|((before, now), keep)| {
                for (before, now) in before.iter_mut().zip(now) {
                    *before = now + (*before - now) * keep * strength;
                }
            });
        };
        mix(&mut before.film, &film);
        mix(&mut before.painting, &painting);
        let bytes = before.painting.iter().map(|value| value.round().clamp(0.0, 255.0) as u8).collect();
        RgbImage::from_raw(size.0, size.1, bytes).unwrap_or(painted)
    }
}

/// For each pixel 1 where nothing moves, 0 where something does, and in between at the edges of motion.
fn still(now: &[f32], before: &[f32], (width, height): (usize, usize)) -> Vec<f32> {
    let difference = |(now, before): (&[f32], &[f32])| {
        now.iter().zip(before).map(|(now, before)| (now - before).abs()).fold(0.0, f32::max)
    };
    let differences: Vec<f32> = now.par_chunks(3).zip(before.par_chunks(3)).map(difference).collect();
    let mean = |window: &[f32]| window.iter().sum::<f32>() / window.len() as f32;
    let most = |window: &[f32]| window.iter().copied().fold(0.0, f32::max);
    let averaged = window(&differences, (width, height), WINDOW, mean);
    let spread = window(&averaged, (width, height), REACH, most);
    let soft = window(&spread, (width, height), WINDOW, mean);
    soft.into_par_iter().map(|difference| 1.0 - smoothstep((difference - STILL) / (MOVING - STILL))).collect()
}

fn smoothstep(x: f32) -> f32 {
    let x = x.clamp(0.0, 1.0);
    x * x * (3.0 - 2.0 * x)
}

/// `of` each pixel's neighbours within `reach`, along rows and then along columns.
fn window(plane: &[f32], (width, height): (usize, usize), reach: usize, of: impl Fn(&[f32]) -> f32 + Sync) -> Vec<f32> {
    let rows: Vec<f32> = along(plane, width, reach, &of);
    transposed(&along(&transposed(&rows, width), height, reach, &of), height)
}

fn along(plane: &[f32], width: usize, reach: usize, of: &(impl Fn(&[f32]) -> f32 + Sync)) -> Vec<f32> {
    let row = |row: &[f32]| {
        (0..row.len()).map(|at| of(&row[at.saturating_sub(reach)..(at + reach + 1).min(row.len())])).collect::<Vec<_>>()
    };
    plane.par_chunks(width.max(1)).flat_map_iter(row).collect()
}

fn transposed(plane: &[f32], width: usize) -> Vec<f32> {
    let height = plane.len() / width.max(1);
    (0..plane.len()).into_par_iter().map(|at| plane[at % height.max(1) * width + at / height.max(1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::image::Rgb;

    /// A wall with a bright box on it, at `x`.
    fn film(x: u32, light: u8) -> RgbImage {
        RgbImage::from_fn(96, 48, |i, j| {
            let inside = (x..x + 12).contains(&i) && (16..28).contains(&j);
            if inside { Rgb([250, 240, 20]) } else { Rgb([60 + (i % 7) as u8 + light, 80 + light, 90]) }
        })
    }

    /// A painting of it whose colours differ from frame to frame.
    fn painting(frame: &RgbImage, flicker: u8) -> RgbImage {
        let mut painted = frame.clone();
        painted.iter_mut().for_each(|byte| *byte = (*byte / 2).saturating_add(flicker));
        painted
    }

    #[test]
    fn still_areas_stay_still_and_moving_ones_move() {
        let mut smoother = Smoother::new(1.0);
        let first = smoother.next(&film(10, 0), painting(&film(10, 0), 0));
        let fresh = painting(&film(50, 0), 30);
        let second = smoother.next(&film(50, 0), fresh.clone());
        // The wall far from both places of the box, and the box at its old and new place.
        assert_eq!(second.get_pixel(88, 40), first.get_pixel(88, 40));
        assert_eq!(second.get_pixel(35, 2), first.get_pixel(35, 2));
        assert_eq!(second.get_pixel(56, 22), fresh.get_pixel(56, 22));
        assert_eq!(second.get_pixel(16, 22), fresh.get_pixel(16, 22));
    }

    #[test]
    fn strength_0_changes_nothing_and_half_of_it_halves_the_flicker() {
        for (strength, expected) in [(0.0, 30), (0.5, 15), (1.0, 0)] {
            let mut smoother = Smoother::new(strength);
            let first = smoother.next(&film(10, 0), painting(&film(10, 0), 0));
            let second = smoother.next(&film(10, 0), painting(&film(10, 0), 30));
            let change = second.get_pixel(88, 40).0[1] - first.get_pixel(88, 40).0[1];
            assert_eq!(change, expected, "{strength}");
        }
    }

    #[test]
    fn noise_is_not_motion_but_a_slow_fade_is() {
        let mut smoother = Smoother::new(1.0);
        let noisy = |seed: u32| {
            let mut frame = film(10, 0);
            for (i, byte) in frame.iter_mut().enumerate() {
                let noise = (i as u32 ^ seed).wrapping_mul(2_654_435_761) >> 29;
                *byte = byte.saturating_add(noise as u8).saturating_sub(4);
            }
            frame
        };
        let first = smoother.next(&noisy(1), painting(&film(10, 0), 0));
        let second = smoother.next(&noisy(77), painting(&film(10, 0), 30));
        assert_eq!(second.get_pixel(88, 40), first.get_pixel(88, 40));
        let mut smoother = Smoother::new(1.0);
        let mut last = RgbImage::new(1, 1);
        for light in 0..100 {
            last = smoother.next(&film(10, light), painting(&film(10, light), 0));
        }
        let faded = painting(&film(10, 99), 0).get_pixel(88, 40).0[1];
        assert!(last.get_pixel(88, 40).0[1].abs_diff(faded) <= 8, "{} {faded}", last.get_pixel(88, 40).0[1]);
    }

    #[test]
    fn a_frame_of_another_size_begins_anew() {
        let mut smoother = Smoother::new(1.0);
        smoother.next(&film(10, 0), painting(&film(10, 0), 0));
        let other = RgbImage::from_pixel(3, 5, Rgb([9; 3]));
        assert_eq!(smoother.next(&other, other.clone()), other);
        let single = RgbImage::from_pixel(1, 1, Rgb([9; 3]));
        smoother.next(&single, single.clone());
        assert_eq!(smoother.next(&single, single.clone()), single);
    }
}
