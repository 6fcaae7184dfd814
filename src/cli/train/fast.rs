//! `impasto train fast`: a small net for one painting.

use super::{Common, Defaults, Printer, set_threads};
use impasto::Error;
use impasto::image::{read, resize};
use impasto::nets::fast::{Config, FastNet};
use impasto::train::adain::Build;
use impasto::train::fast::Fast;
use impasto::train::loss::StyleLoss;
use impasto::train::variables::{self, Variables};
use impasto::weights::Checkpoint;
use std::path::PathBuf;

const DEFAULTS: Defaults = Defaults {
    style_weight: 10.0,
    content_layers: &["relu3_1"],
    style_layers: &["relu1_1", "relu2_1", "relu3_1", "relu4_1"],
    style_loss: StyleLoss::Both,
};

/// Arguments of `impasto train fast`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The painting
    #[arg(long, value_name = "IMG", help_heading = "Training")]
    style: PathBuf,
    /// Long side of the painting when its style is taken, in pixels: larger makes finer strokes of it
    #[arg(long, value_name = "PIXELS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(32..=4096))]
    style_size: u32,
    /// Sizes of the net as JSON, such as {"contract":[16,32,64],"blocks":4,"expand":[32,16]}
    #[arg(long, value_name = "JSON", help_heading = "Training", conflicts_with = "from")]
    net: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// Trains it.
pub(crate) fn run(args: &Args, printer: &Printer) -> anyhow::Result<()> {
    let common = &args.common;
    common.check()?;
    set_threads(common.threads)?;
    let (device, _) = common.device.open()?;
    let painting = read::open(&args.style)?;
    let long = painting.width().max(painting.height());
    let scaled = |side: u32| (side as f64 * f64::from(args.style_size) / f64::from(long)).round().max(1.0) as u32;
    let painting = resize::lanczos(&painting, scaled(painting.width()), scaled(painting.height()))?;
    let panel = common.panel(&DEFAULTS, &device, printer)?;

    let (note, tensors) = match &common.from {
        Some(file) => {
            let tensors = variables::weights_of(&Checkpoint::open(file)?, &device)?;
            (serde_json::json!("as the net it began with"), tensors)
        }
        None => {
            let config: Config = match &args.net {
                Some(text) => serde_json::from_str(text).map_err(|error| Error::usage("--net", error.to_string()))?,
                None => Config::default(),
            };
            (serde_json::to_value(&config)?, config.initial(common.seed)?.into_iter().collect())
        }
    };
    let variables = Variables::holding(tensors, &device)?;
    if FastNet::new(variables.var_builder())?.styles() != 1 {
        return Err(Error::usage("--from", "is a net of several styles; this trains one").into());
    }
    let (photos, preview) = common.open_photos(printer)?;
    let mut lesson = Fast::new(
        (photos, painting),
        panel,
        (note, net()),
        variables.var_builder(),
        (common.seed, usize::from(common.batch)),
        preview,
        &device,
    )?;
    common.train(&mut lesson, &variables, &device, printer)
}

fn net() -> Build {
    Box::new(|vb| {
        let net = FastNet::new(vb)?;
        let blend = net.blend(&[(0, 1.0)])?;
        Ok(Box::new(move |photos, _| net.forward(photos, &blend)))
    })
}
