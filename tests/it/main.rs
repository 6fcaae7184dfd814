//! The integration tests, in one binary so that candle is linked once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]
#![allow(dead_code, unreachable_pub)]

mod adain;
mod batch;
mod cli;
mod clip;
mod compare;
mod fast;
mod fixture;
mod gatys;
#[cfg(feature = "hub")]
mod hub;
mod layers;
mod lora;
mod mini;
mod pictures;
mod presets;
mod program;
mod style;
mod stylize;
mod tokenizer;
mod train;
mod trainable;
mod vae;
mod vgg;
mod weights;

use candle_core::Device;

/// Where the parity tests run: `IMPASTO_TEST_DEVICE=cpu|cuda|metal`, the CPU by default.
fn device() -> Device {
    match std::env::var("IMPASTO_TEST_DEVICE").as_deref() {
        Ok("cuda") => Device::new_cuda(0).unwrap(),
        Ok("metal") => Device::new_metal(0).unwrap(),
        _ => Device::Cpu,
    }
}

/// A file below `tests/fixtures`.
fn fixture(name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

mod canny;
mod controlnet;
mod depth;
mod image;
mod inspect;
mod ip_adapter;
mod metrics;
mod noise;
mod samplers;
mod unet;
