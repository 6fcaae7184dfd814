//! The operations the nets are made of, one per kind, the same on every backend.
//!
//! A net never calls a framework layer directly: a faster kernel lands here, once, and every net gains. Weight names are
//! the caller's business; an operation only knows `weight` and `bias`.

mod activation;
mod attention;
mod conv;
mod direct;
mod fresh;
mod linear;
pub mod matrix3;
mod memory;
mod micro;
mod modulate;
mod norm;
mod pad;
mod pool;
mod product;
mod resample;
mod scratch;
mod simd;
pub mod trainable;
mod upsample;
mod winograd;

pub use activation::{Activation, gelu, quick_gelu, silu};
pub use attention::attention;
pub use conv::Conv2d;
pub use linear::{Embedding, Linear};
pub use memory::Recycler;
pub use modulate::modulate;
pub use norm::{GroupNorm, LayerNorm};
pub use pad::{reflect_pad, reflect_pad_backward};
pub use pool::{Pooling, pool2, pool2_backward};
pub use resample::Resample;
pub use upsample::upsample_nearest;
