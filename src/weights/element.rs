//! What the elements of a tensor are in a file, and how they become those of a [`Tensor`].
//!
//! Half precision is converted in small blocks by the processor's own instructions where it has them (the `half` crate),
//! and large tensors on all threads. Must not know where the bytes come from.

use candle_core::{DType, Device, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::error::Result;

/// Elements per parallel piece: handing a bias to other threads takes longer than converting it.
const PIECE: usize = 1 << 16;

/// Elements per block on the stack.
const BLOCK: usize = 256;

/// What one element is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    Bool,
    U8,
    I8,
    F8E4M3,
    F8E5M2,
    U16,
    I16,
    F16,
    Bf16,
    U32,
    I32,
    F32,
    U64,
    I64,
    F64,
}

impl Element {
    /// Bytes per element.
    pub(crate) fn size(self) -> u64 {
        match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E4M3 | Self::F8E5M2 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The narrowest tensor type that holds every value.
    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::Bool | Self::U8 => DType::U8,
            Self::I8 | Self::I16 => DType::I16,
            Self::F8E4M3 => DType::F8E4M3,
            Self::F8E5M2 | Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
            Self::U16 | Self::U32 => DType::U32,
            Self::I32 => DType::I32,
            Self::F32 => DType::F32,
            Self::U64 | Self::I64 => DType::I64,
            Self::F64 => DType::F64,
        }
    }
}

/// Bytes of the file to a tensor of the wanted type on the CPU, in one pass where it matters.
pub(crate) fn convert(bytes: &[u8], element: Element, shape: &[usize], dtype: DType) -> Result<Tensor> {
    let cpu = &Device::Cpu;
    let tensor = match (element, dtype) {
        (Element::F16, DType::F32) => Tensor::from_vec(pieces(bytes, f16_to_f32), shape, cpu)?,
        (Element::Bf16, DType::F32) => Tensor::from_vec(pieces(bytes, bf16_to_f32), shape, cpu)?,
        (Element::F32, DType::F16) => Tensor::from_vec(pieces(bytes, f32_to_f16), shape, cpu)?,
        (Element::F32, DType::BF16) => Tensor::from_vec(pieces(bytes, f32_to_bf16), shape, cpu)?,
        (Element::F64, DType::F32) => Tensor::from_vec(
            pieces(bytes, |bytes, out| each(bytes, out, |b| f64::from_le_bytes(b) as f32)),
            shape,
            cpu,
        )?,
        // The rarer kinds are widened first and left to candle's own casts.
        (Element::I8, _) => {
            let wide: Vec<i16> = bytes.iter().map(|&b| i16::from(b as i8)).collect();
            Tensor::from_vec(wide, shape, cpu)?
        }
        (Element::U16, _) => Tensor::from_vec(
            pieces(bytes, |bytes, out| each(bytes, out, |b| u32::from(u16::from_le_bytes(b)))),
            shape,
            cpu,
        )?,
        (Element::U64, _) => {
            let wide = |b| i64::try_from(u64::from_le_bytes(b)).unwrap_or(i64::MAX);
            Tensor::from_vec(pieces(bytes, |bytes, out| each(bytes, out, wide)), shape, cpu)?
        }
        (Element::F8E5M2, _) => {
            // The upper byte of an f16.
            let wide: Vec<f16> = bytes.iter().map(|&b| f16::from_bits(u16::from(b) << 8)).collect();
            Tensor::from_vec(wide, shape, cpu)?
        }
        _ => Tensor::from_raw_buffer(bytes, element.dtype(), shape, cpu)?,
    };
    Ok(if tensor.dtype() == dtype { tensor } else { tensor.to_dtype(dtype)? })
}

/// Converts a large array on all threads. The element sizes follow from the types.
fn pieces<const N: usize, T: Copy + Default + Send + Sync>(
    bytes: &[u8],
    convert: impl Fn(&[[u8; N]], &mut [T]) + Sync,
) -> Vec<T> {
    let (elements, _) = bytes.as_chunks::<N>();
    let mut out = vec![T::default(); elements.len()];
    if elements.len() <= PIECE {
        convert(elements, &mut out);
    } else {
        out.par_chunks_mut(PIECE).zip(elements.par_chunks(PIECE)).for_each(|(out, elements)| convert(elements, out));
    }
    out
}

fn each<const N: usize, T>(bytes: &[[u8; N]], out: &mut [T], f: impl Fn([u8; N]) -> T) {
    for (out, &element) in out.iter_mut().zip(bytes) {
        *out = f(element);
    }
}

fn f16_to_f32(bytes: &[[u8; 2]], out: &mut [f32]) {
    let mut block = [f16::ZERO; BLOCK];
    for (bytes, out) in bytes.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
        let block = &mut block[..bytes.len()];
        each(bytes, block, f16::from_le_bytes);
        block.convert_to_f32_slice(out);
    }
}

fn f32_to_f16(bytes: &[[u8; 4]], out: &mut [f16]) {
    let mut block = [0f32; BLOCK];
    for (bytes, out) in bytes.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
        let block = &mut block[..bytes.len()];
        each(bytes, block, f32::from_le_bytes);
        out.convert_from_f32_slice(block);
    }
}

fn bf16_to_f32(bytes: &[[u8; 2]], out: &mut [f32]) {
    // The upper half of an f32.
    each(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16));
}

fn f32_to_bf16(bytes: &[[u8; 4]], out: &mut [bf16]) {
    each(bytes, out, |b| {
        let bits = u32::from_le_bytes(b);
        // To nearest, ties to even; a NaN stays one.
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let nan = (bits >> 16) | 0x40;
        bf16::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded } as u16)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_agree_with_half() {
        // Every f16 and bf16, and f32 around every rounding boundary of both.
        let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (element, exact) in [
            (Element::F16, (|bits| f16::from_bits(bits).to_f32()) as fn(u16) -> f32),
            (Element::Bf16, |bits| bf16::from_bits(bits).to_f32()),
        ] {
            let found = convert(&halves, element, &[1 << 16], DType::F32).unwrap().to_vec1::<f32>().unwrap();
            for (bits, found) in (0..=u16::MAX).zip(found) {
                let exact = exact(bits);
                assert!(exact == found || exact.is_nan() && found.is_nan(), "{element:?} {bits:04x}");
            }
        }
        let singles: Vec<f32> = (0..=u16::MAX)
            .flat_map(|bits| {
                let near = |f: f32| [f.to_bits().wrapping_sub(1), f.to_bits(), f.to_bits().wrapping_add(1)];
                let (a, b) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits.wrapping_add(1)).to_f32());
                let c = u32::from(bits) << 16 | 0x8000;
                [near(a), near((a + b) / 2.0), [c - 1, c, c + 1]].concat()
            })
            .map(f32::from_bits)
            .collect();
        let bytes: Vec<u8> = singles.iter().flat_map(|f| f.to_le_bytes()).collect();
        let f16s = convert(&bytes, Element::F32, &[singles.len()], DType::F16).unwrap().to_vec1::<f16>().unwrap();
        let bf16s = convert(&bytes, Element::F32, &[singles.len()], DType::BF16).unwrap().to_vec1::<bf16>().unwrap();
        for ((single, a), b) in singles.iter().zip(f16s).zip(bf16s) {
            let (x, y) = (f16::from_f32(*single), bf16::from_f32(*single));
            assert!(x == a || x.is_nan() && a.is_nan(), "{single:e}");
            assert!(y == b || y.is_nan() && b.is_nan(), "{single:e}");
        }
    }
}
