//! Reflection padding: the picture continued by its mirror image, the edge pixels not repeated.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::product::contiguous;
use crate::error::{Error, Result};

/// Continues `[batch, channels, height, width]` by `n` mirrored pixels on every side (torch's `ReflectionPad2d`).
///
/// # Errors
/// When a side has `n` pixels or fewer.
pub fn reflect_pad(xs: &Tensor, n: usize) -> Result<Tensor> {
    let (_, _, height, width) = xs.dims4()?;
    check(height, width, n)?;
    if n == 0 {
        return Ok(xs.clone());
    }
    if xs.device().is_cpu() && xs.dtype() == DType::F32 {
        return Ok(xs.contiguous()?.apply_op1(Reflect { n })?);
    }
    let select = |xs: &Tensor, axis: usize, side: usize| xs.index_select(&indices(side, n, xs)?, axis);
    Ok(select(&select(xs, 2, height)?, 3, width)?)
}

/// The gradient to the input of [`reflect_pad`], given the gradient to its output: mirrored pixels are added to those they
/// came from.
///
/// # Errors
/// When the gradient is too small to be that of a picture padded by `n`.
pub fn reflect_pad_backward(gradient: &Tensor, n: usize) -> Result<Tensor> {
    let (batch, channels, height, width) = gradient.dims4()?;
    let (height, width) = (height.saturating_sub(2 * n), width.saturating_sub(2 * n));
    check(height, width, n)?;
    if n == 0 {
        return Ok(gradient.clone());
    }
    if gradient.device().is_cpu() && gradient.dtype() == DType::F32 {
        return Ok(gradient.contiguous()?.apply_op1_no_bwd(&Fold { n })?);
    }
    let zeros = |shape| Tensor::zeros(shape, gradient.dtype(), gradient.device());
    let columns = zeros((batch, channels, height + 2 * n, width))?;
    let columns = columns.index_add(&indices(width, n, gradient)?, gradient, 3)?;
    Ok(zeros((batch, channels, height, width))?.index_add(&indices(height, n, gradient)?, &columns, 2)?)
}

fn check(height: usize, width: usize, n: usize) -> Result<()> {
    if n > 0 && height.min(width) <= n {
        return Err(Error::usage(
            "reflection padding",
            format!("{n} pixels cannot be mirrored at the edge of a {width}x{height} picture"),
        ));
    }
    Ok(())
}

/// Where the pixels of a padded line come from.
fn indices(side: usize, n: usize, like: &Tensor) -> candle_core::Result<Tensor> {
    let from: Vec<u32> = (0..side + 2 * n).map(|at| reflected(at, side, n) as u32).collect();
    Tensor::from_vec(from, side + 2 * n, like.device())
}

/// The pixel of a line of `side` that stands at `at` of the line padded by `n < side`.
pub(super) fn reflected(at: usize, side: usize, n: usize) -> usize {
    let inside = at.abs_diff(n);
    if inside < side { inside } else { 2 * (side - 1) - inside }
}

struct Reflect {
    n: usize,
}

impl CustomOp1 for Reflect {
    fn name(&self) -> &'static str {
        "reflect-pad"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let n = self.n;
        let (batch, channels, height, width) = layout.shape().dims4()?;
        let xs = contiguous(storage, layout)?;
        let shape = Shape::from((batch, channels, height + 2 * n, width + 2 * n));
        let mut out = vec![0f32; shape.elem_count()];
        let padded = (height + 2 * n) * (width + 2 * n);
        out.par_chunks_mut(padded.max(1)).zip(xs.par_chunks((height * width).max(1))).for_each(|(out, xs)| {
            for (y, out) in out.chunks_mut(width + 2 * n).enumerate() {
                let line = &xs[reflected(y, height, n) * width..][..width];
                out[n..n + width].copy_from_slice(line);
                for x in 0..n {
                    out[x] = line[n - x];
                    out[n + width + x] = line[width - 2 - x];
                }
            }
        });
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        gradient.contiguous()?.apply_op1_no_bwd(&Fold { n: self.n }).map(Some)
    }
}

/// The transpose of [`Reflect`].
struct Fold {
    n: usize,
}

impl CustomOp1 for Fold {
    fn name(&self) -> &'static str {
        "reflect-pad-backward"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let n = self.n;
        let (batch, channels, height, width) = layout.shape().dims4()?;
        let gradient = contiguous(storage, layout)?;
        let shape = Shape::from((batch, channels, height - 2 * n, width - 2 * n));
        let mut out = vec![0f32; shape.elem_count()];
        let plane = (height - 2 * n) * (width - 2 * n);
        out.par_chunks_mut(plane.max(1))
            .zip(gradient.par_chunks((height * width).max(1)))
            .for_each(|(out, gradient)| fold(gradient, out, (height - 2 * n, width - 2 * n), n));
        Ok((CpuStorage::F32(out), shape))
    }
}

/// Adds one padded plane to the plane it was made from.
pub(super) fn fold(padded: &[f32], out: &mut [f32], (height, width): (usize, usize), n: usize) {
    for (y, line) in padded.chunks(width + 2 * n).enumerate() {
        let out = &mut out[reflected(y, height, n) * width..][..width];
        for (out, line) in out.iter_mut().zip(&line[n..n + width]) {
            *out += line;
        }
        for x in 0..n {
            out[n - x] += line[x];
            out[width - 2 - x] += line[n + width + x];
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn counted(height: usize, width: usize) -> Tensor {
        Tensor::arange(0f32, (2 * height * width) as f32, &Device::Cpu)
            .and_then(|xs| xs.reshape((1, 2, height, width)))
            .unwrap()
    }

    #[test]
    fn the_edges_are_mirrored_without_being_repeated() {
        let padded = reflect_pad(&counted(3, 4), 2).unwrap();
        assert_eq!(padded.dims(), [1, 2, 7, 8]);
        let rows = padded.squeeze(0).unwrap().to_vec3::<f32>().unwrap();
        assert_eq!(rows[0][2], [2., 1., 0., 1., 2., 3., 2., 1.]);
        assert_eq!(rows[0][0], rows[0][4]);
        assert_eq!(rows[0][6], rows[0][2]);
    }

    /// The kernels against the composition that other devices run.
    #[test]
    fn forward_and_backward_equal_the_composition() {
        let (xs, n) = (counted(5, 4), 3);
        let padded = reflect_pad(&xs, n).unwrap();
        let wide = reflect_pad(&xs.to_dtype(DType::F64).unwrap(), n).unwrap();
        assert_eq!(wide.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap(), {
            padded.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        });
        let folded = reflect_pad_backward(&padded, n).unwrap();
        let wide = reflect_pad_backward(&wide, n).unwrap().to_dtype(DType::F32).unwrap();
        assert_eq!(wide.flatten_all().unwrap().to_vec1::<f32>().unwrap(), {
            folded.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        });
        let var = Var::from_tensor(&xs).unwrap();
        let padded = reflect_pad(&var, n).unwrap();
        let gradients = (padded.sqr().unwrap() * 0.5).unwrap().sum_all().unwrap().backward().unwrap();
        let gradient = gradients.get(&var).unwrap();
        assert_eq!(gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap(), {
            folded.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        });
    }

    #[test]
    fn a_picture_narrower_than_its_padding_is_refused() {
        assert!(reflect_pad(&counted(3, 3), 3).is_err());
        assert!(reflect_pad_backward(&counted(5, 5), 2).is_err());
        assert!(reflect_pad(&counted(1, 1), 0).is_ok());
    }
}
