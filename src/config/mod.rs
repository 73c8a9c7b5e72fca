//! What an operator sets, in one place.
//!
//! ```text
//! defaults ─▶ TOML file ─▶ environment (WOLFSCALE_…) ─▶ flags (--set KEY=VALUE) ─▶ validate ─▶ Config
//! ```
//!
//! - [`setting::SETTINGS`] declares every setting once: name, kind, default, help. The file's names,
//!   the environment's names, the commented file of `wolfscale init` and `docs/configuration.md` all
//!   come from it.
//! - Unknown names are refused with the nearest known one; contradictions with what to write instead.
//!   All problems are told at once ([`Invalid`]).
//! - Secrets come from files or the environment, never from arguments, and are never shown.
//!
//! A [`Config`] is validated: whoever holds one checks nothing again. This module opens no store, no
//! socket and no connection; it reads the file and the secrets' files.

mod docs;
mod layers;
mod load;
mod model;
mod problem;
mod reader;
mod secret;
mod setting;
mod template;
mod timing;
mod validate;
mod value;

pub use docs::markdown;
pub use load::{Loaded, Sources, load};
pub use model::{
    Api, Cluster, Config, Control, ControlCommands, Db, DbAddress, DbUser, Http, Listen, Log,
    LogFormat, Member, Node, Policy,
};
pub use problem::{Invalid, Problem, Warning};
pub use secret::{SECRET_BYTES_MIN, Secret, SecretError, random_secret};
pub use setting::{Kind, SETTINGS, Setting};
pub use template::{Template, commented_file};
pub use timing::Timing;
pub use value::{InvalidDuration, InvalidSize, parse_duration, parse_size, show_duration};
