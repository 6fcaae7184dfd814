//! Writing files so that nothing is ever half there: to a temporary name in the same folder, flushed to disk, renamed.
//!
//! What is already at the target stays as it was until the new file is complete.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ::image::codecs::jpeg::JpegEncoder;
use ::image::{ExtendedColorType, ImageEncoder, RgbImage};
use png::text_metadata::{ITXtChunk, TEXtChunk};

use crate::error::{Error, Result};

/// Writes a PNG with text chunks: `tEXt` where keyword and text fit Latin-1 (what A1111 reads), `iTXt` otherwise.
///
/// # Errors
/// When the file cannot be written, a keyword is not one of 1 to 79 Latin-1 characters, or the picture has no pixels.
/// Nothing is left behind then.
pub fn png(path: impl AsRef<Path>, picture: &RgbImage, text: &[(String, String)]) -> Result<()> {
    let path = path.as_ref();
    for (keyword, _) in text {
        // The PNG specification's rule; printable characters only.
        let printable = keyword.chars().all(|c| matches!(c, ' '..='~' | '\u{a1}'..='\u{ff}'));
        if !printable || !(1..=79).contains(&keyword.chars().count()) {
            return Err(Error::usage("PNG text keyword", format!("{keyword:?} is not 1 to 79 Latin-1 characters")));
        }
    }
    if picture.width() == 0 || picture.height() == 0 {
        return Err(Error::file(path, "cannot be written: the picture has no pixels"));
    }
    replace(path, |file| {
        encode(file, picture, text).map_err(|error| match error {
            // As the system said it: whether the disk is full makes a difference.
            png::EncodingError::IoError(error) => error,
            other => io::Error::from(other),
        })
    })
}

fn encode(file: &mut dyn Write, picture: &RgbImage, text: &[(String, String)]) -> Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(file, picture.width(), picture.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    // Paintings come out about as small, in a thirtieth of the time.
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    for (keyword, text) in text {
        // A null would end a tEXt chunk early.
        if text.chars().all(|c| c != '\0' && (c as u32) < 256) {
            writer.write_text_chunk(&TEXtChunk::new(keyword, text))?;
        } else {
            writer.write_text_chunk(&ITXtChunk::new(keyword, text))?;
        }
    }
    writer.write_image_data(picture.as_raw())?;
    writer.finish()
}

/// Quality of written JPEG pictures: brush strokes stay free of blocks, at about a quarter of a PNG's size.
const JPEG_QUALITY: u8 = 92;
/// The most that one JPEG segment holds beside its own length.
const MAX_SEGMENT: usize = 0xffff - 2;

/// Writes a JPEG with a comment: how it was made.
///
/// # Errors
/// When the file cannot be written, the comment is longer than a JPEG can hold, or the picture has no pixels. Nothing is
/// left behind then.
pub fn jpeg(path: impl AsRef<Path>, picture: &RgbImage, comment: &str) -> Result<()> {
    let path = path.as_ref();
    let (width, height) = picture.dimensions();
    if width == 0 || height == 0 {
        return Err(Error::file(path, "cannot be written: the picture has no pixels"));
    }
    let Some(length) = u16::try_from(comment.len() + 2).ok().filter(|_| comment.len() <= MAX_SEGMENT) else {
        let reason = format!("cannot be written: {} bytes are too long a comment for a JPEG", comment.len());
        return Err(Error::file(path, reason).with_hint("write a .png instead"));
    };
    let encoded = encoded_jpeg(picture, JPEG_QUALITY).map_err(|error| Error::file(path, error.to_string()))?;
    // Behind the JFIF segment, which has to come first: two marker bytes each for the start and for it, and its length.
    let header = encoded.get(4..6).and_then(<[u8]>::first_chunk).copied().map_or(0, u16::from_be_bytes);
    let (start, rest) = encoded.split_at(encoded.len().min(4 + usize::from(header)));
    let parts = [start, &[0xff, 0xfe], &length.to_be_bytes(), comment.as_bytes(), rest];
    replace(path, |file| parts.iter().try_for_each(|part| file.write_all(part)))
}

/// A picture as the bytes of a JPEG, at a quality from 1 to 100.
///
/// # Errors
/// When a side is beyond what a JPEG can hold.
pub fn encoded_jpeg(picture: &RgbImage, quality: u8) -> Result<Vec<u8>> {
    let (width, height) = picture.dimensions();
    let mut encoded = Vec::new();
    JpegEncoder::new_with_quality(&mut encoded, quality)
        .write_image(picture.as_raw(), width, height, ExtendedColorType::Rgb8)
        .map_err(|error| Error::usage("picture", format!("cannot be written as a JPEG: {error}")))?;
    Ok(encoded)
}

/// Writes `bytes` as the whole content of a file.
///
/// # Errors
/// When the file cannot be written. Nothing is left behind then.
pub fn bytes(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    replace(path.as_ref(), |file| file.write_all(bytes))
}

fn replace(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let io = |source| Error::io(path, source);
    let (target, folder) = resolve(path)?;
    if let Ok(there) = std::fs::metadata(&target) {
        if there.is_dir() {
            return Err(Error::file(path, "is a folder").with_hint("name a file in it"));
        }
        if !there.is_file() {
            // A device or a pipe, such as /dev/stdout: renaming over it would replace the device itself.
            let mut file = File::options().write(true).open(&target).map_err(io)?;
            return fill(&mut file).map_err(io);
        }
        if there.permissions().readonly() {
            return Err(Error::file(path, "is there already and is read-only").with_hint("choose another name"));
        }
    }
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    let mut builder = tempfile::Builder::new();
    // Long names are shortened: the temporary one must fit where the final one does.
    let prefix = if name.len() > 128 { Cow::Borrowed(std::ffi::OsStr::new(".impasto")) } else { Cow::Owned(name) };
    builder.prefix(&prefix).suffix(".tmp");
    #[cfg(unix)]
    {
        // As any other new file: the user's umask decides.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let temporary = builder.tempfile_in(&folder).map_err(io)?;
    let mut buffered = io::BufWriter::new(temporary);
    fill(&mut buffered).map_err(io)?;
    let temporary = buffered.into_inner().map_err(|error| io(error.into_error()))?;
    temporary.as_file().sync_all().map_err(io)?;
    temporary.persist(&target).map_err(|error| io(error.error))?;
    #[cfg(unix)]
    if let Ok(folder) = File::open(&folder) {
        // The rename itself, so that a power cut does not undo it. The content is safe either way.
        let _ = folder.sync_all();
    }
    Ok(())
}

/// The file to replace, with symbolic links followed so that a link stays a link, and the folder it is in.
fn resolve(path: &Path) -> Result<(PathBuf, PathBuf)> {
    let target = match std::fs::symlink_metadata(path) {
        Ok(there) if there.is_symlink() => std::fs::canonicalize(path).map_err(|source| Error::io(path, source))?,
        _ => path.to_path_buf(),
    };
    if target.file_name().is_none() && !target.is_dir() {
        return Err(Error::file(path, "does not name a file"));
    }
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    };
    if !folder.is_dir() {
        let reason = format!("cannot be written: there is no folder {}", folder.display());
        return Err(Error::file(path, reason).with_hint("create the folder first"));
    }
    Ok((target, folder))
}
