//! The presets and the weights they name.

use impasto::pipeline::preset::Preset;
use impasto::weights::{Manifest, bundled};

#[test]
fn every_preset_is_listed_and_resolves() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    files.sort();
    let mut names: Vec<_> = Preset::names().collect();
    names.sort_unstable();
    assert_eq!(files, names, "pipelines/*.toml and the list in src/pipeline/preset.rs differ");
    for name in names {
        let preset = Preset::find(name).unwrap();
        let settings = &preset.settings;
        assert!(preset.weights.model.is_some(), "{name}");
        assert!(settings.steps.is_some() && settings.guidance.is_some() && settings.sampler.is_some(), "{name}");
        for net in preset.weights.all() {
            let known = Manifest::find(net).is_ok() || bundled::is_one(std::path::Path::new(net));
            assert!(known, "{name} names {net}, of which there is no manifest");
        }
        assert!(!preset.summary.is_empty() && preset.summary.len() < 120, "{name}");
    }
}

#[test]
fn a_key_that_is_not_known_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    let refused = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let error = Preset::find(path.to_str().unwrap()).unwrap_err();
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        error.to_string()
    };
    let error = refused("summary = \"mine\"\n\n[settings]\nstpes = 4\n");
    assert!(error.contains("mine.toml") && error.contains("line 4") && error.contains("stpes"), "{error}");
    let error = refused("summary = \"mine\"\nweigths = 1\n");
    assert!(error.contains("line 2") && error.contains("weigths"), "{error}");
    let error = refused("summary = \"mine\"\n[settings]\nsteps = 0\n");
    assert!(error.contains("steps"), "{error}");
    let error = refused("summary = \"mine\"\n[settings]\nsampler = \"fastest\"\n");
    assert!(error.contains("line 3") && error.contains("fastest"), "{error}");
    let error = refused("summary =\n");
    assert!(error.contains("line 1"), "{error}");
}

#[test]
fn a_preset_of_ones_own_extends_and_names_nets_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("net")).unwrap();
    let path = folder.path().join("mine.toml");
    let text = "summary = \"mine\"\nextends = \"sd15\"\n[weights]\nmodel = \"net\"\n[settings]\nsteps = 3\n";
    std::fs::write(&path, text).unwrap();
    let preset = Preset::find(path.to_str().unwrap()).unwrap();
    assert_eq!(preset.settings.steps, Some(3));
    assert_eq!(preset.settings.guidance, Preset::find("sd15").unwrap().settings.guidance);
    assert_eq!(preset.weights.model.as_deref(), folder.path().join("net").to_str());
}

#[test]
fn presets_in_a_circle_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    std::fs::write(&path, format!("summary = \"mine\"\nextends = {:?}\n", path.to_str().unwrap())).unwrap();
    assert!(Preset::find(path.to_str().unwrap()).unwrap_err().to_string().contains("circle"));
    assert!(Preset::find("sd16").unwrap_err().hint().unwrap().contains("sd15"));
}
