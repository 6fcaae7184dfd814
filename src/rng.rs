//! Gaussian noise on the host, equal to torch's CPU generator, so that a seed means the same picture here and in diffusers.
//!
//! Torch draws normals in two ways: 16 values or more go through single precision Box-Muller in blocks of 16, fewer through
//! double precision one at a time with the second of each pair kept for the next small draw. Both are reproduced, and so is
//! the order in which they consume the generator. The block path follows torch's x86 build (AVX2 with fused
//! multiply-adds, Cephes polynomials) operation by operation; on other processors torch itself differs in the last bits.
//!
//! Not for anything that needs secrecy, and not torch's CUDA generator (Philox).
//!
//! Matsumoto, Nishimura 1998 (Mersenne twister); Box, Muller 1958; Moshier's Cephes (`logf`, `sinf`, `cosf`).

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};

/// Words of the Mersenne twister's state.
const STATE: usize = 624;
/// Distance between the words that are combined.
const SHIFT: usize = 397;
/// Values that Box-Muller takes at once: eight cosines, then eight sines.
const BLOCK: usize = 16;

/// `torch.Generator().manual_seed(seed)` and the `torch.randn` draws from it.
#[derive(Clone)]
pub struct TorchRng {
    twister: Twister,
    /// The sine of the last pair of a small draw; torch keeps it in the generator, across large draws too.
    spare: Option<f64>,
}

impl std::fmt::Debug for TorchRng {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TorchRng").field("used", &self.twister.next).field("spare", &self.spare).finish_non_exhaustive()
    }
}

impl TorchRng {
    /// A generator at its start. Only the low 32 bits of the seed count, as in torch.
    pub fn new(seed: u64) -> Self {
        Self { twister: Twister::new(seed as u32), spare: None }
    }

    /// `torch.randn(shape, generator=self)`: single precision, on the CPU.
    ///
    /// # Errors
    /// When the shape has more values than memory can address.
    pub fn normal(&mut self, shape: &[usize]) -> Result<Tensor> {
        let count = shape.iter().try_fold(1usize, |count, &side| count.checked_mul(side));
        let count = count
            .filter(|&count| count <= isize::MAX as usize / size_of::<f32>())
            .ok_or_else(|| Error::usage("noise", format!("a tensor of shape {shape:?} does not fit into memory")))?;
        Ok(Tensor::from_vec(self.draw(count), shape, &Device::Cpu)?)
    }

    /// `torch.randint(count, (1,), generator=self)`: a whole number below `count`, which is less than 2^32; 0 below none.
    pub fn below(&mut self, count: usize) -> usize {
        self.twister.word() as usize % count.max(1)
    }

    /// The next `count` normals as torch draws them in one call.
    fn draw(&mut self, count: usize) -> Vec<f32> {
        if count < BLOCK {
            return (0..count).map(|_| self.single() as f32).collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.twister.uniform_f32()).collect();
        for block in values.chunks_exact_mut(BLOCK) {
            box_muller(block);
        }
        if !count.is_multiple_of(BLOCK) {
            // The last 16 values are drawn again, over normals that were already there.
            let tail = &mut values[count - BLOCK..];
            tail.fill_with(|| self.twister.uniform_f32());
            box_muller(tail);
        }
        values
    }

    /// One normal of a small draw.
    fn single(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let angle = self.twister.uniform_f64();
        let radius = (-2.0 * (-self.twister.uniform_f64()).ln_1p()).sqrt();
        let angle = 2.0 * std::f64::consts::PI * angle;
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// MT19937.
#[derive(Clone)]
struct Twister {
    state: [u32; STATE],
    next: usize,
}

impl Twister {
    fn new(seed: u32) -> Self {
        let mut state = [0; STATE];
        state[0] = seed;
        for i in 1..STATE {
            let last: u32 = state[i - 1];
            state[i] = (last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, next: STATE }
    }

    fn word(&mut self) -> u32 {
        if self.next == STATE {
            self.twist();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn twist(&mut self) {
        for i in 0..STATE {
            let mixed = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % STATE] & 0x7fff_ffff);
            let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + SHIFT) % STATE] ^ (mixed >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// 24 bits in `[0, 1)`.
    fn uniform_f32(&mut self) -> f32 {
        (self.word() & 0x00ff_ffff) as f32 / (1u32 << 24) as f32
    }

    /// 53 bits in `[0, 1)`, from two words, the high one first.
    fn uniform_f64(&mut self) -> f64 {
        let bits = (u64::from(self.word()) << 32) | u64::from(self.word());
        (bits & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }
}

/// Sixteen uniforms to sixteen normals in place: the first eight give the radii, the last eight the angles.
fn box_muller(block: &mut [f32]) {
    let (first, second) = block.split_at_mut(BLOCK / 2);
    for (first, second) in first.iter_mut().zip(second) {
        let radius = (-2.0 * ln(1.0 - *first)).sqrt();
        let (sine, cosine) = sin_cos(std::f32::consts::TAU * *second);
        *first = radius * cosine;
        *second = radius * sine;
    }
}

/// Cephes `logf` for normal positive numbers. The fused operations are those of torch's compiled code; another
/// grouping changes last bits.
#[allow(clippy::excessive_precision)]
fn ln(x: f32) -> f32 {
    const POLYNOMIAL: [f32; 9] = [
        7.037_683_629_2e-2,
        -1.151_461_031_0e-1,
        1.167_699_874_0e-1,
        -1.242_014_084_6e-1,
        1.424_932_278_7e-1,
        -1.666_805_766_5e-1,
        2.000_071_476_5e-1,
        -2.499_999_399_3e-1,
        3.333_333_117_4e-1,
    ];
    // ln 2 as a short number and its remainder: the product with the exponent is exact.
    const LN2_HIGH: f32 = 0.693_359_375;
    const LN2_LOW: f32 = -2.121_944_40e-4;

    let bits = x.to_bits();
    let mut exponent = (bits >> 23) as f32 - 126.0;
    let mut m = f32::from_bits((bits & 0x007f_ffff) | 0.5f32.to_bits());
    if m < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1.0;
        m += m - 1.0;
    } else {
        m -= 1.0;
    }
    let square = m * m;
    let y = POLYNOMIAL[1..].iter().fold(POLYNOMIAL[0], |y, &c| y.mul_add(m, c)) * m;
    let y = y.mul_add(square, exponent * LN2_LOW);
    let y = (-0.5f32).mul_add(square, y);
    exponent.mul_add(LN2_HIGH, m + y)
}

/// Cephes `sinf` and `cosf` for angles from 0 to 8192.
#[allow(clippy::excessive_precision)]
fn sin_cos(x: f32) -> (f32, f32) {
    // Pi / 4 in three parts, negated.
    const PI_4: [f32; 3] = [-0.785_156_25, -2.418_756_484_985_351_562_5e-4, -3.774_894_977_445_941_08e-8];
    const SINE: [f32; 3] = [-1.951_529_589_1e-4, 8.332_160_873_6e-3, -1.666_665_461_1e-1];
    const COSINE: [f32; 3] = [2.443_315_711_809_948e-5, -1.388_731_625_493_765e-3, 4.166_664_568_298_827e-2];
    const FOUR_OVER_PI: f32 = 1.273_239_544_735_16;

    let octant = ((x * FOUR_OVER_PI) as i32 + 1) & !1;
    let turns = octant as f32;
    let x = PI_4.iter().fold(x, |x, &part| turns.mul_add(part, x));
    let z = x * x;
    let cosine = COSINE[0].mul_add(z, COSINE[1]).mul_add(z, COSINE[2]) * z;
    let cosine = cosine.mul_add(z, -0.5 * z) + 1.0;
    let sine = SINE[0].mul_add(z, SINE[1]).mul_add(z, SINE[2]) * z;
    let sine = sine.mul_add(x, x);

    let (sine, cosine) = if octant & 2 == 0 { (sine, cosine) } else { (cosine, sine) };
    let sine = if octant & 4 == 0 { sine } else { -sine };
    let cosine = if (octant - 2) & 4 == 0 { -cosine } else { cosine };
    (sine, cosine)
}

/// A stream of random numbers that is a function of its key alone: the same key gives the same numbers wherever the work was
/// interrupted. Not torch's; for what has no reference to equal (Steele, Lea, Flood 2014: SplitMix64).
#[derive(Debug, Clone)]
pub struct Stream {
    state: u64,
}

impl Stream {
    /// The stream of a key, for example of a seed and a step.
    pub fn new(key: &[u64]) -> Self {
        let mut stream = Self { state: 0 };
        for &part in key {
            stream.state ^= part;
            stream.state = stream.word();
        }
        stream
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number from 0 to `end - 1`; 0 when `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.word()) * end as u128) >> 64) as usize
    }

    /// The numbers from 0 to `count - 1` in random order.
    pub fn shuffled(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }
}

/// Independent values of mean 0 and variance 1, uniform, by position and number: the finaliser of MurmurHash3.
pub fn white(x: usize, y: usize, number: u32) -> f32 {
    let mut bits = (x as u32).wrapping_mul(0x9e37_79b1) ^ (y as u32).wrapping_mul(0x85eb_ca77);
    bits = bits.wrapping_add(number.wrapping_mul(0xc2b2_ae3d));
    bits = (bits ^ (bits >> 16)).wrapping_mul(0x85eb_ca6b);
    bits = (bits ^ (bits >> 13)).wrapping_mul(0xc2b2_ae35);
    bits ^= bits >> 16;
    ((bits >> 8) as f32 / (1 << 24) as f32 - 0.5) * 12f32.sqrt()
}
