//! `impasto train fast`: a small net for one painting.

use super::{Common, Defaults, Printer, set_threads};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use impasto::image::{read, resize, tensor};
use impasto::nets::adain::compact::{Compact, Config};
use impasto::nets::fast::FastNet;
use impasto::pipeline::stylize::bundled::{self, Opened};
use impasto::train::adain::Build;
use impasto::train::fast::Fast;
use impasto::train::loss::StyleLoss;
use impasto::train::variables::{self, Variables};
use impasto::weights::Checkpoint;
use impasto::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

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

    let unit = tensor::to_unit(&painting)?.to_device(&device)?;
    let tensors = beginning(common.from.as_deref(), &unit)?;
    let variables = Variables::holding(tensors, &device)?;
    let net = FastNet::new(variables.var_builder())?;
    if net.styles() != 1 {
        return Err(Error::usage("--from", "is a net of several styles; this trains one").into());
    }
    let note = serde_json::json!({ "flavour": format!("{:?}", net.flavour()) });
    let (photos, preview) = common.open_photos(printer)?;
    let mut lesson = Fast::new(
        (photos, painting),
        panel,
        (note, build()),
        variables.var_builder(),
        (common.seed, usize::from(common.batch)),
        preview,
        &device,
    )?;
    common.train(&mut lesson, &variables, &device, printer)
}

/// The weights to begin with: those of a fast net, or what a net for any style makes of the painting.
fn beginning(from: Option<&Path>, painting: &Tensor) -> Result<HashMap<String, Tensor>> {
    let device = painting.device();
    let tensors: HashMap<String, Tensor> = match (from, bundled::ADAIN) {
        (Some(file), _) => variables::weights_of(&Checkpoint::open(file)?, device)?.into_iter().collect(),
        (None, Some(bytes)) => Opened::bytes(bytes, device)?.tensors()?,
        (None, None) => {
            return Err(Error::usage("--from", "is missing: this program was built without a net to begin with"));
        }
    };
    let rows = |name: &str| tensors.get(name)?.dim(0).ok();
    match Config::of(rows) {
        Some(config) => {
            let vb = VarBuilder::from_tensors(tensors, DType::F32, device);
            FastNet::learned_from(&Compact::new(&config, vb)?, painting)
        }
        None => Ok(tensors),
    }
}

fn build() -> Build {
    Box::new(|vb| {
        let net = FastNet::new(vb)?;
        let blend = net.blend(&[(0, 1.0)])?;
        Ok(Box::new(move |photos, _| net.forward(photos, &blend)))
    })
}
