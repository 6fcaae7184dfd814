//! Where the arithmetic happens and in which type.
//!
//! The CPU's thread count is candle's and rayon's: `RAYON_NUM_THREADS`, by default the physical cores.

use std::str::FromStr;

use candle_core::{DType, Device};

use crate::error::{Error, Result};

/// A device as asked for: `auto`, `cpu`, `cuda`, `cuda:1`, `metal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// The first CUDA device, else Metal, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU by number.
    Cuda(usize),
    /// An Apple GPU by number.
    Metal(usize),
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, number) = match text.split_once(':') {
            Some((kind, number)) => {
                (kind, number.parse().map_err(|_| format!("'{number}' is not the number of a device"))?)
            }
            None => (text, 0),
        };
        match kind {
            "auto" if !text.contains(':') => Ok(Self::Auto),
            "cpu" if !text.contains(':') => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(number)),
            "metal" => Ok(Self::Metal(number)),
            _ => Err("expected auto, cpu, cuda, cuda:N or metal".into()),
        }
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Metal(number) => write!(f, "metal:{number}"),
        }
    }
}

impl Backend {
    /// Opens the device. `auto` never fails: what it skipped, and why, is in the second part of the answer.
    ///
    /// # Errors
    /// When a device asked for by name was not built in or is not there.
    pub fn open(self) -> Result<(Device, Vec<String>)> {
        match self {
            Self::Cpu => Ok((Device::Cpu, Vec::new())),
            Self::Cuda(number) => Ok((open_cuda(number)?, Vec::new())),
            Self::Metal(number) => Ok((open_metal(number)?, Vec::new())),
            Self::Auto => {
                let mut skipped = Vec::new();
                for opened in [open_cuda(0), open_metal(0)] {
                    match opened {
                        Ok(device) => return Ok((device, skipped)),
                        Err(error) => skipped.push(error.to_string()),
                    }
                }
                Ok((Device::Cpu, skipped))
            }
        }
    }
}

fn open_cuda(number: usize) -> Result<Device> {
    let subject = format!("--device cuda:{number}");
    if !cfg!(feature = "cuda") {
        return Err(Error::usage(subject, "this program was built without CUDA")
            .with_hint("build with `--features cuda` (see README), or use `--device cpu`"));
    }
    // The driver's libraries are looked up when first used, and cudarc panics where they are absent.
    let opened = std::panic::catch_unwind(|| Device::new_cuda(number));
    match opened {
        Ok(Ok(device)) => Ok(device),
        Ok(Err(error)) => Err(Error::usage(subject, format!("cannot be opened: {error}"))),
        Err(_) => Err(Error::usage(subject, "the CUDA libraries could not be loaded")
            .with_hint("install the NVIDIA driver, or use `--device cpu`")),
    }
}

fn open_metal(number: usize) -> Result<Device> {
    let subject = format!("--device metal:{number}");
    if !cfg!(feature = "metal") {
        return Err(Error::usage(subject, "this program was built without Metal")
            .with_hint("build with `--features metal` on a Mac, or use `--device cpu`"));
    }
    Device::new_metal(number).map_err(|error| Error::usage(subject, format!("cannot be opened: {error}")))
}

/// The type the UNet and the ControlNet compute in. Encoders' norms, softmax, time embedding and the VAE stay in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats: equal to the reference, the default on the CPU.
    F32,
    /// 16-bit floats: half the memory, the default on GPUs.
    F16,
    /// 16-bit brain floats: the range of f32 with 8 bits of precision.
    Bf16,
    /// Linear maps in 8-bit whole numbers, all else in f32: faster on a CPU, for a picture that is like the exact one.
    Int8,
}

impl Precision {
    /// The precision that serves best on a device: f32 on the CPU, f16 on GPUs.
    pub fn for_device(device: &Device) -> Self {
        if device.is_cpu() { Self::F32 } else { Self::F16 }
    }

    /// candle's name for what is computed in floats.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 | Self::Int8 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_people_write_them() {
        assert_eq!("cuda:1".parse(), Ok(Backend::Cuda(1)));
        assert_eq!("cuda".parse(), Ok(Backend::Cuda(0)));
        assert_eq!("auto".parse(), Ok(Backend::Auto));
        for wrong in ["", "cuda:", "cuda:x", "gpu", "cpu:0", "auto:1"] {
            assert!(wrong.parse::<Backend>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_device_that_was_not_built_in_is_refused_by_name() {
        if !cfg!(feature = "metal") {
            let error = Backend::Metal(0).open().unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("metal:0"));
        }
    }
}
