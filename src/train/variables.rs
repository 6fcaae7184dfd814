//! The weights under training, by name. A net asks for them as it would ask a file; what is not there is drawn.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use sha2::{Digest, Sha256};

use super::adam::MEAN;
use crate::error::Result;
use crate::rng::TorchRng;
use crate::weights::Checkpoint;

/// The weights in a net's file, or the running means in a training's checkpoint, by name.
///
/// # Errors
/// When a tensor cannot be read.
pub fn weights_of(file: &Checkpoint, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let means = file.names().any(|name| name.starts_with(MEAN));
    let own = |name: &str| if means { name.strip_prefix(MEAN).map(str::to_owned) } else { Some(name.to_owned()) };
    let named = file.names().filter_map(|name| Some((own(name)?, name)));
    named.map(|(own, name)| Ok((own, file.tensor(name, DType::F32, device)?))).collect()
}

/// Named weights that a training moves.
#[derive(Debug, Clone)]
pub struct Variables {
    vars: Arc<Mutex<BTreeMap<String, Var>>>,
    start: Option<Checkpoint>,
    seed: u64,
    device: Device,
}

impl Variables {
    /// No weights yet. Those in `start`, a net or a training's checkpoint, are taken from there, by name and shape; the others are drawn from `seed` and their
    /// name, so that the order in which a net asks does not matter.
    pub fn new(seed: u64, start: Option<Checkpoint>, device: &Device) -> Self {
        Self { vars: Arc::default(), start, seed, device: device.clone() }
    }

    /// Weights that are there already, all of them: for nets that ask what there is before they ask for it.
    ///
    /// # Errors
    /// When the tensor library fails.
    pub fn holding(tensors: impl IntoIterator<Item = (String, Tensor)>, device: &Device) -> Result<Self> {
        let var = |tensor: Tensor| Var::from_tensor(&tensor.to_dtype(DType::F32)?.to_device(device)?);
        let vars = tensors.into_iter().map(|(name, tensor)| Ok((name, var(tensor)?))).collect::<Result<_>>()?;
        Ok(Self { vars: Arc::new(Mutex::new(vars)), ..Self::new(0, None, device) })
    }

    /// What a net is built from.
    pub fn var_builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, self.device.clone())
    }

    /// All weights, sorted by name.
    pub fn all(&self) -> BTreeMap<String, Var> {
        self.vars.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn create(&self, shape: &Shape, name: &str, hint: Init) -> candle_core::Result<Tensor> {
        let found = self.start.as_ref().and_then(|start| {
            let names = [format!("{MEAN}{name}"), name.to_owned()];
            Some((start, names.into_iter().find(|name| start.shape(name) == Some(shape.dims()))?))
        });
        match found {
            Some((start, name)) => start.tensor(&name, DType::F32, &self.device).map_err(candle_core::Error::wrap),
            None => self.draw(shape, name, hint),
        }
    }

    /// A net that is only ever loaded asks without saying how a weight begins (candle's hint is then a constant 0). Kernels
    /// begin as He 2015 has it, biases at 0, scales of a norm at 1.
    fn draw(&self, shape: &Shape, name: &str, hint: Init) -> candle_core::Result<Tensor> {
        let fan_in = shape.dims().iter().skip(1).product::<usize>().max(1) as f64;
        let (mean, deviation) = match hint {
            Init::Const(0.0) if shape.rank() > 1 => (0.0, (2.0 / fan_in).sqrt()),
            Init::Const(0.0) if name.ends_with("weight") => (1.0, 0.0),
            Init::Const(value) => (value, 0.0),
            Init::Randn { mean, stdev } => (mean, stdev),
            Init::Uniform { lo, up } => ((lo + up) / 2.0, (up - lo) / 12f64.sqrt()),
            Init::Kaiming { .. } => (0.0, (2.0 / fan_in).sqrt()),
        };
        let noise = if deviation == 0.0 {
            Tensor::zeros(shape, DType::F32, &Device::Cpu)?
        } else {
            let hash = Sha256::digest(format!("{}/{name}", self.seed));
            let seed = u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]);
            TorchRng::new(u64::from(seed)).normal(shape.dims()).map_err(candle_core::Error::wrap)?
        };
        noise.affine(deviation, mean)?.to_device(&self.device)
    }
}

impl SimpleBackend for Variables {
    fn get(&self, shape: Shape, name: &str, hint: Init, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        let mut vars = self.vars.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(var) = vars.get(name) {
            if var.shape() != &shape {
                candle_core::bail!("weight {name} is {:?}, {:?} was asked for", var.shape(), shape);
            }
            return Ok(var.as_tensor().clone());
        }
        let var = Var::from_tensor(&self.create(&shape, name, hint)?)?;
        let tensor = var.as_tensor().clone();
        vars.insert(name.to_owned(), var);
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        let vars = self.vars.lock().unwrap_or_else(PoisonError::into_inner);
        match vars.get(name) {
            Some(var) => Ok(var.as_tensor().clone()),
            None => candle_core::bail!("weight {name} has no shape yet"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        let vars = self.vars.lock().unwrap_or_else(PoisonError::into_inner);
        vars.contains_key(name) || self.start.as_ref().is_some_and(|start| start.contains(name))
    }
}

/// How many weights there are.
pub fn count(vars: &BTreeMap<String, Var>) -> usize {
    vars.values().map(|var| var.elem_count()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_depend_on_seed_and_name_not_on_order() {
        let draw = |seed: u64, names: [&str; 2]| {
            let variables = Variables::new(seed, None, &Device::Cpu);
            let vb = variables.var_builder();
            for name in names {
                vb.pp(name).get((4, 3, 3, 3), "weight").unwrap();
            }
            variables.all()["a.weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(draw(1, ["a", "b"]), draw(1, ["b", "a"]));
        assert_ne!(draw(1, ["a", "b"]), draw(2, ["a", "b"]));
        let spread = draw(1, ["a", "b"]).iter().map(|x| x * x).sum::<f32>() / 108.0;
        assert!((spread - 2.0 / 27.0).abs() < 0.03, "{spread}");
    }

    #[test]
    fn biases_begin_at_zero_and_scales_at_one() {
        let variables = Variables::new(0, None, &Device::Cpu);
        let vb = variables.var_builder();
        assert_eq!(vb.get(2, "bias").unwrap().to_vec1::<f32>().unwrap(), [0.0, 0.0]);
        assert_eq!(vb.get(2, "weight").unwrap().to_vec1::<f32>().unwrap(), [1.0, 1.0]);
        assert!(vb.get(3, "weight").is_err());
    }
}
