#![doc = include_str!("../README.md")]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod control;
pub mod device;
pub mod diffusion;
pub mod error;
pub mod image;
pub mod metrics;
pub mod nets;
pub mod ops;
pub mod pipeline;
pub mod progress;
pub mod report;
pub mod rng;
pub mod style;
pub mod train;
pub mod weights;

#[cfg(feature = "accelerate")]
extern crate accelerate_src;
#[cfg(feature = "mkl")]
extern crate intel_mkl_src;

pub use error::{Error, Result};
