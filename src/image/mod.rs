//! Pictures: reading, resizing, turning into tensors and back, writing with metadata.
//!
//! Everything here is Pillow's arithmetic, because the reference pipelines see their pictures through Pillow. Nothing here
//! knows about nets beyond the pixel ranges they expect.

pub mod clip;
pub mod grain;
mod jpeg;
pub mod letters;
pub mod read;
pub mod resize;
pub mod tensor;
mod text;
mod whole;
pub mod write;
