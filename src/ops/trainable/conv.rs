//! Convolution on the CPU with its three gradients. 3x3 kernels of stride 1 go by [`Winograd`], gradients to weights by
//! [`Direct`], all else as matrix products over tiles of output rows.
//!
//! A tile's patches are gathered through the index maps of [`Axis`], stay in the cache for one product, and are gathered
//! again on the way back rather than kept: they are nine times the picture. Tiles and sums are cut by the shapes alone, never
//! by the number of threads, so training gives the same bits on any machine with the same instructions.

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::super::direct::{Direct, halved};
use super::super::floats::Floats;
use super::super::product::{Matrix, Target, contiguous, multiply};
use super::super::winograd::{Winograd, longest_run, zero_padded};
use super::axis::Axis;
use super::relu::Relu;
use super::{Geometry, Padding, with_floats};

/// Patches gathered at a time, in elements: 512 KiB, within a core's own cache.
const TILE: usize = 128 << 10;
/// Pieces a small batch is cut into on the way back, so that several cores have work.
const PIECES: usize = 8;

/// A convolution of one picture size.
pub(super) struct Conv {
    rows: Axis,
    columns: Axis,
    geometry: Geometry,
    /// Negative results become 0.
    relu: bool,
}

/// The sizes that all passes share.
#[derive(Clone, Copy)]
struct Sizes {
    inputs: usize,
    outputs: usize,
    kernel: usize,
    width: usize,
    /// Pixels of an input plane.
    plane: usize,
    out_height: usize,
    out_width: usize,
}

impl Sizes {
    /// Weights per output channel.
    fn depth(&self) -> usize {
        self.inputs * self.kernel * self.kernel
    }

    /// Pixels of an output plane.
    fn pixels(&self) -> usize {
        self.out_height * self.out_width
    }

    /// Output rows of a tile.
    fn tile_rows(&self) -> usize {
        (TILE / (self.depth() * self.out_width).max(1)).clamp(1, self.out_height.max(1))
    }
}

/// One band of output rows of one picture, and where it is written to: a slice per output channel.
struct Band<'a> {
    image: usize,
    first: usize,
    planes: Vec<&'a mut [f32]>,
}

impl Conv {
    pub(super) fn new((rows, columns): (Axis, Axis), geometry: Geometry, relu: bool) -> Self {
        Self { rows, columns, geometry, relu }
    }

    fn sizes(&self, xs: &Shape, weight: &Shape) -> candle_core::Result<(usize, Sizes)> {
        let (batch, inputs, height, width) = xs.dims4()?;
        let (outputs, _, kernel, _) = weight.dims4()?;
        let (out_height, out_width) = (self.rows.len, self.columns.len);
        Ok((batch, Sizes { inputs, outputs, kernel, width, plane: height * width, out_height, out_width }))
    }

    /// Whether the patches are the picture itself.
    fn is_pointwise(&self, sizes: &Sizes) -> bool {
        sizes.kernel == 1 && self.geometry.stride == 1 && self.geometry.upsample == 1 && sizes.plane == sizes.pixels()
    }

    /// Whether the kernel is 3 x 3 and visits every pixel.
    fn is_winograd(&self, sizes: &Sizes) -> bool {
        sizes.kernel == 3 && self.geometry.stride == 1
    }

    /// Gathers what the kernel sees in `rows` output rows from `first` on: `[depth, rows * out_width]`.
    fn gather(&self, xs: &[f32], patches: &mut [f32], sizes: &Sizes, first: usize) {
        let Sizes { kernel, width, plane, out_width, .. } = *sizes;
        let tile = patches.len() / sizes.depth();
        for (tap, patch) in patches.chunks_mut(tile).enumerate() {
            let (channel, dy, dx) = (tap / (kernel * kernel), tap / kernel % kernel, tap % kernel);
            let xs = &xs[channel * plane..][..plane];
            let (row, column) = (self.rows.tap(dy), self.columns.tap(dx));
            for (y, patch) in patch.chunks_mut(out_width).enumerate() {
                match row.source(first + y) {
                    Some(from) => column.gather(&xs[from * width..][..width], patch),
                    None => patch.fill(0.0),
                }
            }
        }
    }

    fn forward(&self, xs: &[f32], weight: &[f32], bias: &[f32], batch: usize, sizes: &Sizes) -> Vec<f32> {
        let twice = self.geometry.upsample == 2 && self.geometry.padding.pixels() == 1;
        if self.is_winograd(sizes) && twice && sizes.inputs * sizes.outputs <= Direct::FEW {
            return self.enlarged(xs, weight, bias, batch, sizes);
        }
        if self.is_winograd(sizes) {
            let (rows, columns) = (self.rows.padded(self.geometry.stride), self.columns.padded(self.geometry.stride));
            let Sizes { inputs, outputs, width, plane, .. } = *sizes;
            let (rows, columns, height) = (&rows[..], &columns[..], plane / width.max(1));
            let (turned, bias, relu) = (false, Some(bias), self.relu);
            let weight = Floats::Single(weight);
            return Winograd { xs, batch, inputs, outputs, height, width, rows, columns, weight, turned, bias, relu }
                .run();
        }
        if !self.is_pointwise(sizes) && sizes.depth() <= Direct::DEEPEST {
            return self.direct(batch, sizes, |direct| direct.run(xs, weight, false, Some(bias), self.relu));
        }
        let mut out = vec![0f32; batch * sizes.outputs * sizes.pixels()];
        self.multiply(xs, weight, bias, sizes, &mut out);
        out
    }

    /// Over a picture that is enlarged twice.
    fn enlarged(&self, xs: &[f32], weight: &[f32], bias: &[f32], batch: usize, sizes: &Sizes) -> Vec<f32> {
        let Sizes { inputs, outputs, kernel, width, plane, .. } = *sizes;
        let (rows, columns) = (halved(&self.rows.padded(1)), halved(&self.columns.padded(1)));
        let (rows, columns, height, stride) = (&rows[..], &columns[..], plane / width.max(1), 1);
        let direct = Direct { batch, inputs, outputs, height, width, kernel, stride, rows, columns };
        direct.run_enlarged(xs, weight, bias, self.relu)
    }

    fn multiply(&self, xs: &[f32], weight: &[f32], bias: &[f32], sizes: &Sizes, out: &mut [f32]) {
        let (depth, pixels) = (sizes.depth(), sizes.pixels());
        let weights = Matrix { data: weight, row: depth, column: 1 };
        let pointwise = self.is_pointwise(sizes);
        let buffers = || (Vec::new(), Vec::new());
        bands(out, sizes).into_par_iter().for_each_init(buffers, |(patches, product), band| {
            let xs = &xs[band.image * sizes.inputs * sizes.plane..][..sizes.inputs * sizes.plane];
            let tile = band.planes[0].len();
            let right = if pointwise {
                Matrix { data: &xs[band.first * sizes.width..], row: pixels, column: 1 }
            } else {
                patches.resize(depth * tile, 0.0);
                self.gather(xs, patches, sizes, band.first);
                Matrix { data: patches, row: tile, column: 1 }
            };
            product.resize(sizes.outputs * tile, 0f32);
            multiply(weights, right, (sizes.outputs, depth, tile), 1.0, Target::Overwrite, (product, tile), 1);
            for ((out, product), bias) in band.planes.into_iter().zip(product.chunks(tile)).zip(bias) {
                for (out, product) in out.iter_mut().zip(product) {
                    let value = product + bias;
                    *out = if self.relu && value < 0.0 { 0.0 } else { value };
                }
            }
        });
    }

    /// The gradient to the weights.
    fn to_weight(&self, xs: &[f32], gradient: &[f32], batch: usize, sizes: &Sizes) -> Vec<f32> {
        self.direct(batch, sizes, |direct| direct.weight_gradient(xs, gradient))
    }

    fn direct<R>(&self, batch: usize, sizes: &Sizes, run: impl FnOnce(Direct<'_>) -> R) -> R {
        let Sizes { inputs, outputs, kernel, width, plane, .. } = *sizes;
        let stride = self.geometry.stride;
        let (rows, columns) = (self.rows.padded(stride), self.columns.padded(stride));
        let (rows, columns, height) = (&rows[..], &columns[..], plane / width.max(1));
        run(Direct { batch, inputs, outputs, height, width, kernel, stride, rows, columns })
    }

    /// The gradient to the picture: what a tile's patches get is added to the pixels they were gathered from.
    fn to_input(&self, weight: &[f32], gradient: &[f32], batch: usize, sizes: &Sizes) -> Vec<f32> {
        if self.geometry.stride == 1 && !self.is_pointwise(sizes) {
            return self.convolve_to_input(weight, gradient, batch, sizes);
        }
        let Sizes { inputs, outputs, kernel, width, plane, out_width, .. } = *sizes;
        let (depth, pixels) = (sizes.depth(), sizes.pixels());
        let mut to_xs = vec![0f32; batch * inputs * plane];
        let block = inputs.div_ceil(PIECES.div_ceil(batch.max(1)).min(inputs.max(1))).max(1);
        let mut tasks = Vec::new();
        for (image, to_xs) in to_xs.chunks_mut((inputs * plane).max(1)).enumerate() {
            for (index, to_xs) in to_xs.chunks_mut(block * plane).enumerate() {
                tasks.push((image, index * block, to_xs));
            }
        }
        tasks.into_par_iter().for_each_init(Vec::new, |patches, (image, channel, to_xs)| {
            let gradient = &gradient[image * outputs * pixels..][..outputs * pixels];
            let taps = to_xs.len() / plane * kernel * kernel;
            let left = Matrix { data: &weight[channel * kernel * kernel..], row: 1, column: depth };
            let rows = (TILE / (taps * out_width)).clamp(1, sizes.out_height);
            for first in (0..sizes.out_height).step_by(rows) {
                let tile = rows.min(sizes.out_height - first) * out_width;
                patches.resize(taps * tile, 0f32);
                let right = Matrix { data: &gradient[first * out_width..], row: pixels, column: 1 };
                multiply(left, right, (taps, outputs, tile), 1.0, Target::Overwrite, (patches, tile), 1);
                for (tap, patch) in patches.chunks(tile).enumerate() {
                    let (channel, dy, dx) = (tap / (kernel * kernel), tap / kernel % kernel, tap % kernel);
                    let to_xs = &mut to_xs[channel * plane..][..plane];
                    let (row, column) = (self.rows.tap(dy), self.columns.tap(dx));
                    for (y, patch) in patch.chunks(out_width).enumerate() {
                        if let Some(from) = row.source(first + y) {
                            column.scatter(patch, &mut to_xs[from * width..][..width]);
                        }
                    }
                }
            }
        });
        to_xs
    }
}

impl Conv {
    /// [`Conv::to_input`] as a convolution of the gradient.
    fn convolve_to_input(&self, weight: &[f32], gradient: &[f32], batch: usize, sizes: &Sizes) -> Vec<f32> {
        let Sizes { inputs, outputs, kernel, width, plane, out_height, out_width, .. } = *sizes;
        let convolve = |padding: usize| {
            let (rows, columns) = (zero_padded(out_height, padding), zero_padded(out_width, padding));
            if kernel != 3 {
                let (inputs, outputs, height, width, stride) = (outputs, inputs, out_height, out_width, 1);
                let (rows, columns) = (&rows[..], &columns[..]);
                let direct = Direct { batch, inputs, outputs, height, width, kernel, stride, rows, columns };
                return direct.run(gradient, weight, true, None, false);
            }
            Winograd {
                xs: gradient,
                batch,
                inputs: outputs,
                outputs: inputs,
                height: out_height,
                width: out_width,
                rows: &rows,
                columns: &columns,
                weight: Floats::Single(weight),
                turned: true,
                bias: None,
                relu: false,
            }
            .run()
        };
        if let Geometry { padding: Padding::Zeros(n), upsample: 1, .. } = self.geometry
            && n < kernel
        {
            return convolve(kernel - 1 - n);
        }
        // The gradient to the padded picture, added up where its pixels came from.
        let padded = convolve(kernel - 1);
        let (rows, columns) = (self.rows.padded(self.geometry.stride), self.columns.padded(self.geometry.stride));
        let mut to_xs = vec![0f32; batch * inputs * plane];
        let planes = to_xs.par_chunks_mut(plane.max(1)).zip(padded.par_chunks(rows.len() * columns.len()));
        let regular = longest_run(&columns);
        planes.for_each(|(to_xs, padded)| {
            for (&row, padded) in rows.iter().zip(padded.chunks_exact(columns.len())) {
                let Some(line) = to_xs.chunks_exact_mut(width).nth(row as usize) else { continue };
                fold(&columns, &regular, padded, line);
            }
        });
        to_xs
    }
}

/// Adds every value to the position it came from.
fn fold(columns: &[u32], regular: &std::ops::Range<usize>, values: &[f32], line: &mut [f32]) {
    let edges = (0..regular.start).chain(regular.end..columns.len());
    for (&column, value) in edges.map(|x| (&columns[x], values[x])) {
        if let Some(x) = line.get_mut(column as usize) {
            *x += value;
        }
    }
    if !regular.is_empty() {
        let start = columns[regular.start] as usize;
        for (x, value) in line[start..].iter_mut().zip(&values[regular.clone()]) {
            *x += value;
        }
    }
}

/// Cuts the result into bands of whole rows that can be written at the same time.
fn bands<'a>(out: &'a mut [f32], sizes: &Sizes) -> Vec<Band<'a>> {
    let rows = sizes.tile_rows();
    let mut bands = Vec::new();
    for (image, out) in out.chunks_mut((sizes.outputs * sizes.pixels()).max(1)).enumerate() {
        let start = bands.len();
        let firsts = (0..sizes.out_height).step_by(rows);
        bands.extend(firsts.map(|first| Band { image, first, planes: Vec::with_capacity(sizes.outputs) }));
        for plane in out.chunks_mut(sizes.pixels()) {
            for (band, rows) in bands[start..].iter_mut().zip(plane.chunks_mut(rows * sizes.out_width)) {
                band.planes.push(rows);
            }
        }
    }
    bands
}

/// The gradient to the bias: the sum over pixels and pictures.
fn to_bias(gradient: &[f32], sizes: &Sizes) -> Vec<f32> {
    let sums: Vec<f64> = gradient
        .par_chunks(sizes.pixels().max(1))
        .map(|plane| plane.chunks(1024).map(|block| f64::from(block.iter().sum::<f32>())).sum())
        .collect();
    (0..sizes.outputs).map(|channel| sums.iter().skip(channel).step_by(sizes.outputs).sum::<f64>() as f32).collect()
}

impl CustomOp3 for Conv {
    fn name(&self) -> &'static str {
        "trainable-conv2d"
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, sizes) = self.sizes(xs_layout.shape(), weight_layout.shape())?;
        let shape = Shape::from((batch, sizes.outputs, sizes.out_height, sizes.out_width));
        let (xs, weight) = (contiguous(xs, xs_layout)?, contiguous(weight, weight_layout)?);
        let out = self.forward(xs, weight, contiguous(bias, bias_layout)?, batch, &sizes);
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        out: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let passed = match self.relu {
            true => &out.contiguous()?.apply_op2_no_bwd(&gradient.contiguous()?, &Relu)?,
            false => gradient,
        };
        let (batch, sizes) = self.sizes(xs.shape(), weight.shape())?;
        // The photo has no use for a gradient, frozen weights have none either.
        let wanted = |tensor: &Tensor| tensor.track_op();
        with_floats(passed, |gradient| {
            let to_xs = wanted(xs).then(|| {
                let values = with_floats(weight, |weight| Ok(self.to_input(weight, gradient, batch, &sizes)))?;
                Tensor::from_vec(values, xs.shape(), xs.device())
            });
            let to_weight = wanted(weight).then(|| {
                let values = with_floats(xs, |xs| Ok(self.to_weight(xs, gradient, batch, &sizes)))?;
                Tensor::from_vec(values, weight.shape(), xs.device())
            });
            let to_bias = wanted(bias).then(|| Tensor::from_vec(to_bias(gradient, &sizes), sizes.outputs, xs.device()));
            Ok((to_xs.transpose()?, to_weight.transpose()?, to_bias.transpose()?))
        })
    }
}
