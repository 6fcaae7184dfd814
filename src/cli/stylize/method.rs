//! Which method, with which styles and flags: from what the user typed to a painter.

use super::style::Wanted;
use super::{Args, diffusion, gatys};
use crate::cli::Printer;
use crate::cli::loaded::Loaded;
use impasto::image::read;
use impasto::pipeline::recipe::Input;
use impasto::pipeline::settings::Settings as DiffusionSettings;
use impasto::pipeline::stylize::bundled::{self, ADAIN, BundledStyle};
use impasto::pipeline::stylize::{
    self, AdainPainter, FastPainter, Method, OriginalPainter, Painter, Recipe, Style, WeightedInput,
};
use impasto::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// The method with its flags checked.
pub(super) struct Chosen {
    /// The method.
    pub(super) method: Method,
    wanted: Vec<Wanted>,
    plan: Plan,
}

/// What a method needs beside its style pictures.
enum Plan {
    Adain,
    Fast(Vec<Net>),
    Gatys(Box<gatys::Flags>),
    Diffusion(Box<diffusion::Plan>),
}

/// A net of the fast method, and its part in the blend.
enum Net {
    Bundled(&'static BundledStyle, f64),
    File { path: PathBuf, styles: Vec<(usize, f64)>, weight: f64 },
}

impl Chosen {
    /// Checks flags; opens no picture and no net.
    pub(super) fn new(args: &Args) -> Result<Self> {
        stylize::check_part("--strength", args.settings.strength)?;
        let wanted = args.style.iter().map(|style| Wanted::parse(style)).collect::<Result<Vec<_>>>()?;
        let all_bundled = !wanted.is_empty() && wanted.iter().all(|wanted| bundled_style(wanted).is_some());
        let method = args.method.unwrap_or(if all_bundled { Method::Fast } else { Method::Adain });
        check_flags(args, method)?;
        let plan = match method {
            Method::Fast => Plan::Fast(nets(args, &wanted)?),
            Method::Adain => Plan::Adain,
            Method::Diffusion => {
                let pictures: Vec<_> = wanted.iter().map(|wanted| wanted.path.clone()).collect();
                Plan::Diffusion(Box::new(diffusion::Plan::new(args, &pictures)?))
            }
            Method::Gatys => {
                args.gatys.check(wanted.len())?;
                Plan::Gatys(Box::new(args.gatys.clone()))
            }
        };
        if method != Method::Fast {
            check_pictures(&wanted)?;
        }
        Ok(Self { method, wanted, plan })
    }

    /// Reads the style pictures.
    pub(super) fn styles(&self) -> Result<Vec<Style>> {
        let picture = |wanted: &Wanted| Ok(Style { picture: read::open(&wanted.path)?, weight: wanted.weight });
        let pictures = if self.method == Method::Fast { &[][..] } else { &self.wanted };
        pictures.iter().map(picture).collect()
    }

    /// Finds the nets that have names, fetching those that are not here yet.
    pub(super) fn locate(&self, printer: &Printer) -> anyhow::Result<()> {
        match &self.plan {
            Plan::Adain | Plan::Fast(_) => Ok(()),
            Plan::Gatys(flags) => flags.backbone(printer).map(drop),
            Plan::Diffusion(plan) => plan.locate(printer),
        }
    }

    /// The net with what it computes on, and its adapters, as texts that are equal where they are the same.
    pub(super) fn nets(&self, args: &Args) -> Result<(String, String)> {
        let device = args.device;
        Ok(match &self.plan {
            Plan::Adain => {
                (format!("adain {:?} {:?} {:?} {device}", args.net, args.encoder, args.decoder), String::new())
            }
            Plan::Fast(_) => (format!("fast {:?} {:?} {device}", args.net, self.wanted), String::new()),
            Plan::Gatys(flags) => (format!("gatys {} {device}", flags.network()?), String::new()),
            Plan::Diffusion(plan) => plan.nets(args)?,
        })
    }

    /// The files that go in beside the photos.
    pub(super) fn inputs(&self, args: &Args) -> Vec<PathBuf> {
        let styles = self.wanted.iter().map(|wanted| wanted.path.clone());
        let own = [&args.net, &args.encoder, &args.decoder].into_iter().flatten().cloned();
        let nets = diffusion::inputs(&args.diffusion).into_iter().chain(own);
        styles.chain(args.gatys.inputs()).chain(nets).chain(args.mask.clone()).collect()
    }

    /// Opens the nets, for one photo or for several.
    pub(super) fn painter(
        &self,
        args: &Args,
        several: bool,
        loaded: &mut Loaded,
        printer: &Printer,
    ) -> anyhow::Result<Box<dyn Painter>> {
        let strength = args.settings.strength.unwrap_or(1.0);
        match &self.plan {
            Plan::Adain => {
                let (device, _) = args.device.open()?;
                if let (Some(encoder), Some(decoder)) = (&args.encoder, &args.decoder) {
                    return Ok(Box::new(OriginalPainter::open(encoder, decoder, &device, strength)?));
                }
                Ok(Box::new(AdainPainter::open(args.net.as_deref(), &device, strength, args.seed)?))
            }
            Plan::Fast(nets) => {
                let (device, _) = args.device.open()?;
                let mut painter = FastPainter::new(&device, strength);
                for net in nets {
                    match net {
                        Net::Bundled(style, weight) => painter.add_bundled(style, *weight)?,
                        Net::File { path, styles, weight } => painter.add_file(path, styles, *weight)?,
                    }
                }
                Ok(Box::new(painter))
            }
            Plan::Gatys(flags) => Ok(Box::new(flags.painter(args, printer)?)),
            Plan::Diffusion(plan) => Ok(Box::new(plan.painter(args, several, loaded, printer)?)),
        }
    }

    /// The recipe, but for what each photo adds.
    pub(super) fn recipe(&self, args: &Args) -> Result<Recipe> {
        let strength = args.settings.strength.unwrap_or(1.0);
        let (nets, mut settings) = match &self.plan {
            Plan::Adain => {
                let mut nets = Map::new();
                for (name, net) in [("net", &args.net), ("encoder", &args.encoder), ("decoder", &args.decoder)] {
                    if let Some(net) = net {
                        nets.insert(name.to_owned(), value(&Input::of(net)?)?);
                    }
                }
                if nets.is_empty() {
                    let hash = ADAIN.map(bundled::sha256);
                    nets = entry("net", serde_json::json!({ "bundled": "any-style", "sha256": hash }));
                }
                (nets, entry("strength", value(&strength)?))
            }
            Plan::Fast(nets) => {
                let nets = nets.iter().map(Net::describe).collect::<Result<_>>()?;
                (entry("net", Value::Array(nets)), entry("strength", value(&strength)?))
            }
            Plan::Gatys(flags) => flags.describe(args)?,
            Plan::Diffusion(plan) => plan.describe(args)?,
        };
        settings.insert("preserve-color".into(), value(&args.preserve_color)?);
        settings.insert("seed".into(), value(&args.seed)?);
        if let Some(size) = args.style_size {
            settings.insert("style-size".into(), value(&size)?);
        }
        if args.frames {
            settings.insert("smooth".into(), value(&args.smooth.unwrap_or(super::SMOOTH))?);
        }
        let style = |wanted: &Wanted| Ok(WeightedInput { input: Input::of(&wanted.path)?, weight: wanted.weight });
        let pictures = if self.method == Method::Fast { &[][..] } else { &self.wanted };
        Ok(Recipe {
            version: stylize::VERSION,
            program: concat!("impasto ", env!("CARGO_PKG_VERSION")).to_owned(),
            method: self.method,
            content: Input { path: String::new(), sha256: String::new() },
            styles: pictures.iter().map(style).collect::<Result<_>>()?,
            mask: None,
            nets,
            size: (0, 0),
            settings,
        })
    }
}

impl Net {
    fn describe(&self) -> Result<Value> {
        Ok(match self {
            Self::Bundled(style, weight) => {
                let hash = bundled::sha256(style.weights);
                serde_json::json!({ "bundled": style.name, "sha256": hash, "weight": weight })
            }
            Self::File { path, styles, weight } => {
                serde_json::json!({ "file": Input::of(path)?, "styles": styles, "weight": weight })
            }
        })
    }
}

// The style that came with the program which is meant, unless there is a file of that name.
fn bundled_style(wanted: &Wanted) -> Option<&'static BundledStyle> {
    BundledStyle::find(wanted.path.to_str()?).filter(|_| !wanted.path.exists())
}

fn check_pictures(wanted: &[Wanted]) -> Result<()> {
    if wanted.is_empty() {
        return Err(Error::usage("--style", "is missing").with_hint("say which painting: --style IMAGE"));
    }
    if let Some(style) = wanted.iter().find_map(bundled_style) {
        return Err(Error::usage("--style", format!("{} is a net for one style, not a picture", style.name))
            .with_hint("use --method fast, or give a picture"));
    }
    stylize::check_weights(wanted.iter().map(|wanted| wanted.weight))
}

// Without --net every style is a net: one that came with the program, or a file. With it, the styles are the net's, by number.
fn nets(args: &Args, wanted: &[Wanted]) -> Result<Vec<Net>> {
    if let Some(path) = &args.net {
        let number = |wanted: &Wanted| match wanted.path.to_str().and_then(|text| text.parse::<usize>().ok()) {
            Some(number) => Ok((number, wanted.weight)),
            None => Err(Error::usage("--style", format!("{} is not the number of a style", wanted.path.display()))
                .with_hint("with --net a style is one of the net's: 0, 1, ...")),
        };
        let mut styles = wanted.iter().map(number).collect::<Result<Vec<_>>>()?;
        if styles.is_empty() {
            styles.push((0, 1.0));
        }
        return Ok(vec![Net::File { path: path.clone(), styles, weight: 1.0 }]);
    }
    let net = |wanted: &Wanted| match bundled_style(wanted) {
        Some(style) => Ok(Net::Bundled(style, wanted.weight)),
        None if wanted.path.exists() => {
            Ok(Net::File { path: wanted.path.clone(), styles: vec![(0, 1.0)], weight: wanted.weight })
        }
        None => {
            Err(Error::usage("--style", format!("{} is neither a style of --list nor a file", wanted.path.display()))
                .with_hint("`impasto stylize --list` names the styles that came with the program"))
        }
    };
    if wanted.is_empty() {
        return Err(Error::usage("--style", "is missing").with_hint("`impasto stylize --list` names the styles"));
    }
    if wanted.iter().all(|wanted| wanted.weight == 0.0) {
        return Err(Error::usage("--style", "the weights add up to nothing").with_hint("give one of them more than 0"));
    }
    wanted.iter().map(net).collect()
}

// Flags that would be without effect.
fn check_flags(args: &Args, method: Method) -> Result<()> {
    let diffusion = DiffusionSettings { strength: None, ..args.settings.clone() };
    let named = |given: bool, flag: &str| given.then(|| flag.to_owned());
    let own = [Method::Adain, Method::Fast];
    let given = [
        (&own[..], named(args.net.is_some(), "net")),
        (&own[..1], named(args.encoder.is_some(), "encoder")),
        (&[Method::Gatys], names(&args.gatys)?.into_iter().next()),
        (&[Method::Diffusion], names(&diffusion)?.into_iter().chain(names(&args.diffusion)?).next()),
        (&[Method::Diffusion], named(args.dtype.is_some(), "dtype")),
        (&[Method::Adain, Method::Gatys, Method::Diffusion], named(args.style_size.is_some(), "style-size")),
    ];
    for (of, flag) in given {
        if let Some(flag) = flag.filter(|_| !of.contains(&method)) {
            let reason = format!("has no effect with --method {}", method.name());
            let of = of.iter().map(|of| of.name()).collect::<Vec<_>>().join(", ");
            return Err(Error::usage(format!("--{flag}"), reason).with_hint(format!("it belongs to --method {of}")));
        }
    }
    Ok(())
}

// The flags that were given, by name.
fn names(flags: &impl Serialize) -> Result<Vec<String>> {
    match value(flags)? {
        Value::Object(map) => Ok(map.into_iter().map(|(name, _)| name).collect()),
        _ => Ok(Vec::new()),
    }
}

fn entry(name: &str, value: Value) -> Map<String, Value> {
    Map::from_iter([(name.to_owned(), value)])
}

fn value(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Error::usage("recipe", error.to_string()))
}
