//! Pictures too large for memory, in overlapping tiles with blended seams: diffusers' tiling with its numbers (tiles of
//! the training size, a quarter of overlap). The tiles see less than the whole picture, so the result is close to the
//! untiled one, not equal.

use candle_core::Tensor;

use super::{Posterior, Vae};
use crate::error::{Error, Result};

/// Told after every tile how many are done, and of how many. An error stops the work.
pub type OnTile<'a> = dyn FnMut(usize, usize) -> Result<()> + 'a;

/// Tiles along both axes of a picture: each starts `stride` after the one before, is `size` long, and its result blends
/// over `blend` with the one before and counts for `keep`.
#[derive(Debug, Clone, Copy)]
struct Tiles {
    size: usize,
    stride: usize,
    blend: usize,
    keep: usize,
    /// The shortest rest at the edge that yields a result at all.
    least: usize,
}

impl Tiles {
    fn new(size: usize, result_size: usize, least: usize) -> Result<Self> {
        // Sizes a quarter does not divide: diffusers truncates both products.
        let stride = size * 3 / 4;
        let blend = result_size / 4;
        let keep = result_size - blend;
        if stride == 0 || keep == 0 {
            return Err(Error::usage(
                "the VAE's config.json",
                format!("sample_size leaves tiles of {size} with results of {result_size}, too small to overlap"),
            ));
        }
        Ok(Self { size, stride, blend, keep, least })
    }

    /// Starts and lengths along a side.
    fn along(&self, side: usize) -> Vec<(usize, usize)> {
        (0..side)
            .step_by(self.stride)
            .map(|start| (start, self.size.min(side - start)))
            .filter(|&(_, length)| length >= self.least)
            .collect()
    }

    /// Runs `net` on every tile and joins the results. Only the row above is kept whole, for its seam.
    fn run(&self, xs: &Tensor, net: impl Fn(Tensor) -> Result<Tensor>, on_tile: &mut OnTile<'_>) -> Result<Tensor> {
        let (_, _, height, width) = xs.dims4()?;
        let (rows, columns) = (self.along(height), self.along(width));
        let total = rows.len() * columns.len();
        let mut done = 0;
        let mut above: Vec<Tensor> = Vec::new();
        let mut joined = Vec::with_capacity(rows.len());
        for &(top, length) in &rows {
            let band = xs.narrow(2, top, length)?;
            let mut row: Vec<Tensor> = Vec::with_capacity(columns.len());
            let mut kept = Vec::with_capacity(columns.len());
            for (index, &(left, length)) in columns.iter().enumerate() {
                let mut tile = net(band.narrow(3, left, length)?.contiguous()?)?;
                if let Some(above) = above.get(index) {
                    tile = blend(above, tile, 2, self.blend)?;
                }
                if let Some(left) = row.last() {
                    tile = blend(left, tile, 3, self.blend)?;
                }
                let (_, _, height, width) = tile.dims4()?;
                kept.push(tile.narrow(2, 0, height.min(self.keep))?.narrow(3, 0, width.min(self.keep))?.contiguous()?);
                row.push(tile);
                done += 1;
                on_tile(done, total)?;
            }
            joined.push(Tensor::cat(&kept, 3)?);
            above = row;
        }
        Ok(Tensor::cat(&joined, 2)?)
    }
}

/// Fades from the end of `before` to the start of `tile` along `axis`.
fn blend(before: &Tensor, tile: Tensor, axis: usize, extent: usize) -> Result<Tensor> {
    let (end, length) = (before.dim(axis)?, tile.dim(axis)?);
    let extent = extent.min(end).min(length);
    if extent == 0 {
        return Ok(tile);
    }
    let mut shape = [1; 4];
    shape[axis] = extent;
    let ramp = |f: &dyn Fn(f64) -> f64| -> Result<Tensor> {
        let values: Vec<f32> = (0..extent).map(|i| f(i as f64 / extent as f64) as f32).collect();
        Ok(Tensor::from_vec(values, &shape, tile.device())?.to_dtype(tile.dtype())?)
    };
    let out = before.narrow(axis, end - extent, extent)?.broadcast_mul(&ramp(&|t| 1.0 - t)?)?;
    let into = tile.narrow(axis, 0, extent)?.broadcast_mul(&ramp(&|t| t)?)?;
    let seam = (out + into)?;
    if extent == length {
        return Ok(seam);
    }
    Ok(Tensor::cat(&[&seam, &tile.narrow(axis, extent, length - extent)?], axis)?)
}

impl Vae {
    /// Encodes in tiles of the config's `sample_size`; a picture no larger than one tile is encoded whole.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), and what `on_tile` returns.
    pub fn encode_tiled(&self, pixels: &Tensor, on_tile: &mut OnTile<'_>) -> Result<Posterior> {
        self.check_pixels(pixels)?;
        let (_, _, height, width) = pixels.dims4()?;
        let (size, downscale) = (self.config.sample_size, self.config.downscale());
        if height.max(width) <= size {
            let posterior = self.encode(pixels)?;
            on_tile(1, 1)?;
            return Ok(posterior);
        }
        let tiles = Tiles::new(size, size / downscale, downscale)?;
        Posterior::new(&tiles.run(pixels, |tile| self.moments(tile), on_tile)?)
    }

    /// Decodes in tiles of the config's `sample_size` (in pixels); latents no larger than one tile are decoded whole.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), and what `on_tile` returns.
    pub fn decode_tiled(&self, latents: &Tensor, on_tile: &mut OnTile<'_>) -> Result<Tensor> {
        self.check_latents(latents)?;
        let (_, _, height, width) = latents.dims4()?;
        let (size, downscale) = (self.config.sample_size, self.config.downscale());
        if height.max(width) <= size / downscale {
            let pixels = self.decode(latents)?;
            on_tile(1, 1)?;
            return Ok(pixels);
        }
        let tiles = Tiles::new(size / downscale, size, 1)?;
        tiles.run(latents, |tile| self.pixels(tile), on_tile)
    }
}
