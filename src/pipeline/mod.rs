//! What ties nets, samplers and pictures together.

mod depth;
pub mod diffusion;
mod paint;
pub mod request;

pub use depth::open_depth;
pub use diffusion::{Diffusion, ModelPaths};
pub use paint::Prepared;
pub use request::Request;
