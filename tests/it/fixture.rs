//! A net's fixture: one safetensors file with `weights.*`, `inputs.*` and `outputs.*`, and the net's config beside it.

use std::collections::HashMap;

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

pub(crate) struct Fixture {
    name: String,
    tensors: HashMap<String, Tensor>,
}

impl Fixture {
    /// Reads `tests/fixtures/<name>.safetensors` onto the test device.
    pub(crate) fn open(name: &str) -> Self {
        let path = crate::fixture(&format!("{name}.safetensors"));
        let tensors = candle_core::safetensors::load(path, &crate::device()).unwrap();
        Self { name: name.to_owned(), tensors }
    }

    /// The config in `tests/fixtures/<name>.json`.
    pub(crate) fn config<T: serde::de::DeserializeOwned>(&self) -> T {
        let text = std::fs::read_to_string(crate::fixture(&format!("{}.json", self.name))).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// The weights by name.
    pub(crate) fn weights(&self) -> HashMap<String, Tensor> {
        let strip =
            |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix("weights.")?.to_owned(), tensor.clone()));
        self.tensors.iter().filter_map(strip).collect()
    }

    /// The weights in single precision.
    pub(crate) fn var_builder(&self) -> VarBuilder<'static> {
        self.var_builder_as(DType::F32)
    }

    /// The weights in another precision.
    pub(crate) fn var_builder_as(&self, dtype: DType) -> VarBuilder<'static> {
        VarBuilder::from_tensors(self.weights(), dtype, &crate::device())
    }

    pub(crate) fn input(&self, name: &str) -> &Tensor {
        &self.tensors[&format!("inputs.{name}")]
    }

    /// Compares with the reference's output: the largest difference, in units of the output's range, at most 1e-4.
    pub(crate) fn check(&self, name: &str, actual: &Tensor) {
        self.check_within(1e-4, name, actual);
    }

    /// Compares with the reference's output, for precisions that cannot reach 1e-4.
    pub(crate) fn check_within(&self, tolerance: f64, name: &str, actual: &Tensor) {
        let expected = &self.tensors[&format!("outputs.{name}")];
        assert_eq!(actual.dims(), expected.dims(), "{} {name}: shape", self.name);
        let values = |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let (actual, expected) = (values(actual), values(expected));
        let least = expected.iter().copied().fold(f64::INFINITY, f64::min);
        let most = expected.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let differences = actual.iter().zip(&expected).map(|(a, b)| (a - b).abs() / (most - least));
        let worst = differences.fold(0.0, |worst: f64, d| if d > worst || d.is_nan() { d } else { worst });
        eprintln!("{} {name}: {worst:.1e} of the range", self.name);
        assert!(worst <= tolerance, "{} {name} differs by {worst:e} of its range", self.name);
    }
}
