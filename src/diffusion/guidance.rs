//! Classifier-free guidance (Ho and Salimans, 2022).

use candle_core::{D, Tensor};

use crate::Result;

/// Moves the unconditional output towards the conditional one, and past it for scales above 1.
pub fn guide(uncond: &Tensor, cond: &Tensor, scale: f64) -> Result<Tensor> {
    Ok((uncond + ((cond - uncond)? * scale)?)?)
}

/// Gives guided output the deviation of the conditional output again, by `factor` of the way: guidance otherwise
/// overexposes (Lin et al., 2023, section 3.4).
pub fn guidance_rescale(guided: &Tensor, cond: &Tensor, factor: f64) -> Result<Tensor> {
    let deviation = |xs: &Tensor| xs.flatten_from(1)?.var_keepdim(D::Minus1)?.sqrt();
    let ratio = (deviation(cond)? / deviation(guided)?)?;
    let factors = ((ratio * factor)? + (1.0 - factor))?;
    let shape: Vec<usize> = (0..guided.rank()).map(|dim| if dim == 0 { guided.dims()[0] } else { 1 }).collect();
    Ok(guided.broadcast_mul(&factors.reshape(shape)?)?)
}
