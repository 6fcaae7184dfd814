//! Reading pictures from files: PNG, JPEG and WebP, told apart by content and never by name.
//!
//! A file is not trusted: sizes are checked before anything is decoded, and what cannot be decoded whole is refused
//! rather than filled with grey.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use ::image::{
    DynamicImage, GrayImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, Rgb, RgbImage,
    metadata::Orientation,
};

pub use super::text::{jpeg_comment, png_text};
use super::{jpeg, whole};
use crate::error::{Error, Result};

/// The longest side that is decoded, in pixels.
pub const MAX_SIDE: u32 = 20_000;
/// The most pixels that are decoded.
pub const MAX_PIXELS: u64 = 400_000_000;
/// The largest file that is read: above any honest picture within the limits.
const MAX_FILE: u64 = 2 << 30;
/// What a decoder may allocate: the most pixels at 16 bits in four channels, and as much again to work in.
const MAX_ALLOC: u64 = 2 * 8 * MAX_PIXELS;

const HINT: &str = "use a PNG, JPEG or WebP picture";
const SMALLER: &str = "scale it down first";
const AGAIN: &str = "fetch or export it again";

/// Reads a picture as 8-bit RGB, upright as its EXIF orientation says.
///
/// Transparency is composited over white. This differs on purpose from Pillow's `convert("RGB")`, which drops alpha and
/// shows whatever colour hides under transparent pixels, usually black. 16-bit channels keep their high byte, as Pillow
/// reads them (16-bit grey too, which Pillow clips to white instead).
///
/// # Errors
/// When the file cannot be read, is not a whole PNG, JPEG or WebP picture, or is larger than [`MAX_SIDE`] or [`MAX_PIXELS`].
pub fn open(path: impl AsRef<Path>) -> Result<RgbImage> {
    Ok(over(decode(path.as_ref())?, 255))
}

/// Reads a picture as 8-bit grey, for masks: Pillow's `convert("L")` of the upright picture.
///
/// Transparency counts as black, "nothing painted here": in a mask drawn on a transparent layer the white strokes have to
/// stay apart from their surroundings.
///
/// # Errors
/// As [`open`].
pub fn open_grey(path: impl AsRef<Path>) -> Result<GrayImage> {
    let picture = over(decode(path.as_ref())?, 0);
    let (width, height) = picture.dimensions();
    // R = G = B = v gives v again: the weights add up to one.
    Ok(GrayImage::from_fn(width, height, |x, y| ::image::Luma([luma(*picture.get_pixel(x, y))])))
}

/// ITU-R 601 luma with Pillow's 16-bit weights.
pub(crate) fn luma(Rgb([r, g, b]): Rgb<u8>) -> u8 {
    ((u32::from(r) * 19_595 + u32::from(g) * 38_470 + u32::from(b) * 7_471 + 0x8000) >> 16) as u8
}

/// Brings any decoded picture to RGB, with transparency over a grey of `backdrop`.
fn over(picture: DynamicImage, backdrop: u8) -> RgbImage {
    let has_alpha = picture.color().has_alpha();
    let rgba = match picture {
        DynamicImage::ImageRgb8(picture) => return picture,
        // The decoder's own 16 to 8 bit conversion rounds; Pillow takes the high byte.
        DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageLumaA16(_)
        | DynamicImage::ImageRgb16(_)
        | DynamicImage::ImageRgba16(_) => {
            let wide = picture.into_rgba16();
            let (width, height) = wide.dimensions();
            let bytes = wide.into_raw().into_iter().map(|value| (value >> 8) as u8).collect();
            // The buffer has the length the dimensions ask for.
            ::image::RgbaImage::from_raw(width, height, bytes).unwrap_or_default()
        }
        other if has_alpha => other.into_rgba8(),
        other => return other.into_rgb8(),
    };
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in rgb.pixels_mut().zip(rgba.pixels()) {
        let [r, g, b, alpha] = from.0;
        *to = Rgb([r, g, b].map(|colour| blend(colour, backdrop, alpha)));
    }
    rgb
}

/// `(colour * alpha + backdrop * (255 - alpha)) / 255`, rounded to nearest as Pillow's `paste` does.
fn blend(colour: u8, backdrop: u8, alpha: u8) -> u8 {
    let sum = u32::from(colour) * u32::from(alpha) + u32::from(backdrop) * u32::from(255 - alpha) + 128;
    (((sum >> 8) + sum) >> 8) as u8
}

fn decode(path: &Path) -> Result<DynamicImage> {
    let (bytes, format) = read(path)?;
    let whole = match format {
        ImageFormat::Jpeg => whole::jpeg(&bytes),
        ImageFormat::WebP => whole::webp(&bytes),
        _ => true,
    };
    if !whole {
        return Err(cut(path, format));
    }
    let broken = |error| describe(path, format, error);
    let mut reader = ImageReader::with_format(Cursor::new(&bytes), format);
    reader.no_limits();
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    check_size(path, width, height)?;
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_ALLOC);
    decoder.set_limits(limits).map_err(broken)?;
    // A damaged EXIF block does not stop Pillow either.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let exact = match format {
        ImageFormat::Jpeg => jpeg::decode(&bytes, (width, height))
            .map_err(|reason| Error::file(path, format!("JPEG picture is damaged: {reason}")).with_hint(AGAIN))?,
        _ => None,
    };
    let mut picture = match exact {
        Some(picture) => picture,
        None => DynamicImage::from_decoder(decoder).map_err(broken)?,
    };
    picture.apply_orientation(orientation);
    Ok(picture)
}

fn check_size(path: &Path, width: u32, height: u32) -> Result<()> {
    if width == 0 || height == 0 {
        return Err(Error::file(path, format!("the picture is {width} x {height}: it has no pixels")));
    }
    if width > MAX_SIDE || height > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        let reason = format!(
            "the picture is {width} x {height} pixels; the limits are {MAX_SIDE} a side and {} million in all",
            MAX_PIXELS / 1_000_000
        );
        return Err(Error::file(path, reason).with_hint(SMALLER));
    }
    Ok(())
}

/// The file's bytes and its format. Reads no further than the head when that is no picture.
fn read(path: &Path) -> Result<(Vec<u8>, ImageFormat)> {
    let io = |source| Error::io(path, source);
    if std::fs::metadata(path).map_err(io)?.is_dir() {
        return Err(Error::file(path, "is a folder, not a picture").with_hint(HINT));
    }
    let mut file = File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    file.by_ref().take(64).read_to_end(&mut bytes).map_err(io)?;
    if bytes.is_empty() {
        return Err(Error::file(path, "is empty").with_hint(AGAIN));
    }
    let format = match ::image::guess_format(&bytes) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) => format,
        Ok(other) => {
            let other = other.extensions_str().first().copied().unwrap_or("another").to_uppercase();
            return Err(Error::file(path, format!("is a {other} file, which is not read")).with_hint(HINT));
        }
        Err(_) => return Err(Error::file(path, "is not a picture").with_hint(HINT)),
    };
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::file(path, format!("is larger than {} GiB", MAX_FILE >> 30)).with_hint(SMALLER));
    }
    Ok((bytes, format))
}

fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        _ => "WebP",
    }
}

fn cut(path: &Path, format: ImageFormat) -> Error {
    Error::file(path, format!("{} picture is cut short", name(format))).with_hint(AGAIN)
}

fn describe(path: &Path, format: ImageFormat, error: ImageError) -> Error {
    let name = name(format);
    match error {
        ImageError::Limits(_) => {
            Error::file(path, format!("{name} picture needs too much memory to decode")).with_hint(SMALLER)
        }
        ImageError::Unsupported(error) => {
            Error::file(path, format!("{name} picture of a kind that is not read: {error}")).with_hint(HINT)
        }
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => cut(path, format),
        error => Error::file(path, format!("{name} picture is damaged: {error}")).with_hint(AGAIN),
    }
}
