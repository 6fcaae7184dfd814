//! The nets that came with the program, so that the first command works without a network, and the opening of nets of the
//! same kinds from files.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::weights::load::Checkpoint;

/// A net for one style, trained by this project on a painting that is in the public domain.
#[derive(Debug, Clone, Copy)]
pub struct BundledStyle {
    /// Its name, for `--style`.
    pub name: &'static str,
    /// Painter, painting, year.
    pub painting: &'static str,
    /// The weights, as safetensors.
    pub weights: &'static [u8],
}

/// The styles that came with the program.
pub const STYLES: &[BundledStyle] = &[
    BundledStyle {
        name: "starry-night",
        painting: "Vincent van Gogh, The Starry Night, 1889",
        weights: include_bytes!("../../../weights/fast/starry-night.safetensors"),
    },
    BundledStyle {
        name: "the-scream",
        painting: "Edvard Munch, The Scream, 1893",
        weights: include_bytes!("../../../weights/fast/the-scream.safetensors"),
    },
    BundledStyle {
        name: "irises",
        painting: "Vincent van Gogh, Irises, 1889",
        weights: include_bytes!("../../../weights/fast/irises.safetensors"),
    },
    BundledStyle {
        name: "shipwreck",
        painting: "J. M. W. Turner, Shipwreck, 1805",
        weights: include_bytes!("../../../weights/fast/shipwreck.safetensors"),
    },
];

/// The net for any style that came with the program, as safetensors.
pub const ADAIN: Option<&[u8]> = Some(include_bytes!("../../../weights/adain/any-style.safetensors"));

/// What a recipe tells the net of one program from that of the next by, in hexadecimal digits.
pub fn sha256(weights: &[u8]) -> String {
    Sha256::digest(weights).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl BundledStyle {
    /// The style of a name.
    pub fn find(name: &str) -> Option<&'static Self> {
        STYLES.iter().find(|style| style.name == name)
    }
}

/// An opened file of weights: what it holds, and what nets are built from.
pub struct Opened {
    shapes: BTreeMap<String, Vec<usize>>,
    /// Gives the tensors in single precision.
    pub vb: VarBuilder<'static>,
}

impl Opened {
    /// Opens a file.
    ///
    /// # Errors
    /// When it cannot be read or is no file of weights.
    pub fn file(path: &Path, device: &Device) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let shape = |name: &str| file.shape(name).unwrap_or_default().to_vec();
        let shapes = file.names().map(|name| (name.to_owned(), shape(name))).collect();
        Ok(Self { shapes, vb: file.var_builder(DType::F32, device) })
    }

    /// Opens weights that are part of the program.
    ///
    /// # Errors
    /// When the program was built with a damaged file.
    pub fn bytes(bytes: &'static [u8], device: &Device) -> Result<Self> {
        let damaged = |error| Error::file("weights", format!("the program's own are damaged: {error}"));
        let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
        let shapes = tensors.iter().map(|(name, view)| (name.to_owned(), view.shape().to_vec())).collect();
        Ok(Self { shapes, vb: VarBuilder::from_slice_safetensors(bytes, DType::F32, device)? })
    }

    /// All tensors by name.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        self.shapes.iter().map(|(name, shape)| Ok((name.clone(), self.vb.get(shape.as_slice(), name)?))).collect()
    }

    /// The length of an axis of a tensor.
    pub fn side(&self, name: &str, axis: usize) -> Option<usize> {
        self.shapes.get(name)?.get(axis).copied()
    }
}
