//! One tensor in a file: where its bytes are, what they mean, and how they become a [`Tensor`].
//!
//! Only the byte range of the tensor asked for is mapped, and only while it is converted, so the peak is one tensor and
//! not one file. Must not interpret names.

use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::element::{Element, convert};
use crate::error::{Error, Result};

/// The most axes a tensor in a file may have. The nets use four; a hostile file must not make us walk thousands.
const MAX_RANK: usize = 16;

/// A file that holds tensors, opened once.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    pub(crate) len: u64,
}

impl Source {
    /// Opens a file for reading tensors.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let metadata = file.metadata().map_err(|e| Error::io(path, e))?;
        if metadata.is_dir() {
            return Err(Error::file(path, "is a folder, not a file with weights"));
        }
        if !metadata.is_file() {
            return Err(Error::file(path, "is not a regular file"));
        }
        if metadata.len() == 0 {
            return Err(
                Error::file(path, "is empty (0 bytes)").with_hint("the download or copy failed: fetch the file again")
            );
        }
        Ok(Self { path: path.to_path_buf(), file, len: metadata.len() })
    }

    /// Maps `length` bytes from `offset` for as long as the value lives.
    pub(crate) fn map(&self, offset: u64, length: u64) -> Result<memmap2::Mmap> {
        // The file may have shrunk since its header was checked; touching a page past its end would kill the process.
        let now = self.file.metadata().map_err(|e| Error::io(&self.path, e))?.len();
        let end = offset.checked_add(length).filter(|&end| end <= now);
        let (Some(_), Ok(length)) = (end, usize::try_from(length)) else {
            return Err(Error::file(
                &self.path,
                format!("ends before byte {offset} + {length}; it changed while in use"),
            ));
        };
        // SAFETY: the mapping is read-only and private to one conversion; its range was checked against the file's
        // length just above. Another process that truncates the file in that moment would raise SIGBUS, which is the
        // accepted price of mapping weights, here as in every other reader of safetensors.
        #[allow(unsafe_code)]
        let map = unsafe { memmap2::MmapOptions::new().offset(offset).len(length).map(&self.file) };
        map.map_err(|e| Error::io(&self.path, e))
    }
}

/// A tensor's place in a file.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Which of the checkpoint's sources holds it.
    pub(crate) source: usize,
    /// First byte of element 0.
    pub(crate) offset: u64,
    /// What the elements are.
    pub(crate) element: Element,
    /// Extent of every axis.
    pub(crate) shape: Vec<usize>,
    /// Distance in elements between neighbours on every axis, where it is not the row-major one.
    strides: Option<Vec<usize>>,
    /// Bytes from element 0 to the end of the last one.
    span: u64,
}

/// Elements in a shape, refusing overflow.
pub(crate) fn count(shape: &[usize]) -> Option<u64> {
    if shape.len() > MAX_RANK {
        return None;
    }
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?)).filter(|&n| n <= isize::MAX as u64 / 8)
}

fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}

impl Entry {
    /// A row-major tensor whose bytes start at `offset`.
    pub(crate) fn dense(source: usize, offset: u64, element: Element, shape: Vec<usize>) -> Option<Self> {
        let span = count(&shape)?.checked_mul(element.size())?;
        Some(Self { source, offset, element, shape, strides: None, span })
    }

    /// A tensor with strides. None when it has no place: overflow, or strides and axes that differ in number.
    pub(crate) fn strided(
        source: usize,
        offset: u64,
        element: Element,
        shape: Vec<usize>,
        strides: Vec<usize>,
    ) -> Option<Self> {
        let dense = Self::dense(source, offset, element, shape)?;
        if strides.len() != dense.shape.len() {
            return None;
        }
        let natural = row_major(&dense.shape);
        // The stride of an axis with one entry is never used; torch writes any number there.
        let used = |(stride, &extent): (usize, &usize)| if extent <= 1 { 0 } else { stride };
        let strides: Vec<usize> = strides.into_iter().zip(&dense.shape).map(used).collect();
        if dense.shape.iter().zip(strides.iter().zip(&natural)).all(|(&d, (s, n))| d <= 1 || s == n) || dense.span == 0
        {
            return Some(dense);
        }
        let mut last = 0u64;
        for (&extent, &stride) in dense.shape.iter().zip(&strides) {
            last = last.checked_add(u64::try_from(extent - 1).ok()?.checked_mul(u64::try_from(stride).ok()?)?)?;
        }
        let span = last.checked_add(1)?.checked_mul(element.size())?;
        Some(Self { strides: Some(strides), span, ..dense })
    }

    /// Bytes from the first element to the end of the last.
    pub(crate) fn span(&self) -> u64 {
        self.span
    }

    /// Rows `start .. start + rows` of the first axis, without touching the bytes.
    pub(crate) fn rows(&self, start: usize, rows: usize) -> Option<Self> {
        let total = *self.shape.first()?;
        if start.checked_add(rows)? > total {
            return None;
        }
        let strides = self.strides.clone().unwrap_or_else(|| row_major(&self.shape));
        let skip = u64::try_from(start.checked_mul(*strides.first()?)?).ok()?.checked_mul(self.element.size())?;
        let mut shape = self.shape.clone();
        shape[0] = rows;
        Self::strided(self.source, self.offset.checked_add(skip)?, self.element, shape, strides)
    }

    /// Drops trailing axes of length 1 from the third on.
    pub(crate) fn drop_unit_axes(&mut self) {
        while self.shape.len() > 2 && self.shape.last() == Some(&1) {
            self.shape.pop();
            if let Some(strides) = &mut self.strides {
                strides.pop();
            }
        }
    }

    /// Reads the tensor.
    pub(crate) fn read(&self, sources: &[Source], dtype: DType, device: &Device) -> Result<Tensor> {
        let Some(source) = sources.get(self.source) else {
            return Err(Error::usage("weights", "a tensor refers to a file that is not open"));
        };
        if self.span == 0 {
            return Ok(Tensor::zeros(self.shape.as_slice(), dtype, device)?);
        }
        let map = source.map(self.offset, self.span)?;
        let tensor = match &self.strides {
            None => convert(&map, self.element, &self.shape, dtype)?,
            Some(strides) => {
                let bytes = gather(&map, self.element.size(), &self.shape, strides);
                drop(map);
                convert(&bytes, self.element, &self.shape, dtype)?
            }
        };
        Ok(tensor.to_device(device)?)
    }
}

/// Brings strided elements into row-major order.
fn gather(bytes: &[u8], size: u64, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    // `strided` proved that every index below lies inside `bytes` and that nothing overflows.
    let size = size as usize;
    let total: usize = shape.iter().product();
    let mut out = Vec::with_capacity(total * size);
    let mut index = vec![0usize; shape.len()];
    let mut at = 0usize;
    for _ in 0..total {
        out.extend_from_slice(&bytes[at * size..(at + 1) * size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    out
}
