//! `impasto doctor`: what this program and this machine have, and what to do next.

use super::{Printer, machine, nets};
use impasto::device::Backend;
use impasto::weights::{Cache, bundled};
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of `impasto doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Found {
    device: String,
    /// Why it cannot be used; none where it can.
    skipped: Option<String>,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    features: Vec<&'static str>,
    devices: Vec<Found>,
    threads: usize,
    simd: Vec<&'static str>,
    cache: Option<PathBuf>,
    offline: bool,
    /// The model that needs no fetching.
    bundled: &'static str,
    models: Vec<nets::Known>,
    available_memory_bytes: Option<u64>,
    free_disk_bytes: Option<u64>,
    next: Vec<String>,
}

/// Looks and tells.
pub(crate) fn run(args: &Args, printer: &Printer) -> anyhow::Result<()> {
    let cache = Cache::from_env().ok();
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        features: features(),
        devices: devices(),
        threads: rayon::current_num_threads(),
        simd: machine::simd(),
        offline: offline(),
        bundled: bundled::NAME,
        models: cache.as_ref().map_or_else(|| Ok(Vec::new()), nets::known)?,
        available_memory_bytes: machine::available_memory(),
        free_disk_bytes: cache.as_ref().and_then(|cache| machine::free_disk(cache.root())),
        cache: cache.map(|cache| cache.root().to_path_buf()),
        next: Vec::new(),
    };
    report.next = next(&report);
    if args.json { printer.json(&report) } else { print(&report, printer) }
}

fn features() -> Vec<&'static str> {
    let all = [
        ("hub", cfg!(feature = "hub")),
        ("cuda", cfg!(feature = "cuda")),
        ("cudnn", cfg!(feature = "cudnn")),
        ("flash-attn", cfg!(feature = "flash-attn")),
        ("metal", cfg!(feature = "metal")),
        ("accelerate", cfg!(feature = "accelerate")),
        ("mkl", cfg!(feature = "mkl")),
    ];
    all.into_iter().filter(|(_, built)| *built).map(|(name, _)| name).collect()
}

fn devices() -> Vec<Found> {
    let probe = |backend: Backend| Found {
        device: backend.to_string(),
        skipped: backend.open().err().map(|error| match error.hint() {
            Some(hint) => format!("{error}; {hint}"),
            None => error.to_string(),
        }),
    };
    [Backend::Cuda(0), Backend::Metal(0), Backend::Cpu].into_iter().map(probe).collect()
}

#[cfg(feature = "hub")]
fn offline() -> bool {
    impasto::weights::Hub::from_env().is_ok_and(|hub| hub.is_offline())
}

#[cfg(not(feature = "hub"))]
fn offline() -> bool {
    true
}

fn next(report: &Report) -> Vec<String> {
    const NEEDED: u64 = 6 << 30;
    let mut next = vec![
        "`impasto generate --model mini --prompt \"a red apple\" -o apple.png` paints a small picture at once"
            .to_owned(),
    ];
    if !report.models.iter().any(|model| model.name.starts_with("sd15") && model.path.is_some()) {
        let step = match (cfg!(feature = "hub"), report.offline) {
            (false, _) => "this program was built without downloads: give checkpoints by path with --model",
            (true, true) => "HF_HUB_OFFLINE is set: give checkpoints by path with --model, or unset it",
            (true, false) => {
                "`impasto weights pull sd15-fp16` fetches Stable Diffusion 1.5; or give a checkpoint by path with --model"
            }
        };
        next.push(step.to_owned());
    } else {
        next.push("`impasto generate --prompt \"a lighthouse, oil painting\" -o out.png` paints a picture".to_owned());
    }
    if report.available_memory_bytes.is_some_and(|bytes| bytes < NEEDED) {
        next.push(
            "Stable Diffusion 1.5 in f32 wants 6 GiB of memory: close other programs, or try --dtype f16".to_owned(),
        );
    }
    if report.free_disk_bytes.is_some_and(|bytes| bytes < NEEDED) {
        next.push("less than 6 GiB of disk are free where models are kept: HF_HOME moves them elsewhere".to_owned());
    }
    next
}

fn print(report: &Report, printer: &Printer) -> anyhow::Result<()> {
    let list = |items: &[&str]| if items.is_empty() { "none".to_owned() } else { items.join(" ") };
    let bytes = |value: Option<u64>| value.map_or_else(|| "unknown".to_owned(), machine::human);
    printer.line(format_args!("impasto  {}", report.version))?;
    printer.line(format_args!("built in {}", list(&report.features)))?;
    for found in &report.devices {
        let state = found.skipped.as_deref().unwrap_or("ready");
        printer.line(format_args!("device   {}: {state}", found.device))?;
    }
    printer.line(format_args!("threads  {}, {}", report.threads, list(&report.simd)))?;
    printer.line(format_args!("memory   {} available", bytes(report.available_memory_bytes)))?;
    if let Some(cache) = &report.cache {
        printer.line(format_args!("models   {} ({} free)", cache.display(), bytes(report.free_disk_bytes)))?;
    }
    printer.line(format_args!("         {}: part of the program", report.bundled))?;
    for model in &report.models {
        let state = if model.path.is_some() { "here" } else { "not here" };
        printer.line(format_args!("         {}: {state}", model.name))?;
    }
    for step in &report.next {
        printer.line(format_args!("next     {step}"))?;
    }
    Ok(())
}
