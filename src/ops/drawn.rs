//! Random tensors for tests, the same in every run: a bound on drawn numbers is else now and then passed by chance.

use std::cell::RefCell;

use candle_core::Tensor;

use crate::rng::TorchRng;

thread_local! {
    /// A test's own, as every test has a thread.
    static RNG: RefCell<TorchRng> = RefCell::new(TorchRng::new(1));
}

/// Standard normal numbers.
pub(super) fn random(shape: &[usize]) -> Tensor {
    RNG.with_borrow_mut(|rng| rng.normal(shape)).unwrap()
}
