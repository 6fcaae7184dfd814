//! Cutting a picture into tiles that a network can look at one after another.
//!
//! A tile owns some of the picture and sees a margin around that. Features that lie over what it owns are then the whole
//! picture's features, to the last bit of the arithmetic, because the margin is as wide as a feature can see. Their gradient
//! reaches into the margin, and is added to that of the neighbours: the sum is the whole picture's gradient. So there are no
//! seams, and nothing is blended.

use candle_core::Tensor;

use crate::error::Result;

/// Tiles begin at multiples of what the deepest block pools together.
const GRID: usize = 16;

/// A part of a picture: what it owns, and what it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    rows: Span,
    columns: Span,
}

/// The same along one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    /// Owned, from and up to.
    from: usize,
    to: usize,
    /// Seen, from and up to.
    first: usize,
    last: usize,
    /// Whether the picture ends here.
    is_end: bool,
}

impl Span {
    fn cut(side: usize, tile: usize, margin: usize) -> Vec<Self> {
        let (cells, per_tile) = (side.div_ceil(GRID), (tile / GRID).max(1));
        // A picture that fits with the margins it would have is not cut.
        let count = if side <= per_tile * GRID + 2 * margin { 1 } else { cells.div_ceil(per_tile) };
        let edge = |index: usize| (index * cells / count * GRID).min(side);
        (0..count)
            .map(|index| {
                let (from, to) = (edge(index), edge(index + 1));
                let (first, last) = (from.saturating_sub(margin), (to + margin).min(side));
                Self { from, to, first, last, is_end: to == side }
            })
            .collect()
    }

    /// What it owns of a map of `len` values whose stride is `stride`: from and how many. Relative to the tile.
    fn owned(self, stride: usize, len: usize) -> (usize, usize) {
        let from = (self.from - self.first) / stride;
        let to = if self.is_end { len } else { (self.to - self.first) / stride };
        (from, to.saturating_sub(from))
    }
}

impl Tile {
    /// The tiles of a picture; one, if both sides are short enough.
    pub(super) fn cut(height: usize, width: usize, tile: usize, margin: usize) -> Vec<Self> {
        let columns = Span::cut(width, tile, margin);
        let all = Span::cut(height, tile, margin).into_iter();
        all.flat_map(|rows| columns.iter().map(move |&columns| Self { rows, columns })).collect()
    }

    /// What it sees of the picture.
    pub(super) fn of(&self, image: &Tensor) -> Result<Tensor> {
        let rows = image.narrow(2, self.rows.first, self.rows.last - self.rows.first)?;
        Ok(rows.narrow(3, self.columns.first, self.columns.last - self.columns.first)?.contiguous()?)
    }

    /// The gradient to what it sees, as one to the picture of that size.
    pub(super) fn to_picture(self, gradient: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        let rows = gradient.pad_with_zeros(2, self.rows.first, height - self.rows.last)?;
        Ok(rows.pad_with_zeros(3, self.columns.first, width - self.columns.last)?)
    }

    /// The features over what it owns.
    pub(super) fn owned(&self, features: &Tensor, stride: usize) -> Result<Tensor> {
        let (_, _, height, width) = features.dims4()?;
        let (top, rows) = self.rows.owned(stride, height);
        let (left, columns) = self.columns.owned(stride, width);
        if (rows, columns) == (height, width) {
            return Ok(features.clone());
        }
        Ok(features.narrow(2, top, rows)?.narrow(3, left, columns)?.contiguous()?)
    }

    /// The gradient to those features, as one to all of the tile's.
    pub(super) fn to_tile(self, gradient: &Tensor, features: &Tensor, stride: usize) -> Result<Tensor> {
        let (_, _, height, width) = features.dims4()?;
        let (top, rows) = self.rows.owned(stride, height);
        let (left, columns) = self.columns.owned(stride, width);
        let gradient = gradient.pad_with_zeros(2, top, height - top - rows)?;
        Ok(gradient.pad_with_zeros(3, left, width - left - columns)?)
    }

    /// The part of a map over the whole picture that belongs to features of this size over what it owns.
    pub(super) fn of_map(&self, map: &Tensor, stride: usize, owned: &Tensor) -> Result<Tensor> {
        let (_, _, height, width) = owned.dims4()?;
        let rows = map.narrow(2, self.rows.from / stride, height)?;
        Ok(rows.narrow(3, self.columns.from / stride, width)?.contiguous()?)
    }
}

/// The block that a layer is in, by its name: `relu4_2` is in block 4.
pub(super) fn block(layer: &str) -> usize {
    layer.chars().find_map(|c| c.to_digit(10)).map_or(1, |block| block.clamp(1, 8) as usize)
}

/// Pixels between two features of a layer.
pub(super) fn stride(layer: &str) -> usize {
    1 << (block(layer) - 1)
}

/// How far a feature sees at most, in a network of VGG-19's depth, rounded up to the grid.
pub(super) fn margin<'a>(layers: impl Iterator<Item = &'a str>) -> usize {
    match layers.map(block).max().unwrap_or(1) {
        1 | 2 => 16,
        3 => 32,
        4 => 64,
        _ => 144,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_own_every_pixel_once_and_begin_on_the_grid() {
        for (side, tile, margin) in [(1000, 96, 64), (161, 64, 16), (40, 64, 16), (77, 16, 16), (2048, 768, 64)] {
            let spans = Span::cut(side, tile, margin);
            let mut next = 0;
            for span in &spans {
                assert_eq!(span.from, next);
                assert!(span.from % GRID == 0 && span.first % GRID == 0 && span.to > span.from);
                assert!(span.first == span.from.saturating_sub(margin) && span.last == (span.to + margin).min(side));
                next = span.to;
            }
            assert!(next == side && spans.last().unwrap().is_end);
        }
        assert_eq!(Tile::cut(500, 500, 768, 64).len(), 1);
        assert_eq!((block("relu4_2"), stride("relu4_2"), stride("narrow1_1")), (4, 8, 1));
    }
}
