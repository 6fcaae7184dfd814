//! The matrix product behind the CPU kernels: a checked, safe face on the `gemm` crate.

use candle_core::{CpuStorage, Layout};
use gemm::Parallelism;

/// A matrix inside a slice, by the distance between its rows and between its columns.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) row: usize,
    pub(super) column: usize,
}

/// What happens to the values that `out` holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// They are overwritten.
    Overwrite,
    /// The product is added to them.
    Add,
}

/// `out = factor * left right` (or `+=`), sizes `(m, k) x (k, n)`; `out` is a slice and the distance between its rows, its
/// columns lie side by side. `threads` = 1 stays on the calling thread. Every element is summed by one thread in one order,
/// so the result does not depend on `threads`.
pub(super) fn multiply(
    left: Matrix<'_>,
    right: Matrix<'_>,
    (m, k, n): (usize, usize, usize),
    factor: f32,
    target: Target,
    (out, out_row): (&mut [f32], usize),
    threads: usize,
) {
    if m == 0 || k == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * left.row + (k - 1) * left.column < left.data.len(), "left matrix outside its slice");
    assert!((k - 1) * right.row + (n - 1) * right.column < right.data.len(), "right matrix outside its slice");
    assert!((m - 1) * out_row + n <= out.len() && (n <= out_row || m == 1), "product outside its slice");
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    // SAFETY: the three assertions keep the last element of each matrix, and so all of them, inside its slice (strides
    // are unsigned) and the rows of `out` apart; `out` is borrowed mutably, so it overlaps neither input.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_row as isize,
            target == Target::Add,
            left.data.as_ptr(),
            left.column as isize,
            left.row as isize,
            right.data.as_ptr(),
            right.column as isize,
            right.row as isize,
            1.0,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// The elements of a contiguous f32 tensor.
pub(super) fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle_core::bail!("this kernel needs contiguous tensors"),
    }
}
