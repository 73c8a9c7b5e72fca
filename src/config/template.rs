//! The commented file that `wolfscale init` writes.

use std::path::PathBuf;

use super::{
    model::Member,
    setting::{Default, SECTIONS, SETTINGS, Setting},
};
use crate::types::NodeId;

/// Text columns of a comment.
const COMMENT_COLUMNS: usize = 90;

/// What the file is made for; everything else is written as a comment with its default.
#[derive(Clone, Debug)]
pub struct Template {
    /// The node.
    pub node_id: NodeId,
    /// The founding members; empty stands for this node alone.
    pub members: Vec<Member>,
    /// Where the cluster secret is.
    pub secret_file: PathBuf,
    /// Where the node keeps its stores.
    pub data_dir: PathBuf,
    /// Whether the node runs a database.
    pub db: bool,
}

/// A file with every setting, its help and its default.
pub fn commented_file(template: &Template) -> String {
    let mut text = String::from(
        "# WolfScale: the configuration of one node. Validate it with: wolfscale check --config FILE\n\
         # A line that is commented out shows the default, or an example where there is none.\n\
         # Durations: \"700ms\", \"3s\", \"5m\", \"1h\". Relative paths count from this file's directory.\n",
    );
    for (section, about) in SECTIONS {
        text.push_str(&format!("\n# {about}\n"));
        let out = if section == "db" && !template.db { "# " } else { "" };
        text.push_str(&format!("{out}[{section}]\n"));
        for setting in SETTINGS.iter().filter(|setting| setting.section() == section) {
            text.push_str(&entry(setting, template));
        }
    }
    text
}

fn entry(setting: &Setting, template: &Template) -> String {
    let mut text = String::new();
    for line in wrap(&setting.full_help().replace('`', ""), COMMENT_COLUMNS) {
        text.push_str(&format!("# {line}\n"));
    }
    if let Default::Unset(otherwise) = setting.default {
        text.push_str(&format!("# Unset: {}.\n", otherwise.replace('`', "")));
    }
    match chosen(setting, template) {
        Some(value) => text.push_str(&format!("{} = {value}\n", setting.name())),
        None => text.push_str(&format!("# {} = {}\n", setting.name(), setting.example)),
    }
    text
}

/// The value of a setting that the file sets.
fn chosen(setting: &Setting, template: &Template) -> Option<String> {
    let quoted =
        |text: &dyn std::fmt::Display| Some(toml::Value::from(text.to_string()).to_string());
    match setting.key {
        "node.id" => quoted(&template.node_id),
        "node.data_dir" => quoted(&template.data_dir.display()),
        "cluster.secret_file" => quoted(&template.secret_file.display()),
        "cluster.initial_members" => Some(members(template)),
        "db.socket" if template.db => Some(setting.example.to_owned()),
        _ => None,
    }
}

fn members(template: &Template) -> String {
    let alone = [Member { id: template.node_id.clone(), address: "127.0.0.1:8080".into() }];
    let members = if template.members.is_empty() { &alone[..] } else { &template.members };
    let line = |member: &Member| {
        format!("  {{ id = \"{}\", address = \"{}\" }},\n", member.id, member.address)
    };
    format!("[\n{}]", members.iter().map(line).collect::<String>())
}

/// Breaks a text at blanks.
fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last().map_or(0, |line| line.chars().count());
        if last > 0 && last + 1 + word.chars().count() > columns {
            lines.push(String::new());
        }
        let Some(line) = lines.last_mut() else { continue };
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines
}
