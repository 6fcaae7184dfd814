//! One axis of a convolution as index maps: for every tap of the kernel and every output position, the input position it
//! sees, or nothing. Stride, padding and enlargement are in the map, so that the kernels know none of them.

use super::super::pad::reflected;
use super::super::winograd::NOWHERE;
use super::{Geometry, Padding};
use crate::error::{Error, Result};

/// What all taps of a kernel see along one axis.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    taps: Vec<Tap>,
    /// Output positions.
    pub(super) len: usize,
}

/// What one tap sees along one axis.
#[derive(Debug, Clone)]
pub(super) struct Tap {
    /// The input position for every output position.
    from: Vec<u32>,
    /// Output positions from `start` to `end` see `first`, `first + stride`, ...
    start: usize,
    end: usize,
    first: usize,
    stride: usize,
}

impl Axis {
    /// The axis of `side` input positions under a kernel of `kernel` taps.
    ///
    /// # Errors
    /// When the kernel or the mirrored padding does not fit.
    pub(super) fn new(side: usize, kernel: usize, geometry: Geometry) -> Result<Self> {
        let Geometry { stride, padding, upsample } = geometry;
        let enlarged = side * upsample;
        let n = padding.pixels();
        if stride == 0 || upsample == 0 || side == 0 || kernel == 0 || enlarged + 2 * n < kernel {
            return Err(Error::usage(
                "convolution",
                format!("a kernel of {kernel} does not fit a side of {side} pixels"),
            ));
        }
        if matches!(padding, Padding::Reflect(n) if n >= enlarged) {
            return Err(Error::usage("convolution", format!("a side of {side} pixels cannot be mirrored by {n}")));
        }
        let len = (enlarged + 2 * n - kernel) / stride + 1;
        let from = |tap: usize, at: usize| {
            let at = at * stride + tap;
            match padding {
                Padding::Reflect(n) => (reflected(at, enlarged, n) / upsample) as u32,
                Padding::Zeros(n) if (n..n + enlarged).contains(&at) => ((at - n) / upsample) as u32,
                Padding::Zeros(_) => NOWHERE,
            }
        };
        let taps = (0..kernel).map(|tap| Tap::new((0..len).map(|at| from(tap, at)).collect(), stride));
        Ok(Self { taps: taps.collect(), len })
    }

    /// The input position under every padded one up to the last that is seen, [`NOWHERE`] for zeros and what no tap sees.
    pub(super) fn padded(&self, stride: usize) -> Vec<u32> {
        let mut padded = vec![NOWHERE; self.len.saturating_sub(1) * stride + self.taps.len()];
        for (first, tap) in self.taps.iter().enumerate() {
            for (to, &from) in padded.iter_mut().skip(first).step_by(stride).zip(&tap.from) {
                *to = from;
            }
        }
        padded
    }

    /// What the tap with this number sees.
    pub(super) fn tap(&self, tap: usize) -> &Tap {
        &self.taps[tap]
    }
}

impl Tap {
    fn new(from: Vec<u32>, stride: usize) -> Self {
        // The longest regular run.
        let (mut start, mut end, mut at) = (0, 0, 0);
        while at < from.len() {
            let mut next = at + 1;
            while next < from.len() && from[at] != NOWHERE && from[next] == from[next - 1].wrapping_add(stride as u32) {
                next += 1;
            }
            if from[at] != NOWHERE && next - at > end - start {
                (start, end) = (at, next);
            }
            at = next;
        }
        let first = from.get(start).copied().filter(|_| end > start).unwrap_or(0) as usize;
        Self { from, start, end, first, stride }
    }

    /// The input position that output position `at` sees.
    pub(super) fn source(&self, at: usize) -> Option<usize> {
        Some(self.from[at]).filter(|&from| from != NOWHERE).map(|from| from as usize)
    }

    /// What the tap sees along a whole line of input.
    pub(super) fn gather(&self, line: &[f32], out: &mut [f32]) {
        let (head, rest) = out.split_at_mut(self.start);
        let (inside, tail) = rest.split_at_mut(self.end - self.start);
        let edge = |out: &mut [f32], from: &[u32]| {
            for (out, &from) in out.iter_mut().zip(from) {
                *out = line.get(from as usize).copied().unwrap_or(0.0);
            }
        };
        edge(head, &self.from[..self.start]);
        edge(tail, &self.from[self.end..]);
        if inside.is_empty() {
            return;
        }
        let seen = &line[self.first..];
        match self.stride {
            1 => inside.copy_from_slice(&seen[..inside.len()]),
            stride => {
                for (out, &seen) in inside.iter_mut().zip(seen.iter().step_by(stride)) {
                    *out = seen;
                }
            }
        }
    }

    /// The transpose of [`Self::gather`]: adds `values` to the positions they were seen at.
    pub(super) fn scatter(&self, values: &[f32], line: &mut [f32]) {
        let inside = self.start..self.end;
        for (at, (&value, &from)) in values.iter().zip(&self.from).enumerate() {
            if at == inside.start && !inside.is_empty() {
                break;
            }
            if let Some(x) = line.get_mut(from as usize) {
                *x += value;
            }
        }
        if inside.is_empty() {
            return;
        }
        match self.stride {
            1 => {
                for (x, value) in line[self.first..].iter_mut().zip(&values[inside.clone()]) {
                    *x += value;
                }
            }
            stride => {
                for (x, value) in line[self.first..].iter_mut().step_by(stride).zip(&values[inside.clone()]) {
                    *x += value;
                }
            }
        }
        for (&value, &from) in values[inside.end..].iter().zip(&self.from[inside.end..]) {
            if let Some(x) = line.get_mut(from as usize) {
                *x += value;
            }
        }
    }
}
