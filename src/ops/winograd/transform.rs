//! The arithmetic of F(4x4, 3x3): polynomials of degree 5 through 0, +-A, +-B and infinity.
//!
//! The textbook takes the points +-1 and +-2, and loses a decimal digit. With 5/8 and 3/2 the rounding error is within twice
//! that of the plain sum in f32, and the products of the points are still exact.

use super::super::simd::Simd;

const A: f32 = 0.625;
const B: f32 = 1.5;
const A2: f32 = A * A;
const B2: f32 = B * B;

/// The points' values of six samples in a row.
#[inline(always)]
pub(super) fn input<S: Simd>(d: [S; 6]) -> [S; 6] {
    let (sum, product) = (d[0].all(A2 + B2), d[0].all(A2 * B2));
    let (a2, b2) = (d[0].all(A2), d[0].all(B2));
    let near_even = d[2].mul_sub_from(b2, d[4]);
    let near_odd = d[1].mul_sub_from(b2, d[3]);
    let far_even = d[2].mul_sub_from(a2, d[4]);
    let far_odd = d[1].mul_sub_from(a2, d[3]);
    let (a, b) = (d[0].all(A), d[0].all(B));
    [
        d[0].mul_add(product, d[2].mul_sub_from(sum, d[4])),
        near_odd.mul_add(a, near_even),
        near_odd.mul_sub_from(a, near_even),
        far_odd.mul_add(b, far_even),
        far_odd.mul_sub_from(b, far_even),
        d[1].mul_add(product, d[3].mul_sub_from(sum, d[5])),
    ]
}

/// How taps become points' values: `SIDE` to a line. A trait and not a closure, which would be compiled without a kernel's
/// instructions.
pub(super) trait Points<const SIDE: usize> {
    /// The points' values of three taps in a row.
    fn weight<S: Simd>(w: [S; 3]) -> [S; SIDE];
}

/// Of F(4x4, 3x3).
pub(super) struct Four;

impl Points<6> for Four {
    #[inline(always)]
    fn weight<S: Simd>(w: [S; 3]) -> [S; 6] {
        const NEAR: f32 = 1.0 / (2.0 * A2 * (A2 - B2));
        const FAR: f32 = 1.0 / (2.0 * B2 * (B2 - A2));
        let near = w[2].mul(w[0].all(NEAR * A2)).add(w[0].mul(w[0].all(NEAR)));
        let far = w[2].mul(w[0].all(FAR * B2)).add(w[0].mul(w[0].all(FAR)));
        let (near_odd, far_odd) = (w[1].mul(w[0].all(NEAR * A)), w[1].mul(w[0].all(FAR * B)));
        [
            w[0].mul(w[0].all(1.0 / (A2 * B2))),
            near.add(near_odd),
            near.sub(near_odd),
            far.add(far_odd),
            far.sub(far_odd),
            w[2],
        ]
    }
}

/// The four results of six products.
#[inline(always)]
pub(super) fn output<S: Simd>(m: [S; 6]) -> [S; 4] {
    let (near, near_odd) = (m[1].add(m[2]), m[1].sub(m[2]));
    let (far, far_odd) = (m[3].add(m[4]), m[3].sub(m[4]));
    [
        m[0].add(near).add(far),
        far_odd.mul_add(m[0].all(B), near_odd.mul(m[0].all(A))),
        far.mul_add(m[0].all(B2), near.mul(m[0].all(A2))),
        far_odd.mul_add(m[0].all(B2 * B), near_odd.mul_add(m[0].all(A2 * A), m[5])),
    ]
}
