//! Arbitrary style in one pass: nets that take the style as a picture.

pub mod compact;
pub mod original;
