//! `--method diffusion`: the flags of `impasto generate` that make sense here, and its plan.

use super::Args;
use crate::cli::loaded::Loaded;
use crate::cli::{Printer, generate};
use impasto::control::Kind;
use impasto::device::Precision;
use impasto::pipeline::open_depth;
use impasto::pipeline::preset::Preset;
use impasto::pipeline::settings::Settings;
use impasto::pipeline::stylize::DiffusionPainter;
use impasto::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// The preset whose nets and numbers hold where none is named.
pub(crate) const PRESET: &str = "sd15-stylize";
/// What the IP-Adapter's authors give where the user says nothing.
const PROMPT: &str = "best quality, high quality";

/// Flags of the diffusion method that say which nets.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Serialize)]
#[group(skip)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Flags {
    /// What the picture shows; helps where the photo leaves it open
    #[arg(long, short, value_name = "TEXT", help_heading = "Method: diffusion")]
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<String>,
    /// A preset's name, or a .toml file: which nets, which defaults [default: sd15-stylize]
    #[arg(long, value_name = "NAME|FILE", help_heading = "Method: diffusion")]
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<PathBuf>,
    /// The checkpoint: a name (see `impasto weights list`), a diffusers folder, a .safetensors or .ckpt file
    #[arg(long, short, value_name = "NAME|DIR|FILE", help_heading = "Method: diffusion")]
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<PathBuf>,
    /// A LoRA, by name or file, and how strongly it acts, FILE:0.8 (1 if left out); again for more of them [default: the preset's]
    #[arg(long, value_name = "NAME|FILE[:SCALE]", help_heading = "Method: diffusion")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lora: Vec<PathBuf>,
    /// The IP-Adapter that style pictures go through [default: the preset's]
    #[arg(long, value_name = "NAME|FILE", help_heading = "Method: diffusion")]
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_adapter: Option<PathBuf>,
    /// The vision encoder of the IP-Adapter [default: the preset's, else the `image_encoder` folder beside the adapter]
    #[arg(long, value_name = "NAME|DIR|FILE", help_heading = "Method: diffusion")]
    #[serde(skip_serializing_if = "Option::is_none")]
    image_encoder: Option<PathBuf>,
    /// The ControlNet that keeps the photo's structure [default: the preset's for the kind of control]
    #[arg(long, value_name = "NAME|DIR|FILE", help_heading = "Method: diffusion")]
    #[serde(skip_serializing_if = "Option::is_none")]
    controlnet: Option<PathBuf>,
    /// The depth estimator of `--control depth` [default: the preset's]
    #[arg(long, value_name = "NAME|DIR|FILE", help_heading = "Method: diffusion")]
    #[serde(skip_serializing_if = "Option::is_none")]
    depth_model: Option<PathBuf>,
}

/// What will be done.
pub(super) struct Plan {
    plan: generate::plan::Plan,
    keep_structure: bool,
}

impl Plan {
    /// Resolves and checks everything that can be checked without opening a picture or a net.
    pub(super) fn new(args: &Args, styles: &[PathBuf]) -> Result<Self> {
        let flags = &args.diffusion;
        let Some(first) = styles.first() else {
            return Err(Error::usage("--style", "is missing").with_hint("say which painting: --style IMAGE"));
        };
        if args.settings.strength == Some(0.0) {
            return Err(Error::usage("--strength", "0 leaves nothing to paint: above 0, up to 1"));
        }
        let preset = match (&flags.preset, &flags.model) {
            (Some(preset), _) => Some(preset.clone()),
            (None, None) => Some(PathBuf::from(PRESET)),
            // A checkpoint of the user's own brings no nets with it.
            (None, Some(_)) => None,
        };
        // With a checkpoint of the user's own the structure is kept when there is a net that can.
        let keep_structure = preset.is_some() || flags.controlnet.is_some();
        // Its numbers hold all the same.
        let numbers = match (&preset, keep_structure) {
            (Some(_), _) => Settings::default(),
            (None, true) => Preset::find(PRESET)?.settings,
            (None, false) => without_structure(Preset::find(PRESET)?.settings),
        };
        let generate = generate::Args {
            prompt: Some(flags.prompt.clone().unwrap_or_else(|| PROMPT.to_owned())),
            settings: args.settings.clone().over(&numbers),
            preset,
            model: flags.model.clone(),
            lora: flags.lora.clone(),
            style: styles.to_vec(),
            ip_adapter: flags.ip_adapter.clone(),
            image_encoder: flags.image_encoder.clone(),
            // Stands for the photos, which come later; the style picture is known to be there.
            structure: keep_structure.then(|| first.clone()),
            init: Some(first.clone()),
            controlnet: flags.controlnet.clone(),
            depth_model: flags.depth_model.clone(),
            seed: Some(args.seed),
            dtype: args.dtype,
            device: args.device,
            ..generate::Args::default()
        };
        if args.settings.control == Some(Kind::None) {
            return Err(Error::usage("--control", "none takes the picture as a map, and a photo is none")
                .with_hint("--control-scale 0 leaves the ControlNet out"));
        }
        Ok(Self { plan: generate::plan::Plan::new(&generate)?, keep_structure })
    }

    /// Opens the nets, to keep them and what does not depend on the photo where there are `several`.
    pub(super) fn painter(
        &self,
        args: &Args,
        several: bool,
        loaded: &mut Loaded,
        printer: &Printer,
    ) -> anyhow::Result<DiffusionPainter> {
        let (device, _) = args.device.open()?;
        let dtype = args.dtype.unwrap_or_else(|| Precision::for_device(&device));
        let paths = self.plan.paths(printer)?;
        let mut request = self.plan.request_without_pictures()?;
        if let Some(net) = self.plan.depth_model(printer)? {
            request.control = open_depth(&net, &device)?;
        }
        let diffusion = loaded.diffusion(&paths, &device, dtype)?;
        diffusion.borrow_mut().keep_loaded(several);
        diffusion.borrow_mut().keep_encoded(several);
        Ok(DiffusionPainter::sharing(diffusion, request, args.seed, self.keep_structure))
    }

    /// Finds the nets, fetching those that are not here yet.
    pub(super) fn locate(&self, printer: &Printer) -> anyhow::Result<()> {
        self.plan.locate(printer)
    }

    /// Checkpoint and adapters, as texts that are equal where the nets are.
    pub(super) fn nets(&self, args: &Args) -> Result<(String, String)> {
        self.plan.check_nets()?;
        Ok(self.plan.nets(args.device))
    }

    /// Nets and settings, for the recipe.
    pub(super) fn describe(&self, args: &Args) -> Result<(Map<String, Value>, Map<String, Value>)> {
        let (device, _) = args.device.open()?;
        let dtype = args.dtype.unwrap_or_else(|| Precision::for_device(&device));
        let recipe = self.plan.recipe(args.seed, 0, dtype, (0, 0));
        let object = |value: serde_json::Result<Value>| match value {
            Ok(Value::Object(map)) => Ok(map),
            Ok(_) => Ok(Map::new()),
            Err(error) => Err(Error::usage("recipe", error.to_string())),
        };
        let mut settings = object(serde_json::to_value(&recipe.settings))?;
        // The size is the painting's own, which the recipe has anyway.
        settings.shift_remove("width");
        settings.shift_remove("height");
        settings.insert("prompt".into(), recipe.prompt.into());
        settings.insert("dtype".into(), serde_json::to_value(dtype).unwrap_or_default());
        Ok((object(serde_json::to_value(&recipe.nets))?, settings))
    }
}

fn without_structure(settings: Settings) -> Settings {
    let settings = Settings { canny_low: None, canny_high: None, ..settings };
    Settings { control: None, control_scale: None, control_start: None, control_end: None, ..settings }
}

/// The names of nets that are files or folders of the user's: what must not be painted over.
pub(super) fn inputs(flags: &Flags) -> Vec<PathBuf> {
    let nets = [&flags.model, &flags.ip_adapter, &flags.image_encoder, &flags.controlnet, &flags.depth_model];
    nets.into_iter().flatten().cloned().collect()
}
