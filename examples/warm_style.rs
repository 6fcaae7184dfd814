//! Times the bundled net once everything is in memory: reading a painting and repainting a photo, again and again. One JSON object a line, for
//! `benches/style_speed.py --ours "warm_style {content} {style} {threads}"`.
//!
//! ```sh
//! cargo run --release --example warm_style -- PHOTO PAINTING [THREADS]
//! ```

use std::time::Instant;

use candle_core::Device;
use impasto::image::read;
use impasto::pipeline::stylize::{AdainPainter, Painter, Style, canvas};
use impasto::progress::silent;
use impasto::{Error, Result};

// As in the program: without it every layer would wait for fresh pages.
#[global_allocator]
static MEMORY: impasto::ops::Recycler = impasto::ops::Recycler::new();

#[allow(clippy::print_stdout)]
fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [photo, painting, threads @ ..] = args.as_slice() else {
        return Err(Error::usage("arguments", "expected PHOTO PAINTING [THREADS]"));
    };
    let threads = threads.first().and_then(|text| text.parse().ok()).unwrap_or(0);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    pool.map_err(|error| Error::usage("THREADS", error.to_string()))?;
    let (photo, painting) = (read::open(photo)?, read::open(painting)?);
    let mut painter = AdainPainter::open(None, &Device::Cpu, 1.0, 0)?;
    for _ in 0..6 {
        let begun = Instant::now();
        let side = painter.style_side(photo.dimensions()).unwrap_or(512);
        let picture = canvas::resized(&painting, canvas::with_long_side(painting.dimensions(), side))?;
        painter.learn(&[Style { picture, weight: 1.0 }], &mut silent)?;
        painter.paint(&photo, &mut silent)?;
        println!("{{\"seconds\": {}}}", begun.elapsed().as_secs_f64());
    }
    Ok(())
}
