//! The rows as CSV for spreadsheets and as JSON lines for programs: every setting and every metric of every picture.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Report, Row, plain};
use crate::error::{Error, Result};

/// One JSON object a line, names instead of places.
///
/// # Errors
/// Never for settings that are JSON.
pub(super) fn jsonl(report: &Report) -> Result<String> {
    let mut text = String::new();
    for row in &report.rows {
        let object = object(report, row)?;
        text += &serde_json::to_string(&object).map_err(|error| Error::usage("report", error.to_string()))?;
        text.push('\n');
    }
    Ok(text)
}

/// A row by itself.
fn object(report: &Report, row: &Row) -> Result<Value> {
    let variant = &report.variants[row.variant];
    let metrics: Map<String, Value> =
        report.metrics.iter().zip(&row.values).map(|(metric, value)| (metric.name.to_owned(), json!(value))).collect();
    let found = serde_json::to_value(&row.found).map_err(|error| Error::usage("report", error.to_string()))?;
    let mut object = Map::new();
    let anchor = variant.anchor.map_or(Value::Null, |anchor| json!(anchor));
    for (key, value) in [
        ("content", json!(report.contents[row.content])),
        ("style", json!(report.styles[row.style])),
        ("variant", json!(variant.name())),
        ("method", json!(variant.method)),
        ("anchor", anchor),
        ("varied", json!(variant.settings)),
        ("picture", json!(row.picture)),
    ] {
        object.insert(key.to_owned(), value);
    }
    if let Value::Object(found) = found {
        object.extend(found);
    }
    object.insert("metrics".to_owned(), Value::Object(metrics));
    object.insert("error".to_owned(), json!(row.error));
    object.insert("recipe".to_owned(), row.recipe.clone());
    Ok(Value::Object(object))
}

/// RFC 4180, a header, a column for each setting of any method. Numbers are written so that reading them gives them back.
pub(super) fn csv(report: &Report) -> String {
    let settings: BTreeSet<&String> = report.rows.iter().flat_map(|row| settings(row).map(|(flag, _)| flag)).collect();
    let mut header: Vec<String> = [
        "content",
        "style",
        "variant",
        "method",
        "picture",
        "width",
        "height",
        "seconds",
        "style-seconds",
        "peak-bytes",
    ]
    .map(str::to_owned)
    .to_vec();
    header.extend(report.metrics.iter().map(|metric| metric.name.to_owned()));
    header.extend(settings.iter().map(|flag| format!("setting.{flag}")));
    header.extend(["error", "warnings", "sha256"].map(str::to_owned));
    let mut text = line(&header);
    for row in &report.rows {
        text += &line(&cells(report, row, &settings));
    }
    text
}

fn cells(report: &Report, row: &Row, columns: &BTreeSet<&String>) -> Vec<String> {
    let variant = &report.variants[row.variant];
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    let found = &row.found;
    let mut cells = vec![
        report.contents[row.content].path.clone(),
        report.styles[row.style].path.clone(),
        variant.name(),
        variant.method.clone(),
        row.picture.clone().unwrap_or_default(),
        found.size.0.to_string(),
        found.size.1.to_string(),
        number(found.seconds),
        number(found.style_seconds),
        found.peak_bytes.map_or_else(String::new, |bytes| bytes.to_string()),
    ];
    cells.extend(row.values.iter().map(|value| number(*value)));
    let given: Vec<_> = settings(row).collect();
    cells.extend(columns.iter().map(|column| {
        given.iter().find(|(flag, _)| flag == column).map_or_else(String::new, |(_, value)| plain(value))
    }));
    cells.extend([row.error.clone().unwrap_or_default(), found.warnings.join("; "), found.sha256.clone()]);
    cells
}

/// The settings in a row's recipe.
fn settings(row: &Row) -> impl Iterator<Item = (&String, &Value)> {
    row.recipe.get("settings").and_then(Value::as_object).into_iter().flatten()
}

fn line(cells: &[String]) -> String {
    let quoted = |cell: &String| {
        if cell.contains([',', '"', '\n', '\r']) || cell.starts_with(' ') || cell.ends_with(' ') {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell.clone()
        }
    };
    cells.iter().map(quoted).collect::<Vec<_>>().join(",") + "\r\n"
}
