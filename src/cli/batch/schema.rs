//! The JSON Schema of job files, made from the list of keys that the files are checked with, so that an editor and this
//! program agree. It says names, types and choices; ranges of numbers, and what goes with what, the program says.

use super::file::{JOB, SHARED, TOP, WILDCARDS};
use super::keys::{CONTENT, Command, Key, Keys, Kind, WORDED};
use serde_json::{Map, Value, json};

/// A range of whole numbers.
const RANGE: &str = r"^ *\d+ *\.\.=? *\d+ *$";

/// The schema.
pub(super) fn of(keys: &Keys) -> Value {
    let mut definitions = Map::new();
    definitions.insert("defaults".to_owned(), defaults(keys));
    for command in Command::ALL {
        let axes: Map<_, _> = keys.of(command).iter().map(|key| (key.name.clone(), axis(key))).collect();
        definitions.insert(command.name().to_owned(), job(keys, command));
        definitions
            .insert(axes_of(command), json!({ "type": "object", "additionalProperties": false, "properties": axes }));
    }
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Job file of `impasto batch`",
        "type": "object",
        "additionalProperties": false,
        "required": ["job"],
        "properties": {
            "output": { "type": "string", "minLength": 1, "description": said(&TOP, "output") },
            "defaults": defined("defaults", said(&TOP, "defaults")),
            "job": {
                "type": "array",
                "minItems": 1,
                "description": said(&TOP, "job"),
                "items": { "anyOf": Command::ALL.map(|command| json!({ "$ref": at(command.name()) })) },
            },
        },
        "anyOf": [
            { "required": ["defaults"], "properties": { "defaults": { "required": ["command"] } } },
            { "properties": { "job": { "items": { "required": ["command"] } } } },
        ],
        "definitions": definitions,
    })
}

fn axes_of(command: Command) -> String {
    format!("{}-axes", command.name())
}

fn at(name: &str) -> String {
    format!("#/definitions/{name}")
}

// In this draft nothing else is read beside a reference.
fn defined(name: &str, description: &str) -> Value {
    json!({ "description": description, "allOf": [{ "$ref": at(name) }] })
}

fn job(keys: &Keys, command: Command) -> Value {
    let mut properties = shared(&json!({ "const": command.name() }));
    properties
        .insert("name".to_owned(), json!({ "type": "string", "pattern": r"\S", "description": said(&JOB, "name") }));
    properties.insert(
        "grid".to_owned(),
        json!({
            "type": "array",
            "items": { "type": "string" },
            "minItems": 1,
            "maxItems": 2,
            "description": said(&JOB, "grid"),
        }),
    );
    for name in ["matrix", "zip"] {
        properties.insert(name.to_owned(), defined(&axes_of(command), said(&JOB, name)));
    }
    properties.extend(keys.of(command).iter().map(|key| (key.name.clone(), plain(key))));
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

fn defaults(keys: &Keys) -> Value {
    let commands: Vec<_> = Command::ALL.iter().map(|command| command.name()).collect();
    let mut properties = shared(&json!({ "enum": commands }));
    for key in Command::ALL.into_iter().flat_map(|command| keys.of(command)) {
        let known = plain(key);
        let entry = match properties.remove(&key.name) {
            // The same name, but not the same meaning.
            Some(before) if before != known => json!({ "anyOf": [before, known] }),
            _ => known,
        };
        properties.insert(key.name.clone(), entry);
    }
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

fn shared(command: &Value) -> Map<String, Value> {
    let mut properties = Map::new();
    let mut put = |name: &str, mut value: Value| {
        value["description"] = said(&SHARED, name).into();
        properties.insert(name.to_owned(), value);
    };
    put("command", command.clone());
    put("file", json!({ "type": "string" }));
    put("wildcards", json!({ "enum": WILDCARDS }));
    properties
}

fn said(table: &[(&str, &'static str)], name: &str) -> &'static str {
    table.iter().find(|(known, _)| *known == name).map(|(_, text)| *text).unwrap_or_default()
}

fn one(kind: &Kind) -> Value {
    match kind {
        Kind::Switch => json!({ "type": "boolean" }),
        Kind::Whole => json!({ "type": "integer", "minimum": 0 }),
        Kind::Number => json!({ "type": "number" }),
        Kind::Text | Kind::Path => json!({ "type": "string" }),
        Kind::Choice(words) => json!({ "enum": words }),
    }
}

// The value of a key that is no axis.
fn plain(key: &Key) -> Value {
    let mut value = one(&key.kind);
    if key.many || key.name == CONTENT {
        value = json!({ "anyOf": [value, { "type": "array", "minItems": 1, "items": value }] });
    }
    value["description"] = key.help.clone().into();
    value
}

fn axis(key: &Key) -> Value {
    let mut value = one(&key.kind);
    if key.kind == Kind::Whole {
        value = json!({ "anyOf": [value, { "type": "string", "pattern": RANGE }] });
    }
    if key.many {
        value = json!({ "anyOf": [value, { "type": "array", "minItems": 1, "items": value }] });
    }
    let list = json!({ "type": "array", "minItems": 1, "items": value });
    let mut value = match key.kind {
        Kind::Whole => json!({ "anyOf": [{ "type": "string", "pattern": RANGE }, list] }),
        Kind::Path => json!({ "anyOf": [{ "type": "string" }, list] }),
        Kind::Text if WORDED.contains(&key.name.as_str()) => json!({ "anyOf": [{ "type": "string" }, list] }),
        _ => list,
    };
    value["description"] = key.help.clone().into();
    value
}
