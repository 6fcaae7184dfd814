//! `impasto weights list|pull|verify|path`: a thin skin over [`impasto::weights`].

use super::Printer;
use impasto::Error;
use impasto::weights::manifest::Kind;
use impasto::weights::verify::Verdict;
use impasto::weights::{Cache, Manifest, bundled};
use indicatif::DecimalBytes;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments of `impasto weights`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show what can be fetched, what it is, and what is here already
    List {
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Fetch models into the Hugging Face cache
    Pull {
        /// Names from `impasto weights list`, or manifests of your own (.toml)
        #[arg(required = true)]
        names: Vec<String>,
        /// Take the newest commit of models that were fetched before
        #[arg(long)]
        update: bool,
    },
    /// Hash the files of fetched models against what is known of them
    Verify {
        /// Names from `impasto weights list`; everything that is here when left out
        names: Vec<String>,
    },
    /// Print where a fetched model lies
    Path {
        /// A name from `impasto weights list`
        name: String,
    },
}

/// Runs it.
pub(crate) fn run(args: &Args, printer: &Printer) -> anyhow::Result<()> {
    match &args.command {
        Command::List { json } => list(*json, printer),
        Command::Pull { names, update } => pull(names, *update, printer),
        Command::Verify { names } => verify(names, printer),
        Command::Path { name } => {
            let path = match bundled::locate(Path::new(name))? {
                Some(path) => path,
                None => Manifest::find(name)?.require(&Cache::from_env()?)?,
            };
            printer.line(path.display())
        }
    }
}

fn list(json: bool, printer: &Printer) -> anyhow::Result<()> {
    let cache = Cache::from_env()?;
    let manifests = Manifest::all()?;
    let width = manifests.iter().map(|manifest| manifest.name.len()).max().unwrap_or(0);
    let (name, licence, summary) = (bundled::NAME, bundled::LICENCE, bundled::SUMMARY);
    if json {
        printer.json(&json!({
            "name": name,
            "kind": Kind::Model,
            "summary": summary,
            "licence": licence,
            "bytes": bundled::bytes(),
            "bundled": true,
            "path": bundled::unpacked(),
        }))?;
    } else {
        printer.line(format_args!("{:width$}  {:8}  {:4}  {:22}  WHAT", "NAME", "SIZE", "HERE", "LICENCE"))?;
        let size = DecimalBytes(bundled::bytes()).to_string();
        printer.line(format_args!("{name:width$}  {size:8}  {:4}  {licence:22}  {summary}", "yes"))?;
    }
    for manifest in &manifests {
        let here = manifest.locate(&cache);
        if json {
            printer.json(&json!({
                "name": manifest.name,
                "kind": manifest.kind,
                "summary": manifest.summary,
                "repo": manifest.repo,
                "revision": manifest.revision,
                "licence": manifest.licence,
                "bytes": manifest.bytes(),
                "about": manifest.about,
                "path": here,
            }))?;
            continue;
        }
        let size = match (manifest.bytes(), &manifest.about) {
            (Some(bytes), _) => DecimalBytes(bytes).to_string(),
            (None, Some(about)) => about.replace("approximately ", "~"),
            (None, None) => "?".to_owned(),
        };
        let here = if here.is_some() { "yes" } else { "no" };
        let (name, licence, summary) = (&manifest.name, &manifest.licence, &manifest.summary);
        printer.line(format_args!("{name:width$}  {size:8}  {here:4}  {licence:22}  {summary}"))?;
    }
    printer.note(format_args!("cache: {}", cache.root().display()));
    Ok(())
}

fn pull(names: &[String], update: bool, printer: &Printer) -> anyhow::Result<()> {
    // All names first: a typing error in the last must not show after an hour of download.
    let (within, names) = split(names);
    let manifests = names.iter().map(|name| Manifest::find(name)).collect::<Result<Vec<_>, Error>>()?;
    for path in within.iter().map(|name| bundled::locate(Path::new(name))) {
        printer.line(path?.unwrap_or_default().display())?;
    }
    for manifest in &manifests {
        printer.line(fetch(manifest, update, printer)?.display())?;
    }
    Ok(())
}

/// The names of the model in the program, and those of models to fetch.
fn split(names: &[String]) -> (Vec<&String>, Vec<&String>) {
    names.iter().partition(|name| bundled::is_one(Path::new(name)))
}

/// Fetches a model, with what and how much it is said before.
#[cfg(feature = "hub")]
pub(crate) fn fetch(manifest: &Manifest, update: bool, printer: &Printer) -> anyhow::Result<PathBuf> {
    let hub = impasto::weights::Hub::from_env()?;
    let plan = hub.plan(manifest, update)?;
    if plan.files() > 0 {
        let already = match plan.resumed() {
            0 => String::new(),
            bytes => format!(" ({} here from before)", DecimalBytes(bytes)),
        };
        printer.note(format_args!(
            "{}: {} in {} files from {} at {}{already}; licence: {}",
            manifest.name,
            DecimalBytes(plan.bytes()),
            plan.files(),
            manifest.repo,
            plan.commit().get(..8).unwrap_or_default(),
            manifest.licence
        ));
    }
    let mut bar = printer.bar();
    let path = hub.fetch(&plan, &mut |progress| bar.report(progress))?;
    bar.clear();
    Ok(path)
}

/// Without downloads, a model that is not here cannot be had.
#[cfg(not(feature = "hub"))]
pub(crate) fn fetch(manifest: &Manifest, _: bool, _: &Printer) -> anyhow::Result<PathBuf> {
    Err(Error::usage(&manifest.name, "is not here, and this program was built without downloads")
        .with_hint("build it with the feature `hub`, or fetch the files with another tool into the Hugging Face cache")
        .into())
}

fn verify(names: &[String], printer: &Printer) -> anyhow::Result<()> {
    let cache = Cache::from_env()?;
    let (within, wanted) = split(names);
    let manifests = if names.is_empty() {
        Manifest::all()?.into_iter().filter(|manifest| manifest.locate(&cache).is_some()).collect()
    } else {
        wanted.iter().map(|name| Manifest::find(name)).collect::<Result<Vec<_>, Error>>()?
    };
    let mut found = Vec::new();
    if !within.is_empty() || (names.is_empty() && bundled::unpacked().is_some()) {
        found.push((bundled::NAME.to_owned(), bundled::verify()?));
    }
    for manifest in &manifests {
        let mut bar = printer.bar();
        found.push((manifest.name.clone(), manifest.verify(&cache, &mut |progress| bar.report(progress))?));
        bar.clear();
    }
    if found.is_empty() {
        printer.note("nothing to verify: no model of `impasto weights list` is here");
    }
    let mut bad = Vec::new();
    for (name, verdicts) in &found {
        for (path, verdict) in verdicts {
            match verdict {
                Verdict::Sound => printer.line(format_args!("{name}  {path}  ok"))?,
                Verdict::Unknown { found } => {
                    printer.line(format_args!("{name}  {path}  no hash known, is {found}"))?
                }
                Verdict::Missing => {
                    printer.line(format_args!("{name}  {path}  missing"))?;
                    bad.push(name.clone());
                }
                Verdict::Wrong { expected, found } => {
                    printer.line(format_args!("{name}  {path}  WRONG: expected {expected}, is {found}"))?;
                    bad.push(name.clone());
                }
            }
        }
    }
    bad.dedup();
    let place =
        if bad.iter().all(|name| name == bundled::NAME) { bundled::place()? } else { cache.root().to_path_buf() };
    match bad.as_slice() {
        [] => Ok(()),
        bad => Err(Error::remote(bad.join(", "), "files are missing or are not what they should be")
            .with_hint(format!(
                "delete the wrong files below {}, then `impasto weights pull {}` puts them there anew",
                place.display(),
                bad.join(" ")
            ))
            .into()),
    }
}
