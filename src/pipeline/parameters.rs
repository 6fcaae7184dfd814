//! A1111's `parameters` text: the prompt, `Negative prompt: ...`, and one line of `Key: value` pairs.
//!
//! Written so that other programs and model sites show our pictures' settings; read so that a picture from elsewhere can
//! be tried here. Other programs draw their noise elsewhere, so a picture read back is alike in kind, not in pixels.

use super::recipe::Recipe;
use super::settings::{Settings, control_name};
use crate::diffusion::sampler::Sampler;
use crate::diffusion::schedule::Sigmas;
use crate::error::{Error, Result};
use std::fmt::Write;
use std::path::Path;

/// What can be read of another program's picture.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameters {
    /// What was painted.
    pub prompt: String,
    /// The settings that have a counterpart here.
    pub settings: Settings,
    /// The seed, where it was written.
    pub seed: Option<u64>,
    /// The checkpoint's name, which is no path.
    pub model: Option<String>,
    /// Keys that have no counterpart here.
    pub ignored: Vec<String>,
}

const NEGATIVE: &str = "Negative prompt: ";

const SAMPLERS: &[(Sampler, &str)] = &[
    (Sampler::Ddim, "DDIM"),
    (Sampler::Euler, "Euler"),
    (Sampler::EulerA, "Euler a"),
    (Sampler::Heun, "Heun"),
    (Sampler::Dpmpp2m, "DPM++ 2M"),
    (Sampler::Unipc, "UniPC"),
    (Sampler::Pndm, "PLMS"),
    (Sampler::Lcm, "LCM"),
];

const SPACINGS: &[(Sigmas, &str)] = &[(Sigmas::Karras, "Karras"), (Sigmas::Exponential, "Exponential")];

/// Keys that say nothing about the picture, or that are read together with another.
const PASSED_OVER: &[&str] = &["Version", "Model hash", "VAE", "VAE hash", "Denoising strength", "RNG", "Hashes"];

/// The text for a recipe.
pub fn text(recipe: &Recipe) -> String {
    let settings = &recipe.settings;
    let mut text = one_block(&recipe.prompt);
    if let Some(negative) = settings.negative.as_deref().filter(|negative| !negative.is_empty()) {
        let _ = write!(text, "\n{NEGATIVE}{}", one_block(negative));
    }
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut pair = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            pairs.push((key.to_owned(), value));
        }
    };
    pair("Steps", settings.steps.map(|steps| steps.to_string()));
    let name =
        settings.sampler.and_then(|sampler| find(SAMPLERS, |(known, _)| *known == sampler)).map(|(_, name)| name);
    pair("Sampler", name.map(|name| (*name).to_owned()));
    let spacing =
        settings.sigmas.and_then(|sigmas| find(SPACINGS, |(known, _)| *known == sigmas)).map(|(_, name)| name);
    pair("Schedule type", spacing.map(|name| (*name).to_owned()));
    pair("CFG scale", settings.guidance.map(|guidance| guidance.to_string()));
    pair("Seed", Some(recipe.seed.to_string()));
    pair("Size", settings.width.zip(settings.height).map(|(width, height)| format!("{width}x{height}")));
    pair("Model", recipe.nets.model.as_deref().map(model_name));
    pair("Denoising strength", recipe.inputs.init.as_ref().and(settings.strength).map(|strength| strength.to_string()));
    pair("Clip skip", settings.clip_skip.map(|skipped| (skipped + 1).to_string()));
    if recipe.inputs.structure.is_some() {
        pair("ControlNet 0", Some(control(recipe)));
    }
    if !recipe.inputs.style.is_empty() {
        let adapter = recipe.nets.ip_adapter.as_deref().map(model_name).unwrap_or_default();
        let scale = settings.style_scale.unwrap_or(1.0);
        pair("IP-Adapter", Some(format!("Model: {adapter}, Weight: {scale}, Images: {}", recipe.inputs.style.len())));
    }
    pair("Version", Some(recipe.program.clone()));
    text.push('\n');
    let line: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}: {}", quoted(value))).collect();
    text + &line.join(", ")
}

// One ControlNet in the words of A1111's extension.
fn control(recipe: &Recipe) -> String {
    let settings = &recipe.settings;
    let mut text = String::new();
    let module = settings.control.map_or_else(|| "none".to_owned(), control_name);
    let model = recipe.nets.controlnet.as_deref().map(model_name).unwrap_or_default();
    let _ = write!(text, "Module: {module}, Model: {model}");
    for (key, value) in [
        ("Weight", settings.control_scale),
        ("Guidance Start", settings.control_start),
        ("Guidance End", settings.control_end),
        ("Threshold A", settings.canny_low.filter(|_| module == "canny")),
        ("Threshold B", settings.canny_high.filter(|_| module == "canny")),
    ] {
        if let Some(value) = value {
            let _ = write!(text, ", {key}: {value}");
        }
    }
    text
}

impl Parameters {
    /// Reads the text of a picture. Keys without a counterpart are listed, not refused.
    ///
    /// # Errors
    /// When there are no settings in it, or a sampler that is not known here, naming the file.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let wrong = |reason: String| {
            Error::file(path, reason).with_hint("give the missing flags beside --from, or --prompt instead of it")
        };
        let text = text.trim();
        let (head, last) = text.rsplit_once('\n').unwrap_or(("", text));
        let pairs = pairs(last);
        if !pairs.iter().any(|(key, _)| key == "Steps") {
            return Err(wrong("its `parameters` text has no line that begins with `Steps: `".to_owned()));
        }
        let mut read = Self::default();
        let (prompt, negative) = match head.strip_prefix(NEGATIVE) {
            Some(negative) => ("", Some(negative)),
            None => match head.split_once(&format!("\n{NEGATIVE}")) {
                Some((prompt, negative)) => (prompt, Some(negative)),
                None => (head, None),
            },
        };
        prompt.trim().clone_into(&mut read.prompt);
        read.settings.negative = Some(negative.unwrap_or_default().trim().to_owned());
        for (key, value) in &pairs {
            let known =
                read.take(key, value).map_err(|()| wrong(format!("its `parameters` text says `{key}: {value}`")))?;
            if !known && !PASSED_OVER.contains(&key.as_str()) {
                read.ignored.push(key.clone());
            }
        }
        read.settings.check().map_err(|error| wrong(format!("its `parameters` text: {error}")))?;
        Ok(read)
    }

    // Takes one pair over: whether its key is known; an error when its value is not.
    fn take(&mut self, key: &str, value: &str) -> Result<bool, ()> {
        fn number<T: std::str::FromStr>(value: &str) -> Result<Option<T>, ()> {
            value.parse().map(Some).map_err(|_| ())
        }
        let settings = &mut self.settings;
        match key {
            "Steps" => settings.steps = number(value)?,
            "CFG scale" => settings.guidance = number(value)?,
            "Seed" => self.seed = number(value)?,
            "Denoising strength" => settings.strength = number::<f64>(value)?.filter(|strength| *strength > 0.0),
            "Clip skip" => {
                settings.clip_skip = number::<usize>(value)?.and_then(|n| n.checked_sub(1)).filter(|n| *n > 0)
            }
            "Model" => self.model = Some(value.to_owned()),
            "Size" => {
                let (width, height) = value.split_once('x').ok_or(())?;
                (settings.width, settings.height) = (number(width)?, number(height)?);
            }
            "Schedule type" => match find(SPACINGS, |(_, name)| name.eq_ignore_ascii_case(value)) {
                Some((sigmas, _)) => settings.sigmas = Some(*sigmas),
                None if ["automatic", "uniform"].contains(&value.to_lowercase().as_str()) => {
                    settings.sigmas = settings.sigmas.or(Some(Sigmas::Default));
                }
                None => return Err(()),
            },
            "Sampler" => {
                // Before "Schedule type" existed its name stood behind the sampler's.
                let spaced = find(SPACINGS, |(_, name)| value.ends_with(&format!(" {name}")));
                let (name, sigmas) = match spaced {
                    Some((sigmas, spacing)) => (value.trim_end_matches(spacing).trim_end(), *sigmas),
                    None => (value, Sigmas::Default),
                };
                let (sampler, _) = find(SAMPLERS, |(_, known)| known.eq_ignore_ascii_case(name)).ok_or(())?;
                settings.sampler = Some(*sampler);
                settings.sigmas = Some(sigmas);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn find<T>(table: &[T], wanted: impl Fn(&&T) -> bool) -> Option<&T> {
    table.iter().find(wanted)
}

// A line of a prompt that looks like the last lines of the text would be taken for them.
fn one_block(text: &str) -> String {
    let text = text.replace('\0', " ").replace("\r\n", "\n");
    if text.contains(&format!("\n{NEGATIVE}")) || text.contains("\nSteps: ") { text.replace('\n', " ") } else { text }
}

// The name a person knows a checkpoint by: without folders, without the file's extension.
fn model_name(model: &str) -> String {
    let path = Path::new(model);
    let is_file = path.extension().is_some_and(|extension| {
        ["safetensors", "ckpt", "bin", "pt", "pth"].iter().any(|known| extension.eq_ignore_ascii_case(known))
    });
    let name = if is_file { path.file_stem() } else { path.file_name() };
    name.map_or_else(|| model.to_owned(), |name| name.to_string_lossy().into_owned())
}

// As A1111 does: quoted like JSON where a comma, colon or line break would end the value early.
fn quoted(value: &str) -> String {
    if value.contains([',', '\n', ':', '"']) {
        serde_json::to_string(value).unwrap_or_default()
    } else {
        value.to_owned()
    }
}

fn pairs(line: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = line.trim_start();
    while let Some((key, after)) = rest.split_once(':') {
        let after = after.trim_start();
        let mut quote = serde_json::Deserializer::from_str(after).into_iter::<String>();
        let (value, end) = match quote.next() {
            Some(Ok(value)) if after.starts_with('"') => (value, quote.byte_offset()),
            _ => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_owned(), end)
            }
        };
        pairs.push((key.trim().to_owned(), value));
        rest = after[end..].trim_start().trim_start_matches(',').trim_start();
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Parameters> {
        Parameters::parse(Path::new("picture.png"), text)
    }

    #[test]
    fn a_text_of_a1111_is_read() {
        let text = "a lighthouse, (stormy:1.2)\nat night\nNegative prompt: lowres, text\nSteps: 20, Sampler: DPM++ 2M Karras, \
                    CFG scale: 6.5, Seed: 77, Size: 640x384, Model hash: abc, Model: dream_8, Denoising strength: 0.45, \
                    Clip skip: 2, ControlNet 0: \"Module: canny, Model: x, Weight: 1\", Version: v1.6.0";
        let read = parse(text).unwrap();
        assert_eq!(read.prompt, "a lighthouse, (stormy:1.2)\nat night");
        assert_eq!(read.settings.negative.as_deref(), Some("lowres, text"));
        assert_eq!(read.settings.sampler, Some(Sampler::Dpmpp2m));
        assert_eq!(read.settings.sigmas, Some(Sigmas::Karras));
        assert_eq!((read.settings.width, read.settings.height), (Some(640), Some(384)));
        assert_eq!((read.settings.clip_skip, read.settings.strength), (Some(1), Some(0.45)));
        assert_eq!((read.seed, read.model.as_deref()), (Some(77), Some("dream_8")));
        assert_eq!(read.ignored, ["ControlNet 0"]);
    }

    #[test]
    fn the_newer_schedule_key_is_read() {
        let read =
            parse("x\nSteps: 4, Sampler: Euler a, Schedule type: Exponential, CFG scale: 7, Seed: 1, Size: 64x64")
                .unwrap();
        assert_eq!((read.settings.sampler, read.settings.sigmas), (Some(Sampler::EulerA), Some(Sigmas::Exponential)));
    }

    #[test]
    fn what_cannot_be_read_is_an_error_that_says_why() {
        for (text, reason) in [
            ("", "Steps"),
            ("only a prompt", "Steps"),
            ("x\nSteps: 4, Sampler: Restart", "Restart"),
            ("x\nSteps: many", "many"),
            ("x\nSteps: 4, Size: 64", "64"),
            ("x\nSteps: 4, Size: 63x64", "--width"),
            ("x\nSteps: 4, CFG scale: NaN", "--guidance"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("picture.png") && error.contains(reason), "{error}");
        }
    }
}
