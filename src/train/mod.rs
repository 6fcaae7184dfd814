//! Training small nets on a CPU: data, losses, optimiser, checkpoints that resume to the same bits.
//!
//! Which net is trained is a closure's business ([`adain::Build`]); this module must not know presets or commands.

pub mod adain;
pub mod adam;
pub mod checkpoint;
pub mod curve;
pub mod dataset;
pub mod fast;
pub mod judge;
pub mod lesson;
pub mod loss;
pub mod preview;
pub mod variables;

pub use lesson::{Course, Files, Lesson, run};
