//! Training files: safetensors with one text beside the tensors, written whole or not at all.
//!
//! The text is JSON under a single key: safetensors keeps its metadata in an unordered map, and two keys would come out in
//! another order in another run.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::image::write;

/// The key of the text.
const KEY: &str = "impasto";

/// Tensors by name, and what they are.
#[derive(Debug)]
pub struct Saved {
    /// What the file says of itself.
    pub note: Value,
    tensors: HashMap<String, Tensor>,
    path: std::path::PathBuf,
}

/// Writes tensors and a note.
///
/// # Errors
/// When the file cannot be written. Nothing is left behind then, and what was there stays.
pub fn write(path: &Path, tensors: &BTreeMap<String, Tensor>, note: &Value) -> Result<()> {
    let metadata = HashMap::from([(KEY.to_owned(), note.to_string())]);
    let bytes = safetensors::serialize(tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)), Some(metadata))
        .map_err(|error| Error::file(path, format!("cannot be written: {error}")))?;
    write::bytes(path, &bytes)
}

impl Saved {
    /// Reads what [`write()`] wrote.
    ///
    /// # Errors
    /// When the file cannot be read or is no such file.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|reason| Error::io(path, reason))?;
        let foreign = |reason: String| Error::file(path, format!("is no training file: {reason}"));
        let (_, metadata) =
            safetensors::SafeTensors::read_metadata(&bytes).map_err(|error| foreign(error.to_string()))?;
        let note = metadata.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
        let note = note.ok_or_else(|| foreign("it does not say what it holds".to_owned()))?;
        let note = serde_json::from_str(note).map_err(|error| foreign(error.to_string()))?;
        let tensors =
            candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|error| foreign(error.to_string()))?;
        Ok(Self { note, tensors, path: path.to_path_buf() })
    }

    /// The tensor of this name and shape, in its own type.
    ///
    /// # Errors
    /// When there is none.
    pub fn tensor(&self, name: &str, dims: &[usize], device: &Device) -> Result<Tensor> {
        match self.tensors.get(name) {
            Some(tensor) if tensor.dims() == dims => Ok(tensor.to_device(device)?),
            Some(tensor) => {
                Err(Error::file(&self.path, format!("`{name}` is {:?}, the net's is {dims:?}", tensor.dims())))
            }
            None => Err(Error::file(&self.path, format!("has no `{name}`"))),
        }
    }

    /// A table of numbers, row by row; empty when there is none.
    ///
    /// # Errors
    /// When it is no table of double precision numbers.
    pub fn table(&self, name: &str) -> Result<Vec<Vec<f64>>> {
        match self.tensors.get(name) {
            Some(tensor) => Ok(tensor.to_dtype(DType::F64)?.to_vec2()?),
            None => Ok(Vec::new()),
        }
    }
}

/// A table of numbers as a tensor; `None` when it has no rows.
///
/// # Errors
/// When the rows differ in length.
pub fn table(rows: &[Vec<f64>]) -> Result<Option<Tensor>> {
    match rows.first() {
        Some(first) => {
            let shape = (rows.len(), first.len());
            Ok(Some(Tensor::from_vec(rows.concat(), shape, &Device::Cpu)?))
        }
        None => Ok(None),
    }
}
