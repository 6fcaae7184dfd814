//! The networks, each sized by the model folder's own `config.json` and loaded through a `VarBuilder`.

pub mod adain;
pub mod alexnet;
pub mod clip;
pub mod controlnet;
pub mod depth;
pub mod fast;
pub mod hed;
pub mod inception;
pub mod ip_adapter;
pub mod painter;
pub mod strips;
pub mod unet;
pub mod vae;
pub mod vgg;
