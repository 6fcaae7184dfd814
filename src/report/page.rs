//! The page: one HTML file with its style, its script, its pictures and its numbers inside.
//!
//! The script gets everything as JSON and puts text into the page as text, never as markup; the JSON itself holds no `<`, so
//! that no file name can end the element it stands in. A content security policy in the page forbids everything else.

use std::fmt::Write;

use ::image::RgbImage;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::gallery::{Gallery, within};
use super::plane::{colours, escaped};
use super::{Report, Summary};
use crate::error::{Error, Result};
use crate::image::write;

const TEMPLATE: &str = include_str!("page.html");
const CSS: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Quality of the pictures in the page; the files beside it are without loss.
const QUALITY: u8 = 88;

/// What the script reads.
#[derive(Serialize)]
struct Data<'a> {
    report: &'a Report,
    summary: &'a Summary,
    /// What the variants are called, in their order.
    names: Vec<String>,
    /// The methods, in the order of their colours.
    methods: Vec<&'a str>,
    pictures: Pictures,
}

/// Data URLs, in the order of what they show.
#[derive(Serialize)]
struct Pictures {
    contents: Vec<Option<String>>,
    styles: Vec<Option<String>>,
    rows: Vec<Option<String>>,
}

/// The page.
///
/// # Errors
/// When a picture cannot be encoded.
pub(super) fn html(report: &Report, summary: &Summary, gallery: &Gallery<'_>) -> Result<String> {
    let side = side(report.rows.iter().filter(|row| row.picture.is_some()).count());
    let url = |picture: &Option<RgbImage>| picture.as_ref().map(|picture| data_url(picture, side)).transpose();
    let pictures = Pictures {
        contents: gallery.contents.iter().map(url).collect::<Result<_>>()?,
        styles: gallery.styles.iter().map(url).collect::<Result<_>>()?,
        rows: report.rows.iter().map(|row| url(&gallery.painted(row))).collect::<Result<_>>()?,
    };
    let names = report.variants.iter().map(super::Variant::name).collect();
    let data = Data { report, summary, names, methods: report.methods(), pictures };
    let json = serde_json::to_string(&data).map_err(|error| Error::usage("report", error.to_string()))?;
    Ok(filled(|name| match name {
        "title" => escaped(&report.title),
        "css" => format!("{CSS}{}", colours("")),
        "plane" => summary.plane.svg(report),
        "data" => json.replace('<', "\\u003c"),
        "script" => SCRIPT.to_owned(),
        _ => String::new(),
    }))
}

/// The template with its `{{names}}` replaced, in one pass: what is put in is not looked at again.
fn filled(value: impl Fn(&str) -> String) -> String {
    let mut page = String::new();
    let mut rest = TEMPLATE;
    while let Some((before, name, after)) = rest.split_once("{{").and_then(|(before, behind)| {
        let (name, after) = behind.split_once("}}")?;
        Some((before, name, after))
    }) {
        let _ = write!(page, "{before}{}", value(name));
        rest = after;
    }
    page + rest
}

/// The longest side of pictures in the page: the more there are, the smaller, so that a phone can still open it.
fn side(pictures: usize) -> u32 {
    match pictures {
        0..=240 => 512,
        241..=1000 => 320,
        1001..=4000 => 200,
        _ => 128,
    }
}

fn data_url(picture: &RgbImage, side: u32) -> Result<String> {
    let jpeg = write::encoded_jpeg(&within(picture, (side, side))?, QUALITY)?;
    Ok(format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg)))
}
