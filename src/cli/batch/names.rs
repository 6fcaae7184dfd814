//! What pictures are called: a template filled in, made safe as a file name on every system. No two have the same name.

use super::entry::Faults;
use super::keys::{Keys, called, nearest};
use super::matrix::{Laid, Picture};
use crate::cli::writable::{self, Endings};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Fields that are no keys.
const OWN: [&str; 4] = ["index", "job", "command", "id"];
/// What a field of a name is cut to, where the template does not say.
const FIELD: usize = 60;
/// The longest name of a file or folder in bytes: temporary names, a little longer, must fit too.
const NAME: usize = 120;
/// Names that Windows keeps for devices.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];

enum Part {
    Text(String),
    Field(String, usize),
}

/// The paths of the pictures, from the output folder.
pub(super) fn of(laid: &[Laid], pictures: &[Picture], keys: &Keys, faults: &mut Faults) -> Vec<PathBuf> {
    let digits = pictures.len().to_string().len().max(3);
    let mut paths = Vec::new();
    let mut taken: HashMap<String, usize> = HashMap::new();
    let templates: Vec<_> = laid.iter().map(|job| template(job, faults)).collect();
    for picture in pictures {
        let job = &laid[picture.job];
        let line = job.job.file.1;
        let mut name = String::new();
        for part in templates[picture.job].iter().flatten() {
            match part {
                Part::Text(text) => name.push_str(text),
                Part::Field(field, cut) => match value(field, job, picture, keys, digits) {
                    Ok(value) => name.push_str(&safe(&value, *cut)),
                    Err((reason, hint)) => faults.add(line, "file", reason, hint),
                },
            }
        }
        let path = PathBuf::from(&name);
        if let Err((reason, hint)) = check(&name, job) {
            faults.add(line, "file", reason, hint);
        } else if let Some(before) = taken.insert(name.to_lowercase(), picture.index) {
            let reason = format!("pictures {before} and {} would both be {name}", picture.index);
            let hint = "add {index}, or the key that tells them apart, such as {seed}".to_owned();
            faults.add(line, "file", reason, Some(hint));
        }
        paths.push(path);
    }
    paths
}

type Reason = (String, Option<String>);

fn template(job: &Laid, faults: &mut Faults) -> Option<Vec<Part>> {
    let (text, line) = &job.job.file;
    let mut parts = Vec::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('{') {
        parts.push(Part::Text(before.to_owned()));
        let Some((field, behind)) = after.split_once('}') else {
            faults.add(*line, "file", format!("\"{text}\" opens a {{ that it does not close"), None);
            return None;
        };
        let (field, cut) = match field.split_once(':') {
            None => (field, FIELD),
            Some((field, cut)) => match cut.parse() {
                Ok(cut @ 1..=NAME) => (field, cut),
                _ => {
                    let reason = format!("{{{field}:{cut}}}: {cut} is not a length from 1 to {NAME}");
                    faults.add(*line, "file", reason, None);
                    return None;
                }
            },
        };
        parts.push(Part::Field(field.to_owned(), cut));
        rest = behind;
    }
    parts.push(Part::Text(rest.to_owned()));
    Some(parts)
}

fn value(field: &str, job: &Laid, picture: &Picture, keys: &Keys, digits: usize) -> Result<String, Reason> {
    let command = job.job.command;
    match field {
        "index" => return Ok(format!("{:0digits$}", picture.index)),
        "job" => return Ok(job.job.name.clone()),
        "command" => return Ok(command.name().to_owned()),
        "id" => return Ok(picture.id.clone()),
        _ => {}
    }
    if let Some((_, line)) = picture.words.iter().find(|(word, _)| word == field) {
        return Ok(line.clone());
    }
    let key = keys.get(command, field);
    match (picture.values.get(field), key) {
        (Some(value), key) => Ok(called(key.map(|key| &key.kind), value)),
        (None, Some(_)) => Err((format!("{{{field}}}: the job {} does not set {field}", job.job.name), None)),
        (None, None) => {
            let words = picture.words.iter().map(|(word, _)| word.as_str());
            let known = OWN.into_iter().chain(picture.values.keys().map(String::as_str)).chain(words);
            let hint = nearest(field, known).map(|known| format!("the nearest is {{{known}}}"));
            Err((
                format!("{{{field}}} is neither a key of the job nor one of {{index}}, {{job}}, {{command}}, {{id}}"),
                hint,
            ))
        }
    }
}

/// A value as a part of a file name: letters, digits and a few signs stay.
pub(super) fn safe(value: &str, cut: usize) -> String {
    let mut name = String::new();
    for c in value.trim().chars() {
        let c = if c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '=' | ',') { c } else { '-' };
        if name.len() + c.len_utf8() > cut {
            break;
        }
        if !(c == '-' && name.ends_with('-')) {
            name.push(c);
        }
    }
    name.trim_matches(['-', '.']).to_owned()
}

fn check(name: &str, job: &Laid) -> Result<(), Reason> {
    let wrong = |reason: String| Err((reason, None));
    let mut parts = name.split('/').peekable();
    let top = !name.contains('/');
    while let Some(part) = parts.next() {
        if part.is_empty() || part.starts_with('.') {
            return wrong(format!("\"{name}\" has a part that is empty or begins with a dot"));
        }
        if part.len() > NAME {
            let hint = "cut a field: {prompt:30}".to_owned();
            return Err((format!("\"{part}\" is longer than {NAME} bytes"), Some(hint)));
        }
        if part.ends_with([' ', '.'])
            || part.contains(['\\', ':', '*', '?', '"', '<', '>', '|'])
            || part.contains(char::is_control)
        {
            return wrong(format!("\"{part}\" is no file name on every system"));
        }
        let stem = part.split('.').next().unwrap_or_default().to_lowercase();
        let numbered = stem.len() == 4
            && (stem.starts_with("com") || stem.starts_with("lpt"))
            && stem.ends_with(|c: char| c.is_ascii_digit());
        if DEVICES.contains(&stem.as_str()) || numbered {
            return wrong(format!("\"{part}\" is the name of a device on Windows"));
        }
        if parts.peek().is_none() && top && (stem == "sheet" || stem.starts_with("sheet-") || stem.starts_with("grid-"))
        {
            return wrong(format!("\"{part}\" is kept for sheets and grids"));
        }
    }
    let endings: &Endings = match job.job.command {
        super::keys::Command::Generate => &writable::PNG,
        super::keys::Command::Stylize => &writable::ANY,
    };
    if !writable::has_ending(Path::new(name), endings) {
        return Err((format!("\"{name}\" is not the name of {}", endings.kind), Some(endings.hint.to_owned())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::batch::{file, matrix};

    fn names(text: &str) -> Result<Vec<String>, String> {
        let keys = Keys::new();
        let mut faults = Faults::new("jobs.toml".into());
        let file = file::read(text, &keys, &mut faults);
        let (laid, pictures) = matrix::expand(file.jobs, &keys, &mut faults);
        let paths = of(&laid, &pictures, &keys, &mut faults);
        match faults.into_errors() {
            Some((before, last)) => Err(before.first().unwrap_or(&last).to_string()),
            None => Ok(paths.into_iter().map(|path| path.to_str().unwrap().to_owned()).collect()),
        }
    }

    fn named(file: &str, more: &str) -> Result<Vec<String>, String> {
        names(&format!("[[job]]\ncommand = 'generate'\nname = 'night sky'\nfile = '{file}'\n{more}"))
    }

    #[test]
    fn fields_are_filled_in_and_made_safe() {
        let more = "prompt = 'A Fox: in/the \"snow\"?'\nstyle = ['p/klimt.jpg', 'q/monet.v2.png']\n[job.matrix]\nseed = '7..9'\n";
        assert_eq!(
            named("{job}/{prompt}-{style}-{seed}.png", more).unwrap(),
            ["night-sky/A-Fox-in-the-snow-klimt+monet.v2-7.png", "night-sky/A-Fox-in-the-snow-klimt+monet.v2-8.png"]
        );
        assert_eq!(named("{index}_{prompt:5}_{command}.png", more).unwrap()[1], "002_A-Fox_generate.png");
        assert_eq!(named("{prompt}.png", "prompt = '雪の狐'").unwrap(), ["雪の狐.png"]);
        assert_eq!(named("x{prompt}.png", "prompt = '../..'").unwrap(), ["x.png"]);
    }

    #[test]
    fn names_that_would_not_do_are_refused_with_their_line() {
        let seeds = "prompt = 'x'\n[job.matrix]\nseed = '0..2'\n";
        for (file, told) in [
            ("{prompt}.png", "pictures 1 and 2 would both be x.png"),
            ("{promt}-{seed}.png", "{promt} is neither"),
            ("{guidance}-{seed}.png", "does not set guidance"),
            ("{seed.png", "does not close"),
            ("{prompt:x}.png", "not a length"),
            ("../{seed}.png", "begins with a dot"),
            ("/tmp/{seed}.png", "empty"),
            ("a//{seed}.png", "empty"),
            ("{seed}.jpg", "not the name of a PNG"),
            ("{seed}", "not the name of a PNG"),
            ("con/{seed}.png", "device"),
            ("a:{seed}.png", "every system"),
            ("sheet-{seed}.png", "kept for"),
        ] {
            let error = named(file, seeds).unwrap_err();
            assert!(error.starts_with("jobs.toml:4: file: ") && error.contains(told), "{file}: {error}");
        }
        let two =
            "[defaults]\ncommand='generate'\nfile='{prompt}.png'\n[[job]]\nprompt='A'\n[[job]]\nprompt='a'\nseed=2\n";
        assert!(names(two).unwrap_err().contains("pictures 1 and 2"), "upper case is not told apart everywhere");
    }
}
