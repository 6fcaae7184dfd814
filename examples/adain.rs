//! AdaIN as published: the normalised VGG-19 and a decoder, by the names of naoto0804/pytorch-AdaIN. Several paintings are
//! blended in equal parts.
//!
//! ```sh
//! cargo run --release --example adain -- vgg_normalised.pth decoder.pth PHOTO.jpg PAINTING.jpg[,MORE.jpg] OUT.png [STRENGTH]
//! ```

use candle_core::{DType, Device};
use impasto::image::{read, tensor, write};
use impasto::nets::adain::original::{Original, Statistics};
use impasto::nets::vgg::{Backbone, Kind};
use impasto::ops::Pooling;
use impasto::weights::Checkpoint;
use impasto::{Error, Result};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [encoder, decoder, photo, paintings, output, strength @ ..] = args.as_slice() else {
        let expected = "expected ENCODER DECODER PHOTO.jpg PAINTING.jpg[,MORE.jpg] OUT.png [STRENGTH]";
        return Err(Error::usage("arguments", expected));
    };
    let strength = match strength.first() {
        Some(text) => text.parse().map_err(|_| Error::usage("STRENGTH", format!("{text} is not a number")))?,
        None => 1.0,
    };
    let (encoder, decoder) = (Checkpoint::open(encoder)?, Checkpoint::open(decoder)?);
    let encoder = encoder.var_builder(DType::F32, &Device::Cpu);
    let encoder = Backbone::new(Kind::VggNormalised, Pooling::Max, encoder)?;
    let net = Original::new(encoder, decoder.var_builder(DType::F32, &Device::Cpu))?;

    // A painting is looked at once; any number of photos can follow.
    let styles = paintings.split(',').map(|path| Ok((net.encode_style(&tensor::to_unit(&read::open(path)?)?)?, 1.0)));
    let style = Statistics::blend(&styles.collect::<Result<Vec<_>>>()?)?;

    let photo = tensor::to_unit(&read::open(photo)?)?;
    let painted = net.forward(&photo, &style, strength, None)?;
    // 0..1 to the -1..1 that pictures are made from; what is outside is cut.
    for picture in tensor::to_pictures(&painted.affine(2.0, -1.0)?)? {
        write::png(output, &picture, &[])?;
    }
    Ok(())
}
