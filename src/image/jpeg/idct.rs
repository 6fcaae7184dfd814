//! The inverse cosine transform of a block, to the bit libjpeg's "slow" integer one: Loeffler's algorithm in 13 bits, columns
//! first, two bits kept between the passes.
//!
//! Loeffler, Ligtenberg, Moschytz, "Practical fast 1-D DCT algorithms with 11 multiplications", 1989.

const BITS: u32 = 13;
const KEPT: u32 = 2;

/// One block to samples, in rows of `stride`.
pub(super) fn inverse(coefficients: &[i16; 64], quantisation: &[u16; 64], samples: &mut [u8], stride: usize) {
    let mut work = [0i32; 64];
    for x in 0..8 {
        let column = std::array::from_fn(|y| i32::from(coefficients[8 * y + x]) * i32::from(quantisation[8 * y + x]));
        for (y, value) in pass(column, BITS - KEPT).into_iter().enumerate() {
            work[8 * y + x] = value;
        }
    }
    let (rows, _) = work.as_chunks::<8>();
    for (row, samples) in rows.iter().zip(samples.chunks_mut(stride)) {
        let values = pass(*row, BITS + KEPT + 3);
        for (sample, value) in samples.iter_mut().zip(values) {
            *sample = value.wrapping_add(128).clamp(0, 255) as u8;
        }
    }
}

/// Eight values transformed and divided by two to the `shift`, rounded. Damaged files may overflow; valid ones cannot.
fn pass(v: [i32; 8], shift: u32) -> [i32; 8] {
    let mul = i32::wrapping_mul;
    let add = i32::wrapping_add;
    let sub = i32::wrapping_sub;
    // Even part.
    let z = mul(add(v[2], v[6]), 4433);
    let (t2, t3) = (sub(z, mul(v[6], 15137)), add(z, mul(v[2], 6270)));
    let (t0, t1) = (add(v[0], v[4]).wrapping_shl(BITS), sub(v[0], v[4]).wrapping_shl(BITS));
    let even = [add(t0, t3), add(t1, t2), sub(t1, t2), sub(t0, t3)];
    // Odd part.
    let (z1, z2) = (mul(add(v[7], v[1]), -7373), mul(add(v[5], v[3]), -20995));
    let (z3, z4) = (add(v[7], v[3]), add(v[5], v[1]));
    let z5 = mul(add(z3, z4), 9633);
    let (z3, z4) = (add(mul(z3, -16069), z5), add(mul(z4, -3196), z5));
    let odd = [
        add(mul(v[1], 12299), add(z1, z4)),
        add(mul(v[3], 25172), add(z2, z3)),
        add(mul(v[5], 16819), add(z2, z4)),
        add(mul(v[7], 2446), add(z1, z3)),
    ];
    std::array::from_fn(|i| {
        let sum = if i < 4 { add(even[i], odd[i]) } else { sub(even[7 - i], odd[7 - i]) };
        add(sum, 1 << (shift - 1)) >> shift
    })
}
