//! What a net has made of a picture at the coarsest size, strip by strip: in memory, or in a temporary file where that would
//! be too much.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use super::{Statistics, Strips};
use crate::error::{Error, Result};

/// Rows `[1, channels, rows, width]` of something.
#[derive(Debug)]
enum Strip {
    Missing,
    Here(Tensor),
    /// In the file from this byte on, with these channels, rows and columns.
    There(u64, [usize; 3]),
}

/// Strips of equal height, the last one perhaps lower.
#[derive(Debug)]
pub(in crate::nets) struct Coarse {
    rows: usize,
    step: usize,
    strips: Vec<Strip>,
    /// The most bytes to keep in memory.
    keep: usize,
    file: Option<(File, u64)>,
    device: Device,
}

impl Coarse {
    /// Room for `strips`, none of them there yet.
    pub(super) fn new(strips: &Strips, keep: usize) -> Self {
        let missing = (0..strips.count()).map(|_| Strip::Missing).collect();
        Self { rows: strips.units, step: strips.step, strips: missing, keep, file: None, device: Device::Cpu }
    }

    /// Room for as many strips, none of them there yet.
    fn another(&self) -> Self {
        let missing = self.strips.iter().map(|_| Strip::Missing).collect();
        Self { rows: self.rows, step: self.step, strips: missing, keep: self.keep, file: None, device: Device::Cpu }
    }

    /// The rows of a strip.
    fn range(&self, number: usize) -> Range<usize> {
        number * self.step..((number + 1) * self.step).min(self.rows)
    }

    /// Puts a strip in its place, or another one of the same shape.
    pub(super) fn set(&mut self, number: usize, strip: Tensor) -> Result<()> {
        let (_, channels, rows, width) = strip.dims4()?;
        let bytes = channels.saturating_mul(self.rows).saturating_mul(width).saturating_mul(4);
        self.device = strip.device().clone();
        if bytes <= self.keep {
            self.strips[number] = Strip::Here(strip);
            return Ok(());
        }
        let trouble = |error| Error::io(std::env::temp_dir(), error);
        let (file, end) = match &mut self.file {
            Some(file) => file,
            None => self.file.insert((tempfile::tempfile().map_err(trouble)?, 0)),
        };
        let shape = [channels, rows, width];
        let at = match self.strips[number] {
            Strip::There(at, old) if old == shape => at,
            _ => {
                let at = *end;
                *end += (4 * channels * rows * width) as u64;
                at
            }
        };
        let values = strip.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&bytes)).map_err(trouble)?;
        self.strips[number] = Strip::There(at, shape);
        Ok(())
    }

    /// A strip.
    fn get(&self, number: usize) -> Result<Tensor> {
        match (&self.strips[number], &self.file) {
            (Strip::Here(strip), _) => Ok(strip.clone()),
            (&Strip::There(at, [channels, rows, width]), Some((file, _))) => {
                let mut bytes = vec![0u8; 4 * channels * rows * width];
                // A shared reference to a file reads too.
                let mut file = file;
                let read = file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut bytes));
                read.map_err(|error| Error::io(std::env::temp_dir(), error))?;
                let values: Vec<f32> =
                    bytes.as_chunks::<4>().0.iter().map(|&value| f32::from_ne_bytes(value)).collect();
                Ok(Tensor::from_vec(values, (1, channels, rows, width), &self.device)?)
            }
            _ => Err(candle_core::Error::Msg(format!("strip {number} is not there")).into()),
        }
    }

    /// Some rows, `[1, channels, rows, width]`.
    pub(super) fn rows(&self, rows: Range<usize>) -> Result<Tensor> {
        let mut parts = Vec::new();
        for number in rows.start / self.step..rows.end.div_ceil(self.step) {
            let own = self.range(number);
            let (start, end) = (rows.start.max(own.start), rows.end.min(own.end));
            parts.push(self.get(number)?.narrow(2, start - own.start, end - start)?);
        }
        match parts.as_slice() {
            [part] => Ok(part.contiguous()?),
            parts => Ok(Tensor::cat(parts, 2)?),
        }
    }

    /// Mean and variance of every channel.
    pub(in crate::nets) fn statistics(&self) -> Result<Statistics> {
        let mut statistics = Statistics::default();
        for number in 0..self.strips.len() {
            statistics.add(&self.get(number)?)?;
        }
        Ok(statistics)
    }

    /// Changes every strip, given its first row.
    pub(in crate::nets) fn change(&mut self, change: &dyn Fn(usize, Tensor) -> Result<Tensor>) -> Result<()> {
        for number in 0..self.strips.len() {
            let strip = change(self.range(number).start, self.get(number)?)?;
            self.set(number, strip)?;
        }
        Ok(())
    }

    /// Adds the strips of another one, changed.
    pub(super) fn add(&mut self, other: Self, change: &dyn Fn(Tensor) -> Result<Tensor>) -> Result<()> {
        for number in 0..self.strips.len() {
            let sum = (self.get(number)? + change(other.get(number)?)?)?;
            self.set(number, sum)?;
        }
        Ok(())
    }

    /// What `layer` makes of the rows, of which it sees `reach` above and below; and its statistics.
    pub(super) fn map(&self, reach: usize, layer: &dyn Fn(Tensor) -> Result<Tensor>) -> Result<(Self, Statistics)> {
        let (mut out, mut statistics) = (self.another(), Statistics::default());
        for number in 0..self.strips.len() {
            let keep = self.range(number);
            // One more, so that a mirror always has a line to show.
            let start = keep.start.saturating_sub(reach + 1);
            let slab = self.rows(start..(keep.end + reach + 1).min(self.rows))?;
            let strip = super::cut(&layer(slab)?, start, keep)?;
            statistics.add(&strip)?;
            out.set(number, strip)?;
        }
        Ok((out, statistics))
    }
}
