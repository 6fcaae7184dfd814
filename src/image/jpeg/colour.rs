//! Chroma brought to the picture's size, and luma and chroma to RGB, as libjpeg-turbo does both.

use super::Plane;

impl Plane {
    /// Row `y` of the picture.
    pub(super) fn row(&self, y: usize, out: &mut [u8]) {
        let line = |y: usize| &self.samples[self.stride * y.min(self.height - 1)..][..self.width];
        let here = line(y / self.down);
        // The nearer of the rows above and below; beyond the border, the border.
        let near = || if y.is_multiple_of(2) { line((y / 2).saturating_sub(1)) } else { line(y / 2 + 1) };
        match (self.across, self.down) {
            (1, 1) => out.copy_from_slice(&here[..out.len()]),
            // Three parts of the sample that covers the pixel to one of its neighbour. The rounding alternates.
            (2, 1) if self.width > 2 => spread(
                out,
                |x| 4 * i32::from(here[x]),
                |x, other| 3 * i32::from(here[x]) + i32::from(here[other]),
                self.width,
                2,
                [1, 2],
            ),
            (2, 2) if self.width > 2 => {
                let near = near();
                let column = |x: usize| 3 * i32::from(here[x]) + i32::from(near[x]);
                spread(out, |x| 4 * column(x), |x, other| 3 * column(x) + column(other), self.width, 4, [8, 7]);
            }
            (1, 2) => {
                let bias = if y.is_multiple_of(2) { 1 } else { 2 };
                for ((value, &here), &near) in out.iter_mut().zip(here).zip(near()) {
                    *value = ((3 * i32::from(here) + i32::from(near) + bias) >> 2) as u8;
                }
            }
            (across, _) => {
                for (values, &sample) in out.chunks_mut(across).zip(here) {
                    values.fill(sample);
                }
            }
        }
    }
}

/// Two pixels from every sample: `alone` at the ends of the row, `mixed` with the neighbour on their side elsewhere.
fn spread(
    out: &mut [u8],
    alone: impl Fn(usize) -> i32,
    mixed: impl Fn(usize, usize) -> i32,
    width: usize,
    shift: u32,
    bias: [i32; 2],
) {
    for (x, values) in out.chunks_mut(2).enumerate() {
        let left = if x == 0 { alone(x) } else { mixed(x, x - 1) };
        values[0] = ((left + bias[0]) >> shift) as u8;
        if let Some(value) = values.get_mut(1) {
            let right = if x + 1 == width { alone(x) } else { mixed(x, x + 1) };
            *value = ((right + bias[1]) >> shift) as u8;
        }
    }
}

/// What the three channels are.
#[derive(Clone, Copy)]
pub(super) enum Colours {
    Ycc,
    Rgb,
}

impl Colours {
    /// Three rows of channels to a row of pixels.
    pub(super) fn join(self, [first, second, third]: &[Vec<u8>; 3], pixels: &mut [u8]) {
        let (pixels, _) = pixels.as_chunks_mut::<3>();
        for (((pixel, &first), &second), &third) in pixels.iter_mut().zip(first).zip(second).zip(third) {
            *pixel = match self {
                Self::Rgb => [first, second, third],
                Self::Ycc => rgb(first, second, third),
            };
        }
    }
}

/// ITU-R 601 at full range, in 16 bits.
fn rgb(luma: u8, blue: u8, red: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (luma, blue, red) = (i32::from(luma), i32::from(blue) - 128, i32::from(red) - 128);
    let r = luma + ((91_881 * red + HALF) >> 16);
    let g = luma + ((-22_554 * blue - 46_802 * red + HALF) >> 16);
    let b = luma + ((116_130 * blue + HALF) >> 16);
    [r, g, b].map(|value| value.clamp(0, 255) as u8)
}
