//! Whether a file is whole, where the decoder would not say so: the general JPEG decoder paints what is missing grey, the WebP
//! decoder calls it corrupt. Pillow refuses cut files, and so do we.

/// Whether the marker segments of a JPEG lead from its start to an end of image.
///
/// Thumbnails in EXIF blocks, which carry an end marker of their own, are stepped over.
pub(super) fn jpeg(bytes: &[u8]) -> bool {
    walk(bytes).is_some()
}

fn walk(bytes: &[u8]) -> Option<()> {
    let mut rest = bytes.strip_prefix(&[0xff, 0xd8])?;
    loop {
        // To the next marker: over entropy-coded data (stuffed zeros, restart markers), fill bytes and stray bytes between
        // segments, which other decoders step over too.
        let at = rest.iter().position(|&byte| byte == 0xff)?;
        rest = &rest[at + 1..];
        match *rest.first()? {
            0xff => {}
            0x00 | 0x01 | 0xd0..=0xd8 => rest = &rest[1..],
            0xd9 => return Some(()),
            _ => {
                let length = usize::from(u16::from_be_bytes([*rest.get(1)?, *rest.get(2)?]));
                rest = rest.get(1 + length.max(2)..)?;
            }
        }
    }
}

/// Whether a WebP is as long as its RIFF header says.
pub(super) fn webp(bytes: &[u8]) -> bool {
    let length = bytes.get(4..8).and_then(<[u8]>::first_chunk).copied().map(u32::from_le_bytes);
    length.is_some_and(|length| bytes.len() as u64 >= u64::from(length) + 8)
}
