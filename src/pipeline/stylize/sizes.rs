//! A photo painted from the broad to the fine. The strokes of this program's nets are as many pixels wide at any size, and a large picture
//! painted in one pass looks like cloth; so it is painted small first, and what the net sees next has that painting in it.

use ::image::RgbImage;

use super::canvas;
use crate::error::Result;
use crate::image::resize;
use crate::progress::{OnProgress, Progress};

/// Pictures whose long side is at most this are painted in one pass.
const AT_ONCE: u32 = 640;

/// How many times as broad the strokes of a size are as those of the next.
const BROADER: f64 = 2.5;

/// How much of the painting at one size is in what the net sees of the photo next.
const CARRIED: f64 = 0.5;

/// The photo at the sizes below its own that are painted first, each [`BROADER`] times as small as the one before, down to one that is painted
/// in one pass; none where the photo is.
///
/// # Errors
/// When a size is beyond the limits of [`crate::image::read`].
pub(super) fn below(photo: &RgbImage) -> Result<Vec<RgbImage>> {
    let mut smaller: Vec<RgbImage> = Vec::new();
    loop {
        let finer = smaller.last().unwrap_or(photo);
        let (width, height) = finer.dimensions();
        if width.max(height) <= AT_ONCE {
            return Ok(smaller);
        }
        smaller.push(reduced(finer)?);
    }
}

/// A photo at the next size below its own, rounded up.
///
/// # Errors
/// As [`below`].
pub(super) fn reduced(photo: &RgbImage) -> Result<RgbImage> {
    let side = |side: u32| (f64::from(side) / BROADER).ceil() as u32;
    canvas::resized(photo, (side(photo.width()), side(photo.height())))
}

/// What one pass paints: given what the net is to see, and the photo it is made of.
pub(super) type Pass<'a> = dyn FnMut(RgbImage, &RgbImage, &mut OnProgress<'_>) -> Result<RgbImage> + 'a;

/// A photo painted at the sizes [`below`] and then its own, of which it tells how many pixels of all are done.
///
/// # Errors
/// What `pass` and `on_progress` return.
pub(super) fn paint(
    photo: &RgbImage,
    below: &[RgbImage],
    on_progress: &mut OnProgress<'_>,
    pass: &mut Pass<'_>,
) -> Result<RgbImage> {
    let photos = || below.iter().rev().chain([photo]);
    let pixels = |photo: &RgbImage| u64::from(photo.width()) * u64::from(photo.height());
    let all: u64 = photos().map(pixels).sum();
    let (mut done, mut painted) = (0, RgbImage::default());
    for (number, photo) in photos().enumerate() {
        let seen = if number == 0 {
            photo.clone()
        } else {
            canvas::mix(photo, resize::bicubic(&painted, photo.width(), photo.height())?, CARRIED)
        };
        let mut on_pass = |progress: &Progress| {
            let done = done + pixels(photo) * progress.done / progress.total.max(1);
            on_progress(&Progress { done, total: all, ..progress.clone() })
        };
        painted = pass(seen, photo, &mut on_pass)?;
        done += pixels(photo);
    }
    Ok(painted)
}

#[cfg(test)]
mod tests {
    use ::image::Rgb;

    use super::*;

    #[test]
    fn every_size_sees_half_of_the_painting_before() {
        const WIDE: u32 = 5 * AT_ONCE / 2 + 1;
        let photo = RgbImage::from_pixel(WIDE, 7, Rgb([100; 3]));
        let below = below(&photo).unwrap();
        let sizes: Vec<_> = below.iter().map(RgbImage::dimensions).collect();
        assert_eq!(sizes, [(AT_ONCE + 1, 3), (2 * AT_ONCE / 5 + 1, 2)]);
        let (mut seen, mut told) = (Vec::new(), Vec::new());
        let mut on_progress = |progress: &Progress| {
            told.push((progress.done, progress.total));
            Ok(())
        };
        let painted = paint(&photo, &below, &mut on_progress, &mut |picture, photo, on_progress| {
            assert_eq!(picture.dimensions(), photo.dimensions());
            seen.push((picture.dimensions(), picture.get_pixel(3, 1).0[0]));
            canvas::report(on_progress, 0)?;
            canvas::report(on_progress, 1)?;
            Ok(RgbImage::from_pixel(picture.width(), picture.height(), Rgb([200; 3])))
        });
        assert_eq!(painted.unwrap(), RgbImage::from_pixel(WIDE, 7, Rgb([200; 3])));
        assert_eq!(seen, [(sizes[1], 100), (sizes[0], 150), ((WIDE, 7), 150)]);
        let total = told[0].1;
        assert!(told.is_sorted() && told.iter().all(|&(_, all)| all == total), "{told:?}");
        assert_eq!((told[0].0, told[told.len() - 1].0), (0, total));
    }

    #[test]
    fn small_photos_are_painted_in_one_pass() {
        let photo = RgbImage::from_pixel(AT_ONCE, 2, Rgb([9; 3]));
        let below = below(&photo).unwrap();
        assert!(below.is_empty());
        let mut passes = 0;
        paint(&photo, &below, &mut |_| Ok(()), &mut |seen, _, _| {
            passes += 1;
            assert_eq!(seen, photo);
            Ok(seen)
        })
        .unwrap();
        assert_eq!(passes, 1);
    }
}
