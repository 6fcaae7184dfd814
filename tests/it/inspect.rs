//! What a network keeps of a picture: with a tiny network, that each panel is what it is said to be.

use ::image::{Rgb, RgbImage};
use impasto::image::tensor;
use impasto::nets::vgg::Backbone;
use impasto::ops::Pooling;
use impasto::pipeline::inspect::{Settings, Words, draw, inspect};
use impasto::progress::silent;
use impasto::style::loss::{StyleLoss, content};
use impasto::style::statistics::Sums;

fn picture(width: u32, height: u32, turn: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (x * turn, y * turn);
        Rgb([(x * 5) as u8, (y * 7) as u8, if (x / 8 + y / 8) % 2 == 0 { 220 } else { 40 }])
    })
}

fn net() -> Backbone {
    crate::vgg::open("vgg16", Pooling::Average)
}

fn settings() -> Settings {
    Settings { layers: vec!["relu2_1".into(), "relu1_1".into(), "relu2_1".into()], size: 40, steps: 30, seed: 3 }
}

fn features(net: &Backbone, picture: &RgbImage, layer: &str) -> candle_core::Tensor {
    let image = tensor::to_unit(picture).unwrap().to_device(&crate::device()).unwrap();
    net.features(&image, &[layer]).unwrap().remove(0)
}

#[test]
fn panels_come_closer_to_what_they_are_made_from() {
    let net = net();
    let (photo, painting) = (picture(80, 60, 1), picture(50, 90, 3));
    let mut reports = Vec::new();
    let mut report = |progress: &impasto::progress::Progress| {
        reports.push((progress.done, progress.total));
        Ok(())
    };
    let found = inspect(&net, &photo, Some(&painting), &settings(), &mut report).unwrap();
    assert_eq!(reports, (0..120).map(|done| (done, 120)).collect::<Vec<_>>());
    assert_eq!((found.picture.dimensions(), found.style.dimensions()), ((40, 30), (22, 40)));
    let names: Vec<_> = found.layers.iter().map(|layer| (layer.name.as_str(), layer.channels, layer.sight)).collect();
    assert_eq!(names, [("relu1_1", 4, 3), ("relu2_1", 6, 10)]);
    for layer in &found.layers {
        assert_eq!(layer.maps.len(), 4);
        let (width, height) = layer.dimensions;
        assert!(layer.maps.iter().all(|(_, map)| map.dimensions() == (width as u32, height as u32)));
        let away = |picture: &RgbImage| {
            let target = features(&net, &found.picture, &layer.name);
            content(&features(&net, picture, &layer.name), &target).unwrap().0
        };
        let (before, after) = (away(&found.noise), away(&layer.rebuilt));
        assert!(after < 0.2 * before, "{}: {before} to {after}", layer.name);
        let away = |picture: &RgbImage| {
            let sums =
                |picture| Sums::of(&features(&net, picture, &layer.name), None, StyleLoss::Gram.order()).unwrap();
            StyleLoss::Gram.target(&sums(&found.style)).unwrap().compare(&sums(picture)).unwrap().0
        };
        let (before, after) = (away(&found.noise), away(&layer.texture));
        assert!(after < 0.2 * before, "{}: {before} to {after}", layer.name);
    }
    let again = inspect(&net, &photo, Some(&painting), &settings(), &mut silent).unwrap();
    let other = inspect(&net, &photo, Some(&painting), &Settings { seed: 4, ..settings() }, &mut silent).unwrap();
    assert_eq!(found.layers[1].texture, again.layers[1].texture);
    assert_ne!(found.layers[1].texture, other.layers[1].texture);

    let words = Words { picture: "photo.png".into(), network: "VGG-16".into(), ..Words::default() };
    let sheet = draw(&found, &words);
    assert_eq!(sheet, draw(&again, &words));
    let paper = *sheet.get_pixel(0, 0);
    let (width, height) = sheet.dimensions();
    // Nothing is cut off: the margins are bare all round.
    assert!(
        (0..width)
            .all(|x| (0..12).all(|y| *sheet.get_pixel(x, y) == paper && *sheet.get_pixel(x, height - 1 - y) == paper))
    );
    assert!(
        (0..height)
            .all(|y| (0..40).all(|x| *sheet.get_pixel(x, y) == paper && *sheet.get_pixel(width - 1 - x, y) == paper))
    );
}

#[test]
fn sheets_can_be_drawn_of_any_shape() {
    let net = net();
    for (width, height) in [(16, 300), (300, 16), (1, 1)] {
        let settings = Settings { layers: vec!["relu1_2".into()], size: 32, steps: 1, seed: 0 };
        let found = inspect(&net, &picture(width, height, 1), None, &settings, &mut silent).unwrap();
        assert_eq!(found.style, found.picture);
        let sheet = draw(&found, &Words { picture: "a very long name ".repeat(40), ..Words::default() });
        assert!(sheet.width() > 400 && sheet.height() > 300);
    }
}

#[test]
fn what_cannot_be_inspected_is_refused() {
    let net = net();
    let unknown = Settings { layers: vec!["relu9_1".into()], ..settings() };
    let error = inspect(&net, &picture(40, 40, 1), None, &unknown, &mut silent).unwrap_err();
    assert!(error.to_string().contains("relu9_1") && error.hint().unwrap().contains("relu5_3"), "{error}");
    let deep = Settings { layers: vec!["relu5_1".into()], ..settings() };
    let error = inspect(&net, &picture(400, 40, 1), None, &deep, &mut silent).unwrap_err();
    assert!(error.to_string().contains("too few for relu5_1"), "{error}");
    let mut stop = |_: &impasto::progress::Progress| Err(impasto::Error::Interrupted);
    assert!(inspect(&net, &picture(40, 40, 1), None, &settings(), &mut stop).is_err());
}
