//! The operations the nets are made of, one per kind, the same on every backend.
//!
//! A net never calls a framework layer directly: a faster kernel lands here, once, and every net gains. Weight names are
//! the caller's business; an operation only knows `weight` and `bias`.

mod activation;
mod attention;
mod conv;
mod direct;
#[cfg(test)]
mod drawn;
mod floats;
mod fresh;
mod int8;
mod join;
mod linear;
pub mod matrix3;
mod memory;
mod micro;
mod modulate;
mod norm;
mod pad;
mod pointwise;
mod pool;
mod product;
mod resample;
mod scratch;
mod simd;
mod tokens;
pub mod trainable;
mod upsample;
mod winograd;

use candle_core::{DType, Tensor};

/// Whether our kernels take a tensor: f32 on the CPU.
fn is_ours(xs: &Tensor) -> bool {
    xs.device().is_cpu() && xs.dtype() == DType::F32
}

pub use activation::{Activation, gated_gelu, gelu, quick_gelu, silu};
pub use attention::attention;
pub use conv::Conv2d;
pub use join::join;
pub use linear::{Embedding, Linear};
pub use memory::Recycler;
pub use modulate::modulate;
pub use norm::{GroupNorm, LayerNorm};
pub use pad::{reflect_pad, reflect_pad_backward};
pub use pointwise::add;
pub use pool::{Pooling, pool2, pool2_backward};
pub use resample::Resample;
pub use tokens::{from_tokens, heads_of, to_tokens};
