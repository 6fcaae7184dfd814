//! What ties nets, samplers and pictures together.

mod depth;
pub mod diffusion;
pub mod fast;
pub mod inspect;
mod measure;
mod paint;
pub mod parameters;
mod perceptual;
pub mod preset;
pub mod recipe;
pub mod request;
pub mod settings;
pub mod stylize;

pub use depth::open_depth;
pub use diffusion::{Diffusion, ModelPaths};
pub use fast::Fast;
pub use measure::{SuiteOptions, open_suite};
pub use paint::Prepared;
pub use perceptual::{default_backbone, open_backbone};
pub use request::Request;
