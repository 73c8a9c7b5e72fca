//! `wolfctl list …`

pub mod servers;
