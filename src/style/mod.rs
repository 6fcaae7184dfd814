//! Style transfer without a net of its own: colours, statistics of features, losses with their gradients.

pub mod colour;
