//! The diffusion process: noise schedules, what a net's output means, and the samplers.
//!
//! Pure arithmetic on tensors: this module knows no net, no image and no file. It is handed a closure that predicts the
//! clean latents, and numbers from a checkpoint's `scheduler_config.json`.

pub mod denoiser;
pub mod guidance;
pub mod sampler;
pub mod schedule;

pub use denoiser::Denoiser;
pub use sampler::{Denoise, Noise, OnStep, Sampler};
pub use schedule::{Evaluation, Schedule, SchedulerConfig, Sigmas};
