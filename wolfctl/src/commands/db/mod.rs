//! `wolfctl db …`

pub mod configure;
pub mod diagnose;
pub mod rebuilt;
