//! Three by three matrices: what the covariance of a picture's colours needs.

/// Rows of columns.
pub type Matrix3 = [[f64; 3]; 3];

/// The least eigenvalue that a power is taken of.
pub const TINY: f64 = 1e-8;

/// The matrix product.
pub fn product(left: Matrix3, right: Matrix3) -> Matrix3 {
    let mut out = [[0.0; 3]; 3];
    for (row, left) in out.iter_mut().zip(left) {
        for (column, value) in row.iter_mut().enumerate() {
            *value = (0..3).map(|k| left[k] * right[k][column]).sum();
        }
    }
    out
}

/// A power of a symmetric positive matrix, by Jacobi's rotations. Where the matrix has next to nothing in a direction, [`TINY`] stands for
/// it.
pub fn power(mut matrix: Matrix3, exponent: f64) -> Matrix3 {
    let mut vectors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    // Each sweep squares what is left beside the diagonal; ten are plenty.
    for _ in 0..10 {
        for (p, q) in [(0, 1), (0, 2), (1, 2)] {
            if matrix[p][q].abs() < 1e-300 {
                continue;
            }
            let theta = (matrix[q][q] - matrix[p][p]) / (2.0 * matrix[p][q]);
            let tangent = theta.signum() / (theta.abs() + theta.hypot(1.0));
            let cosine = 1.0 / tangent.hypot(1.0);
            let sine = tangent * cosine;
            let mut rotation = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
            (rotation[p][p], rotation[q][q], rotation[p][q], rotation[q][p]) = (cosine, cosine, sine, -sine);
            matrix = product(product(transposed(rotation), matrix), rotation);
            vectors = product(vectors, rotation);
        }
    }
    let mut scaled = vectors;
    for row in &mut scaled {
        for (k, value) in row.iter_mut().enumerate() {
            *value *= matrix[k][k].max(TINY).powf(exponent);
        }
    }
    product(scaled, transposed(vectors))
}

fn transposed(matrix: Matrix3) -> Matrix3 {
    [0, 1, 2].map(|row| [0, 1, 2].map(|column| matrix[column][row]))
}
