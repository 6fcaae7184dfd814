//! A prompt to a picture.
//!
//! ```sh
//! cargo run --release --example text_to_image -- weights/mini "an owl, glossy 3d" out.png
//! ```
//! The first argument is a diffusers folder or a single-file checkpoint; `weights/mini` is the small one of this repository.
#![allow(clippy::print_stderr)]

use impasto::device::{Backend, Precision};
use impasto::image::write;
use impasto::pipeline::{Diffusion, ModelPaths, Request};
use impasto::progress::Progress;
use impasto::{Error, Result};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, prompt, output] = args.as_slice() else {
        return Err(Error::usage("arguments", "expected MODEL PROMPT OUT.png"));
    };
    let (device, _) = Backend::Auto.open()?;
    let precision = Precision::for_device(&device);
    let paths = ModelPaths { model: model.into(), ..ModelPaths::default() };
    let request = Request { prompt: prompt.clone(), steps: 20, ..Request::default() };

    let mut on_progress = |at: &Progress| {
        eprintln!("{} {}/{}", at.label, at.done, at.total);
        Ok(())
    };
    let mut diffusion = Diffusion::open(&paths, &device, precision)?;
    let prepared = diffusion.prepare(&request, &mut on_progress)?;
    for warning in &prepared.warnings {
        eprintln!("warning: {warning}");
    }
    let picture = diffusion.paint(&prepared, 42, 0, &mut on_progress)?;
    write::png(output, &picture, &[])
}
