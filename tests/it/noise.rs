//! The noise generator against torch's draws.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use impasto::rng::TorchRng;

/// Torch's draws by seed and case, in the order they were made.
fn reference() -> BTreeMap<(u64, String), Vec<Tensor>> {
    let tensors = candle_core::safetensors::load(crate::fixture("noise/noise.safetensors"), &Device::Cpu).unwrap();
    let mut sorted: Vec<_> = tensors
        .into_iter()
        .map(|(key, tensor)| {
            let mut parts = key.split('/');
            let seed: u64 = parts.next().unwrap().parse().unwrap();
            let case = parts.next().unwrap().to_owned();
            let index: usize = parts.next().unwrap().parse().unwrap();
            ((seed, case), index, tensor)
        })
        .collect();
    sorted.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    let mut draws = BTreeMap::<_, Vec<_>>::new();
    for (key, index, tensor) in sorted {
        let list = draws.entry(key).or_default();
        assert_eq!(list.len(), index);
        list.push(tensor);
    }
    draws
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn every_draw_equals_torch() {
    let draws = reference();
    assert_eq!(draws.len(), 8 * 4 + 2);
    let (mut total, mut different, mut worst) = (0, 0, 0f32);
    for ((seed, case), expected) in draws {
        let mut rng = TorchRng::new(seed);
        for (index, expected) in expected.iter().enumerate() {
            let got = rng.normal(expected.dims()).unwrap();
            assert_eq!(got.dims(), expected.dims());
            for (got, expected) in values(&got).into_iter().zip(values(expected)) {
                total += 1;
                if got.to_bits() != expected.to_bits() {
                    different += 1;
                    worst = worst.max((got - expected).abs());
                    if different < 5 {
                        eprintln!("seed {seed} {case}/{index}: {got:?} instead of {expected:?}");
                    }
                }
            }
        }
    }
    assert_eq!(different, 0, "of {total} values; the largest difference is {worst:e}");
}
