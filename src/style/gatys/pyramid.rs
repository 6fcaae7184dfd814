//! The sizes that a picture is painted at, from coarse to fine: large forms are found where they are small, and each larger
//! size only adds its detail.

/// The shortest side of a smaller size: below it the deep layers see nothing.
const SHORTEST: f64 = 32.0;

/// Sizes `(width, height)`, each about 1.4 times the one before, the last the full one; no long side below `smallest`, which is 0
/// for the full size alone.
pub(super) fn sizes(width: u32, height: u32, smallest: u32) -> Vec<(u32, u32)> {
    let long = width.max(height);
    let mut sizes = vec![(width, height)];
    if smallest == 0 {
        return sizes;
    }
    for level in 1.. {
        let shrink = 2f64.powf(-f64::from(level) / 2.0);
        let is_small = |side: u32, least: f64| (f64::from(side) * shrink).round() < least;
        if is_small(long, f64::from(smallest)) || is_small(width.min(height), SHORTEST) {
            break;
        }
        let side = |side: u32| ((f64::from(side) * shrink).round() as u32).max(1);
        sizes.push((side(width), side(height)));
    }
    sizes.reverse();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_grow_to_the_full_one() {
        assert_eq!(sizes(512, 256, 128), [(128, 64), (181, 91), (256, 128), (362, 181), (512, 256)]);
        assert_eq!(sizes(100, 80, 128), [(100, 80)]);
        assert_eq!(sizes(512, 256, 0), [(512, 256)]);
        assert_eq!(sizes(20000, 40, 128), [(20000, 40)]);
    }
}
