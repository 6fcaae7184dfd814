//! Results that are written once. A vector of zeros is written twice, the first time by one thread alone, which on large
//! pictures took a tenth of a convolution.

#![allow(unsafe_code)]

use std::mem::{ManuallyDrop, MaybeUninit};

use rayon::prelude::*;

/// A place for a float.
pub(super) type Place = MaybeUninit<f32>;

/// Memory of any content for `length` floats.
pub(super) fn fresh(length: usize) -> Vec<Place> {
    let mut places = Vec::with_capacity(length);
    // SAFETY: the capacity is there, and a place need not hold anything.
    unsafe { places.set_len(length) };
    places
}

/// The floats in places that have all been written.
///
/// # Safety
/// Every place holds a float.
pub(super) unsafe fn written(places: Vec<Place>) -> Vec<f32> {
    let mut places = ManuallyDrop::new(places);
    // SAFETY: the same allocation, and a place is laid out as its float.
    unsafe { Vec::from_raw_parts(places.as_mut_ptr().cast(), places.len(), places.capacity()) }
}

/// `count` rows of `width` floats laid down by all threads, each row one value: those given, over and over.
pub(super) fn rows_of(values: &[f32], count: usize, width: usize) -> Vec<f32> {
    let mut places = fresh(count * width);
    if width > 0 {
        places.par_chunks_mut(width).enumerate().for_each(|(row, places)| {
            let value = values[row % values.len()];
            places.iter_mut().for_each(|place| _ = place.write(value));
        });
    }
    // SAFETY: every row has been written.
    unsafe { written(places) }
}

/// The same values `count` times over, laid down by all threads.
pub(super) fn repeated(values: &[f32], count: usize) -> Vec<f32> {
    let mut places = fresh(count * values.len());
    if !values.is_empty() {
        places.par_chunks_mut(values.len()).for_each(|places| write(places, values));
    }
    // SAFETY: every repetition has been written.
    unsafe { written(places) }
}

/// Zeros, laid down by all threads.
pub(super) fn zeros(length: usize) -> Vec<f32> {
    const PIECE: usize = 1 << 16;
    let mut places = fresh(length);
    places.par_chunks_mut(PIECE).for_each(|places| places.iter_mut().for_each(|place| _ = place.write(0.0)));
    // SAFETY: every piece has been written.
    unsafe { written(places) }
}

/// Floats as places to write to. Only floats are written there: [`write`].
pub(super) fn places(floats: &mut [f32]) -> &mut [Place] {
    // SAFETY: laid out alike; nothing in this crate writes less than a float to a place.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), floats.len()) }
}

/// Copies floats to places, as many as there are of both.
pub(super) fn write(to: &mut [Place], from: &[f32]) {
    for (to, &from) in to.iter_mut().zip(from) {
        to.write(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_become_the_floats_that_were_written() {
        let mut one = fresh(5);
        write(&mut one, &[1.0, 2.0, 3.0, 4.0, 5.0]);
        // SAFETY: five of five.
        assert_eq!(unsafe { written(one) }, [1.0, 2.0, 3.0, 4.0, 5.0]);
        let mut floats = [0.0; 3];
        write(&mut places(&mut floats)[1..], &[7.0, 8.0]);
        assert_eq!(floats, [0.0, 7.0, 8.0]);
        assert_eq!(rows_of(&[1.0, 2.0], 3, 2), [1.0, 1.0, 2.0, 2.0, 1.0, 1.0]);
        assert_eq!(repeated(&[1.0, 2.0], 2), [1.0, 2.0, 1.0, 2.0]);
        assert_eq!(zeros(70_000), vec![0.0; 70_000]);
        assert!(rows_of(&[1.0], 3, 0).is_empty() && repeated(&[], 3).is_empty() && zeros(0).is_empty());
        // SAFETY: none of none.
        assert!(unsafe { written(fresh(0)) }.is_empty());
    }
}
