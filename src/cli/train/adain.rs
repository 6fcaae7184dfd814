//! `impasto train adain`: a net for any style.

use super::{Common, Defaults, Printer, check_zoom, open, set_threads, widened};
use impasto::nets::adain::compact::{Compact, Config};
use impasto::train::adain::{Adain, Build};
use impasto::train::dataset::Crops;
use impasto::train::loss::StyleLoss;
use impasto::{Error, Result};
use std::path::PathBuf;

const DEFAULTS: Defaults = Defaults {
    style_weight: 5.0,
    content_layers: &["relu4_1"],
    style_layers: &["relu1_1", "relu2_1", "relu3_1", "relu4_1"],
    style_loss: StyleLoss::Moments,
};
const PREVIEW_PAINTINGS: usize = 5;

/// Arguments of `impasto train adain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of paintings to learn on
    #[arg(long, value_name = "DIR", help_heading = "Training")]
    paintings: PathBuf,
    /// Paintings: the largest part a crop shows, in units of the crop; 2 shows some at half their size
    #[arg(long, value_name = "F", default_value_t = 2.0, help_heading = "Training")]
    painting_zoom: f64,
    /// Paintings: how often the colour channels change places
    #[arg(long, value_name = "F", default_value_t = 0.0, help_heading = "Training")]
    jitter: f64,
    /// How often photos serve as paintings, half the time each its own: it widens what the net knows, and keeps a photo as it is
    /// where it is to keep its own style
    #[arg(long, value_name = "F", default_value_t = 0.1, help_heading = "Training")]
    photo_styles: f64,
    /// Folder of paintings for the preview sheet [default: some of --paintings]
    #[arg(long, value_name = "DIR", help_heading = "Training")]
    preview_paintings: Option<PathBuf>,
    /// Sizes of the net as JSON, such as {"painter":[16,32,64],"blocks":4,"style":[16,32,64,128],"hidden":256}
    #[arg(long, value_name = "JSON", help_heading = "Training")]
    net: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// Trains it.
pub(crate) fn run(args: &Args, printer: &Printer) -> anyhow::Result<()> {
    let common = &args.common;
    common.check()?;
    check_zoom("--painting-zoom", args.painting_zoom)?;
    for (flag, share) in [("--jitter", args.jitter), ("--photo-styles", args.photo_styles)] {
        if !(0.0..=1.0).contains(&share) {
            return Err(Error::usage(flag, "must be from 0 to 1").into());
        }
    }
    set_threads(common.threads)?;
    let config = match &args.net {
        Some(text) => serde_json::from_str(text).map_err(|error| Error::usage("--net", error.to_string()))?,
        None => Config::default(),
    };
    config.check()?;
    let (device, _) = common.device.open()?;
    let panel = common.panel(&DEFAULTS, &device, printer)?;
    let variables = common.variables(&device)?;
    let (photos, preview_photos) = common.open_photos(printer)?;
    let crops = widened(Crops {
        size: common.size,
        short_side: common.size * 9 / 8,
        zoom: args.painting_zoom,
        jitter: args.jitter,
    });
    let paintings = open(&args.paintings, crops, 1, printer)?;
    let preview_paintings = match &args.preview_paintings {
        Some(folder) => open(folder, crops, 1, printer)?.samples(PREVIEW_PAINTINGS)?,
        None => paintings.samples(PREVIEW_PAINTINGS)?,
    };
    let note = serde_json::to_value(&config)?;
    let mut lesson = Adain::new(
        (photos, paintings),
        panel,
        (note, compact(config)),
        variables.var_builder(),
        (common.seed, usize::from(common.batch), args.photo_styles),
        (preview_photos, preview_paintings),
        &device,
    )?;
    common.train(&mut lesson, &variables, &device, printer)
}

fn compact(config: Config) -> Build {
    Box::new(move |vb| {
        let net = Compact::new(&config, vb)?;
        Ok(Box::new(move |photos, paintings| -> Result<_> { net.forward(photos, &net.encode_style(paintings)?, 1.0) }))
    })
}
