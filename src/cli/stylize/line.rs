//! One method with its flags, for commands that run several methods themselves: from the words of a command line to a painter.

use super::method::Chosen;
use super::{Args, diffusion, gatys};
use crate::cli::Printer;
use crate::cli::loaded::Loaded;
use clap::FromArgMatches;
use impasto::pipeline::settings::Settings as DiffusionSettings;
use impasto::pipeline::stylize::{self, Method, Painter, Recipe, Style};
use impasto::{Error, Result};
use std::ffi::OsString;

/// What `impasto stylize` would do with a line.
pub(in crate::cli) struct Line {
    args: Args,
    chosen: Chosen,
}

/// Flags that make sense for one picture alone, or that who runs several methods decides itself.
const OWN: [&str; 8] = ["region", "style-mask", "feather", "save-every", "resume", "preset", "width", "height"];

/// Whether a method has a flag, named without its dashes, that may differ between two runs of it.
pub(in crate::cli) fn takes(method: Method, flag: &str) -> bool {
    let all = ["strength", "preserve-color"];
    let sized = ["style-size"];
    if OWN.contains(&flag) {
        return false;
    }
    all.contains(&flag)
        || match method {
            Method::Fast => false,
            Method::Adain => sized.contains(&flag),
            Method::Gatys => sized.contains(&flag) || has::<gatys::Flags>(flag),
            Method::Diffusion => {
                sized.contains(&flag) || has::<diffusion::Flags>(flag) || has::<DiffusionSettings>(flag)
            }
        }
}

fn has<Flags: clap::Args>(flag: &str) -> bool {
    let flags = Flags::augment_args(clap::Command::new(""));
    flags.get_arguments().any(|known| known.get_long() == Some(flag))
}

impl Line {
    /// Reads the words behind `impasto stylize` and checks them; opens no picture and no net.
    pub(in crate::cli) fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let command = <Args as clap::Args>::augment_args(clap::Command::new("stylize")).no_binary_name(true);
        let parsed = command.try_get_matches_from(words).and_then(|matches| Args::from_arg_matches(&matches));
        let args = parsed.map_err(|error| {
            let text = error.render().to_string();
            let said = text.lines().next().unwrap_or_default();
            Error::usage("--methods", said.strip_prefix("error: ").unwrap_or(said))
        })?;
        let chosen = Chosen::new(&args)?;
        Ok(Self { args, chosen })
    }

    /// The recipe, but for what each photo adds.
    pub(in crate::cli) fn recipe(&self) -> Result<Recipe> {
        self.chosen.recipe(&self.args)
    }

    /// The style pictures.
    pub(in crate::cli) fn styles(&self) -> Result<Vec<Style>> {
        self.chosen.styles()
    }

    /// Finds the nets that have names, fetching those that are not here yet.
    pub(in crate::cli) fn locate(&self, printer: &Printer) -> anyhow::Result<()> {
        self.chosen.locate(printer)
    }

    /// Opens the nets.
    pub(in crate::cli) fn painter(&self, loaded: &mut Loaded, printer: &Printer) -> anyhow::Result<Box<dyn Painter>> {
        self.chosen.painter(&self.args, true, loaded, printer)
    }

    /// What holds for every photo.
    pub(in crate::cli) fn settings(&self) -> stylize::Settings {
        self.args.for_every_photo()
    }
}
