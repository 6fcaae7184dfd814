//! Paints a photo by optimisation, in the styles of one or more paintings, and shows how it comes about.
//!
//! ```sh
//! cargo run --release --example gatys -- VGG.safetensors PHOTO PAINTING[,PAINTING..] out.png [settings.json]
//! ```
//!
//! The settings are those of `impasto::style::gatys::Settings`: `{"iterations": 300, "style-loss": "gram", "smallest": 0}`.

use impasto::device::Backend;
use impasto::image::{read, write};
use impasto::ops::Pooling;
use impasto::pipeline::open_backbone;
use impasto::style::gatys::{Settings, run};
use impasto::{Error, Result};
use std::path::Path;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [network, photo, paintings, output, settings @ ..] = args.as_slice() else {
        return Err(Error::usage("arguments", "expected VGG PHOTO PAINTING[,PAINTING..] OUT.png [SETTINGS.json]"));
    };
    let settings: Settings = match settings.first() {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|reason| Error::io(path, reason))?;
            serde_json::from_str(&text).map_err(|error| Error::file(path, error.to_string()))?
        }
        None => Settings::default(),
    };
    let (device, _) = Backend::Auto.open()?;
    let network = open_backbone(Path::new(network), Pooling::Max, &device)?;
    let photo = read::open(photo)?;
    let styles = paintings.split(',').map(|path| Ok((read::open(path)?, 1.0))).collect::<Result<Vec<_>>>()?;
    let painted = run(&network, &photo, &styles, &[], &settings, &mut |step| {
        // Every fifty steps: the picture so far, and all that a later run needs to go on from there.
        if step.done.is_multiple_of(50) {
            write::png(output, &step.picture()?, &[])?;
            step.save(format!("{output}.state"))?;
        }
        Ok(())
    })?;
    write::png(output, &painted.picture, &[])
}
