//! Sums of products of small whole numbers, several to a lane.
//!
//! Every instruction set gives the same sums, as they are exact.

#![allow(unsafe_code)]

/// The instruction sets this is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Set {
    /// AVX-512's vector neural network instructions: 64 products at once.
    #[cfg(target_arch = "x86_64")]
    Vnni,
    /// 16 at once, of numbers of 16 bits.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler makes of it.
    Portable,
}

impl Set {
    /// The widest of this machine.
    pub(super) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw") {
                return Self::Vnni;
            }
            if is_x86_feature_detected!("avx2") {
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
            if is_x86_feature_detected!("avx2") {
                all.push(Self::Avx2);
            }
            if Self::best() == Self::Vnni {
                all.push(Self::Vnni);
            }
        }
        all
    }
}

/// A vector of sums, one per output.
pub(super) trait Dot: Copy {
    /// Its length.
    const LANES: usize;
    /// Products that a lane takes at once: so many weights of an output lie together, and so many inputs in a word.
    const STEP: usize;
    /// What is added to every input.
    const OFFSET: i32;
    /// A vector of weights.
    type Weights: Copy;

    /// Inputs from -127 to 127, [`Dot::STEP`] of them, as a word.
    fn word(values: &[i32]) -> u32;
    /// # Safety
    /// The instruction set is there, here and below.
    unsafe fn zero() -> Self;
    /// # Safety
    /// `LANES * STEP` weights can be read.
    unsafe fn weights(from: *const i8) -> Self::Weights;
    /// Adds the products of a word with every output's weights.
    ///
    /// # Safety
    /// See [`Dot::zero`].
    unsafe fn add(self, word: u32, weights: Self::Weights) -> Self;
    /// # Safety
    /// `LANES` sums can be written.
    unsafe fn store(self, to: *mut i32);
}

/// Two inputs of 16 bits as a word.
#[inline(always)]
fn pair(values: &[i32]) -> u32 {
    values.iter().rev().fold(0, |word, &value| (word << 16) | (value as u32 & 0xffff))
}

/// Four lanes in plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Portable([i32; 4]);

// SAFETY: any machine has the instructions; memory is the caller's promise.
impl Dot for Portable {
    const LANES: usize = 4;
    const STEP: usize = 2;
    const OFFSET: i32 = 0;
    type Weights = [[i8; 2]; 4];

    #[inline(always)]
    fn word(values: &[i32]) -> u32 {
        pair(values)
    }

    // SAFETY: as above.
    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0; 4])
    }

    // SAFETY: as above.
    #[inline(always)]
    unsafe fn weights(from: *const i8) -> Self::Weights {
        unsafe { from.cast::<Self::Weights>().read_unaligned() }
    }

    // SAFETY: as above.
    #[inline(always)]
    unsafe fn add(self, word: u32, weights: Self::Weights) -> Self {
        let (first, second) = (i32::from(word as i16), i32::from((word >> 16) as i16));
        let mut sums = self.0;
        for (sum, [a, b]) in sums.iter_mut().zip(weights) {
            *sum += first * i32::from(a) + second * i32::from(b);
        }
        Self(sums)
    }

    // SAFETY: as above.
    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        unsafe { to.cast::<[i32; 4]>().write_unaligned(self.0) }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Vnni};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Dot, pair};

    /// AVX2.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(__m256i);

    /// AVX-512 with VNNI.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Vnni(__m512i);

    // SAFETY: the instructions and the memory are the caller's promise.
    impl Dot for Avx2 {
        const LANES: usize = 8;
        const STEP: usize = 2;
        const OFFSET: i32 = 0;
        type Weights = __m256i;

        #[inline(always)]
        fn word(values: &[i32]) -> u32 {
            pair(values)
        }

        // SAFETY: as above.
        #[inline(always)]
        unsafe fn zero() -> Self {
            unsafe { Self(_mm256_setzero_si256()) }
        }

        // SAFETY: as above.
        #[inline(always)]
        unsafe fn weights(from: *const i8) -> __m256i {
            unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast())) }
        }

        // SAFETY: as above.
        #[inline(always)]
        unsafe fn add(self, word: u32, weights: __m256i) -> Self {
            unsafe { Self(_mm256_add_epi32(self.0, _mm256_madd_epi16(_mm256_set1_epi32(word as i32), weights))) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut i32) {
            unsafe { _mm256_storeu_si256(to.cast(), self.0) }
        }
    }

    // SAFETY: the instructions and the memory are the caller's promise.
    impl Dot for Vnni {
        const LANES: usize = 16;
        const STEP: usize = 4;
        // The instruction takes inputs without a sign.
        const OFFSET: i32 = 128;
        type Weights = __m512i;

        #[inline(always)]
        fn word(values: &[i32]) -> u32 {
            values.iter().rev().fold(0, |word, &value| (word << 8) | (value + 128) as u32)
        }

        // SAFETY: as above.
        #[inline(always)]
        unsafe fn zero() -> Self {
            unsafe { Self(_mm512_setzero_si512()) }
        }

        // SAFETY: as above.
        #[inline(always)]
        unsafe fn weights(from: *const i8) -> __m512i {
            unsafe { _mm512_loadu_si512(from.cast()) }
        }

        // SAFETY: as above.
        #[inline(always)]
        unsafe fn add(self, word: u32, weights: __m512i) -> Self {
            unsafe { Self(_mm512_dpbusd_epi32(self.0, _mm512_set1_epi32(word as i32), weights)) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut i32) {
            unsafe { _mm512_storeu_si512(to.cast(), self.0) }
        }
    }
}
