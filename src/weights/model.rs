//! A Stable Diffusion model on disk, whichever way it is stored: a diffusers folder or one LDM file.
//!
//! Either way every part comes out as a configuration in diffusers' keys and tensors under diffusers' names, so the nets
//! need to know one naming only. Must not build nets.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::convert;
use super::load::Checkpoint;
use super::sniff::{self, Family, Original};
use crate::error::{Error, Result};

/// The longest configuration worth reading.
const MAX_JSON: u64 = 16 << 20;

/// A net that weights are stored for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The CLIP text encoder.
    TextEncoder,
    /// The denoising net.
    Unet,
    /// The autoencoder between pixels and latents.
    Vae,
    /// A ControlNet: a net of its own, not a part of a model.
    ControlNet,
    /// A CLIP image encoder: a net of its own, not a part of a model.
    ImageEncoder,
    /// A Depth Anything model: a net of its own, not a part of a model.
    Depth,
}

impl Part {
    fn folder(self) -> &'static str {
        match self {
            Self::TextEncoder => "text_encoder",
            Self::Unet => "unet",
            Self::Vae => "vae",
            Self::ControlNet => "controlnet",
            Self::ImageEncoder => "image_encoder",
            Self::Depth => "depth",
        }
    }

    /// What diffusers and transformers call the file, without endings.
    fn stems(self) -> &'static [&'static str] {
        match self {
            Self::TextEncoder | Self::ImageEncoder | Self::Depth => &["model", "pytorch_model"],
            Self::Unet | Self::Vae | Self::ControlNet => &["diffusion_pytorch_model"],
        }
    }
}

/// Where a model's tokenizer comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerSource {
    /// A folder with `vocab.json` and `merges.txt`, or `tokenizer.json`.
    Folder(PathBuf),
    /// CLIP's own vocabulary, padded with the end token (SD 1.x).
    Clip,
    /// The same vocabulary, padded with `!`, token 0 (SD 2.x).
    OpenClip,
}

#[derive(Debug)]
enum Form {
    Folder,
    Single { checkpoint: Checkpoint, family: Family, original: Original },
}

/// A model that has been found and recognised, not yet loaded.
#[derive(Debug)]
pub struct Model {
    path: PathBuf,
    form: Form,
    prediction: Option<String>,
    variant: Option<String>,
}

impl Model {
    /// Opens a diffusers folder or a single `.safetensors` or `.ckpt` file of Stable Diffusion 1.x or 2.x.
    ///
    /// # Errors
    /// When there is no such model, or it is of another kind; the message says which.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let form = if path.is_dir() {
            check_folder(path)?;
            Form::Folder
        } else {
            open_single(path)?
        };
        Ok(Self { path: path.to_path_buf(), form, prediction: None, variant: None })
    }

    /// The folder or file it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Prefers one of several precisions in a folder: `fp16` for `diffusion_pytorch_model.fp16.safetensors`.
    pub fn set_variant(&mut self, variant: impl Into<String>) {
        self.variant = Some(variant.into());
    }

    /// Says what the UNet predicts: `epsilon`, `v_prediction` or `sample`.
    ///
    /// A single file does not tell. Without this, the `.yaml` beside it decides, then a `v_pred` tensor in it, and else
    /// the published models do: `epsilon` for SD 1.x and inpainting, `v_prediction` for SD 2.x, as in diffusers. The
    /// 512-pixel SD 2.x base models are the ones that need this call.
    ///
    /// # Errors
    /// When the word is none of the three.
    pub fn set_prediction_type(&mut self, prediction: &str) -> Result<()> {
        if !["epsilon", "v_prediction", "sample"].contains(&prediction) {
            return Err(Error::usage(
                "prediction type",
                format!("`{prediction}` is none of epsilon, v_prediction, sample"),
            ));
        }
        self.prediction = Some(prediction.to_owned());
        Ok(())
    }

    /// The configuration and tensors of one part, in diffusers' keys and names.
    ///
    /// # Errors
    /// When the part is missing or damaged.
    pub fn part(&self, part: Part) -> Result<(Value, Checkpoint)> {
        match &self.form {
            Form::Folder => {
                let folder = self.path.join(part.folder());
                if !folder.is_dir() {
                    return Err(Error::file(&self.path, format!("has no folder {}", part.folder())));
                }
                let config = read_json(&folder.join("config.json"))?;
                Ok((config, Checkpoint::open_variant(&folder, part.stems(), self.variant.as_deref())?))
            }
            Form::Single { checkpoint, family, original } => {
                let side = if self.v_prediction() { 96 } else { 64 };
                match part {
                    Part::Unet => {
                        let unet = checkpoint.subset("model.diffusion_model.");
                        Ok((sniff::unet(&unet, original, side)?, convert::unet(&unet)?))
                    }
                    Part::Vae => {
                        let vae = vae_of(checkpoint)?;
                        Ok((sniff::vae(&vae, side * 8)?, convert::vae(&vae)?))
                    }
                    Part::TextEncoder => {
                        let text = text_of(checkpoint, *family)?;
                        Ok((sniff::text(&text, *family)?, text))
                    }
                    Part::ControlNet | Part::ImageEncoder | Part::Depth => {
                        Err(Error::file(&self.path, format!("has no {} in it", part.folder())))
                    }
                }
            }
        }
    }

    /// Where the tokenizer comes from.
    ///
    /// # Errors
    /// When the model folder's tokenizer is incomplete.
    pub fn tokenizer(&self) -> Result<TokenizerSource> {
        match &self.form {
            Form::Single { family: Family::Sd1, .. } => Ok(TokenizerSource::Clip),
            Form::Single { family: Family::Sd2, .. } => Ok(TokenizerSource::OpenClip),
            Form::Folder => {
                let folder = self.path.join("tokenizer");
                let has = |name: &str| folder.join(name).is_file();
                if has("tokenizer.json") || (has("vocab.json") && has("merges.txt")) {
                    Ok(TokenizerSource::Folder(folder))
                } else if folder.exists() {
                    Err(Error::file(&folder, "has neither vocab.json and merges.txt nor tokenizer.json"))
                } else {
                    Ok(TokenizerSource::Clip)
                }
            }
        }
    }

    /// The scheduler's configuration: the folder's `scheduler_config.json`, or that of the published model a single file
    /// descends from.
    ///
    /// # Errors
    /// When the folder has none or it is unreadable.
    pub fn scheduler(&self) -> Result<Value> {
        let mut config = match &self.form {
            Form::Folder => read_json(&self.path.join("scheduler").join("scheduler_config.json"))?,
            // What the repositories of SD 1.5 and 2.1 have. Spacing is left out as there: each algorithm has its own.
            Form::Single { checkpoint, .. } => {
                let mut config = json!({
                    "_class_name": "PNDMScheduler",
                    "beta_start": 0.00085,
                    "beta_end": 0.012,
                    "beta_schedule": "scaled_linear",
                    "num_train_timesteps": 1000,
                    "set_alpha_to_one": false,
                    "skip_prk_steps": true,
                    "steps_offset": 1,
                    "clip_sample": false,
                    "prediction_type": if self.v_prediction() { "v_prediction" } else { "epsilon" },
                });
                if checkpoint.contains("ztsnr") {
                    config["rescale_betas_zero_snr"] = json!(true);
                }
                config
            }
        };
        if let Some(prediction) = &self.prediction {
            let Some(keys) = config.as_object_mut() else {
                return Err(Error::file(&self.path, "its scheduler_config.json is not an object"));
            };
            keys.insert("prediction_type".to_owned(), json!(prediction));
        }
        Ok(config)
    }

    fn v_prediction(&self) -> bool {
        if let Some(prediction) = &self.prediction {
            return prediction == "v_prediction";
        }
        match &self.form {
            Form::Folder => false,
            Form::Single { checkpoint, family, original } => original.v_prediction.unwrap_or_else(|| {
                let plain = checkpoint.shape("model.diffusion_model.input_blocks.0.0.weight").and_then(|s| s.get(1))
                    == Some(&4);
                checkpoint.contains("v_pred") || (*family == Family::Sd2 && plain)
            }),
        }
    }
}

/// Opens a net that is not part of a model: a folder with `config.json`, or a single file in diffusers' or LDM's names.
///
/// # Errors
/// When there is no such net or it is of another kind.
pub fn open_net(path: impl AsRef<Path>, part: Part) -> Result<(Value, Checkpoint)> {
    let path = path.as_ref();
    if path.is_dir() {
        let config = read_json(&path.join("config.json"))?;
        return Ok((config, Checkpoint::open_net(path, part.stems())?));
    }
    let checkpoint = Checkpoint::open(path)?;
    let beside = path.parent().unwrap_or(Path::new(".")).join("config.json");
    // A configuration beside a single file may belong to something else in the same folder.
    let config = |class: &str, sniffed: Result<Value>| match read_json(&beside) {
        Ok(config) if config.to_string().contains(class) => Ok(config),
        _ => sniffed,
    };
    match part {
        Part::ControlNet => {
            if checkpoint.contains("difference") || checkpoint.contains("lora_controlnet") {
                return Err(Error::file(path, "holds only the difference to a model, not a whole ControlNet"));
            }
            if checkpoint.names().any(|name| name.contains("label_emb.0.0.") || name.starts_with("add_embedding.")) {
                return Err(Error::file(path, "is a ControlNet for Stable Diffusion XL, which is not supported yet"));
            }
            if checkpoint.contains("controlnet_cond_embedding.conv_in.weight") {
                return Ok((config("ControlNetModel", sniff::diffusers_controlnet(&checkpoint))?, checkpoint));
            }
            let inner = checkpoint.subset("control_model.");
            let ldm = if inner.is_empty() { checkpoint } else { inner };
            if !ldm.contains("input_hint_block.0.weight") {
                return Err(not_a(path, "ControlNet", &ldm));
            }
            Ok((sniff::controlnet(&ldm, &Original::beside(path)?)?, convert::controlnet(&ldm)?))
        }
        Part::ImageEncoder => {
            if !checkpoint.contains("visual_projection.weight") {
                return Err(not_a(path, "CLIP image encoder with projection", &checkpoint));
            }
            Ok((config("CLIPVisionModel", sniff::vision(&checkpoint))?, checkpoint))
        }
        Part::Vae => {
            if checkpoint.contains("decoder.mid_block.resnets.0.conv1.weight") {
                return Ok((read_json(&beside)?, checkpoint));
            }
            let vae = if checkpoint.contains("decoder.conv_in.weight") { checkpoint } else { vae_of(&checkpoint)? };
            Ok((sniff::vae(&vae, 512)?, convert::vae(&vae)?))
        }
        Part::TextEncoder | Part::Unet | Part::Depth => Ok((read_json(&beside)?, checkpoint)),
    }
}

fn not_a(path: &Path, what: &str, checkpoint: &Checkpoint) -> Error {
    match sniff::stranger(checkpoint).or_else(|| sniff::fragment(checkpoint)) {
        Some((found, _)) => Error::file(path, format!("{found}; a {what} was expected")),
        None => {
            let some: Vec<&str> = checkpoint.names().take(2).collect();
            Error::file(path, format!("is not a {what}; its tensors have names like `{}`", some.join("`, `")))
        }
    }
}

fn open_single(path: &Path) -> Result<Form> {
    let checkpoint = Checkpoint::open(path)?;
    if let Some((reason, hint)) = sniff::stranger(&checkpoint) {
        return Err(Error::file(path, reason).with_hint(hint));
    }
    if !checkpoint.contains("model.diffusion_model.input_blocks.0.0.weight") {
        if let Some((reason, hint)) = sniff::fragment(&checkpoint) {
            return Err(Error::file(path, reason).with_hint(hint));
        }
        return Err(not_a(path, "Stable Diffusion checkpoint", &checkpoint).with_hint(
            "expected a file with the names of the original code (model.diffusion_model...), or a diffusers folder",
        ));
    }
    let open_clip = checkpoint.contains("cond_stage_model.model.positional_embedding")
        || checkpoint.contains("cond_stage_model.model.token_embedding.weight");
    let family = if open_clip { Family::Sd2 } else { Family::Sd1 };
    Ok(Form::Single { original: Original::beside(path)?, checkpoint, family })
}

fn vae_of(checkpoint: &Checkpoint) -> Result<Checkpoint> {
    let prefix = ["first_stage_model.", "vae."]
        .into_iter()
        .find(|prefix| checkpoint.contains(&format!("{prefix}decoder.conv_in.weight")));
    match prefix {
        Some(prefix) => Ok(checkpoint.subset(prefix)),
        None => Err(Error::file(checkpoint.path(), "has no VAE in it")
            .with_hint("use a version of the checkpoint with the VAE baked in")),
    }
}

fn text_of(checkpoint: &Checkpoint, family: Family) -> Result<Checkpoint> {
    let text = match family {
        Family::Sd1 => checkpoint.subset("cond_stage_model.transformer."),
        Family::Sd2 => convert::open_clip(&checkpoint.subset("cond_stage_model.model."))?,
    };
    if text.is_empty() {
        return Err(Error::file(checkpoint.path(), "has no text encoder in it")
            .with_hint("use a full checkpoint, not a pruned UNet"));
    }
    Ok(text)
}

/// Refuses folders of other kinds before anything large is opened.
fn check_folder(path: &Path) -> Result<()> {
    let index = path.join("model_index.json");
    let wanted = "use a Stable Diffusion 1.x or 2.x model";
    if index.is_file() {
        let class = read_json(&index)?.get("_class_name").and_then(Value::as_str).unwrap_or_default().to_owned();
        for (part, name) in
            [("StableDiffusionXL", "Stable Diffusion XL"), ("StableDiffusion3", "Stable Diffusion 3"), ("Flux", "FLUX")]
        {
            if class.contains(part) {
                return Err(Error::file(path, format!("is a {name} model, which is not supported")).with_hint(wanted));
            }
        }
    }
    if path.join("text_encoder_2").is_dir() || path.join("transformer").is_dir() {
        return Err(Error::file(
            path,
            "is not a Stable Diffusion 1.x or 2.x model (it has a second text encoder or a transformer)",
        )
        .with_hint(wanted));
    }
    for part in [Part::Unet, Part::Vae, Part::TextEncoder] {
        if !path.join(part.folder()).is_dir() {
            return Err(Error::file(path, format!("is not a model folder: it has no {}", part.folder()))
                .with_hint("give the folder with unet/, vae/, text_encoder/, tokenizer/ and scheduler/ in it, or a single .safetensors file"));
        }
    }
    Ok(())
}

/// Reads a JSON file of sane size.
fn read_json(path: &Path) -> Result<Value> {
    let metadata = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !metadata.is_file() || metadata.len() > MAX_JSON {
        return Err(Error::file(path, "is not a configuration"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    serde_json::from_str(&finite(&text)).map_err(|e| Error::file(path, format!("not valid JSON: {e}")))
}

/// Python writes numbers that JSON does not have (`"lambda_min_clipped": -Infinity`): they become `null`, "not set".
fn finite(text: &str) -> String {
    let mut parts = text.split('"');
    // Splitting at quotes alternates between what is outside strings and what is inside; no key or value in these files
    // holds an escaped quote.
    let mut clean = String::with_capacity(text.len());
    while let Some(outside) = parts.next() {
        clean += &outside.replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null");
        if let Some(inside) = parts.next() {
            clean += &format!("\"{inside}\"");
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_does_not_have_count_as_not_set() {
        let text = r#"{"lambda_min_clipped": -Infinity, "name": "Infinity", "list": [NaN, 1, Infinity]}"#;
        let value: Value = serde_json::from_str(&finite(text)).unwrap();
        assert_eq!(value, json!({"lambda_min_clipped": null, "name": "Infinity", "list": [null, 1, null]}));
    }
}
