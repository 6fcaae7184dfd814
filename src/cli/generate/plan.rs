//! From what the user typed to what will be done: flags over recipe over preset, checked.
//!
//! Reads presets and recipes, never nets.

use super::Args;
use crate::cli::{Printer, nets, weighted};
use impasto::control::Kind;
use impasto::device::{Backend, Precision};
use impasto::image::read;
use impasto::pipeline::diffusion::ModelPaths;
use impasto::pipeline::fast::Fast;
use impasto::pipeline::preset::{self, Preset};
use impasto::pipeline::recipe::{self, Found, Input, Inputs, NetNames, Recipe};
use impasto::pipeline::request::Request;
use impasto::pipeline::settings::{Settings, control_name};
use impasto::weights::Checkpoint;
use impasto::{Error, Result};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};

/// What will be painted.
pub(in crate::cli) struct Plan {
    /// How many pictures.
    pub(in crate::cli) count: u32,
    /// The first row of the given noise.
    pub(in crate::cli) row: usize,
    /// The type the UNet computes in, where the user or the recipe says.
    pub(in crate::cli) dtype: Option<Precision>,
    /// What may not be as the user meant it.
    pub(in crate::cli) warnings: Vec<String>,
    prompt: String,
    seed: u64,
    preset: Option<String>,
    settings: Settings,
    nets: Nets,
    files: Files,
    inputs: Inputs,
}

/// The nets that are needed, by name or path.
#[derive(Default)]
struct Nets {
    model: PathBuf,
    /// With their scales.
    loras: Vec<(PathBuf, f64)>,
    ip_adapter: Option<PathBuf>,
    image_encoder: Option<PathBuf>,
    controlnet: Option<PathBuf>,
    depth_model: Option<PathBuf>,
}

/// The files that go in.
#[derive(Default)]
struct Files {
    style: Vec<PathBuf>,
    structure: Option<PathBuf>,
    init: Option<PathBuf>,
    mask: Option<PathBuf>,
    latents: Option<PathBuf>,
}

impl Plan {
    /// Resolves and checks everything that can be checked without opening a picture or a net.
    pub(in crate::cli) fn new(args: &Args) -> Result<Self> {
        let mut warnings = Vec::new();
        let before = Before::read(args, &mut warnings)?;
        let (name, preset) = choose_preset(args, before.preset.as_deref())?;
        let files = Files::new(args, &before);
        let settings = args.settings.clone().over(&before.settings).over(&preset.settings);
        settings.check()?;
        let prompt = match args.prompt.clone().or(before.prompt) {
            Some(prompt) => prompt,
            None => return Err(Error::usage("--prompt", "is missing").with_hint("say what to paint: --prompt \"...\"")),
        };
        let implied = name.is_some().then_some(&preset);
        files.check(args, implied)?;
        // A preset given beside the recipe brings its own nets.
        let earlier = if args.preset.is_some() { NetNames::default() } else { before.nets };
        let nets = Nets::new(args, &earlier, implied, &files, &settings)?;
        let inputs = files.hash()?;
        warnings.extend(changed(&before.inputs, &inputs));
        let seed = args.seed.or(before.seed).unwrap_or_else(draw_seed);
        let settings = only_used(settings, &files);
        Ok(Self {
            count: args.count.unwrap_or(1),
            row: before.row,
            dtype: args.dtype.or(before.dtype),
            warnings,
            prompt,
            seed,
            preset: name,
            settings,
            nets,
            files,
            inputs,
        })
    }

    /// The seeds of the pictures.
    pub(in crate::cli) fn seeds(&self) -> impl Iterator<Item = u64> + use<> {
        let first = self.seed;
        (0..u64::from(self.count)).map(move |index| first.wrapping_add(index))
    }

    /// The pictures that go in.
    pub(in crate::cli) fn pictures(&self) -> impl Iterator<Item = &PathBuf> {
        let files = &self.files;
        files.style.iter().chain([&files.structure, &files.init, &files.mask, &files.latents].into_iter().flatten())
    }

    /// Reads the pictures.
    pub(in crate::cli) fn request(&self) -> Result<Request> {
        let files = &self.files;
        let mut request = self.request_without_pictures()?;
        request.style = files.style.iter().map(read::open).collect::<Result<_>>()?;
        request.structure = files.structure.as_ref().map(read::open).transpose()?;
        request.init = files.init.as_ref().map(read::open).transpose()?;
        request.mask = files.mask.as_ref().map(read::open_grey).transpose()?;
        request.latents = files.latents.as_deref().map(|path| self.latents(path)).transpose()?;
        request.validate()?;
        Ok(request)
    }

    /// The prompt and the settings of the request, for who brings the pictures.
    pub(in crate::cli) fn request_without_pictures(&self) -> Result<Request> {
        let mut request = Request { prompt: self.prompt.clone(), ..Request::default() };
        self.settings.apply(&mut request)?;
        Ok(request)
    }

    /// Where the depth estimator is, when one is needed.
    pub(in crate::cli) fn depth_model(&self, printer: &Printer) -> anyhow::Result<Option<PathBuf>> {
        let net = self.nets.depth_model.as_deref();
        net.map(|net| nets::locate("--depth-model", net, printer)).transpose()
    }

    fn latents(&self, path: &Path) -> Result<candle_core::Tensor> {
        let file = Checkpoint::open(path)?;
        if !file.contains("latents") {
            return Err(Error::file(path, "holds no tensor named `latents`"));
        }
        let latents = file.tensor("latents", candle_core::DType::F32, &candle_core::Device::Cpu)?;
        let rows = self.row + self.count as usize;
        match latents.dims().first() {
            Some(there) if *there >= rows => Ok(latents),
            _ => Err(Error::file(path, format!("`latents` is {:?}; {rows} rows are needed", latents.dims()))),
        }
    }

    /// Where the nets are. Those that are known by name and not here yet are fetched.
    pub(in crate::cli) fn paths(&self, printer: &Printer) -> anyhow::Result<ModelPaths> {
        let find = |flag: &str, net: &Option<PathBuf>| -> anyhow::Result<Option<PathBuf>> {
            net.as_ref().map(|net| nets::locate(flag, net, printer)).transpose()
        };
        let mut paths = ModelPaths {
            model: nets::locate("--model", &self.nets.model, printer)?,
            loras: self.loras(printer)?,
            ip_adapter: find("--ip-adapter", &self.nets.ip_adapter)?,
            image_encoder: find("--image-encoder", &self.nets.image_encoder)?,
            controlnet: find("--controlnet", &self.nets.controlnet)?,
            variant: nets::variant(&self.nets.model)?,
            prediction_type: self.settings.prediction_type.clone(),
        };
        if let (Some(adapter), None) = (&paths.ip_adapter, &paths.image_encoder) {
            paths.image_encoder = Some(nets::encoder_beside(adapter, &paths.model)?);
        }
        Ok(paths)
    }

    fn loras(&self, printer: &Printer) -> anyhow::Result<Vec<(PathBuf, f64)>> {
        let loras = self.nets.loras.iter();
        loras.map(|(net, scale)| Ok((nets::locate("--lora", net, printer)?, *scale))).collect()
    }

    /// Finds the nets, fetching those that have a name and are not here yet.
    pub(in crate::cli) fn locate(&self, printer: &Printer) -> anyhow::Result<()> {
        self.paths(printer)?;
        self.depth_model(printer)?;
        Ok(())
    }

    /// Checks that every net is one that has a name, or a path that exists.
    pub(in crate::cli) fn check_nets(&self) -> Result<()> {
        let Nets { model, loras, ip_adapter, image_encoder, controlnet, depth_model } = &self.nets;
        nets::check("--model", model)?;
        loras.iter().try_for_each(|(lora, _)| nets::check("--lora", lora))?;
        let others = [
            ("--ip-adapter", ip_adapter),
            ("--image-encoder", image_encoder),
            ("--controlnet", controlnet),
            ("--depth-model", depth_model),
        ];
        others.into_iter().try_for_each(|(flag, net)| net.as_ref().map_or(Ok(()), |net| nets::check(flag, net)))
    }

    /// The checkpoint with what it computes on, and its adapters, as texts that are equal where they are the same.
    pub(in crate::cli) fn nets(&self, device: Backend) -> (String, String) {
        let Nets { model, loras, ip_adapter, image_encoder, controlnet, depth_model } = &self.nets;
        let model = format!("{model:?} {loras:?} {:?} {device} {:?}", self.settings.prediction_type, self.dtype);
        (model, format!("{controlnet:?} {ip_adapter:?} {image_encoder:?} {depth_model:?}"))
    }

    /// Whether a recipe is that of the first picture of this plan. What follows from the nets or the machine alone (a size, a
    /// type) may be any.
    pub(in crate::cli) fn leads_to(&self, recipe: &Recipe) -> bool {
        let side = |wanted: Option<u32>, found: Option<u32>| wanted.or(found).unwrap_or_default();
        let size =
            (side(self.settings.width, recipe.settings.width), side(self.settings.height, recipe.settings.height));
        self.recipe(self.seed, self.row, self.dtype.unwrap_or(recipe.dtype), size) == *recipe
    }

    /// What to write into one picture.
    pub(in crate::cli) fn recipe(
        &self,
        seed: u64,
        row: usize,
        dtype: Precision,
        (width, height): (u32, u32),
    ) -> Recipe {
        let name = |net: &Option<PathBuf>| net.as_ref().map(|net| net.to_string_lossy().into_owned());
        Recipe {
            version: recipe::VERSION,
            program: concat!("impasto ", env!("CARGO_PKG_VERSION")).to_owned(),
            prompt: self.prompt.clone(),
            seed,
            row: self.files.latents.is_some().then_some(row),
            dtype,
            preset: self.preset.clone(),
            nets: NetNames {
                model: Some(self.nets.model.to_string_lossy().into_owned()),
                lora: self.nets.loras.iter().map(|(file, scale)| format!("{}:{scale}", file.display())).collect(),
                ip_adapter: name(&self.nets.ip_adapter),
                image_encoder: name(&self.nets.image_encoder),
                controlnet: name(&self.nets.controlnet),
                depth_model: name(&self.nets.depth_model),
            },
            inputs: self.inputs.clone(),
            settings: Settings { width: Some(width), height: Some(height), ..self.settings.clone() },
        }
    }
}

/// What a picture given with `--from` says.
#[derive(Default)]
struct Before {
    prompt: Option<String>,
    seed: Option<u64>,
    row: usize,
    dtype: Option<Precision>,
    preset: Option<String>,
    nets: NetNames,
    inputs: Inputs,
    settings: Settings,
    picture: PathBuf,
}

impl Before {
    fn read(args: &Args, warnings: &mut Vec<String>) -> Result<Self> {
        let Some(picture) = &args.from else { return Ok(Self::default()) };
        match Recipe::read(picture)? {
            Found::Ours(recipe) => Ok(Self {
                prompt: Some(recipe.prompt),
                seed: Some(recipe.seed),
                row: recipe.row.unwrap_or(0),
                dtype: Some(recipe.dtype),
                preset: recipe.preset,
                nets: recipe.nets,
                inputs: recipe.inputs,
                settings: recipe.settings,
                picture: picture.clone(),
            }),
            Found::Foreign(found) => {
                if args.model.is_none() && args.preset.is_none() {
                    let model = found.model.as_deref().unwrap_or("a checkpoint it does not name");
                    return Err(Error::file(picture, format!("was made by another program with {model}"))
                        .with_hint("say which checkpoint to use with --model"));
                }
                if !found.ignored.is_empty() {
                    warnings.push(format!("{}: not repeated: {}", picture.display(), found.ignored.join(", ")));
                }
                warnings
                    .push(format!("{}: made by another program, whose noise is drawn otherwise", picture.display()));
                Ok(Self {
                    prompt: Some(found.prompt),
                    seed: found.seed,
                    settings: found.settings,
                    picture: picture.clone(),
                    ..Self::default()
                })
            }
        }
    }
}

// The preset's name where its nets are meant too; only its numbers hold where the user brings a checkpoint of their own.
fn choose_preset(args: &Args, before: Option<&str>) -> Result<(Option<String>, Preset)> {
    let text = |path: &PathBuf, flag: &str| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| Error::usage(flag, format!("`{}` is not UTF-8", path.display())))
    };
    let model_is_preset = |model: &&PathBuf| model.to_str().is_some_and(Preset::is_one);
    let name = match (&args.preset, &args.model) {
        (Some(preset), _) => Some(text(preset, "--preset")?),
        (None, Some(model)) if model_is_preset(&model) => Some(text(model, "--model")?),
        (None, Some(_)) => before.map(str::to_owned),
        // The recipe says everything itself; its preset may be gone by now.
        (None, None) if args.from.is_some() => before.filter(|name| Preset::find(name).is_ok()).map(str::to_owned),
        (None, None) => Some(preset::DEFAULT.to_owned()),
    };
    match name {
        Some(name) => Preset::find(&name).map(|preset| (Some(name), preset)),
        None => Preset::find(preset::DEFAULT).map(|preset| (None, preset)),
    }
}

impl Files {
    fn new(args: &Args, before: &Before) -> Self {
        let earlier = |input: &Option<Input>| input.as_ref().map(|input| recipe::locate(&input.path, &before.picture));
        let style = if args.style.is_empty() {
            before.inputs.style.iter().map(|input| recipe::locate(&input.path, &before.picture)).collect()
        } else {
            args.style.clone()
        };
        Self {
            style,
            structure: args.structure.clone().or_else(|| earlier(&before.inputs.structure)),
            init: args.init.clone().or_else(|| earlier(&before.inputs.init)),
            mask: args.mask.clone().or_else(|| earlier(&before.inputs.mask)),
            latents: args.latents.clone().or_else(|| earlier(&before.inputs.latents)),
        }
    }

    // Flags that would be without effect, and pictures that are missing.
    fn check(&self, args: &Args, preset: Option<&Preset>) -> Result<()> {
        let settings = &args.settings;
        let (style, structure, init) = (!self.style.is_empty(), self.structure.is_some(), self.init.is_some());
        let without = [
            ("--ip-adapter", args.ip_adapter.is_some(), style, "--style"),
            ("--image-encoder", args.image_encoder.is_some(), style, "--style"),
            ("--style-scale", settings.style_scale.is_some(), style, "--style"),
            ("--style-blocks", settings.style_blocks.is_some(), style, "--style"),
            ("--controlnet", args.controlnet.is_some(), structure, "--structure"),
            ("--depth-model", args.depth_model.is_some(), structure, "--structure"),
            ("--control-map", args.control_map.is_some(), structure, "--structure"),
            ("--control", settings.control.is_some(), structure, "--structure"),
            ("--canny-low", settings.canny_low.is_some(), structure, "--structure"),
            ("--canny-high", settings.canny_high.is_some(), structure, "--structure"),
            ("--control-scale", settings.control_scale.is_some(), structure, "--structure"),
            ("--control-start", settings.control_start.is_some(), structure, "--structure"),
            ("--control-end", settings.control_end.is_some(), structure, "--structure"),
            ("--strength", settings.strength.is_some(), init, "--init"),
            ("--mask", self.mask.is_some(), init, "--init"),
        ];
        for (flag, given, has, needed) in without {
            if given && !has {
                return Err(Error::usage(flag, format!("has no effect without {needed}"))
                    .with_hint(format!("give a picture with {needed}")));
            }
        }
        for need in preset.map(|preset| preset.needs.as_slice()).unwrap_or_default() {
            let has = match need {
                preset::Need::Style => style,
                preset::Need::Structure => structure,
                preset::Need::Init => init,
            };
            if !has {
                let name = preset.map(|preset| preset.name.as_str()).unwrap_or_default();
                return Err(Error::usage(need.flag(), format!("is needed by the preset {name}")));
            }
        }
        Ok(())
    }

    fn hash(&self) -> Result<Inputs> {
        let of = |file: &Option<PathBuf>| file.as_deref().map(Input::of).transpose();
        Ok(Inputs {
            style: self.style.iter().map(|file| Input::of(file)).collect::<Result<_>>()?,
            structure: of(&self.structure)?,
            init: of(&self.init)?,
            mask: of(&self.mask)?,
            latents: of(&self.latents)?,
        })
    }
}

impl Nets {
    fn new(
        args: &Args,
        before: &NetNames,
        preset: Option<&Preset>,
        files: &Files,
        settings: &Settings,
    ) -> Result<Self> {
        let pick = |flag: Option<&PathBuf>, before: Option<&String>, implied: Option<&String>| {
            flag.cloned().or_else(|| before.or(implied).map(PathBuf::from))
        };
        let implied = preset.map(|preset| &preset.weights);
        // `--model PRESET` names the preset, whose checkpoint is meant.
        let flag =
            args.model.as_ref().filter(|model| !(args.preset.is_none() && model.to_str().is_some_and(Preset::is_one)));
        let earlier = before.model.as_ref().filter(|_| args.model.is_none());
        let model = pick(flag, earlier, implied.and_then(|nets| nets.model.as_ref())).ok_or_else(|| {
            Error::usage("--model", "is missing").with_hint("`impasto weights list` names what is known")
        })?;
        let named = |names: &[String]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let loras = if !args.lora.is_empty() {
            args.lora.clone()
        } else if !before.lora.is_empty() {
            named(&before.lora)
        } else {
            implied.map(|nets| named(&nets.lora)).unwrap_or_default()
        };
        let loras = loras.into_iter().map(lora).collect::<Result<_>>()?;
        let mut nets = Self { model, loras, ..Self::default() };
        if !files.style.is_empty() {
            let adapter = implied.and_then(|nets| nets.ip_adapter.as_ref());
            let encoder = implied.and_then(|nets| nets.image_encoder.as_ref());
            nets.ip_adapter = pick(args.ip_adapter.as_ref(), before.ip_adapter.as_ref(), adapter);
            nets.image_encoder = pick(args.image_encoder.as_ref(), before.image_encoder.as_ref(), encoder);
            if nets.ip_adapter.is_none() {
                return Err(Error::usage("--style", "needs an IP-Adapter for this checkpoint").with_hint(
                    "add --ip-adapter NAME|FILE, or --preset sd15 if the checkpoint is a Stable Diffusion 1.5",
                ));
            }
        }
        if files.structure.is_some() {
            let kind = settings.control.unwrap_or_default();
            let net = implied.and_then(|nets| nets.controlnet.get(&kind));
            // Another kind of map needs another ControlNet than the recipe's.
            let earlier = before.controlnet.as_ref().filter(|_| args.settings.control.is_none());
            nets.controlnet = pick(args.controlnet.as_ref(), earlier, net);
            if nets.controlnet.is_none() {
                let kind = control_name(kind);
                return Err(Error::usage("--structure", format!("needs a ControlNet for `--control {kind}`"))
                    .with_hint(
                        "add --controlnet NAME|DIR|FILE, or --preset sd15 if the checkpoint is a Stable Diffusion 1.5",
                    ));
            }
            if kind == Kind::Depth {
                let net = implied.and_then(|nets| nets.depth_model.as_ref());
                nets.depth_model = pick(args.depth_model.as_ref(), before.depth_model.as_ref(), net);
                if nets.depth_model.is_none() {
                    return Err(Error::usage("--control", "depth needs a depth model")
                        .with_hint("add --depth-model NAME|DIR|FILE, or give a depth map with --control none"));
                }
            }
        }
        Ok(nets)
    }
}

// A LoRA file and its scale.
fn lora(given: PathBuf) -> Result<(PathBuf, f64)> {
    let (file, scale) = weighted::split(&given).unwrap_or((given, 1.0));
    nets::check("--lora", &file)?;
    if !scale.is_finite() {
        return Err(Error::usage("--lora", format!("the scale {scale} is not a number")));
    }
    Ok((file, scale))
}

// Settings that had no part in the picture do not belong into its recipe.
fn only_used(mut settings: Settings, files: &Files) -> Settings {
    if files.style.is_empty() {
        (settings.style_scale, settings.style_blocks) = (None, None);
    }
    if files.structure.is_none() {
        (settings.control, settings.control_scale) = (None, None);
        (settings.control_start, settings.control_end) = (None, None);
    }
    if settings.control != Some(Kind::Canny) {
        (settings.canny_low, settings.canny_high) = (None, None);
    }
    if files.init.is_none() {
        settings.strength = None;
    }
    if (settings.guidance_start, settings.guidance_end) == (Some(0.0), Some(1.0)) {
        (settings.guidance_start, settings.guidance_end) = (None, None);
    }
    settings.fast = settings.fast.filter(|fast| *fast != Fast::None);
    settings
}

fn changed(before: &Inputs, now: &Inputs) -> Vec<String> {
    let of = |inputs: &Inputs| -> Vec<Input> {
        let Inputs { style, structure, init, mask, latents } = inputs.clone();
        style.into_iter().chain([structure, init, mask, latents].into_iter().flatten()).collect()
    };
    let before = of(before);
    of(now)
        .iter()
        .filter(|now| before.iter().any(|before| before.path == now.path && before.sha256 != now.sha256))
        .map(|now| format!("{}: changed since the recipe was written", now.path))
        .collect()
}

// As short as people are used to seeds, and all that torch's generator looks at.
fn draw_seed() -> u64 {
    RandomState::new().hash_one(std::process::id()) & 0xffff_ffff
}
