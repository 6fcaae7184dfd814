//! Reading the text chunks of a PNG: the recipe in a picture made by us, A1111 or ComfyUI.
//!
//! Walks the chunks without decoding pixels, so text after the picture data is found too. A file is not trusted: lengths
//! are checked against limits, and compressed text is inflated no further than them.
//!
//! PNG specification, third edition, section 11.3.3.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::read::ZlibDecoder;

use crate::error::{Error, Result};

/// The most bytes of text, inflated, in one file. ComfyUI's workflows reach some hundred KiB.
const MAX_TEXT: usize = 16 << 20;
/// The most text chunks in one file.
const MAX_TEXTS: usize = 1024;
/// The most chunks of any kind: a picture in chunks of a few bytes is an attack on our time.
const MAX_CHUNKS: usize = 1 << 20;
/// The most segments before a JPEG's data.
const MAX_SEGMENTS: usize = 1024;
const SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";

/// Keyword and text of every `tEXt`, `zTXt` and `iTXt` chunk, in file order.
///
/// A text chunk that is itself malformed is left out, as viewers do; the pixels are not looked at.
///
/// # Errors
/// When the file cannot be read, is not a PNG, is cut short, or holds more text than 16 MiB or 1024 chunks.
pub fn png_text(path: impl AsRef<Path>) -> Result<Vec<(String, String)>> {
    let path = path.as_ref();
    let io = |source: std::io::Error| match source.kind() {
        ErrorKind::UnexpectedEof => Error::file(path, "PNG picture is cut short").with_hint("fetch or export it again"),
        _ => Error::io(path, source),
    };
    if std::fs::metadata(path).map_err(io)?.is_dir() {
        return Err(Error::file(path, "is a folder, not a PNG picture"));
    }
    let mut file = BufReader::new(File::open(path).map_err(io)?);
    let mut signature = Vec::new();
    file.by_ref().take(8).read_to_end(&mut signature).map_err(io)?;
    if signature != SIGNATURE {
        return Err(Error::file(path, "is not a PNG picture").with_hint("only PNG files carry a recipe"));
    }
    let too_much = || Error::file(path, format!("holds more than {} MiB of text", MAX_TEXT >> 20));
    let mut texts = Vec::new();
    let mut left = MAX_TEXT;
    for _ in 0..MAX_CHUNKS {
        let mut head = [0; 8];
        file.read_exact(&mut head).map_err(io)?;
        let [a, b, c, d, kind @ ..] = head;
        let length = u32::from_be_bytes([a, b, c, d]);
        if length > i32::MAX as u32 {
            return Err(Error::file(path, "PNG picture is damaged: a chunk is longer than the format allows"));
        }
        match &kind {
            b"IEND" => return Ok(texts),
            b"tEXt" | b"zTXt" | b"iTXt" => {
                if length as usize > left {
                    return Err(too_much());
                }
                let mut data = vec![0; length as usize];
                file.read_exact(&mut data).map_err(io)?;
                file.seek_relative(4).map_err(io)?;
                if let Some((keyword, text)) = parse(kind, &data, left).ok_or_else(too_much)? {
                    // The compressed length counts too: it was held.
                    left = left.checked_sub((keyword.len() + text.len()).max(data.len())).ok_or_else(too_much)?;
                    if texts.len() == MAX_TEXTS {
                        return Err(Error::file(path, format!("holds more than {MAX_TEXTS} text chunks")));
                    }
                    texts.push((keyword, text));
                }
            }
            _ => {
                file.seek(SeekFrom::Current(i64::from(length) + 4)).map_err(io)?;
            }
        }
    }
    Err(Error::file(path, format!("PNG picture is damaged: more than {MAX_CHUNKS} chunks")))
}

/// The first comment of a JPEG, where there is one.
///
/// Walks the segments before the picture's data (ITU T.81, B.1); none of them is longer than 64 KiB.
///
/// # Errors
/// When the file cannot be read or is not a JPEG.
pub fn jpeg_comment(path: impl AsRef<Path>) -> Result<Option<String>> {
    let path = path.as_ref();
    let io = |source: std::io::Error| match source.kind() {
        ErrorKind::UnexpectedEof => {
            Error::file(path, "JPEG picture is cut short").with_hint("fetch or export it again")
        }
        _ => Error::io(path, source),
    };
    let mut file = BufReader::new(File::open(path).map_err(io)?);
    let mut start = [0; 2];
    file.read_exact(&mut start).map_err(io)?;
    if start != [0xff, 0xd8] {
        return Err(Error::file(path, "is not a JPEG picture"));
    }
    for _ in 0..MAX_SEGMENTS {
        let mut head = [0; 4];
        file.read_exact(&mut head).map_err(io)?;
        let [0xff, kind, high, low] = head else {
            return Err(Error::file(path, "JPEG picture is damaged: a segment does not begin where the last one ends"));
        };
        // The length counts itself.
        let length = u16::from_be_bytes([high, low]).saturating_sub(2);
        match kind {
            0xda => return Ok(None),
            0xfe => {
                let mut text = vec![0; usize::from(length)];
                file.read_exact(&mut text).map_err(io)?;
                return Ok(String::from_utf8(text).ok());
            }
            _ => file.seek_relative(i64::from(length)).map_err(io)?,
        }
    }
    Ok(None)
}

/// One chunk's keyword and text: `Some(None)` when malformed, `None` when the text is longer than `limit`.
fn parse(kind: [u8; 4], data: &[u8], limit: usize) -> Option<Option<(String, String)>> {
    let Some((keyword, rest)) = split(data) else { return Some(None) };
    let keyword = latin1(keyword);
    let text = match (&kind, rest) {
        (b"tEXt", text) => Inflated::Text(text.to_vec()),
        (b"zTXt", [0, compressed @ ..]) => inflate(compressed, limit),
        (b"iTXt", [packed @ (0 | 1), 0, rest @ ..]) => {
            let Some((_, text)) = split(rest).and_then(|(_language, rest)| split(rest)) else { return Some(None) };
            if *packed == 1 { inflate(text, limit) } else { Inflated::Text(text.to_vec()) }
        }
        _ => Inflated::Broken,
    };
    match text {
        Inflated::TooLong => None,
        Inflated::Broken => Some(None),
        Inflated::Text(bytes) if &kind == b"iTXt" => Some(String::from_utf8(bytes).ok().map(|text| (keyword, text))),
        Inflated::Text(bytes) => Some(Some((keyword, latin1(&bytes)))),
    }
}

enum Inflated {
    Text(Vec<u8>),
    Broken,
    TooLong,
}

fn inflate(compressed: &[u8], limit: usize) -> Inflated {
    let mut text = Vec::new();
    match ZlibDecoder::new(compressed).take(limit as u64 + 1).read_to_end(&mut text) {
        Ok(_) if text.len() > limit => Inflated::TooLong,
        Ok(_) => Inflated::Text(text),
        Err(_) => Inflated::Broken,
    }
}

/// Before and after the first null.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == 0)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}
