//! What is made small: how far a picture's content is from the photo's, its style from the paintings', its pixels from each
//! other; and the gradient of that to the picture.
//!
//! Two passes over the tiles: the first adds up the statistics of the whole picture, the second carries back what they ask of
//! every place. A picture that is one tile goes through the network once.

use ::image::RgbImage;
use candle_core::Tensor;

use super::mask::{Mask, Region};
use super::settings::{Layers, Settings};
use super::tile::{self, Tile, block, stride};
use crate::error::{Error, Result};
use crate::image::tensor::to_unit;
use crate::nets::vgg::{Activations, Backbone};
use crate::style::loss::{self, StyleLoss, Target};
use crate::style::statistics::{Sums, SumsGradient};

/// The weighted parts of a loss.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Losses {
    /// Of the content layers.
    pub content: f64,
    /// Of the style layers.
    pub style: f64,
    /// Of the pixels among each other.
    pub total_variation: f64,
}

impl Losses {
    /// Their sum.
    pub fn total(&self) -> f64 {
        self.content + self.style + self.total_variation
    }
}

/// A layer that something is asked of.
struct Layer {
    name: String,
    /// Weights, with everything in them that does not depend on the picture. 0 where the layer takes no part.
    content: f64,
    style: f64,
    /// Values of the photo's features.
    count: f64,
    /// What each region asks.
    targets: Vec<Target>,
}

/// The losses of pictures of one size.
pub(super) struct Objective<'a> {
    backbone: &'a Backbone,
    loss: StyleLoss,
    layers: Vec<Layer>,
    /// Empty where the whole picture has one style.
    masks: Vec<Mask>,
    tiles: Vec<Tile>,
    /// The photo's features over what each tile owns, by content layer.
    photo: Vec<Vec<Tensor>>,
    total_variation: f64,
}

impl<'a> Objective<'a> {
    /// Takes in photo and paintings, both at the size they are to be seen at.
    pub(super) fn new(
        backbone: &'a Backbone,
        content: &RgbImage,
        styles: &[(RgbImage, f64)],
        regions: &[Region],
        feather: f64,
        settings: &Settings,
    ) -> Result<Self> {
        let (content_layers, style_layers) = (settings.content_layers_of(backbone), settings.style_layers_of(backbone));
        let (mut layers, loss) = (chosen(backbone, &content_layers, &style_layers)?, settings.style_loss);
        let deepest = layers.iter().map(|layer| block(&layer.name)).max().unwrap_or(1);
        let margin = tile::margin(layers.iter().map(|layer| layer.name.as_str()));
        let device = backbone.device();
        let mask = |mask: &::image::GrayImage, of: &RgbImage, feather: f64| {
            Mask::new(mask, of.dimensions(), feather, deepest, device)
        };
        let masks = regions.iter().map(|region| mask(&region.content, content, feather)).collect::<Result<Vec<_>>>()?;

        // What the paintings ask.
        let names: Vec<String> = style_layers.keys().cloned().collect();
        let look = |picture: &RgbImage, mask: Option<&Mask>| {
            let (width, height) = picture.dimensions();
            let tiles = Tile::cut(height as usize, width as usize, settings.tile as usize, margin);
            let image = to_unit(picture)?.to_device(device)?;
            let masks: Vec<Option<&Mask>> = vec![mask];
            let sums = survey(backbone, &image, &tiles, &names, &masks, loss)?;
            Ok::<Vec<Sums>, Error>(sums.into_iter().flatten().collect())
        };
        let mut targets: Vec<Vec<Target>> = vec![Vec::new(); names.len()];
        let mut ask = |sums: Vec<Sums>| {
            for (targets, sums) in targets.iter_mut().zip(sums) {
                let target = loss.target(&sums)?;
                targets.push(if settings.normalize { target.normalized() } else { target });
            }
            Ok::<(), Error>(())
        };
        if regions.is_empty() {
            let all = styles.iter().map(|(picture, _)| look(picture, None)).collect::<Result<Vec<_>>>()?;
            let blend = |layer: usize| {
                let pictures: Vec<_> =
                    all.iter().zip(styles).map(|(sums, (_, part))| (sums[layer].clone(), *part)).collect();
                Sums::blend(&pictures)
            };
            ask((0..names.len()).map(blend).collect::<Result<_>>()?)?;
        }
        for region in regions {
            let (picture, _) = styles.get(region.style).ok_or_else(|| {
                Error::usage("region", format!("asks for style {}, but there are {}", region.style, styles.len()))
            })?;
            let within = region.within.as_ref().map(|within| mask(within, picture, 0.0)).transpose()?;
            ask(look(picture, within.as_ref())?)?;
        }

        // What the photo asks.
        let (width, height) = content.dimensions();
        let tiles = Tile::cut(height as usize, width as usize, settings.tile as usize, margin);
        let image = to_unit(content)?.to_device(device)?;
        // In the network's order, as the layers are.
        let names: Vec<&str> =
            backbone.layers().into_iter().filter(|name| content_layers.contains_key(*name)).collect();
        let mut photo = Vec::with_capacity(tiles.len());
        let mut sizes = vec![(0.0, 0.0); names.len()];
        for tile in &tiles {
            let features = if names.is_empty() { Vec::new() } else { backbone.features(&tile.of(&image)?, &names)? };
            let mut owned = Vec::with_capacity(names.len());
            for ((features, name), (count, squares)) in features.iter().zip(&names).zip(&mut sizes) {
                let features = tile.owned(features, stride(name))?;
                *count += features.elem_count() as f64;
                *squares += loss::sum_of_squares(&features)?;
                owned.push(features);
            }
            photo.push(owned);
        }

        let share: f64 = style_layers.values().sum();
        for layer in &mut layers {
            if let Some(at) = names.iter().position(|name| *name == layer.name) {
                let (count, squares) = sizes[at];
                layer.count = count;
                layer.content *= settings.content_weight;
                if settings.normalize {
                    layer.content /= (squares / count).max(1e-12);
                }
            }
            if let Some(at) = style_layers.keys().position(|name| *name == layer.name) {
                layer.targets = std::mem::take(&mut targets[at]);
                layer.style *= settings.style_weight;
                if settings.normalize {
                    layer.style /= share.max(1e-12);
                }
            }
        }
        Ok(Self { backbone, loss, layers, masks, tiles, photo, total_variation: settings.total_variation })
    }

    /// The losses of a picture `[1, 3, height, width]`, and their gradient to it.
    pub(super) fn evaluate(&self, image: &Tensor) -> Result<(Losses, Tensor)> {
        let (_, _, height, width) = image.dims4()?;
        let names: Vec<&str> = self.layers.iter().map(|layer| layer.name.as_str()).collect();
        let single = match self.tiles.as_slice() {
            [tile] => Some((self.backbone.forward(image, &names)?, tile)),
            _ => None,
        };
        let (mut losses, asked) = self.style(image, single.as_ref())?;
        let (of_pixels, mut gradient) = loss::total_variation(image)?;
        losses.total_variation = self.total_variation * of_pixels;
        gradient = (gradient * self.total_variation)?;
        match single {
            Some((activations, _)) => {
                let (content, towards) = self.carry(&activations, 0, &asked)?;
                losses.content = content;
                gradient = (gradient + towards)?;
            }
            None => {
                for (index, tile) in self.tiles.iter().enumerate() {
                    let activations = self.backbone.forward(&tile.of(image)?, &names)?;
                    let (content, towards) = self.carry(&activations, index, &asked)?;
                    losses.content += content;
                    gradient = (gradient + tile.to_picture(&towards, height, width)?)?;
                }
            }
        }
        Ok((losses, gradient))
    }

    /// The losses alone.
    pub(super) fn losses(&self, image: &Tensor) -> Result<Losses> {
        let (mut losses, _) = self.style(image, None)?;
        losses.total_variation = self.total_variation * loss::total_variation(image)?.0;
        let asked: Vec<&Layer> = self.layers.iter().filter(|layer| layer.count > 0.0).collect();
        let names: Vec<&str> = asked.iter().map(|layer| layer.name.as_str()).collect();
        if names.is_empty() {
            return Ok(losses);
        }
        for (tile, photo) in self.tiles.iter().zip(&self.photo) {
            let features = self.backbone.features(&tile.of(image)?, &names)?;
            for ((layer, features), photo) in asked.iter().zip(&features).zip(photo) {
                let difference = (tile.owned(features, stride(&layer.name))? - photo)?;
                losses.content += layer.content * loss::sum_of_squares(&difference)? / layer.count;
            }
        }
        Ok(losses)
    }

    /// The style loss, and what it asks of the features: by layer and region.
    fn style(&self, image: &Tensor, single: Option<&(Activations, &Tile)>) -> Result<(Losses, Vec<Vec<SumsGradient>>)> {
        let masks: Vec<Option<&Mask>> =
            if self.masks.is_empty() { vec![None] } else { self.masks.iter().map(Some).collect() };
        let of_style = |layer: &&Layer| !layer.targets.is_empty();
        let sums: Vec<Vec<Sums>> = match single {
            Some((activations, tile)) => {
                let layers = self.layers.iter().zip(activations.taps()).filter(|(layer, _)| of_style(layer));
                layers
                    .map(|(layer, features)| take(tile, features, &layer.name, &masks, self.loss))
                    .collect::<Result<_>>()?
            }
            None => {
                let names: Vec<String> = self.layers.iter().filter(of_style).map(|layer| layer.name.clone()).collect();
                survey(self.backbone, image, &self.tiles, &names, &masks, self.loss)?
            }
        };
        let all: f64 = self.masks.iter().map(|mask| mask.share).sum();
        let mut losses = Losses::default();
        let mut sums = sums.into_iter();
        let mut asked = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let mut of_layer = Vec::new();
            if of_style(&layer) {
                let sums = sums.next().unwrap_or_default();
                for (region, (target, sums)) in layer.targets.iter().zip(&sums).enumerate() {
                    let share = self.masks.get(region).map_or(1.0, |mask| mask.share / all);
                    let (value, gradient) = target.compare(sums)?;
                    losses.style += layer.style * share * value;
                    of_layer.push(gradient.scaled(layer.style * share));
                }
            }
            asked.push(of_layer);
        }
        Ok((losses, asked))
    }

    /// The content loss of a tile, and the gradient of everything that its features take part in, to what the tile sees.
    fn carry(&self, activations: &Activations, index: usize, asked: &[Vec<SumsGradient>]) -> Result<(f64, Tensor)> {
        let tile = &self.tiles[index];
        let (mut content, mut gradients) = (0.0, Vec::with_capacity(self.layers.len()));
        let mut photo = self.photo[index].iter();
        for ((layer, features), asked) in self.layers.iter().zip(activations.taps()).zip(asked) {
            let stride = stride(&layer.name);
            let owned = tile.owned(features, stride)?;
            let mut gradient = None;
            for (region, asked) in asked.iter().enumerate() {
                let weights =
                    self.masks.get(region).map(|mask| tile.of_map(mask.at(&layer.name), stride, &owned)).transpose()?;
                add(&mut gradient, asked.to_features(&owned, weights.as_ref())?)?;
            }
            if layer.count > 0.0 {
                let difference = (&owned - photo.next().unwrap_or(&owned))?;
                content += layer.content * loss::sum_of_squares(&difference)? / layer.count;
                add(&mut gradient, (difference * (2.0 * layer.content / layer.count))?)?;
            }
            let whole = |gradient: Tensor| match owned.dims() == features.dims() {
                true => Ok(gradient),
                false => tile.to_tile(&gradient, features, stride),
            };
            gradients.push(gradient.map(whole).transpose()?);
        }
        Ok((content, self.backbone.backward(activations, &gradients)?))
    }
}

fn add(sum: &mut Option<Tensor>, term: Tensor) -> Result<()> {
    *sum = Some(match sum.take() {
        Some(sum) => (sum + term)?,
        None => term,
    });
    Ok(())
}

/// The layers that are asked something, in the network's order.
fn chosen(backbone: &Backbone, content: &Layers, style: &Layers) -> Result<Vec<Layer>> {
    let there = backbone.layers();
    if let Some(unknown) = content.keys().chain(style.keys()).find(|layer| !there.contains(&layer.as_str())) {
        return Err(Error::usage("layer", format!("`{unknown}` is not one of this network's"))
            .with_hint(format!("it has {}", there.join(", "))));
    }
    let weight = |layers: &Layers, name: &str| layers.get(name).copied().unwrap_or(0.0);
    let wanted = there.iter().filter(|name| content.contains_key(**name) || style.contains_key(**name));
    let layer = |name: &&str| Layer {
        name: (*name).to_owned(),
        content: weight(content, name),
        style: weight(style, name),
        count: 0.0,
        targets: Vec::new(),
    };
    let layers: Vec<_> = wanted.map(layer).collect();
    if layers.is_empty() {
        return Err(Error::usage("layers", "none is named"));
    }
    Ok(layers)
}

/// The sums over a picture, by layer and mask, tile after tile.
fn survey(
    backbone: &Backbone,
    image: &Tensor,
    tiles: &[Tile],
    layers: &[String],
    masks: &[Option<&Mask>],
    loss: StyleLoss,
) -> Result<Vec<Vec<Sums>>> {
    if layers.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = layers.iter().map(String::as_str).collect();
    let mut all: Vec<Vec<Sums>> = Vec::new();
    for tile in tiles {
        let features = backbone.features(&tile.of(image)?, &names)?;
        for (index, (features, name)) in features.iter().zip(&names).enumerate() {
            let sums = take(tile, features, name, masks, loss)?;
            match all.get_mut(index) {
                Some(all) => all.iter_mut().zip(&sums).for_each(|(all, sums)| all.add(sums)),
                None => all.push(sums),
            }
        }
    }
    Ok(all)
}

/// The sums over what a tile owns, by mask.
fn take(tile: &Tile, features: &Tensor, layer: &str, masks: &[Option<&Mask>], loss: StyleLoss) -> Result<Vec<Sums>> {
    let stride = stride(layer);
    let owned = tile.owned(features, stride)?;
    let of_mask = |mask: &Option<&Mask>| {
        let weights = mask.map(|mask| tile.of_map(mask.at(layer), stride, &owned)).transpose()?;
        Sums::of(&owned, weights.as_ref(), loss.order())
    };
    masks.iter().map(of_mask).collect()
}
