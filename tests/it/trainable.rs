//! The trainable operations against torch's autograd (tests/reference/trainable.py), and against finite differences.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};
use impasto::ops::trainable::{
    Geometry, Padding, conv2d, conv2d_relu, instance_norm, instance_norm_of_own, instance_norm_relu, moments, relu,
};

use crate::unet::{error, tensors};

/// Kernel size is the weight's; the rest as the script lists it.
const CONVS: [(usize, Padding, usize); 15] = [
    (1, Padding::Reflect(1), 1),
    (2, Padding::Reflect(1), 1),
    (2, Padding::Reflect(1), 1),
    (1, Padding::Reflect(1), 2),
    (1, Padding::Zeros(1), 2),
    (1, Padding::Zeros(1), 1),
    (1, Padding::Zeros(0), 1),
    (2, Padding::Zeros(1), 1),
    (1, Padding::Reflect(4), 1),
    (1, Padding::Reflect(4), 2),
    (1, Padding::Reflect(4), 1),
    (1, Padding::Zeros(0), 1),
    (2, Padding::Zeros(0), 1),
    (2, Padding::Zeros(1), 1),
    (1, Padding::Reflect(1), 2),
];

/// Runs a function on the script's inputs and compares its results and gradients.
fn check<const N: usize>(
    reference: &HashMap<String, Tensor>,
    name: &str,
    inputs: [&str; N],
    function: impl Fn([&Tensor; N]) -> impasto::Result<Vec<Tensor>>,
) {
    let vars = inputs.map(|input| Var::from_tensor(&reference[&format!("{name}.{input}")]).unwrap());
    let outs = function(vars.each_ref().map(Var::as_tensor)).unwrap();
    let mut loss = None;
    for (index, out) in outs.iter().enumerate() {
        let difference = error(out, &reference[&format!("{name}.out{index}")]);
        assert!(difference < 1e-5, "{name}.out{index}: {difference:e}");
        let term = (out * &reference[&format!("{name}.gradient{index}")]).unwrap().sum_all().unwrap();
        loss = Some(loss.map_or(term.clone(), |loss: Tensor| (loss + term).unwrap()));
    }
    let gradients = loss.unwrap().backward().unwrap();
    for (input, var) in inputs.iter().zip(&vars) {
        let difference = error(gradients.get(var).unwrap(), &reference[&format!("{name}.to_{input}")]);
        assert!(difference < 1e-5, "{name}.to_{input}: {difference:e}");
    }
}

#[test]
fn values_and_gradients_equal_torch() {
    let reference = tensors("trainable.safetensors");
    for (index, (stride, padding, upsample)) in CONVS.into_iter().enumerate() {
        let geometry = Geometry { stride, padding, upsample };
        check(&reference, &format!("conv.{index}"), ["xs", "weight", "bias"], |[xs, weight, bias]| {
            Ok(vec![conv2d(xs, weight, bias, geometry)?])
        });
    }
    let arguments = ["xs", "scale", "shift"];
    check(&reference, "norm.0", arguments, |[xs, scale, shift]| Ok(vec![instance_norm(xs, scale, shift, 1e-5)?]));
    check(&reference, "norm.1", arguments, |[xs, scale, shift]| Ok(vec![instance_norm_relu(xs, scale, shift, 1e-5)?]));
    for (name, rectified) in [("norm.0", false), ("norm.1", true)] {
        check(&reference, name, arguments, |[xs, scale, shift]| {
            Ok(vec![instance_norm_of_own((*xs).clone(), scale, shift, 1e-5, rectified)?])
        });
    }
    check(&reference, "moments", ["xs"], |[xs]| {
        let (mean, deviation) = moments(xs)?;
        Ok(vec![mean, deviation])
    });
    check(&reference, "relu", ["xs"], |[xs]| Ok(vec![relu(xs)?]));
}

/// What GPUs run, in double precision on the CPU, where the kernels do not.
#[test]
fn the_compositions_equal_torch_too() {
    let reference = tensors("trainable.safetensors");
    let wide: HashMap<String, Tensor> =
        reference.into_iter().map(|(name, tensor)| (name, tensor.to_dtype(DType::F64).unwrap())).collect();
    for (index, (stride, padding, upsample)) in CONVS.into_iter().enumerate() {
        let geometry = Geometry { stride, padding, upsample };
        let [xs, weight, bias] = ["xs", "weight", "bias"].map(|name| wide[&format!("conv.{index}.{name}")].clone());
        let out = conv2d(&xs, &weight, &bias, geometry).unwrap();
        assert!(error(&out, &wide[&format!("conv.{index}.out0")]) < 1e-5, "conv.{index}");
    }
    let arguments = ["xs", "scale", "shift"];
    check(&wide, "norm.1", arguments, |[xs, scale, shift]| Ok(vec![instance_norm_relu(xs, scale, shift, 1e-5)?]));
    check(&wide, "moments", ["xs"], |[xs]| {
        let (mean, deviation) = moments(xs)?;
        Ok(vec![mean, deviation])
    });
}

/// What runs several steps at once equals the steps, bit for bit, on the way back too; without gradients the norm overwrites
/// what it is given.
#[test]
fn steps_in_one_equal_the_steps() {
    let random = |shape: &[usize]| Var::randn(0f32, 1., shape, &Device::Cpu).unwrap();
    let same = |a: &Tensor, b: &Tensor| assert_eq!(error(a, b), 0.0);
    // Winograd's, the direct kernel's, and the matrix product's.
    let kernels = [(5, 3, 1), (5, 5, 1), (5, 3, 2), (140, 3, 2)];
    for (inputs, kernel, stride) in kernels {
        let geometry = Geometry::same(kernel).with_stride(stride);
        let [xs, weight, bias] = [random(&[2, inputs, 11, 9]), random(&[4, inputs, kernel, kernel]), random(&[4])];
        let one = conv2d_relu(&xs, &weight, &bias, geometry).unwrap();
        let two = relu(&conv2d(&xs, &weight, &bias, geometry).unwrap()).unwrap();
        same(&one, &two);
        let factor = one.randn_like(0.0, 1.0).unwrap();
        let back = |out: &Tensor| (out * &factor).unwrap().sum_all().unwrap().backward().unwrap();
        let (one, two) = (back(&one), back(&two));
        for var in [&xs, &weight, &bias] {
            same(one.get(var).unwrap(), two.get(var).unwrap());
        }
    }
    let [xs, scale, shift] = [random(&[2, 3, 9, 7]), random(&[2, 3]), random(&[2, 3])];
    let [scale, shift] = [scale.detach(), shift.detach()];
    for rectified in [false, true] {
        let function = if rectified { instance_norm_relu } else { instance_norm };
        let wanted = function(&xs.detach(), &scale, &shift, 1e-5).unwrap();
        let own = xs.as_detached_tensor().copy().unwrap();
        let held = own.clone();
        same(&instance_norm_of_own(own, &scale, &shift, 1e-5, rectified).unwrap(), &wanted);
        same(&held, &wanted);
    }
}

/// A convolution is linear in each argument, so a difference quotient is exact whatever the step.
#[test]
fn gradients_of_a_convolution_equal_difference_quotients() {
    let geometry = Geometry { stride: 2, padding: Padding::Reflect(1), upsample: 1 };
    let random = |shape: &[usize]| Tensor::randn(0f32, 1., shape, &Device::Cpu).unwrap();
    let arguments = [random(&[1, 2, 5, 6]), random(&[3, 2, 3, 3]), random(&[3])];
    let vars = arguments.each_ref().map(|tensor| Var::from_tensor(tensor).unwrap());
    let loss = |[xs, weight, bias]: [&Tensor; 3]| {
        let out = conv2d(xs, weight, bias, geometry).unwrap();
        let weights = Tensor::arange(0f32, out.elem_count() as f32, &Device::Cpu).unwrap();
        ((out.flatten_all().unwrap() * weights).unwrap().sum_all().unwrap() * 0.1).unwrap()
    };
    let gradients = loss(vars.each_ref().map(Var::as_tensor)).backward().unwrap();
    for which in 0..3 {
        let gradient = gradients.get(&vars[which]).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (at, &gradient) in gradient.iter().enumerate() {
            let at_distance = |step: f32| {
                let mut moved = arguments.clone();
                let mut values = moved[which].flatten_all().unwrap().to_vec1::<f32>().unwrap();
                values[at] += step;
                moved[which] = Tensor::from_vec(values, moved[which].shape(), &Device::Cpu).unwrap();
                loss(moved.each_ref()).to_scalar::<f32>().unwrap()
            };
            let quotient = (at_distance(1.0) - at_distance(-1.0)) / 2.0;
            assert!((quotient - gradient).abs() < 1e-3, "argument {which} at {at}: {gradient} and {quotient}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let (weight, bias) = (zeros(&[4, 3, 3, 3]), zeros(&[4]));
    assert!(conv2d(&zeros(&[1, 2, 8, 8]), &weight, &bias, Geometry::same(3)).is_err());
    assert!(conv2d(&zeros(&[1, 3, 1, 8]), &weight, &bias, Geometry::same(3)).is_err());
    let geometry = Geometry { stride: 1, padding: Padding::Zeros(0), upsample: 1 };
    assert!(conv2d(&zeros(&[1, 3, 8, 2]), &weight, &bias, geometry).is_err());
    assert!(conv2d(&zeros(&[1, 3, 8, 8]), &weight, &zeros(&[3]), Geometry::same(3)).is_err());
    assert!(instance_norm(&zeros(&[1, 3, 8, 8]), &zeros(&[3]), &zeros(&[3]), 1e-5).is_err());
}
