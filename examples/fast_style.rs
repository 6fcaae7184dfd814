//! Paints a photo with a feed-forward net from a file, whosever it is, and mixes styles where the net has several.
//!
//! ```sh
//! cargo run --release --example fast_style -- NET PHOTO.jpg OUT.png [STYLE=AMOUNT]...
//! ```
//!
//! NET is a `.pth` of pytorch/examples fast_neural_style, a folder of ml5's style-transfer models, or a `.safetensors` of
//! `impasto train fast`.

use candle_core::{DType, Device};
use impasto::image::{read, tensor, write};
use impasto::nets::fast::FastNet;
use impasto::weights::Checkpoint;
use impasto::{Error, Result};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [net, photo, output, styles @ ..] = args.as_slice() else {
        return Err(Error::usage("arguments", "expected NET PHOTO.jpg OUT.png [STYLE=AMOUNT]..."));
    };
    let file = Checkpoint::open(net)?;
    let net = FastNet::new(file.var_builder(DType::F32, &Device::Cpu))?;

    let mut amounts = styles.iter().map(|style| amount(style)).collect::<Result<Vec<_>>>()?;
    if amounts.is_empty() {
        amounts.push((0, 1.0));
    }
    // Numbers are mixed inside the net: halfway between two styles lies a style, not a double exposure.
    let blend = net.blend(&amounts)?;

    let photo = tensor::to_unit(&read::open(photo)?)?;
    let painted = net.forward(&photo, &blend)?;
    // 0..1 to the -1..1 that pictures are made from; what is outside is cut.
    for picture in tensor::to_pictures(&painted.affine(2.0, -1.0)?)? {
        write::png(output, &picture, &[])?;
    }
    Ok(())
}

/// `3=0.5`: half of style number 3.
fn amount(text: &str) -> Result<(usize, f64)> {
    let bad = || Error::usage(text, "is not a style's number and an amount, such as 3=0.5");
    let (style, amount) = text.split_once('=').ok_or_else(bad)?;
    Ok((style.parse().map_err(|_| bad())?, amount.parse().map_err(|_| bad())?))
}
