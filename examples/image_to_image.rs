//! Repaints a picture: the lower the strength, the more of it stays. With a mask, only where the mask is white.
//!
//! ```sh
//! cargo run --release --example image_to_image -- MODEL IN.png "a watercolour of a cat" 0.6 out.png [MASK.png]
//! ```
//! For a first try: `weights/mini docs/images/mini/style-glossy.png "a banana" 0.7 out.png`.

use impasto::device::{Backend, Precision};
use impasto::diffusion::sampler::Sampler;
use impasto::diffusion::schedule::Sigmas;
use impasto::image::{read, write};
use impasto::pipeline::{Diffusion, ModelPaths, Request};
use impasto::progress::silent;
use impasto::{Error, Result};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, init, prompt, strength, output, mask @ ..] = args.as_slice() else {
        return Err(Error::usage("arguments", "expected MODEL IN.png PROMPT STRENGTH OUT.png [MASK.png]"));
    };
    let request = Request {
        prompt: prompt.clone(),
        init: Some(read::open(init)?),
        mask: mask.first().map(read::open_grey).transpose()?,
        strength: strength.parse().map_err(|_| Error::usage("STRENGTH", format!("{strength} is not a number")))?,
        sampler: Sampler::Dpmpp2m,
        sigmas: Sigmas::Karras,
        steps: 30,
        ..Request::default()
    };
    // Numbers out of range are named here already, before anything is loaded.
    request.validate()?;
    let (device, _) = Backend::Auto.open()?;
    let paths = ModelPaths { model: model.into(), ..ModelPaths::default() };
    let mut diffusion = Diffusion::open(&paths, &device, Precision::for_device(&device))?;
    let prepared = diffusion.prepare(&request, &mut silent)?;
    write::png(output, &diffusion.paint(&prepared, 0, 0, &mut silent)?, &[])
}
