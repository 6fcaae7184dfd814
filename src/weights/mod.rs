//! Weights: read them from disk in every form people have them, know where they come from, fetch and check them.
//!
//! Must not know the nets: it hands out named tensors and configurations, whoever builds a net asks by name.

mod convert;
mod entry;
pub mod load;
pub mod model;
mod pickle;
mod safetensors;
mod sniff;
mod torch;

pub use load::Checkpoint;
pub use model::{Model, Part, TokenizerSource};
