//! Reading JPEG pictures to the very pixels Pillow gives (libjpeg-turbo at its defaults: the accurate integer transform,
//! triangle-filtered chroma). The general decoder rounds elsewhere and a quarter of a photograph's values come out up to
//! ten levels off, which is more than anything else between us and the reference.
//!
//! Baseline and progressive Huffman pictures of one or three 8-bit channels; everything else, and whatever is damaged, is
//! left to the general decoder by answering `None`. Sizes have been checked before.
//!
//! ITU-T T.81.

mod colour;
mod idct;
mod scan;

use ::image::{DynamicImage, GrayImage, RgbImage};
use rayon::prelude::*;

use colour::Colours;
use scan::{Huffman, Scan};

/// Where the coefficients of a block lie, in the order they are stored in the file.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];
/// A progressive file has about ten scans; each costs a pass over the picture.
const MAX_SCANS: usize = 100;

/// One channel of the picture, at its own resolution.
struct Component {
    id: u8,
    /// Blocks of a minimum coded unit, across and down.
    across: usize,
    down: usize,
    table: usize,
    /// The quantisation in force when the channel's first scan began.
    quantisation: Option<[u16; 64]>,
    /// Samples that count.
    width: usize,
    height: usize,
    /// Blocks, whole coded units.
    columns: usize,
    rows: usize,
    coefficients: Vec<i16>,
}

/// A channel decoded: rows of `stride` samples, of which `width` by `height` count.
struct Plane {
    samples: Vec<u8>,
    stride: usize,
    width: usize,
    height: usize,
    /// How much wider and higher the picture is.
    across: usize,
    down: usize,
}

struct Frame {
    width: usize,
    height: usize,
    progressive: bool,
    /// Coded units.
    columns: usize,
    rows: usize,
    components: Vec<Component>,
}

/// The picture, or `None` where the general decoder is to answer. `size` is what that one found and has been checked.
pub(super) fn decode(bytes: &[u8], size: (u32, u32)) -> Option<DynamicImage> {
    let mut frame: Option<Frame> = None;
    let mut tables = [None; 4];
    let (mut dc, mut ac) = ([const { None::<Huffman> }; 4], [const { None::<Huffman> }; 4]);
    let (mut jfif, mut adobe) = (false, None);
    let mut restart = 0;
    let mut scans = 0;
    let mut rest = bytes.strip_prefix(&[0xff, 0xd8])?;
    loop {
        let (marker, body, after) = segment(rest)?;
        rest = after;
        match marker {
            0xd9 => break,
            0xc0..=0xc2 if frame.is_none() => frame = Some(Frame::new(body, marker == 0xc2, size)?),
            0xc4 => define_huffman(body, &mut dc, &mut ac)?,
            // Other kinds of frame: lossless, hierarchical, arithmetic.
            0xc0..=0xcf => return None,
            0xdb => define_quantisation(body, &mut tables)?,
            0xdd => restart = usize::from(word(body)?),
            // The height comes after the first scan.
            0xdc => return None,
            0xe0 => jfif |= body.len() >= 14 && body.starts_with(b"JFIF\0"),
            0xee if body.len() >= 12 && body.starts_with(b"Adobe") => adobe = Some(body[11]),
            0xda => {
                let frame = frame.as_mut()?;
                scans += 1;
                if scans > MAX_SCANS {
                    return None;
                }
                let scan = Scan::new(body, frame, &tables)?;
                rest = scan.read(frame, &dc, &ac, restart, rest)?;
            }
            _ => {}
        }
    }
    frame?.picture(jfif, adobe)
}

/// The next marker, its segment, and what follows. Bytes between segments are stepped over.
fn segment(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let mut rest = bytes;
    loop {
        let at = rest.iter().position(|&byte| byte == 0xff)?;
        rest = &rest[at + 1..];
        match *rest.first()? {
            0xff => {}
            0x00 | 0x01 | 0xd0..=0xd8 => rest = &rest[1..],
            0xd9 => return Some((0xd9, &[], &rest[1..])),
            marker => {
                let length = usize::from(word(&rest[1..])?);
                return Some((marker, rest.get(3..1 + length)?, &rest[1 + length..]));
            }
        }
    }
}

fn word(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().copied().map(u16::from_be_bytes)
}

fn define_quantisation(mut body: &[u8], tables: &mut [Option<[u16; 64]>; 4]) -> Option<()> {
    while let Some((&head, values)) = body.split_first() {
        let table = tables.get_mut(usize::from(head & 15))?.insert([0; 64]);
        let size = match head >> 4 {
            0 => 1,
            1 => 2,
            _ => return None,
        };
        let (values, after) = values.split_at_checked(64 * size)?;
        for (value, &at) in values.chunks_exact(size).zip(&ZIGZAG) {
            table[usize::from(at)] = if size == 2 { word(value)? } else { u16::from(value[0]) };
        }
        body = after;
    }
    Some(())
}

fn define_huffman(mut body: &[u8], dc: &mut [Option<Huffman>; 4], ac: &mut [Option<Huffman>; 4]) -> Option<()> {
    while let Some((&head, rest)) = body.split_first() {
        let kind = match head >> 4 {
            0 => &mut *dc,
            1 => &mut *ac,
            _ => return None,
        };
        let (counts, rest) = rest.split_first_chunk::<16>()?;
        let total = counts.iter().map(|&count| usize::from(count)).sum();
        let (symbols, after) = rest.split_at_checked(total)?;
        *kind.get_mut(usize::from(head & 15))? = Some(Huffman::new(counts, symbols)?);
        body = after;
    }
    Some(())
}

impl Frame {
    fn new(body: &[u8], progressive: bool, size: (u32, u32)) -> Option<Self> {
        let (&[precision, h1, h0, w1, w0, count], channels) = body.split_first_chunk::<6>()?;
        let (width, height) = (u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0]));
        if precision != 8 || !matches!(count, 1 | 3) || channels.len() != 3 * usize::from(count) {
            return None;
        }
        if width == 0 || height == 0 || size != (u32::from(width), u32::from(height)) {
            return None;
        }
        let (width, height) = (usize::from(width), usize::from(height));
        let (channels, _) = channels.as_chunks::<3>();
        let factors = |channel: &[u8; 3]| (usize::from(channel[1] >> 4), usize::from(channel[1] & 15));
        let most_across = channels.iter().map(|channel| factors(channel).0).max()?;
        let most_down = channels.iter().map(|channel| factors(channel).1).max()?;
        let (columns, rows) = (width.div_ceil(8 * most_across.max(1)), height.div_ceil(8 * most_down.max(1)));
        let mut components = Vec::with_capacity(channels.len());
        for channel in channels {
            let (across, down) = factors(channel);
            // Other ratios than whole ones are the general decoder's.
            if !(1..=4).contains(&across)
                || !(1..=4).contains(&down)
                || !most_across.is_multiple_of(across)
                || !most_down.is_multiple_of(down)
            {
                return None;
            }
            components.push(Component {
                id: channel[0],
                across,
                down,
                table: usize::from(channel[2]),
                quantisation: None,
                width: (width * across).div_ceil(most_across),
                height: (height * down).div_ceil(most_down),
                columns: columns * across,
                rows: rows * down,
                coefficients: vec![0; 64 * columns * across * rows * down],
            });
        }
        Some(Self { width, height, progressive, columns, rows, components })
    }

    /// Transforms and colours what the scans left.
    fn picture(self, jfif: bool, adobe: Option<u8>) -> Option<DynamicImage> {
        let ids: Vec<u8> = self.components.iter().map(|component| component.id).collect();
        let most_across = self.components.iter().map(|component| component.across).max()?;
        let most_down = self.components.iter().map(|component| component.down).max()?;
        let (width, height) = (self.width, self.height);
        let planes: Option<Vec<Plane>> =
            self.components.into_iter().map(|component| component.transform(most_across, most_down)).collect();
        let planes = planes?;
        let (w, h) = (u32::try_from(width).ok()?, u32::try_from(height).ok()?);
        let [luma, blue, red] = planes.as_slice() else {
            let luma = planes.first()?;
            let mut grey = Vec::with_capacity(width * height);
            for row in luma.samples.chunks_exact(luma.stride).take(height) {
                grey.extend_from_slice(&row[..width]);
            }
            return GrayImage::from_raw(w, h, grey).map(DynamicImage::from);
        };
        // libjpeg's guess, in its order.
        let colours = match (jfif, adobe, ids.as_slice()) {
            (true, ..) => Colours::Ycc,
            (false, Some(0), _) => Colours::Rgb,
            (false, None, b"RGB") => Colours::Rgb,
            _ => Colours::Ycc,
        };
        let mut pixels = vec![0; 3 * width * height];
        pixels.par_chunks_exact_mut(3 * width).enumerate().for_each_init(
            || [vec![0; width], vec![0; width], vec![0; width]],
            |rows, (y, pixels)| {
                for (row, plane) in rows.iter_mut().zip([luma, blue, red]) {
                    plane.row(y, row);
                }
                colours.join(rows, pixels);
            },
        );
        RgbImage::from_raw(w, h, pixels).map(DynamicImage::from)
    }
}

impl Component {
    fn transform(self, most_across: usize, most_down: usize) -> Option<Plane> {
        let quantisation = self.quantisation?;
        let stride = 8 * self.columns;
        let mut samples = vec![0; stride * 8 * self.rows];
        let bands = self.coefficients.par_chunks_exact(64 * self.columns);
        samples.par_chunks_exact_mut(8 * stride).zip(bands).for_each(|(samples, band)| {
            let (blocks, _) = band.as_chunks::<64>();
            for (x, block) in blocks.iter().enumerate() {
                idct::inverse(block, &quantisation, &mut samples[8 * x..], stride);
            }
        });
        let (across, down) = (most_across / self.across, most_down / self.down);
        Some(Plane { samples, stride, width: self.width, height: self.height, across, down })
    }
}
