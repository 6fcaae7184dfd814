//! What ties nets, samplers and pictures together.

pub mod diffusion;
mod paint;
pub mod request;

pub use diffusion::{Diffusion, ModelPaths};
pub use paint::Prepared;
pub use request::Request;
