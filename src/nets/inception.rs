//! Inception v3 up to its last pool: a picture to the 2048 features that sets of pictures are compared by.
//!
//! Two flavours are known. pytorch-fid's is the one FID is defined with (Google's of 2015, ported): pictures are resized to
//! 299 x 299 and brought to -1..1, averages leave out what lies beyond the edge, and the last block takes maxima. ArtFID's is
//! torchvision's structure with two heads, trained on paintings: pictures go in as they are, from 0 to 1. Batch norms are
//! folded into the convolutions before them.
//!
//! Szegedy et al., "Rethinking the inception architecture for computer vision", 2015; pytorch-fid 0.3.0; art-fid 0.0.2.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::ops::{Conv2d, Resample};

/// Whose weights these are: this decides how pictures are prepared and how edges are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// FID's, as pytorch-fid has it.
    Fid,
    /// ArtFID's.
    Art,
}

impl Flavour {
    /// Tells the flavours by the heads: ArtFID's has two.
    pub fn detect(contains: impl Fn(&str) -> bool) -> Option<Self> {
        if !contains("Mixed_7c.branch_pool.conv.weight") {
            return None;
        }
        Some(if contains("fc1.weight") && contains("fc2.weight") { Self::Art } else { Self::Fid })
    }
}

/// The smallest side of a picture that ArtFID's flavour takes; FID's takes any.
pub const LEAST_SIDE: usize = 75;
const FID_SIDE: usize = 299;
const NORM_EPS: f64 = 1e-3;

/// Kernel and padding, down and across.
type Reach = ((usize, usize), (usize, usize));
const ONE: Reach = ((1, 1), (0, 0));
const THREE: Reach = ((3, 3), (1, 1));
const THREE_INSIDE: Reach = ((3, 3), (0, 0));
const FIVE: Reach = ((5, 5), (2, 2));
const ACROSS_3: Reach = ((1, 3), (0, 1));
const DOWN_3: Reach = ((3, 1), (1, 0));
const ACROSS_7: Reach = ((1, 7), (0, 3));
const DOWN_7: Reach = ((7, 1), (3, 0));

/// A convolution, its batch norm and a rectifier.
#[derive(Debug, Clone)]
enum Unit {
    Square(Conv2d),
    Oblong { weight: Tensor, bias: Tensor, padding: (usize, usize) },
}

impl Unit {
    fn new(vb: &VarBuilder<'_>, name: &str, (kernel, padding): Reach, stride: usize) -> Result<Self> {
        let (conv, norm) = (vb.pp(name).pp("conv"), vb.pp(name).pp("bn"));
        let weight = conv.get_unchecked("weight")?;
        let (outputs, inputs, _, _) = weight.dims4()?;
        let weight = conv.get((outputs, inputs, kernel.0, kernel.1), "weight")?;
        let get = |name| norm.get(outputs, name);
        let scale = (get("weight")? / (get("running_var")? + NORM_EPS)?.sqrt()?)?;
        let bias = (get("bias")? - (get("running_mean")? * &scale)?)?;
        let weight = weight.broadcast_mul(&scale.reshape((outputs, 1, 1, 1))?)?;
        Ok(if kernel.0 == kernel.1 {
            Self::Square(Conv2d::from_tensors(weight, Some(bias), stride, padding.0))
        } else {
            Self::Oblong { weight, bias: bias.reshape((1, outputs, 1, 1))?, padding }
        })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        match self {
            Self::Square(conv) => conv.forward_relu(xs),
            Self::Oblong { weight, bias, padding: (down, across) } => {
                let xs = xs.pad_with_zeros(2, *down, *down)?.pad_with_zeros(3, *across, *across)?;
                Ok(xs.conv2d(weight, 0, 1, 1, 1)?.broadcast_add(bias)?.relu()?)
            }
        }
    }
}

/// Units one after the other; where there is a pair, both take the result and stand side by side.
#[derive(Debug, Clone)]
struct Branch {
    units: Vec<Unit>,
    pair: Option<[Unit; 2]>,
}

impl Branch {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let mut xs = xs.clone();
        for unit in &self.units {
            xs = unit.forward(&xs)?;
        }
        match &self.pair {
            None => Ok(xs),
            Some([first, second]) => Ok(Tensor::cat(&[first.forward(&xs)?, second.forward(&xs)?], 1)?),
        }
    }
}

/// What the pooling branch of a block takes of its windows of 3 x 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pool {
    /// Averages, zeros beyond the edge counted.
    Average,
    /// Averages of what is there.
    AverageInside,
    /// Maxima.
    Max,
    /// Maxima of every other window, without what lies beyond the edge.
    Halve,
}

impl Pool {
    fn forward(self, xs: &Tensor) -> Result<Tensor> {
        if self == Self::Halve {
            return Ok(xs.max_pool2d_with_stride(3, 2)?);
        }
        let padded = |xs: &Tensor| xs.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1);
        if self == Self::Max {
            // After a rectifier a zero is never more than what is there.
            return Ok(padded(xs)?.max_pool2d_with_stride(3, 1)?);
        }
        let averages = padded(xs)?.avg_pool2d_with_stride(3, 1)?;
        if self == Self::Average {
            return Ok(averages);
        }
        let (_, _, height, width) = xs.dims4()?;
        let there = padded(&Tensor::ones((1, 1, height, width), xs.dtype(), xs.device())?)?;
        Ok(averages.broadcast_div(&there.avg_pool2d_with_stride(3, 1)?)?)
    }
}

/// Branches side by side, the pooling one last.
#[derive(Debug, Clone)]
struct Block {
    branches: Vec<Branch>,
    pool: Pool,
    after_pool: Option<Unit>,
}

impl Block {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let mut found = self.branches.iter().map(|branch| branch.forward(xs)).collect::<Result<Vec<_>>>()?;
        let pooled = self.pool.forward(xs)?;
        found.push(match &self.after_pool {
            Some(unit) => unit.forward(&pooled)?,
            None => pooled,
        });
        Ok(Tensor::cat(&found, 1)?)
    }

    /// Each branch is its name and the units `name_1`, `name_2`, ..; a branch of one unit has no number.
    fn new(vb: &VarBuilder<'_>, branches: &[(&str, &[(Reach, usize)])], pool: Pool) -> Result<Self> {
        let mut built = Vec::new();
        for (name, units) in branches {
            let named = |number: usize| if units.len() == 1 { (*name).to_owned() } else { format!("{name}_{number}") };
            let unit = |(at, &(reach, stride)): (usize, &(Reach, usize))| Unit::new(vb, &named(at + 1), reach, stride);
            built.push(Branch { units: units.iter().enumerate().map(unit).collect::<Result<_>>()?, pair: None });
        }
        let after_pool = (pool != Pool::Halve).then(|| Unit::new(vb, "branch_pool", ONE, 1)).transpose()?;
        Ok(Self { branches: built, pool, after_pool })
    }

    fn a(vb: &VarBuilder<'_>, pool: Pool) -> Result<Self> {
        let triple: &[_] = &[(ONE, 1), (THREE, 1), (THREE, 1)];
        let branches: [(&str, &[_]); 3] =
            [("branch1x1", &[(ONE, 1)]), ("branch5x5", &[(ONE, 1), (FIVE, 1)]), ("branch3x3dbl", triple)];
        Self::new(vb, &branches, pool)
    }

    fn b(vb: &VarBuilder<'_>) -> Result<Self> {
        let triple: &[_] = &[(ONE, 1), (THREE, 1), (THREE_INSIDE, 2)];
        Self::new(vb, &[("branch3x3", &[(THREE_INSIDE, 2)]), ("branch3x3dbl", triple)], Pool::Halve)
    }

    fn c(vb: &VarBuilder<'_>, pool: Pool) -> Result<Self> {
        let twice: &[_] = &[(ONE, 1), (DOWN_7, 1), (ACROSS_7, 1), (DOWN_7, 1), (ACROSS_7, 1)];
        let branches: [(&str, &[_]); 3] = [
            ("branch1x1", &[(ONE, 1)]),
            ("branch7x7", &[(ONE, 1), (ACROSS_7, 1), (DOWN_7, 1)]),
            ("branch7x7dbl", twice),
        ];
        Self::new(vb, &branches, pool)
    }

    fn d(vb: &VarBuilder<'_>) -> Result<Self> {
        let long: &[_] = &[(ONE, 1), (ACROSS_7, 1), (DOWN_7, 1), (THREE_INSIDE, 2)];
        Self::new(vb, &[("branch3x3", &[(ONE, 1), (THREE_INSIDE, 2)]), ("branch7x7x3", long)], Pool::Halve)
    }

    fn e(vb: &VarBuilder<'_>, pool: Pool) -> Result<Self> {
        let mut block = Self::new(vb, &[("branch1x1", &[(ONE, 1)])], pool)?;
        for (units, pair) in [
            (&[("branch3x3_1", ONE)][..], ["branch3x3_2a", "branch3x3_2b"]),
            (&[("branch3x3dbl_1", ONE), ("branch3x3dbl_2", THREE)], ["branch3x3dbl_3a", "branch3x3dbl_3b"]),
        ] {
            let units = units.iter().map(|(name, reach)| Unit::new(vb, name, *reach, 1)).collect::<Result<_>>()?;
            let pair = Some([Unit::new(vb, pair[0], ACROSS_3, 1)?, Unit::new(vb, pair[1], DOWN_3, 1)?]);
            block.branches.push(Branch { units, pair });
        }
        Ok(block)
    }
}

/// Inception v3 without its heads.
#[derive(Debug, Clone)]
pub struct Inception {
    flavour: Flavour,
    stem: Vec<(Unit, bool)>,
    blocks: Vec<Block>,
}

impl Inception {
    /// Loads the layers up to the last pool.
    ///
    /// # Errors
    /// When a tensor is missing or misshapen.
    pub fn new(flavour: Flavour, vb: VarBuilder<'_>) -> Result<Self> {
        let vb = vb.set_dtype(DType::F32);
        let mut stem = Vec::new();
        for (name, reach, stride, pooled) in [
            ("Conv2d_1a_3x3", THREE_INSIDE, 2, false),
            ("Conv2d_2a_3x3", THREE_INSIDE, 1, false),
            ("Conv2d_2b_3x3", THREE, 1, true),
            ("Conv2d_3b_1x1", ONE, 1, false),
            ("Conv2d_4a_3x3", THREE_INSIDE, 1, true),
        ] {
            stem.push((Unit::new(&vb, name, reach, stride)?, pooled));
        }
        let (average, last) = match flavour {
            Flavour::Fid => (Pool::AverageInside, Pool::Max),
            Flavour::Art => (Pool::Average, Pool::Average),
        };
        let mut blocks = Vec::new();
        for name in ["Mixed_5b", "Mixed_5c", "Mixed_5d"] {
            blocks.push(Block::a(&vb.pp(name), average)?);
        }
        blocks.push(Block::b(&vb.pp("Mixed_6a"))?);
        for name in ["Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"] {
            blocks.push(Block::c(&vb.pp(name), average)?);
        }
        blocks.push(Block::d(&vb.pp("Mixed_7a"))?);
        blocks.push(Block::e(&vb.pp("Mixed_7b"), average)?);
        blocks.push(Block::e(&vb.pp("Mixed_7c"), last)?);
        Ok(Self { flavour, stem, blocks })
    }

    /// Whose weights these are.
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// The features `[batch, 2048]` of pictures `[batch, 3, height, width]`, RGB from 0 to 1, on the weights' device.
    ///
    /// # Errors
    /// When ArtFID's flavour is given a side below [`LEAST_SIDE`].
    pub fn features(&self, image: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = image.dims4()?;
        let mut xs = match self.flavour {
            Flavour::Fid => (Resample::Bilinear.apply(image, FID_SIDE, FID_SIDE)?.affine(2.0, -1.0))?,
            Flavour::Art if height.min(width) < LEAST_SIDE => {
                let reason = format!("{width} x {height} pixels are too few for Inception");
                return Err(Error::usage("picture", reason).with_hint(format!("it needs {LEAST_SIDE} a side")));
            }
            Flavour::Art => image.clone(),
        };
        for (unit, pooled) in &self.stem {
            xs = unit.forward(&xs)?;
            if *pooled {
                xs = Pool::Halve.forward(&xs)?;
            }
        }
        for block in &self.blocks {
            xs = block.forward(&xs)?;
        }
        Ok(xs.mean((2, 3))?)
    }
}
