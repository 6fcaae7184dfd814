//! Weights: read them from disk in every form people have them, know where they come from, fetch and check them.
//!
//! Must not know the nets: it hands out named tensors and configurations, whoever builds a net asks by name.

mod entry;
pub mod load;
mod pickle;
mod safetensors;
mod torch;

pub use load::Checkpoint;
