//! Weights: read them from disk in every form people have them, know where they come from, fetch and check them.
//!
//! Must not know the nets: it hands out named tensors and configurations, whoever builds a net asks by name.

pub mod bundled;
pub mod cache;
mod convert;
mod dump;
mod element;
mod entry;
#[cfg(feature = "hub")]
pub mod hub;
pub mod load;
pub mod lora;
pub mod manifest;
pub mod model;
mod pickle;
mod record;
mod safetensors;
mod sniff;
mod state_dict;
mod torch;
pub mod verify;

pub use cache::Cache;
#[cfg(feature = "hub")]
pub use hub::Hub;
pub use load::Checkpoint;
pub use lora::Lora;
pub use manifest::Manifest;
pub use model::{Model, Part, TokenizerSource};
