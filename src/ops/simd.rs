//! Vectors of floats behind one trait, so that a kernel is written once and compiled for every instruction set.
//!
//! A kernel's entry for a set carries `#[target_feature]`; everything below it is `#[inline(always)]` and so is compiled
//! with the entry's instructions. [`Isa::best`] says at run time which entry may be called.

/// The instruction sets kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    /// 16 lanes and 32 registers.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 8 lanes and 16 registers, with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler makes of four lanes: SSE2, NEON, WebAssembly's.
    Portable,
}

impl Isa {
    /// The widest set of this machine.
    pub(super) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// Every set this machine has.
    #[cfg(test)]
    pub(super) fn all() -> Vec<Self> {
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Self::Avx2);
            }
            if is_x86_feature_detected!("avx512f") {
                all.push(Self::Avx512);
            }
        }
        all
    }
}

/// Loops over slices, branchless and without calls, so that the compiler makes vectors of them.
pub(super) trait Loops {
    /// Runs them. Must be `#[inline(always)]`, as all that it calls: it is compiled for each set.
    fn run(self);
}

/// Runs loops with the widest instructions of this machine.
pub(super) fn vectorised(loops: impl Loops) {
    match Isa::best() {
        // SAFETY: `best` found the set on this machine.
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        Isa::Avx512 => unsafe { with_avx512(loops) },
        // SAFETY: the same.
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        Isa::Avx2 => unsafe { with_avx2(loops) },
        Isa::Portable => loops.run(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn with_avx512(loops: impl Loops) {
    loops.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2(loops: impl Loops) {
    loops.run();
}

/// The length of the longest vector.
pub(super) const MOST_LANES: usize = 16;

/// A vector of f32.
///
/// A value is the proof that the instruction set is there: making the first one is unsafe, arithmetic is not.
#[allow(unsafe_code)]
pub(super) trait Simd: Copy {
    /// Its length.
    const LANES: usize;

    /// # Safety
    /// The instruction set is there.
    unsafe fn splat(x: f32) -> Self;
    /// # Safety
    /// The instruction set is there, and as many floats can be read.
    unsafe fn load(from: *const f32) -> Self;
    /// The floats this far from `from`, one per lane.
    ///
    /// # Safety
    /// The instruction set is there, and those floats can be read.
    unsafe fn gather(from: *const f32, offsets: &[i32; MOST_LANES]) -> Self;
    /// # Safety
    /// As many floats can be written.
    unsafe fn store(self, to: *mut f32);
    /// Stores the first `count` lanes.
    ///
    /// # Safety
    /// `count` floats, at most all lanes, can be written.
    unsafe fn store_first(self, to: *mut f32, count: usize);

    /// A vector of one value, made beside another vector.
    fn all(self, x: f32) -> Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// `self * by + to`.
    fn mul_add(self, by: Self, to: Self) -> Self;
    /// `from - self * by`.
    fn mul_sub_from(self, by: Self, from: Self) -> Self;
    /// The larger of each lane; `other` where `self` is not a number.
    fn max(self, other: Self) -> Self;
    /// Every lane from its upper neighbour, the last one new.
    fn shift(self, last: f32) -> Self;
    /// `self * 2^n` where `shifted` is n plus [`ROUND`]; `self` lies near 1, and the result among the normal numbers.
    fn times_power(self, shifted: Self) -> Self;
    /// Four vectors in a row to those of the elements 4i, 4i + 1, 4i + 2, 4i + 3.
    fn unzip4(rows: [Self; 4]) -> [Self; 4];
    /// The inverse of [`Simd::unzip4`].
    fn zip4(columns: [Self; 4]) -> [Self; 4];

    /// `e^x` for x up to 0, within 2 units in the last place; what is below -87.3 counts as that.
    ///
    /// Cody-Waite reduction to |r| <= ln(2)/2, then the degree-6 minimax polynomial of Cephes' `expf`.
    #[inline(always)]
    fn exp_below(self) -> Self {
        // In this order, not-a-number stays what it is.
        let x = self.all(-87.3).max(self);
        let shifted = x.mul_add(self.all(std::f32::consts::LOG2_E), self.all(ROUND));
        let n = shifted.sub(self.all(ROUND));
        let r = n.mul_sub_from(self.all(0.693_359_4), x);
        let r = n.mul_sub_from(self.all(-2.121_944_4e-4), r);
        let mut p = self.all(1.987_569_1e-4);
        for factor in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.500_000_1] {
            p = p.mul_add(r, self.all(factor));
        }
        let e = p.mul(r).mul_add(r, r).add(self.all(1.0));
        e.times_power(shifted)
    }
}

/// 1.5 * 2^23: a number added to it is rounded to an integer in its low bits, without a call to `round`.
pub(super) const ROUND: f32 = 12_582_912.0;

/// Four lanes in plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 4]);

impl Portable {
    #[inline(always)]
    fn each(self, other: Self, of: impl Fn(f32, f32) -> f32) -> Self {
        let (Self([a, b, c, d]), Self([e, f, g, h])) = (self, other);
        Self([of(a, e), of(b, f), of(c, g), of(d, h)])
    }
}

#[allow(unsafe_code)]
impl Simd for Portable {
    const LANES: usize = 4;

    // SAFETY: these four touch what the caller promised, and any machine has the instructions.
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's four floats.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn gather(from: *const f32, offsets: &[i32; MOST_LANES]) -> Self {
        // SAFETY: the caller's four floats.
        unsafe {
            let [a, b, c, d, ..] = *offsets;
            Self([
                *from.offset(a as isize),
                *from.offset(b as isize),
                *from.offset(c as isize),
                *from.offset(d as isize),
            ])
        }
    }

    // SAFETY: the caller's, in this and the next.
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's four floats.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        for (lane, x) in self.0.into_iter().enumerate().take(count) {
            // SAFETY: the caller's `count` floats.
            unsafe { to.add(lane).write(x) }
        }
    }

    #[inline(always)]
    fn all(self, x: f32) -> Self {
        Self([x; 4])
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.each(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.each(other, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.each(other, |a, b| a * b)
    }

    #[inline(always)]
    fn mul_add(self, by: Self, to: Self) -> Self {
        // Fused only where that is an instruction and not a call.
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            let (Self([a, b, c, d]), Self([e, f, g, h]), Self([i, j, k, l])) = (self, by, to);
            return Self([a.mul_add(e, i), b.mul_add(f, j), c.mul_add(g, k), d.mul_add(h, l)]);
        }
        self.mul(by).add(to)
    }

    #[inline(always)]
    fn mul_sub_from(self, by: Self, from: Self) -> Self {
        self.mul(self.all(-1.0)).mul_add(by, from)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.each(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn shift(self, last: f32) -> Self {
        Self([self.0[1], self.0[2], self.0[3], last])
    }

    #[inline(always)]
    fn times_power(self, shifted: Self) -> Self {
        self.each(shifted, |e, n| f32::from_bits(e.to_bits().wrapping_add(n.to_bits() << 23)))
    }

    #[inline(always)]
    fn unzip4([a, b, c, d]: [Self; 4]) -> [Self; 4] {
        let rows = [a.0, b.0, c.0, d.0];
        let column = |i: usize| Self([rows[0][i], rows[1][i], rows[2][i], rows[3][i]]);
        [column(0), column(1), column(2), column(3)]
    }

    #[inline(always)]
    fn zip4(columns: [Self; 4]) -> [Self; 4] {
        // A transposition is its own inverse.
        Self::unzip4(columns)
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86 {
    use std::arch::x86_64::*;

    use super::{MOST_LANES, Simd};

    /// AVX2 with FMA.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(__m256);

    /// AVX-512's foundation.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(__m512);

    /// Methods that are one instruction.
    macro_rules! instructions {
        ($splat:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident, $max:ident, $fma:ident, $fnma:ident) => {
            instructions! {
                fn add(other) = $add;
                fn sub(other) = $sub;
                fn mul(other) = $mul;
                fn max(other) = $max;
                fn mul_add(by, to) = $fma;
                fn mul_sub_from(by, from) = $fnma;
            }

            // SAFETY: the instruction is the caller's promise here and below, or proved by `self`.
            #[inline(always)]
            unsafe fn splat(x: f32) -> Self {
                unsafe { Self($splat(x)) }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                unsafe { Self($load(from)) }
            }

            // SAFETY: as above.
            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                unsafe { $store(to, self.0) }
            }

            #[inline(always)]
            fn all(self, x: f32) -> Self {
                unsafe { Self($splat(x)) }
            }
        };
        ($(fn $name:ident($($argument:ident),*) = $instruction:ident;)*) => {$(
            #[inline(always)]
            fn $name(self, $($argument: Self),*) -> Self {
                // SAFETY: a vector exists only where its instructions do.
                unsafe { Self($instruction(self.0, $($argument.0),*)) }
            }
        )*};
    }

    impl Avx2 {
        /// Transposes the 4 x 4 blocks that the vectors' halves make.
        ///
        /// # Safety
        /// AVX2 is there.
        #[inline(always)]
        unsafe fn transpose([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
            // SAFETY: the caller's.
            unsafe {
                let (ab, ab2) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                let (cd, cd2) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
                [
                    _mm256_shuffle_ps::<0x44>(ab, cd),
                    _mm256_shuffle_ps::<0xee>(ab, cd),
                    _mm256_shuffle_ps::<0x44>(ab2, cd2),
                    _mm256_shuffle_ps::<0xee>(ab2, cd2),
                ]
            }
        }
    }

    impl Simd for Avx2 {
        const LANES: usize = 8;

        instructions!(
            _mm256_set1_ps,
            _mm256_loadu_ps,
            _mm256_storeu_ps,
            _mm256_add_ps,
            _mm256_sub_ps,
            _mm256_mul_ps,
            _mm256_max_ps,
            _mm256_fmadd_ps,
            _mm256_fnmadd_ps
        );

        // SAFETY: the caller's.
        #[inline(always)]
        unsafe fn gather(from: *const f32, offsets: &[i32; MOST_LANES]) -> Self {
            unsafe { Self(_mm256_i32gather_ps::<4>(from, _mm256_loadu_si256(offsets.as_ptr().cast()))) }
        }

        // SAFETY: the caller's; a lane that is masked out is not touched.
        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, count: usize) {
            unsafe {
                let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes);
                _mm256_maskstore_ps(to, mask, self.0);
            }
        }

        #[inline(always)]
        fn shift(self, last: f32) -> Self {
            // SAFETY: a vector exists only where its instructions do.
            unsafe {
                let up = _mm256_permutevar8x32_ps(self.0, _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 0));
                Self(_mm256_blend_ps::<0x80>(up, _mm256_set1_ps(last)))
            }
        }

        #[inline(always)]
        fn times_power(self, shifted: Self) -> Self {
            // SAFETY: a vector exists only where its instructions do.
            unsafe {
                let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted.0));
                Self(_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(self.0), power)))
            }
        }

        #[inline(always)]
        fn unzip4([a, b, c, d]: [Self; 4]) -> [Self; 4] {
            // SAFETY: a vector exists only where its instructions do.
            unsafe {
                let rows = [
                    _mm256_permute2f128_ps::<0x20>(a.0, c.0),
                    _mm256_permute2f128_ps::<0x31>(a.0, c.0),
                    _mm256_permute2f128_ps::<0x20>(b.0, d.0),
                    _mm256_permute2f128_ps::<0x31>(b.0, d.0),
                ];
                let [a, b, c, d] = Self::transpose(rows);
                [Self(a), Self(b), Self(c), Self(d)]
            }
        }

        #[inline(always)]
        fn zip4([a, b, c, d]: [Self; 4]) -> [Self; 4] {
            // SAFETY: a vector exists only where its instructions do.
            unsafe {
                let [a, b, c, d] = Self::transpose([a.0, b.0, c.0, d.0]);
                [
                    Self(_mm256_permute2f128_ps::<0x20>(a, b)),
                    Self(_mm256_permute2f128_ps::<0x20>(c, d)),
                    Self(_mm256_permute2f128_ps::<0x31>(a, b)),
                    Self(_mm256_permute2f128_ps::<0x31>(c, d)),
                ]
            }
        }
    }

    impl Simd for Avx512 {
        const LANES: usize = 16;

        instructions!(
            _mm512_set1_ps,
            _mm512_loadu_ps,
            _mm512_storeu_ps,
            _mm512_add_ps,
            _mm512_sub_ps,
            _mm512_mul_ps,
            _mm512_max_ps,
            _mm512_fmadd_ps,
            _mm512_fnmadd_ps
        );

        // SAFETY: the caller's.
        #[inline(always)]
        unsafe fn gather(from: *const f32, offsets: &[i32; MOST_LANES]) -> Self {
            unsafe { Self(_mm512_i32gather_ps::<4>(_mm512_loadu_si512(offsets.as_ptr().cast()), from)) }
        }

        // SAFETY: the caller's; a lane that is masked out is not touched.
        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, count: usize) {
            unsafe { _mm512_mask_storeu_ps(to, ((1u32 << count) - 1) as u16, self.0) }
        }

        #[inline(always)]
        fn shift(self, last: f32) -> Self {
            // SAFETY: a vector exists only where its instructions do.
            unsafe {
                let (new, old) = (_mm512_castps_si512(_mm512_set1_ps(last)), _mm512_castps_si512(self.0));
                Self(_mm512_castsi512_ps(_mm512_alignr_epi32::<1>(new, old)))
            }
        }

        #[inline(always)]
        fn times_power(self, shifted: Self) -> Self {
            // SAFETY: a vector exists only where its instructions do.
            unsafe {
                let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted.0));
                Self(_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(self.0), power)))
            }
        }

        #[inline(always)]
        fn unzip4([a, b, c, d]: [Self; 4]) -> [Self; 4] {
            // SAFETY: a vector exists only where its instructions do.
            unsafe {
                let first = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
                let second = _mm512_setr_epi32(2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31);
                let (ab, ab2) = (_mm512_permutex2var_ps(a.0, first, b.0), _mm512_permutex2var_ps(a.0, second, b.0));
                let (cd, cd2) = (_mm512_permutex2var_ps(c.0, first, d.0), _mm512_permutex2var_ps(c.0, second, d.0));
                [
                    Self(_mm512_shuffle_f32x4::<0x44>(ab, cd)),
                    Self(_mm512_shuffle_f32x4::<0xee>(ab, cd)),
                    Self(_mm512_shuffle_f32x4::<0x44>(ab2, cd2)),
                    Self(_mm512_shuffle_f32x4::<0xee>(ab2, cd2)),
                ]
            }
        }

        #[inline(always)]
        fn zip4([a, b, c, d]: [Self; 4]) -> [Self; 4] {
            // SAFETY: a vector exists only where its instructions do. Pairs of eight columns each first, then their pairs.
            unsafe {
                let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
                let high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
                let (ab, ab2) = (_mm512_permutex2var_ps(a.0, low, b.0), _mm512_permutex2var_ps(a.0, high, b.0));
                let (cd, cd2) = (_mm512_permutex2var_ps(c.0, low, d.0), _mm512_permutex2var_ps(c.0, high, d.0));
                let low = _mm512_setr_epi32(0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23);
                let high = _mm512_setr_epi32(8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31);
                [
                    Self(_mm512_permutex2var_ps(ab, low, cd)),
                    Self(_mm512_permutex2var_ps(ab, high, cd)),
                    Self(_mm512_permutex2var_ps(ab2, low, cd2)),
                    Self(_mm512_permutex2var_ps(ab2, high, cd2)),
                ]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever a vector does must be what its lanes would.
    #[allow(unsafe_code)]
    fn check<S: Simd>() {
        let numbers: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let mut out = vec![-1f32; 64];
        // SAFETY: called for sets the machine has, on slices of four vectors at least.
        unsafe {
            let at = |i: usize| S::load(numbers.as_ptr().add(i * S::LANES));
            let rows = [at(0), at(1), at(2), at(3)];
            for (i, column) in S::unzip4(rows).into_iter().enumerate() {
                column.store(out.as_mut_ptr());
                assert!(out.iter().take(S::LANES).enumerate().all(|(lane, &x)| x == (4 * lane + i) as f32));
            }
            for (i, row) in S::zip4(S::unzip4(rows)).into_iter().enumerate() {
                row.store(out.as_mut_ptr().add(i * S::LANES));
            }
            assert_eq!(out[..4 * S::LANES], numbers[..4 * S::LANES]);
            at(0).shift(-7.0).store(out.as_mut_ptr());
            assert_eq!(out[..S::LANES - 1], numbers[1..S::LANES]);
            assert_eq!(out[S::LANES - 1], -7.0);
            at(1).mul_add(S::splat(2.0), at(0)).mul_sub_from(S::splat(0.5), at(3)).store(out.as_mut_ptr());
            assert_eq!(out[1], (3 * S::LANES + 1) as f32 - 0.5 * (2.0 * (S::LANES + 1) as f32 + 1.0));
            let offsets = std::array::from_fn(|lane| 3 * (lane as i32 % 4) + 1);
            S::gather(numbers.as_ptr(), &offsets).store(out.as_mut_ptr());
            assert!(out.iter().zip(offsets).take(S::LANES).all(|(&x, offset)| x == offset as f32));
            for step in 0..873 {
                let x = step as f32 / -10.0;
                S::splat(x).exp_below().store(out.as_mut_ptr());
                let exact = f64::from(x).exp();
                let error = (f64::from(out[S::LANES - 1]) - exact).abs() / exact;
                assert!(error < 2.4e-7, "exp({x}) is off by {error:e}");
            }
            S::splat(-1e30).exp_below().store(out.as_mut_ptr());
            assert!((0.0..1.3e-38).contains(&out[0]));
            S::splat(f32::NAN).exp_below().store(out.as_mut_ptr());
            assert!(out[0].is_nan());
            out.fill(0.0);
            S::splat(3.0).max(at(0)).store_first(out.as_mut_ptr(), 3);
            assert_eq!(out[..4], [3.0, 3.0, 3.0, 0.0]);
            at(1).store_first(out.as_mut_ptr(), S::LANES);
            assert_eq!(out[S::LANES - 1], (2 * S::LANES - 1) as f32);
        }
    }

    #[test]
    fn vectors_do_what_their_lanes_would() {
        for isa in Isa::all() {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => check::<Avx512>(),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => check::<Avx2>(),
                Isa::Portable => check::<Portable>(),
            }
        }
    }
}
