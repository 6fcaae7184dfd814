//! Presets: a use case as ten lines of TOML, in `pipelines/`. They hold every default, so that code holds none.
//!
//! A preset names nets (manifests of `weights/`, or paths beside the preset's own file) and settings; what it leaves out
//! comes from the preset it extends. Built-in presets are part of the program; a file by path works the same.

use super::settings::Settings;
use crate::control::Kind;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The preset whose numbers hold where none is named.
pub const DEFAULT: &str = "sd15";

/// A preset file past this size is none.
const MAX_BYTES: u64 = 1 << 20;
/// More presets than this on top of each other are a circle.
const MAX_DEPTH: usize = 8;

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../pipelines/", $name, ".toml")))),*]
    };
}

/// The presets that are part of the program. A new file in `pipelines/` is one word here.
const BUILT_IN: &[(&str, &str)] = built_in![
    "mini",
    "sd15",
    "sd15-fp16",
    "sd15-style",
    "sd15-style-structure",
    "sd15-restyle",
    "sd15-stylize",
    "sd15-lineart",
    "sd15-softedge",
    "sd15-depth",
    "sd15-tile",
    "sd15-openpose",
    "sd15-scribble",
    "sd15-lcm",
];

/// The nets of a preset: names of manifests, or paths.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Nets {
    /// The Stable Diffusion checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// LoRAs, `NET` or `NET:SCALE`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lora: Vec<String>,
    /// The IP-Adapter that a style picture goes through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_adapter: Option<String>,
    /// The vision encoder of the adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_encoder: Option<String>,
    /// The estimator of depth maps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth_model: Option<String>,
    /// The ControlNet for each kind of control map.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub controlnet: BTreeMap<Kind, String>,
}

/// What a preset expects to be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// `--style`
    Style,
    /// `--structure`
    Structure,
    /// `--init`
    Init,
}

impl Need {
    /// The flag that gives it.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Style => "--style",
            Self::Structure => "--structure",
            Self::Init => "--init",
        }
    }
}

/// A use case: which nets, which settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Preset {
    /// Its name, or the path it was read from.
    #[serde(skip)]
    pub name: String,
    /// What it is for, in one line.
    pub summary: String,
    /// The preset that fills in what this one leaves out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extends: Option<String>,
    /// What it expects to be given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<Need>,
    /// Its nets.
    #[serde(default)]
    pub weights: Nets,
    /// Its settings.
    #[serde(default)]
    pub settings: Settings,
}

impl Preset {
    /// The names of the built-in presets.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// The text of a built-in preset's file.
    pub fn source(name: &str) -> Option<&'static str> {
        BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
    }

    /// A preset by name, or by the path of a `.toml` file.
    ///
    /// # Errors
    /// When there is none, or when its file does not say what a preset may say.
    pub fn find(name_or_path: &str) -> Result<Self> {
        Self::find_below(name_or_path, 0)
    }

    /// Whether a text means a preset: the name of one, or a path that ends in `.toml`.
    pub fn is_one(name_or_path: &str) -> bool {
        Self::source(name_or_path).is_some() || is_file(name_or_path)
    }

    fn find_below(name_or_path: &str, depth: usize) -> Result<Self> {
        if depth > MAX_DEPTH {
            return Err(Error::file(name_or_path, "presets extend each other in a circle"));
        }
        let mut preset = if is_file(name_or_path) {
            let path = Path::new(name_or_path);
            let mut preset = Self::parse(name_or_path, &read(path)?)?;
            preset.weights.resolve(path.parent().unwrap_or(Path::new("")));
            preset
        } else {
            let text = Self::source(name_or_path).ok_or_else(|| unknown(name_or_path))?;
            Self::parse(name_or_path, text)?
        };
        if let Some(base) = &preset.extends {
            let base = Self::find_below(base, depth + 1)?;
            preset.settings = preset.settings.over(&base.settings);
            preset.weights.fill_from(&base.weights);
        }
        preset.settings.check().map_err(|error| Error::file(name_or_path, error.to_string()))?;
        Ok(preset)
    }

    /// Reads the text of one preset, without the one it extends.
    ///
    /// # Errors
    /// Naming `name`, the line and the key that is not known.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut preset: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            Error::file(name, format!("line {line}: {}", error.message().replace('\n', " ")))
                .with_hint("pipelines/README.md says what a preset may hold")
        })?;
        name.clone_into(&mut preset.name);
        Ok(preset)
    }
}

impl Nets {
    fn fill_from(&mut self, below: &Self) {
        self.model = self.model.take().or_else(|| below.model.clone());
        if self.lora.is_empty() {
            self.lora.clone_from(&below.lora);
        }
        self.ip_adapter = self.ip_adapter.take().or_else(|| below.ip_adapter.clone());
        self.image_encoder = self.image_encoder.take().or_else(|| below.image_encoder.clone());
        self.depth_model = self.depth_model.take().or_else(|| below.depth_model.clone());
        for (kind, net) in &below.controlnet {
            self.controlnet.entry(*kind).or_insert_with(|| net.clone());
        }
    }

    /// Every name and path in it.
    pub fn all(&self) -> impl Iterator<Item = &String> {
        let one = [&self.model, &self.ip_adapter, &self.image_encoder, &self.depth_model];
        one.into_iter().flatten().chain(&self.lora).chain(self.controlnet.values())
    }

    // A preset that lies beside its nets names them by paths from its own folder.
    fn resolve(&mut self, folder: &Path) {
        let beside = |net: &mut String| {
            let path: PathBuf = folder.join(&net);
            if path.exists()
                && let Some(path) = path.to_str()
            {
                path.clone_into(net);
            }
        };
        let one = [&mut self.model, &mut self.ip_adapter, &mut self.image_encoder, &mut self.depth_model];
        one.into_iter().flatten().for_each(beside);
        self.controlnet.values_mut().for_each(beside);
        self.lora.iter_mut().for_each(|given| {
            let (file, scale) = match given.rsplit_once(':') {
                Some((file, scale)) if scale.parse::<f64>().is_ok() => (file, Some(scale)),
                _ => (given.as_str(), None),
            };
            let mut file = file.to_owned();
            beside(&mut file);
            *given = scale.map_or_else(|| file.clone(), |scale| format!("{file}:{scale}"));
        });
    }
}

fn is_file(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"))
}

fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::metadata(path).map_err(|error| Error::io(path, error))?.len();
    if bytes > MAX_BYTES {
        return Err(Error::file(path, format!("is no preset: {bytes} bytes")));
    }
    std::fs::read_to_string(path).map_err(|error| Error::io(path, error))
}

fn unknown(name: &str) -> Error {
    let known: Vec<_> = Preset::names().collect();
    Error::usage("--preset", format!("there is no preset `{name}`"))
        .with_hint(format!("there are {}", known.join(", ")))
}
