//! LoRA: small files that change a model's weights by products of two thin matrices (Hu et al. 2021, arXiv:2106.09685).
//!
//! A file's modules are found by name, whichever way they are written: kohya's (`lora_unet_mid_block_...`), diffusers' and
//! PEFT's (`unet.mid_block...`), with `lora_mid` for convolutions taken apart further (LoCon). The changes are added while
//! weights are read, so that a model with a LoRA runs as fast as one without. Kinds that are made of other products (LoHa, LoKr,
//! DoRA) are refused by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::load::Checkpoint;
use super::model::Part;
use crate::error::{Error, Result};

/// The ends of tensor names, and what they hold.
const ROLES: [(&str, Role); 14] = [
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_mid.weight", Role::Middle),
    (".alpha", Role::Alpha),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
];
/// Parts of names that belong to other kinds.
const OTHERS: [(&str, &str); 5] = [
    ("hada_", "a LoHa"),
    ("lokr_", "a LoKr"),
    ("dora_scale", "a DoRA"),
    ("lora_magnitude_vector", "a DoRA"),
    ("oft_", "an OFT"),
];
/// The beginnings of module names, and the part they lie in.
const PARTS: [(&str, Part); 6] = [
    ("lora_unet_", Part::Unet),
    ("lora_te1_", Part::TextEncoder),
    ("lora_te_", Part::TextEncoder),
    ("unet.", Part::Unet),
    ("text_encoder.", Part::TextEncoder),
    ("base_model.model.", Part::Unet),
];

/// The largest scale that is one.
const MAX_SCALE: f64 = 100.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Down,
    Up,
    Middle,
    Alpha,
}

/// A LoRA file that has been opened and understood, its tensors not yet read.
#[derive(Debug)]
pub struct Lora {
    path: PathBuf,
    file: Checkpoint,
    unet: BTreeMap<String, Module>,
    text: BTreeMap<String, Module>,
    /// What PEFT noted of the scale, where the tensors do not tell.
    noted: Option<Value>,
}

/// The tensors of one module, by their names in the file.
#[derive(Debug, Default)]
struct Module {
    down: Option<String>,
    up: Option<String>,
    middle: Option<String>,
    alpha: Option<String>,
}

/// A change of one weight.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// `[outputs, everything else]`, multiplied by the scale.
    down: Tensor,
    up: Tensor,
}

impl Change {
    /// The weight with the change, in single precision on the CPU.
    pub(super) fn apply(&self, weight: &Tensor) -> Result<Tensor> {
        let change = self.up.matmul(&self.down)?;
        Ok((weight + change.reshape(weight.shape())?)?)
    }
}

impl Lora {
    /// Opens a file and finds its modules.
    ///
    /// # Errors
    /// When it cannot be read, is no LoRA, or one of another kind or for another family of models.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = Checkpoint::open(path)?;
        let (mut unet, mut text) = (BTreeMap::new(), BTreeMap::new());
        for name in file.names() {
            if let Some((_, kind)) = OTHERS.iter().find(|(part, _)| name.contains(part)) {
                return Err(Error::file(path, format!("is {kind}, which is not supported: it holds `{name}`"))
                    .with_hint("only LoRA and LoCon are; trainers can export those"));
            }
            if name.starts_with("lora_te2_") || name.starts_with("text_encoder_2.") || name.contains("input_blocks_") {
                return Err(Error::file(path, "is a LoRA for SDXL, which is not supported"));
            }
            let Some((module, role)) = ROLES.iter().find_map(|(end, role)| Some((name.strip_suffix(end)?, *role)))
            else {
                let reason = format!("holds `{name}`, which is not a tensor of a LoRA");
                return Err(Error::file(path, reason).with_hint("--model takes checkpoints, --lora takes LoRA files"));
            };
            let (module, part) = place(module);
            let modules = if part == Part::Unet { &mut unet } else { &mut text };
            let module: &mut Module = modules.entry(module).or_default();
            let slot = match role {
                Role::Down => &mut module.down,
                Role::Up => &mut module.up,
                Role::Middle => &mut module.middle,
                Role::Alpha => &mut module.alpha,
            };
            *slot = Some(name.to_owned());
        }
        if unet.is_empty() && text.is_empty() {
            return Err(Error::file(path, "holds no tensors"));
        }
        let noted = file.metadata().get("lora_adapter_metadata").and_then(|text| serde_json::from_str(text).ok());
        Ok(Self { path: path.to_path_buf(), file, unet, text, noted })
    }

    /// The part's weights with this LoRA, `scale` times, to be added when they are read.
    ///
    /// # Errors
    /// When the LoRA was made for another model, or is not whole.
    pub fn apply(&self, part: Part, mut weights: Checkpoint, scale: f64) -> Result<Checkpoint> {
        if !(-MAX_SCALE..=MAX_SCALE).contains(&scale) {
            return Err(Error::usage(
                "--lora",
                format!("the scale {scale} is not between -{MAX_SCALE} and {MAX_SCALE}"),
            ));
        }
        let modules = match part {
            Part::Unet => &self.unet,
            Part::TextEncoder => &self.text,
            _ => return Ok(weights),
        };
        let mut places = BTreeMap::new();
        for name in weights.names() {
            if let Some(module) = name.strip_suffix(".weight") {
                places.insert(flat(module), name.to_owned());
            }
        }
        for (module, tensors) in modules {
            let Some(name) = places.get(module) else {
                return Err(self.unfit(format!("changes `{module}`, which this model does not have")));
            };
            let shape = weights.shape(name).unwrap_or_default().to_vec();
            let change = self.change(part, module, tensors, &shape, scale)?;
            weights.change(name, change);
        }
        Ok(weights)
    }

    fn unfit(&self, reason: String) -> Error {
        Error::file(&self.path, reason).with_hint("a LoRA fits the family of models it was made for: 1.x or 2.x")
    }

    /// Reads and checks the tensors of a module for a weight of a shape.
    fn change(&self, part: Part, module: &str, tensors: &Module, shape: &[usize], scale: f64) -> Result<Change> {
        let read = |name: &String| self.file.tensor(name, DType::F32, &Device::Cpu);
        let (Some(down), Some(up)) = (&tensors.down, &tensors.up) else {
            return Err(Error::file(&self.path, format!("holds only a part of the LoRA of `{module}`")));
        };
        let (down, up) = (read(down)?, read(up)?);
        let outputs = shape.first().copied().unwrap_or(0);
        let inputs = shape.iter().skip(1).product::<usize>();
        let rank = down.dims().first().copied().unwrap_or(0);
        let unfit = |tensor: &Tensor| {
            let found = tensor.dims();
            self.unfit(format!("has {found:?} for `{module}`, whose weight in this model has the shape {shape:?}"))
        };
        if rank == 0 || outputs == 0 || up.elem_count() != outputs * up.dims().get(1).copied().unwrap_or(0) {
            return Err(unfit(&up));
        }
        let down = match &tensors.middle {
            None => down,
            Some(middle) => {
                // mid [r, rank, k, k] and down [rank, in, 1, 1] to [r, in, k, k].
                let middle = read(middle)?;
                let (out_rank, in_rank, high, wide) = middle.dims4()?;
                let thin = down.elem_count() / rank;
                if in_rank != rank {
                    return Err(unfit(&middle));
                }
                let taps = middle.reshape((out_rank, rank, high * wide))?.transpose(1, 2)?.contiguous()?;
                let taps = taps.reshape((out_rank * high * wide, rank))?.matmul(&down.reshape((rank, thin))?)?;
                taps.reshape((out_rank, high * wide, thin))?.transpose(1, 2)?.contiguous()?
            }
        };
        let inner = down.dims().first().copied().unwrap_or(0);
        if inner == 0 || down.elem_count() != inner * inputs {
            return Err(unfit(&down));
        }
        if up.elem_count() != outputs * inner {
            return Err(unfit(&up));
        }
        let alpha = match &tensors.alpha {
            Some(alpha) => f64::from(read(alpha)?.flatten_all()?.get(0)?.to_scalar::<f32>()?),
            None => self.noted_alpha(part, module).unwrap_or(rank as f64),
        };
        let factor = scale * alpha / if self.is_noted(part, "use_rslora") { (rank as f64).sqrt() } else { rank as f64 };
        if !factor.is_finite() {
            return Err(Error::file(&self.path, format!("the alpha of `{module}` is not a number")));
        }
        Ok(Change { down: (down.reshape((inner, inputs))? * factor)?, up: up.reshape((outputs, inner))? })
    }

    /// An entry of PEFT's notes on a part.
    fn note(&self, part: Part, key: &str) -> Option<&Value> {
        let prefix = if part == Part::Unet { "unet" } else { "text_encoder" };
        self.noted.as_ref()?.get(format!("{prefix}.{key}"))
    }

    fn is_noted(&self, part: Part, key: &str) -> bool {
        self.note(part, key).and_then(Value::as_bool).unwrap_or(false)
    }

    fn noted_alpha(&self, part: Part, module: &str) -> Option<f64> {
        let patterns = self.note(part, "alpha_pattern").and_then(Value::as_object);
        let own = patterns.into_iter().flatten().find(|(pattern, _)| {
            let pattern = flat(pattern);
            module.strip_suffix(pattern.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('_'))
        });
        own.map(|(_, alpha)| alpha).or_else(|| self.note(part, "lora_alpha"))?.as_f64()
    }
}

/// The flat name of a module, and where it lies.
fn place(module: &str) -> (String, Part) {
    let found = PARTS.iter().find_map(|(prefix, part)| Some((module.strip_prefix(prefix)?, *part)));
    // The oldest files hold attention alone and do not say whose.
    let (module, part) = found.unwrap_or((module, Part::Unet));
    let module = module.replace(".processor.", ".");
    // Their way of naming the projection back.
    let module = if module.ends_with(".to_out") { module + ".0" } else { module };
    (flat(&module), part)
}

/// A module's name as kohya writes it, without what some text encoders have before it.
fn flat(module: &str) -> String {
    let flat = module.replace('.', "_");
    flat.strip_prefix("text_model_").map_or(flat.clone(), str::to_owned)
}
