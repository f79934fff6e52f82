//! tower and hyper adapters of zerosink.
//!
//! The first room: [`tower`], a `Service` that makes sinks, so that they compose with tower's middleware.

#[cfg(feature = "tower")]
pub mod tower;
