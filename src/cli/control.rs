//! `impasto control`: the control map of a picture, to look at or to give to `generate --control none`.

use super::{Printer, nets};
use impasto::control::Kind;
use impasto::device::Backend;
use impasto::image::{read, write};
use impasto::pipeline::open_depth;
use impasto::pipeline::preset::{self, Preset};
use impasto::pipeline::request::Request;
use impasto::pipeline::settings::Settings;
use std::path::PathBuf;

/// Arguments of `impasto control`.
#[derive(Debug, clap::Args)]
#[command(allow_negative_numbers = true)]
pub(crate) struct Args {
    /// How the picture becomes a map
    #[arg(value_enum)]
    kind: Kind,
    /// The picture
    #[arg(value_name = "IN")]
    picture: PathBuf,
    /// The map to write, a .png
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Canny: gradients below this are no edge [default: 100]
    #[arg(long, value_name = "F")]
    low: Option<f64>,
    /// Canny: gradients above this are an edge [default: 200]
    #[arg(long, value_name = "F")]
    high: Option<f64>,
    /// Depth: the estimator [default: the one of the preset sd15]
    #[arg(long, value_name = "NAME|DIR|FILE")]
    depth_model: Option<PathBuf>,
    /// Depth: where to compute: auto, cpu, cuda, cuda:N, metal
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: Backend,
}

/// Writes the map.
pub(crate) fn run(args: &Args, printer: &Printer) -> anyhow::Result<()> {
    let settings =
        Settings { control: Some(args.kind), canny_low: args.low, canny_high: args.high, ..Settings::default() };
    let mut request = Request::default();
    settings.apply(&mut request)?;
    let picture = read::open(&args.picture)?;
    if args.kind == Kind::Depth {
        let net = match &args.depth_model {
            Some(net) => net.clone(),
            None => PathBuf::from(Preset::find(preset::DEFAULT)?.weights.depth_model.unwrap_or_default()),
        };
        let net = nets::locate("--depth-model", &net, printer)?;
        let (device, _) = args.device.open()?;
        request.control = open_depth(&net, &device)?;
    }
    let map = request.control.apply(&picture)?;
    write::png(&args.output, &map, &[])?;
    printer.line(args.output.display())
}
