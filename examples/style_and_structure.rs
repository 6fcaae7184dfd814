//! The main job: a prompt says what, one picture says how it is painted, another gives the structure.
//!
//! ```sh
//! cargo run --release --example style_and_structure -- MODEL IP_ADAPTER IMAGE_ENCODER CONTROLNET STYLE STRUCTURE PROMPT out.png
//! ```
//! Paints two seeds, as out-7.png and out-8.png.
//!
//! For a first try: `weights/mini weights/mini/{ip-adapter.safetensors,image_encoder,controlnet}
//! docs/images/mini/{style-stencil.png,shape-heart.png} "a red apple" out.png`.

use impasto::control::Preprocessor;
use impasto::device::{Backend, Precision};
use impasto::image::{read, write};
use impasto::nets::ip_adapter::BlockScales;
use impasto::pipeline::{Diffusion, ModelPaths, Request};
use impasto::progress::silent;
use impasto::{Error, Result};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, ip_adapter, image_encoder, controlnet, style, structure, prompt, output] = args.as_slice() else {
        let expected = "expected MODEL IP_ADAPTER IMAGE_ENCODER CONTROLNET STYLE STRUCTURE PROMPT OUT.png";
        return Err(Error::usage("arguments", expected));
    };
    let paths = ModelPaths {
        model: model.into(),
        ip_adapter: Some(ip_adapter.into()),
        image_encoder: Some(image_encoder.into()),
        controlnet: Some(controlnet.into()),
        ..ModelPaths::default()
    };
    let (device, _) = Backend::Auto.open()?;
    let mut diffusion = Diffusion::open(&paths, &device, Precision::for_device(&device))?;
    let request = Request {
        // The model's own width, in the structure picture's proportions: at that picture's size a small model falls apart.
        width: Some(diffusion.native_side()),
        prompt: prompt.into(),
        style: vec![read::open(style)?],
        style_scale: 0.7,
        // Only the blocks that carry style; `Full` also takes over what is in the style picture.
        style_blocks: BlockScales::Style,
        structure: Some(read::open(structure)?),
        control: Preprocessor::Canny { low: 100.0, high: 200.0 },
        control_scale: 0.8,
        // The last fifth of the steps is free to paint over the edges.
        control_end: 0.8,
        ..Request::default()
    };
    // Encoders, keys and values and the map are worked out once; every further seed costs only its steps.
    let prepared = diffusion.prepare(&request, &mut silent)?;
    for (index, seed) in (7..9).enumerate() {
        let picture = diffusion.paint(&prepared, seed, index, &mut silent)?;
        write::png(output.replace(".png", &format!("-{seed}.png")), &picture, &[])?;
    }
    Ok(())
}
