//! The schedules and samplers against diffusers' schedulers, step by step.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor};
use impasto::diffusion::schedule::Prediction;
use impasto::diffusion::{Denoiser, Evaluation, Sampler, Schedule, SchedulerConfig, Sigmas, guidance};

/// Of the range of a case's latents.
const TOLERANCE: f64 = 1e-4;
const SHAPE: [usize; 4] = [1, 2, 2, 2];

fn load(name: &str) -> BTreeMap<String, Tensor> {
    let file = crate::fixture(&format!("samplers/{name}.safetensors"));
    candle_core::safetensors::load(file, &Device::Cpu).unwrap().into_iter().collect()
}

fn configs() -> HashMap<String, SchedulerConfig> {
    let text = std::fs::read_to_string(crate::fixture("samplers/configs.json")).unwrap();
    let file: HashMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    file.into_iter().map(|(name, value)| (name, SchedulerConfig::from_json(&value).unwrap())).collect()
}

fn named<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_value(name.into()).unwrap()
}

/// Stands for noise and latents, as in tests/reference/samplers.py.
fn wave(draw: usize, phase: f64) -> Tensor {
    let count: usize = SHAPE.iter().product();
    let value = |index: usize| (1.5 * (1.7 * draw as f64 + 0.9 * index as f64 + phase).sin()) as f32;
    let values: Vec<f32> = (0..count).map(value).collect();
    Tensor::from_vec(values, &SHAPE, &crate::device()).unwrap()
}

fn net(xs: &Tensor, timestep: f64) -> impasto::Result<Tensor> {
    Ok(xs.affine(0.8, timestep / 1000.0 - 0.3)?.tanh()?)
}

fn values(xs: &Tensor) -> Vec<f64> {
    xs.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn is_preserving(sampler: Sampler) -> bool {
    !matches!(sampler, Sampler::Euler | Sampler::EulerA | Sampler::Heun)
}

/// The latents a run starts at and those after every step, as diffusers holds them.
fn run(sampler: Sampler, config: &SchedulerConfig, schedule: &Schedule, image: bool) -> (Vec<Vec<f64>>, Tensor) {
    let held = |xs: &Tensor, level: f64| {
        let scale = if is_preserving(sampler) { level.hypot(1.0) } else { 1.0 };
        values(&(xs / scale).unwrap())
    };
    let noise = wave(0, 0.5);
    let xs = if image { schedule.noised(&wave(0, 1.0), &noise, 0) } else { schedule.start(&noise) }.unwrap();
    let mut seen = vec![held(&xs, schedule.sigmas[0])];
    let denoiser = Denoiser::new(config);
    let mut draws = 0;
    let last = sampler
        .sample(
            &mut |xs, eval| denoiser.denoise(xs, eval, net),
            xs,
            schedule,
            &mut |shape| {
                assert_eq!(shape, SHAPE);
                draws += 1;
                Ok(wave(draws, 0.0))
            },
            &mut |_: &Evaluation, xs, level| {
                seen.push(held(&xs, level));
                Ok(xs)
            },
        )
        .unwrap();
    (seen, last)
}

#[test]
fn every_run_equals_diffusers() {
    let configs = configs();
    let mut worst = BTreeMap::<String, (f64, String)>::new();
    let runs = load("runs");
    for (key, rows) in &runs {
        let parts: Vec<&str> = key.split('/').collect();
        let [config, name, sigmas, steps, strength] = parts[..] else { panic!("{key}") };
        let (config, sampler): (_, Sampler) = (&configs[config], named(name));
        let schedule = Schedule::new(sampler, config, steps.parse().unwrap(), named(sigmas)).unwrap();
        let image = strength != "-";
        let schedule = if image { schedule.from_strength(strength.parse().unwrap()).unwrap() } else { schedule };
        let rows: Vec<Vec<f64>> = rows.to_dtype(DType::F64).unwrap().to_vec2().unwrap();

        let times: Vec<f64> = rows[1..].iter().map(|row| row[0]).collect();
        assert_eq!(times.len(), schedule.timesteps.len(), "{key}: {times:?} {:?}", schedule.timesteps);
        for (got, expected) in schedule.timesteps.iter().zip(&times) {
            let whole = expected.fract() == 0.0 && is_preserving(sampler);
            let close = if whole { got == expected } else { (got - expected).abs() < 1e-3 };
            assert!(close, "{key}: timesteps {:?} instead of {times:?}", schedule.timesteps);
        }
        let levels = rows[1..].iter().map(|row| row[1]).chain([rows[0][1]]);
        for (got, expected) in schedule.sigmas.iter().zip(levels).chain([(&schedule.init_noise_sigma, rows[0][0])]) {
            let pure = expected.is_infinite() || expected > 1e6;
            assert!(pure || (got - expected).abs() <= 1e-6 * expected.max(0.01), "{key}: {got} instead of {expected}");
        }

        let (seen, last) = run(sampler, config, &schedule, image);
        assert_eq!(seen.len(), rows.len(), "{key}");
        assert_eq!(values(&last), *seen.last().unwrap(), "{key}: what is returned is what the last step left");
        let range = rows.iter().flat_map(|row| &row[2..]).fold(0f64, |range, value| range.max(value.abs()));
        for (index, (got, row)) in seen.iter().zip(&rows).enumerate() {
            for (got, expected) in got.iter().zip(&row[2..]) {
                let error = (got - expected).abs() / range;
                assert!(error < TOLERANCE, "{key}, after {index} evaluations: {got} instead of {expected}");
                let entry = worst.entry(name.to_owned()).or_insert((0.0, key.clone()));
                if error > entry.0 {
                    *entry = (error, key.clone());
                }
            }
        }
    }
    assert_eq!(worst.len(), 8);
    for (name, (error, key)) in worst {
        eprintln!("{name}: {error:.1e} of the range at most ({key})");
    }
    eprintln!("{} runs", runs.len());
}

#[test]
fn schedules_of_every_length_equal_diffusers() {
    let configs = configs();
    let mut edges = 0;
    for (key, sums) in load("counts") {
        let parts: Vec<&str> = key.split('/').collect();
        let [config, sampler, sigmas] = parts[..] else { panic!("{key}") };
        let (sampler, sigmas): (Sampler, Sigmas) = (named(sampler), named(sigmas));
        for (steps, expected) in (1..).zip(sums.to_vec1::<f64>().unwrap()) {
            match Schedule::new(sampler, &configs[config], steps, sigmas) {
                Ok(schedule) => {
                    let sum: f64 = (1..).zip(&schedule.timesteps).map(|(place, time)| f64::from(place) * time).sum();
                    if sum == expected {
                        continue;
                    }
                    // Under karras a timestep may lie so near a half that the last bit of torch's square root or
                    // numpy's logarithm decides: one timestep by one, in schedules longer than anybody runs.
                    edges += 1;
                    let off_by_one = (sum - expected).abs() <= steps as f64;
                    assert!(sigmas == Sigmas::Karras && off_by_one, "{key}/{steps}: {sum}, not {expected}");
                    assert!(steps > 800, "{key}/{steps}");
                }
                Err(err) => assert!(expected.is_nan(), "{key}/{steps}: {err}"),
            }
        }
    }
    assert!(edges <= 3, "{edges} of 1000 schedules differ");
}

#[test]
fn guidance_equals_diffusers() {
    let tensors = load("guidance");
    let on_device = |name: &str| tensors[name].to_device(&crate::device()).unwrap();
    let (uncond, cond) = (on_device("uncond"), on_device("cond"));
    let guided = guidance::guide(&uncond, &cond, 7.5).unwrap();
    let rescaled = guidance::guidance_rescale(&guided, &cond, 0.7).unwrap();
    for (name, got) in [("guided", guided), ("rescaled", rescaled)] {
        for (got, expected) in values(&got).into_iter().zip(values(&tensors[name])) {
            assert!((got - expected).abs() < 1e-5, "{name}: {got} instead of {expected}");
        }
    }
}

#[test]
fn every_combination_stays_finite() {
    let kinds = [Sigmas::Default, Sigmas::Karras, Sigmas::Exponential];
    let predictions = [Prediction::Epsilon, Prediction::VPrediction];
    for (name, config) in configs() {
        for (sampler, sigmas) in SAMPLERS.into_iter().flat_map(|sampler| kinds.map(|sigmas| (sampler, sigmas))) {
            for (steps, prediction) in [1, 2, 3, 4, 7, 50, 200].into_iter().zip(predictions.into_iter().cycle()) {
                let config = SchedulerConfig { prediction_type: Some(prediction), ..config.clone() };
                // Refusals are for the next test: here, what is taken must run.
                let Ok(schedule) = Schedule::new(sampler, &config, steps, sigmas) else { continue };
                for strength in [1.0, 0.4] {
                    let Ok(schedule) = schedule.from_strength(strength) else { continue };
                    let (seen, _) = run(sampler, &config, &schedule, strength < 1.0);
                    let finite = seen.iter().flatten().all(|value| value.is_finite());
                    assert!(finite, "{name}: {sampler} {sigmas:?} {steps} {strength}");
                }
            }
        }
    }
}

const SAMPLERS: [Sampler; 8] = [
    Sampler::Ddim,
    Sampler::Euler,
    Sampler::EulerA,
    Sampler::Heun,
    Sampler::Dpmpp2m,
    Sampler::Unipc,
    Sampler::Pndm,
    Sampler::Lcm,
];

fn config(json: &str) -> SchedulerConfig {
    SchedulerConfig::from_json(&serde_json::from_str(json).unwrap()).unwrap()
}

/// The message of the error and its hint.
fn refusal<T: std::fmt::Debug>(result: impasto::Result<T>) -> String {
    let err = result.unwrap_err();
    assert_eq!(err.exit_code(), 2, "{err}");
    format!("{err} ({})", err.hint().unwrap_or_default())
}

#[test]
fn what_cannot_be_run_is_refused_with_a_reason() {
    let sd = &configs()["sd"];
    for sampler in SAMPLERS {
        for steps in [0, 1001, usize::MAX] {
            let said = refusal(Schedule::new(sampler, sd, steps, Sigmas::Default));
            assert!(said.starts_with("--steps: must be between 1 and 1000"), "{said}");
        }
        let karras = Schedule::new(sampler, sd, 20, Sigmas::Karras);
        assert_eq!(karras.is_ok(), sampler.has_sigmas(), "{sampler}");
        if !sampler.has_sigmas() {
            let said = refusal(karras);
            assert!(said.contains("--sigmas") && said.contains("dpmpp-2m"), "{said}");
        }
        for strength in [0.0, -0.5, 1.5, f64::NAN, 0.04] {
            let schedule = Schedule::new(sampler, sd, 20, Sigmas::Default).unwrap();
            assert!(refusal(schedule.from_strength(strength)).starts_with("--strength"));
        }
    }
    let refused = |sampler, json: &str, steps| refusal(Schedule::new(sampler, &config(json), steps, Sigmas::Default));
    assert!(refused(Sampler::Ddim, r#"{"steps_offset": 1}"#, 1000).contains("fewer steps"));
    assert!(refused(Sampler::Dpmpp2m, "{}", 1000).contains("twice"));
    assert!(refused(Sampler::Lcm, "{}", 51).contains("at most 50"));
    assert!(refused(Sampler::Pndm, "{}", 3).contains("at least 4"));
    let pndm = Schedule::new(Sampler::Pndm, &config("{}"), 20, Sigmas::Default).unwrap();
    assert!(refusal(pndm.from_strength(0.5)).contains("skip_prk_steps"));
    assert!(refused(Sampler::Pndm, r#"{"prediction_type": "sample"}"#, 9).contains("prediction_type"));
    assert!(refused(Sampler::Ddim, r#"{"thresholding": true}"#, 9).contains("thresholding"));
    assert!(refused(Sampler::Euler, r#"{"timestep_type": "continuous"}"#, 9).contains("timestep_type"));
    assert!(refused(Sampler::Unipc, r#"{"use_flow_sigmas": true}"#, 9).contains("use_flow_sigmas"));
    assert!(refused(Sampler::Unipc, r#"{"solver_order": 9}"#, 9).contains("solver_order"));
    let pure = r#"{"rescale_betas_zero_snr": true, "timestep_spacing": "trailing"}"#;
    assert!(refused(Sampler::Ddim, pure, 9).contains("v_prediction"));
    assert!(refused(Sampler::Lcm, pure, 4).contains("v_prediction"));
    // Files made to break.
    for json in [
        r#"{"num_train_timesteps": 0}"#,
        r#"{"num_train_timesteps": 1000000000000}"#,
        r#"{"beta_start": 2.0, "beta_end": 3.0}"#,
        r#"{"beta_start": 0.0, "beta_end": 0.0}"#,
        r#"{"beta_start": -1.0, "beta_schedule": "scaled_linear"}"#,
        r#"{"trained_betas": []}"#,
        r#"{"num_train_timesteps": 2, "trained_betas": [0.1]}"#,
        r#"{"timestep_spacing": "leading", "steps_offset": 9000000000000000000}"#,
        r#"{"timestep_spacing": "leading", "steps_offset": -5}"#,
        r#"{"use_karras_sigmas": true, "sigma_max": 1e300}"#,
        r#"{"use_exponential_sigmas": true, "sigma_min": 0}"#,
        r#"{"use_karras_sigmas": true, "sigma_min": -3}"#,
    ] {
        refused(Sampler::Euler, json, 10);
    }
    for json in [r#"{"beta_schedule": "exp"}"#, r#"{"prediction_type": "flow_prediction"}"#, r#"{"steps_offset": "a"}"#]
    {
        let said = refusal(SchedulerConfig::from_json(&serde_json::from_str(json).unwrap()));
        assert!(said.starts_with("scheduler_config.json: "), "{said}");
    }
}

#[test]
fn an_error_on_a_step_ends_the_run() {
    let sd = &configs()["sd"];
    let denoiser = Denoiser::new(sd);
    for sampler in SAMPLERS {
        let schedule = Schedule::new(sampler, sd, 10, Sigmas::Default).unwrap();
        let mut steps = 0;
        let result = sampler.sample(
            &mut |xs, eval| denoiser.denoise(xs, eval, net),
            schedule.start(&wave(0, 0.5)).unwrap(),
            &schedule,
            &mut |_| Ok(wave(1, 0.0)),
            &mut |eval, xs, _| {
                steps += 1;
                assert_eq!(eval.total, schedule.timesteps.len());
                if eval.index == 2 { Err(impasto::Error::Interrupted) } else { Ok(xs) }
            },
        );
        assert!(matches!(result, Err(impasto::Error::Interrupted)));
        assert_eq!(steps, 3);
    }
}

#[test]
fn outdated_files_are_corrected_as_the_pipelines_do() {
    let old = config(r#"{"_class_name": "DDIMScheduler"}"#);
    let own = old.clone().corrected(Sampler::Ddim);
    assert_eq!((own.steps_offset, own.clip_sample), (Some(1), Some(false)));
    let other = old.corrected(Sampler::Euler);
    assert_eq!((other.steps_offset, other.clip_sample), (None, None));
    let wrong = config(r#"{"_class_name": "PNDMScheduler", "steps_offset": 0, "clip_sample": true}"#);
    let wrong = wrong.corrected(Sampler::Ddim);
    assert_eq!((wrong.steps_offset, wrong.clip_sample), (Some(1), Some(false)));
}

#[test]
fn names_are_those_of_the_command_line() {
    use clap::ValueEnum;
    for sampler in SAMPLERS {
        let name = sampler.to_string();
        assert_eq!(sampler.to_possible_value().unwrap().get_name(), name);
        assert_eq!(serde_json::to_value(sampler).unwrap(), name);
        assert_eq!(named::<Sampler>(&name), sampler);
    }
}
