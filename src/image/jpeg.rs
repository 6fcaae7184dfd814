//! JPEG pixels as libjpeg-turbo gives them, which is what Pillow, OpenCV and browsers show.
//!
//! The format leaves the inverse transform and the enlarging of colour planes to the decoder: a decoder with other
//! arithmetic is 50 dB away on ordinary photographs, enough to move a picture painted from one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ::image::{DynamicImage, RgbImage};
use mozjpeg::{ColorSpace, Decompress};

/// Decodes a picture whose size has been checked to RGB; `None` for CMYK pictures, which libjpeg does not convert.
///
/// # Errors
/// The library's message, when the data is damaged.
pub(super) fn decode(bytes: &[u8], size: (u32, u32)) -> Result<Option<DynamicImage>, String> {
    // libjpeg reports fatal errors by a callback that must not return; the binding unwinds out of it.
    catch_unwind(AssertUnwindSafe(|| decode_or_unwind(bytes, size))).unwrap_or_else(|payload| {
        let message = payload.downcast_ref::<String>().map_or("damaged data", String::as_str);
        Err(message.trim_start_matches("libjpeg fatal error: ").to_string())
    })
}

fn decode_or_unwind(bytes: &[u8], (width, height): (u32, u32)) -> Result<Option<DynamicImage>, String> {
    let say = |error: std::io::Error| error.to_string();
    let decoder = Decompress::new_mem(bytes).map_err(say)?;
    if matches!(decoder.color_space(), ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK) {
        return Ok(None);
    }
    if decoder.size() != (width as usize, height as usize) {
        return Err("it says its size twice".into());
    }
    let mut lines = decoder.rgb().map_err(say)?;
    let values: Vec<u8> = lines.read_scanlines().map_err(say)?;
    lines.finish().map_err(say)?;
    Ok(RgbImage::from_raw(width, height, values).map(DynamicImage::from))
}
