//! The innermost product of the CPU kernels.

// Indices, so that the loops unroll into registers.
#![allow(clippy::needless_range_loop)]

use super::simd::Simd;

/// `out[r][lane] (+)= sum_i left[i][r] right[i][lane]` for `ROWS` rows of `VECTORS` vectors: `left` and `right` lie step by
/// step, `out` line by line.
///
/// # Safety
/// As [`Simd`]: `depth` steps of `ROWS` and of `VECTORS` vectors can be read, and `ROWS` lines of `VECTORS` vectors written.
#[inline(always)]
#[allow(unsafe_code)]
pub(super) unsafe fn micro<S: Simd, const ROWS: usize, const VECTORS: usize>(
    depth: usize,
    mut left: *const f32,
    mut right: *const f32,
    out: *mut f32,
    out_row: usize,
    add: bool,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[S::splat(0.0); VECTORS]; ROWS];
        for _ in 0..depth {
            let mut values = [S::splat(0.0); VECTORS];
            for v in 0..VECTORS {
                values[v] = S::load(right.add(v * S::LANES));
            }
            for r in 0..ROWS {
                let weight = S::splat(*left.add(r));
                for v in 0..VECTORS {
                    sums[r][v] = weight.mul_add(values[v], sums[r][v]);
                }
            }
            left = left.add(ROWS);
            right = right.add(VECTORS * S::LANES);
        }
        for r in 0..ROWS {
            for v in 0..VECTORS {
                let to = out.add(r * out_row + v * S::LANES);
                let sum = if add { sums[r][v].add(S::load(to)) } else { sums[r][v] };
                sum.store(to);
            }
        }
    }
}
