//! `wolfctl db …`

pub mod configure;
pub mod diagnose;
