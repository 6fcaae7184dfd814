//! Style transfer without a net of its own: colours, statistics of features, losses with their gradients, optimisation.

pub mod anchor;
pub mod colour;
pub mod gatys;
pub mod loss;
pub mod statistics;
mod transport;
