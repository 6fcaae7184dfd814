//! Training: that it learns, that it goes on to the same bits, and what happens when it cannot.

use std::path::Path;

use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use impasto::Error;
use impasto::image::write;
use impasto::ops::trainable::{Geometry, conv2d, instance_norm_relu, relu};
use impasto::progress::{Progress, silent};
use impasto::train::adain::{Adain, Balance, Build, Panel, Turns};
use impasto::train::dataset::{Crops, Dataset};
use impasto::train::fast::Fast;
use impasto::train::loss::{Judge, Perceptual, Sight, StyleLoss, Weights, evenness, roughness};
use impasto::train::variables::Variables;
use impasto::train::{Course, Files, Lesson, run};
use serde_json::{Value, json};

use crate::program::{Place, picture};

const SIZE: u32 = 16;

/// Two random convolutions as a perceptual network.
#[derive(Debug)]
struct Toy {
    weights: [Tensor; 2],
    bias: Tensor,
}

impl Toy {
    fn new() -> Self {
        let mut rng = impasto::rng::TorchRng::new(5);
        let mut weight = |shape: &[usize]| (rng.normal(shape).unwrap() * 0.4).unwrap();
        let weights = [weight(&[6, 3, 3, 3]), weight(&[6, 6, 3, 3])];
        Self { weights, bias: Tensor::zeros(6, candle_core::DType::F32, &Device::Cpu).unwrap() }
    }
}

struct ToySight {
    image: candle_core::Var,
    taps: Vec<Tensor>,
}

impl Judge for Toy {
    fn layers(&self) -> Vec<String> {
        vec!["low".to_owned(), "high".to_owned()]
    }

    fn look(&self, image: &Tensor, layers: &[&str]) -> impasto::Result<Box<dyn Sight>> {
        let image = candle_core::Var::from_tensor(image)?;
        let low = relu(&conv2d(&image, &self.weights[0], &self.bias, Geometry::same(3))?)?;
        let high = relu(&conv2d(&low, &self.weights[1], &self.bias, Geometry::same(3).with_stride(2))?)?;
        let tap = |layer: &&str| if *layer == "low" { low.clone() } else { high.clone() };
        Ok(Box::new(ToySight { image, taps: layers.iter().map(tap).collect() }))
    }

    fn name(&self) -> String {
        "toy".to_owned()
    }
}

impl Sight for ToySight {
    fn taps(&self) -> &[Tensor] {
        &self.taps
    }

    fn backward(&self, gradients: &[Option<Tensor>]) -> impasto::Result<Tensor> {
        let mut sum = self.image.sum_all()?.zeros_like()?;
        for (tap, gradient) in self.taps.iter().zip(gradients) {
            if let Some(gradient) = gradient {
                sum = (sum + (tap * gradient)?.sum_all()?)?;
            }
        }
        Ok(sum.backward()?.get(&self.image).unwrap().clone())
    }
}

/// A net of two convolutions; the painting's mean colour shifts its channels.
fn build() -> Build {
    Box::new(|vb: VarBuilder<'_>| {
        let conv = |name: &str, inputs: usize, outputs: usize| -> impasto::Result<(Tensor, Tensor)> {
            let vb = vb.pp(name);
            Ok((vb.get((outputs, inputs, 3, 3), "weight")?, vb.get(outputs, "bias")?))
        };
        let (first, last, style) = (conv("first", 3, 8)?, conv("last", 8, 3)?, vb.get((3, 8), "style.weight")?);
        Ok(Box::new(move |photos: &Tensor, paintings: &Tensor| {
            let xs = conv2d(photos, &first.0, &first.1, Geometry::same(3).with_stride(2))?;
            let shift = paintings.mean((2, 3))?.matmul(&style)?;
            let xs = instance_norm_relu(&xs, &shift.ones_like()?, &shift, 1e-5)?;
            conv2d(&xs, &last.0, &last.1, Geometry::same(3).with_upsample(2))
        }))
    })
}

/// A few smooth pictures of one hue.
fn pictures(folder: &Path, red: u8) {
    std::fs::create_dir_all(folder).unwrap();
    for index in 0..5u32 {
        let picture = image::RgbImage::from_fn(24 + 4 * index, 24, |x, y| {
            image::Rgb([red, (x * 7 + index * 20) as u8, (y * 9) as u8])
        });
        write::png(folder.join(format!("{index}.png")), &picture, &[]).unwrap();
    }
    std::fs::write(folder.join("notes.txt"), "no picture").unwrap();
}

fn perceptual() -> Perceptual {
    let weights = Weights {
        content: 1.0,
        style: 3.0,
        content_layers: vec!["high".to_owned()],
        style_layers: vec!["low".to_owned(), "high".to_owned()],
        style_loss: StyleLoss::Both,
    };
    Perceptual::new(Box::new(Toy::new()), weights).unwrap()
}

fn panel() -> Panel {
    Panel::new(
        vec![perceptual(), perceptual()],
        Turns::Alternate,
        Balance { content: 1.0, style: 3.0, variation: 0.01, even: 0.5, tone: 0.1, broad: 0.1 },
    )
}

fn dataset(folder: &Path, stream: u64) -> Dataset {
    let crops = Crops { size: SIZE, short_side: 20, zoom: 1.25, jitter: 0.2 };
    Dataset::open(folder, crops, stream, &mut silent).unwrap()
}

struct Studio {
    folder: tempfile::TempDir,
}

impl Studio {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        pictures(&folder.path().join("photos"), 40);
        pictures(&folder.path().join("paintings"), 220);
        Self { folder }
    }

    fn files(&self, name: &str) -> Files {
        Files::new(&self.folder.path().join(format!("{name}.safetensors")))
    }

    /// Trains until `stop` steps are done.
    fn adain(&self, name: &str, course: &Course, stop: u64) -> impasto::Result<Vec<Vec<u8>>> {
        let variables = Variables::new(course.seed, None, &Device::Cpu);
        let (photos, paintings) =
            (dataset(&self.folder.path().join("photos"), 0), dataset(&self.folder.path().join("paintings"), 1));
        let preview = (photos.samples(2)?, paintings.samples(3)?);
        let mut lesson = Adain::new(
            (photos, paintings),
            panel(),
            (json!("toy"), build()),
            variables.var_builder(),
            (course.seed, course.batch, 0.3),
            preview,
            &Device::Cpu,
        )?;
        let files = self.files(name);
        run(&mut lesson, &variables, course, &files, &Device::Cpu, &mut |progress: &Progress| {
            if progress.done >= stop { Err(Error::Interrupted) } else { Ok(()) }
        })?;
        let paths =
            [files.net().to_path_buf(), files.checkpoint(), files.curve("csv"), files.curve("png"), files.preview(12)];
        Ok(paths.iter().map(|path| std::fs::read(path).unwrap()).collect())
    }
}

fn course() -> Course {
    Course {
        steps: 12,
        batch: 2,
        log_every: 5,
        checkpoint_every: 4,
        preview_every: 6,
        warm_up: 3,
        seed: 9,
        ..Course::default()
    }
}

#[test]
fn an_interrupted_training_goes_on_to_the_same_bytes() {
    let studio = Studio::new();
    let whole = studio.adain("whole", &course(), u64::MAX).unwrap();
    // Stopped between two checkpoints and within a row of the curve, twice.
    assert!(matches!(studio.adain("parts", &course(), 3), Err(Error::Interrupted)));
    let resume = Course { resume: true, checkpoint_every: 100, ..course() };
    assert!(matches!(studio.adain("parts", &resume, 7), Err(Error::Interrupted)));
    assert!(!studio.files("parts").net().exists());
    let parts = studio.adain("parts", &resume, u64::MAX).unwrap();
    for (index, (whole, parts)) in whole.iter().zip(&parts).enumerate() {
        assert!(whole == parts, "file {index}");
    }
    // Other crops and weights by another seed.
    let other = studio.adain("other", &Course { seed: 10, ..course() }, u64::MAX).unwrap();
    assert_ne!(whole[2], other[2]);
    // A finished training is not trained again, and not silently written over.
    assert_eq!(studio.adain("whole", &Course { resume: true, ..course() }, u64::MAX).unwrap()[0], whole[0]);
    assert_eq!(studio.adain("whole", &course(), u64::MAX).unwrap_err().exit_code(), 2);
    let changed = Course { resume: true, learning_rate: 0.5, ..course() };
    let error = studio.adain("whole", &changed, u64::MAX).unwrap_err();
    assert!(error.to_string().contains("learning_rate was 0.001, is 0.5"), "{error}");
}

#[test]
fn the_threads_do_not_change_the_bytes() {
    let studio = Studio::new();
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| studio.adain(&format!("threads-{threads}"), &course(), u64::MAX).unwrap())
    };
    assert!(with(1) == with(3));
}

/// A training of one style lowers its loss, and what it writes can be loaded.
#[test]
fn a_net_of_one_style_learns() {
    let studio = Studio::new();
    let course = Course { steps: 60, batch: 2, learning_rate: 5e-3, warm_up: 1, preview_every: 60, ..course() };
    let photos = dataset(&studio.folder.path().join("photos"), 0);
    assert_eq!(photos.skipped().len(), 1);
    let painting = dataset(&studio.folder.path().join("paintings"), 1).samples(1).unwrap().remove(0);
    let variables = Variables::new(1, None, &Device::Cpu);
    let (vb, net, preview) = (variables.var_builder(), (json!("toy"), build()), photos.samples(2).unwrap());
    let mut lesson = Fast::new((photos, painting), panel(), net, vb, (1, 2), preview, &Device::Cpu).unwrap();
    let files = studio.files("fast");
    run(&mut lesson, &variables, &course, &files, &Device::Cpu, &mut silent).unwrap();
    let csv = std::fs::read_to_string(files.curve("csv")).unwrap();
    let losses: Vec<f64> = csv.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().parse().unwrap()).collect();
    assert!(losses.last().unwrap() < &(losses[0] * 0.5), "{csv}");
    let sheet = image::open(files.preview(60)).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (2 * SIZE + 4, 2 * SIZE + 4));
    let weights = impasto::weights::Checkpoint::open(files.net()).unwrap();
    assert_eq!(weights.shape("first.weight"), Some([8, 3, 3, 3].as_slice()));
    // Going on from a net that was trained before, or from the running mean in a checkpoint.
    let bias = |weights| {
        let warm = Variables::new(2, Some(weights), &Device::Cpu);
        let _ = build()(warm.var_builder()).unwrap();
        warm.all()["last.bias"].to_vec1::<f32>().unwrap()
    };
    let finished = bias(weights);
    assert!(finished.iter().any(|&value| value != 0.0));
    assert_eq!(bias(impasto::weights::Checkpoint::open(files.checkpoint()).unwrap()), finished);
}

/// A lesson whose loss stops being a number.
struct Diverging(candle_core::Var);

impl Lesson for Diverging {
    fn parts(&self) -> Vec<String> {
        vec!["loss".to_owned()]
    }

    fn step(&mut self, step: u64) -> impasto::Result<(candle_core::backprop::GradStore, Vec<f64>)> {
        let factor = if step == 5 { f64::NAN } else { 1.0 };
        Ok(((self.0.as_tensor() * factor)?.sum_all()?.backward()?, vec![factor]))
    }

    fn preview(&self, _: VarBuilder<'_>) -> impasto::Result<image::RgbImage> {
        Ok(image::RgbImage::new(1, 1))
    }

    fn note(&self) -> Value {
        json!("diverging")
    }
}

#[test]
fn a_loss_that_is_no_number_is_caught_and_the_last_checkpoint_kept() {
    let studio = Studio::new();
    let variables = Variables::new(0, None, &Device::Cpu);
    variables.var_builder().get((2, 2), "weight").unwrap();
    let mut lesson = Diverging(variables.all()["weight"].clone());
    let files = studio.files("diverging");
    let error = run(&mut lesson, &variables, &course(), &files, &Device::Cpu, &mut silent).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("step 6") && error.to_string().contains("of step 4"), "{error}");
    let kept = impasto::train::checkpoint::Saved::open(&files.checkpoint()).unwrap();
    let weight = kept.tensor("weight/weight", &[2, 2], &Device::Cpu).unwrap();
    assert!(weight.sum_all().unwrap().to_scalar::<f32>().unwrap().is_finite());
    assert!(!files.net().exists());
}

#[test]
fn every_picture_comes_once_before_one_comes_twice() {
    let studio = Studio::new();
    let photos = dataset(&studio.folder.path().join("photos"), 0);
    let batch = |step| photos.batch(3, step, 5, &Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(batch(4), batch(4));
    assert_ne!(batch(4), batch(5));
    assert!(
        Dataset::open(
            &studio.folder.path().join("none"),
            Crops { size: 8, short_side: 8, zoom: 1.0, jitter: 0.0 },
            0,
            &mut silent
        )
        .is_err()
    );
}

#[test]
fn layers_that_are_not_there_are_named() {
    let weights = Weights {
        content: 1.0,
        style: 1.0,
        content_layers: vec!["relu9_1".to_owned()],
        style_layers: vec![],
        style_loss: StyleLoss::Moments,
    };
    let error = Perceptual::new(Box::new(Toy::new()), weights).unwrap_err();
    assert!(error.to_string().contains("relu9_1") && error.hint().unwrap().contains("low, high"), "{error}");
}

/// As a user trains one: it begins as the net for any style paints, stops, goes on, is used, and is gone on with.
#[test]
fn the_program_trains_a_net_of_one_style() {
    let place = Place::new();
    std::fs::create_dir(place.path("photos")).unwrap();
    for index in 0..3 {
        picture(&place.path(&format!("photos/{index}.png")), 60 + 7 * index, 50);
    }
    picture(&place.path("painting.png"), 70, 60);
    let vgg = crate::fixture("stylize/vgg16.safetensors").to_str().unwrap().to_owned();
    let (photos, painting, out) = (place.text("photos"), place.text("painting.png"), place.text("style.safetensors"));
    let base =
        ["train", "fast", "--style", &painting, "--photos", &photos, "--backbone", &vgg, "--size", "32", "--batch"];
    let rest = ["2", "--style-size", "64", "--dtype", "f16", "--preview-every", "2", "--checkpoint-every", "1", "-q"];
    let train = |more: &[&str]| crate::program::run(&[&base[..], &rest, more].concat());
    let done = train(&["--steps", "2", "-o", &out]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let net = impasto::weights::Checkpoint::open(&out).unwrap();
    assert_eq!(net.shape("code").map(<[usize]>::len), Some(2));
    assert!(std::fs::metadata(&out).unwrap().len() < 1_000_000 && place.path("style.preview-000002.png").exists());
    let painted = place.text("painted.png");
    let photo = place.text("photos/0.png");
    let used = crate::program::run(&["stylize", &photo, "--method", "fast", "--style", &out, "-o", &painted]);
    assert_eq!(used.code, Some(0), "{}", used.stderr);
    // From that net, and from another net for any style.
    let tiny = crate::fixture("stylize/adain.safetensors").to_str().unwrap().to_owned();
    for (from, name) in [(&out, "on.safetensors"), (&tiny, "tiny.safetensors")] {
        let done = train(&["--steps", "1", "--from", from, "-o", &place.text(name)]);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
    }
    let tiny = impasto::weights::Checkpoint::open(place.path("tiny.safetensors")).unwrap();
    assert_ne!(tiny.shape("code"), net.shape("code"));
    // What is no such net.
    let refused = train(&["--steps", "1", "--from", &vgg, "-o", &place.text("no.safetensors")]);
    assert!(matches!(refused.code, Some(1 | 2)) && !place.path("no.safetensors").exists(), "{}", refused.stderr);
}

/// What a net weaves counts where the photo is even, and there by the size of the differences: a faint weave more than a stroke of the
/// same squares.
#[test]
fn roughness_is_asked_of_even_areas_alone() {
    let (width, height) = (36, 20);
    let of = |value: &dyn Fn(usize, usize) -> f32| {
        let plane: Vec<f32> = (0..width * height).map(|at| value(at % width, at / width)).collect();
        Tensor::from_vec(plane.repeat(3), (1, 3, height, width), &Device::Cpu).unwrap()
    };
    // Even on the left, striped on the right; the area of 8 that the border cuts is neither.
    let photo = of(&|x, _| if x < 16 { 0.5 } else { (x % 2) as f32 });
    let even = evenness(&photo).unwrap();
    assert_eq!(even.dims(), [1, 1, height, width]);
    let at = |x: usize| even.narrow(3, x, 1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(at(0).iter().chain(&at(7)).all(|&even| even > 0.9), "{:?}", at(7));
    assert!(at(17).iter().chain(&at(35)).all(|&even| even < 0.01), "{:?}", at(35));

    let woven = |from: usize, to: usize| of(&|x, y| if (from..to).contains(&x) { ((x + y) % 2) as f32 } else { 0.0 });
    let of_out = |out: &Tensor| roughness(out, &photo).unwrap().to_scalar::<f32>().unwrap();
    let (left, right) = (of_out(&woven(0, 8)), of_out(&woven(20, 36)));
    // Down, those of 8 of 36 columns; across, 7 of 35.
    let exact = 8.0 / 36.0 + 7.0 / 35.0;
    assert!((left - exact).abs() < 0.01 && right < 0.01, "{left} where {exact}, {right}");

    // Two strokes, of larger squares in sum than a faint weave.
    let faint = of_out(&(woven(0, 8) * 0.05).unwrap());
    let stroke = of_out(&of(&|x, y| if (x, y) == (4, 4) || (x, y) == (4, 12) { 0.4 } else { 0.0 }));
    assert!(faint > 3.0 * stroke && stroke > 0.0, "{faint} {stroke}");

    let out = candle_core::Var::from_tensor(&woven(0, 36)).unwrap();
    let gradients = roughness(&out, &photo).unwrap().backward().unwrap();
    let gradient = gradients.get(&out).unwrap().abs().unwrap();
    let sum = |from: usize| gradient.narrow(3, from, 7).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(sum(0) > 100.0 * sum(22), "{} {}", sum(0), sum(22));
}
