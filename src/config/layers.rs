//! Brings file, environment and flags together: the later wins; unknown names are refused.

use std::collections::BTreeMap;

use super::{
    problem::Problem,
    setting::{Kind, SECTIONS, SETTINGS, Setting, secret_variables},
};

/// How unlike two names may be to be suggested: 0 is nothing in common, 1 is equal.
const LIKENESS_MIN: f64 = 0.6;

/// Where a value came from, for messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The file.
    File,
    /// This variable.
    Environment(String),
    /// `--set`.
    Flag,
}

/// What was set, by key, before types are looked at.
#[derive(Default, Debug)]
pub struct Layers {
    /// Values by `section.name`.
    pub values: BTreeMap<&'static str, (toml::Value, Origin)>,
    /// Whether the file has a `[db]` section, even an empty one.
    pub db_section: bool,
}

impl Layers {
    /// Adds the file's values.
    pub fn add_file(&mut self, text: &str, problems: &mut Vec<Problem>) {
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                let message = error.to_string().trim_end().to_owned();
                problems.push(Problem::new("configuration file", format!("not TOML: {message}")));
                return;
            }
        };
        for (section, content) in table {
            self.add_section(&section, content, problems);
        }
    }

    fn add_section(&mut self, section: &str, content: toml::Value, problems: &mut Vec<Problem>) {
        let toml::Value::Table(content) = content else {
            return problems.push(misplaced(section));
        };
        if !SECTIONS.iter().any(|(name, _)| *name == section) {
            return problems.push(unknown_section(section));
        }
        self.db_section |= section == "db";
        for (name, value) in content {
            let key = format!("{section}.{name}");
            match Setting::named(&key) {
                Some(setting) => drop(self.values.insert(setting.key, (value, Origin::File))),
                None => problems.push(unknown_key(&key)),
            }
        }
    }

    /// Adds the environment's values; other variables than settings of a known section are not ours.
    pub fn add_environment(
        &mut self,
        variables: &BTreeMap<String, String>,
        problems: &mut Vec<Problem>,
    ) {
        for (name, text) in variables {
            if secret_variables().any(|secret| secret == name) {
                continue;
            }
            let origin = Origin::Environment(name.clone());
            match SETTINGS.iter().find(|setting| setting.variable() == *name) {
                Some(setting) => self.add_text(setting, text, origin, problems),
                None if in_a_section(name) => problems.push(unknown_variable(name)),
                None => {}
            }
        }
    }

    /// Adds `section.name=value` flags.
    pub fn add_flags(&mut self, flags: &[String], problems: &mut Vec<Problem>) {
        for flag in flags {
            let Some((key, text)) = flag.split_once('=') else {
                let what = "write --set SECTION.NAME=VALUE, such as --set log.level=debug";
                problems.push(Problem::new(format!("--set {flag}"), what));
                continue;
            };
            match Setting::named(key.trim()) {
                Some(setting) => self.add_text(setting, text, Origin::Flag, problems),
                None => problems.push(unknown_key(key.trim())),
            }
        }
    }

    fn add_text(
        &mut self,
        setting: &'static Setting,
        text: &str,
        origin: Origin,
        problems: &mut Vec<Problem>,
    ) {
        match from_text(setting.kind, text) {
            Ok(value) => drop(self.values.insert(setting.key, (value, origin))),
            Err(what) => problems.push(Problem::new(setting.key, what)),
        }
    }
}

/// A value out of a variable or a flag.
fn from_text(kind: Kind, text: &str) -> Result<toml::Value, String> {
    match kind {
        Kind::Bool => text
            .parse()
            .map(toml::Value::Boolean)
            .map_err(|_| format!("{text:?} is neither true nor false")),
        Kind::Number => text
            .parse()
            .map(toml::Value::Integer)
            .map_err(|_| format!("{text:?} is not a whole number")),
        Kind::Command => format!("value = {text}")
            .parse::<toml::Table>()
            .ok()
            .and_then(|mut table| table.remove("value"))
            .ok_or_else(|| format!("{text:?} is not a list: write [\"program\", \"argument\"]")),
        Kind::Members => members_from_text(text),
        _ => Ok(toml::Value::String(text.to_owned())),
    }
}

fn members_from_text(text: &str) -> Result<toml::Value, String> {
    let member = |part: &str| {
        let (id, address) = part.trim().split_once('=').ok_or_else(|| {
            format!("{part:?} is not a member: write node-1=host:port,node-2=host:port")
        })?;
        let mut table = toml::Table::new();
        table.insert("id".into(), id.trim().into());
        table.insert("address".into(), address.trim().into());
        Ok(toml::Value::Table(table))
    };
    text.split(',').map(member).collect::<Result<Vec<_>, String>>().map(toml::Value::Array)
}

fn in_a_section(variable: &str) -> bool {
    SECTIONS
        .iter()
        .any(|(section, _)| variable.starts_with(&format!("WOLFSCALE_{}_", section.to_uppercase())))
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (strsim::normalized_damerau_levenshtein(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

fn unknown_section(section: &str) -> Problem {
    let names = SECTIONS.iter().map(|(name, _)| *name);
    let instead = match nearest(section, names.clone()) {
        Some(near) => format!("did you mean [{near}]?"),
        None => format!("the sections are {}", names.collect::<Vec<_>>().join(", ")),
    };
    Problem::new(format!("[{section}]"), format!("there is no such section; {instead}"))
}

/// A setting outside all sections.
fn misplaced(name: &str) -> Problem {
    let home = SETTINGS.iter().find(|setting| setting.name() == name);
    let instead = match home {
        Some(setting) => format!("write it below [{}]", setting.section()),
        None => "every setting stands in a section, such as [node]".to_owned(),
    };
    Problem::new(name, format!("it stands outside all sections; {instead}"))
}

fn unknown_key(key: &str) -> Problem {
    if let Some(what) = secret_in_the_open(key) {
        return Problem::new(key, what);
    }
    let (section, name) = key.split_once('.').unwrap_or(("", key));
    let in_section = SETTINGS.iter().filter(|s| s.section() == section).map(|s| s.name());
    if let Some(near) = nearest(name, in_section) {
        let what = format!("there is no such setting; did you mean {section}.{near}?");
        return Problem::new(key, what);
    }
    let elsewhere = SETTINGS.iter().find(|s| s.name() == name).map(|s| s.key);
    let near = elsewhere.or_else(|| nearest(key, SETTINGS.iter().map(|s| s.key)));
    let instead = match near {
        Some(near) => format!("did you mean {near}?"),
        None => "docs/configuration.md lists all settings".to_owned(),
    };
    Problem::new(key, format!("there is no such setting; {instead}"))
}

/// A secret written where its file's name belongs.
fn secret_in_the_open(key: &str) -> Option<String> {
    let file = format!("{key}_file");
    let setting = Setting::named(&file)?;
    let Kind::SecretFile(variable) = setting.kind else { return None };
    Some(format!(
        "secrets are not written here; put it into a file (chmod 600) and set {file}, or set {variable}"
    ))
}

fn unknown_variable(name: &str) -> Problem {
    let secrets = secret_variables().map(str::to_owned);
    let known: Vec<_> = SETTINGS.iter().map(Setting::variable).chain(secrets).collect();
    let instead = match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None => "docs/configuration.md lists all variables".to_owned(),
    };
    Problem::new(name, format!("no setting has this variable; {instead}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems_of(text: &str) -> Vec<String> {
        let mut problems = Vec::new();
        Layers::default().add_file(text, &mut problems);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn unknown_names_come_back_with_the_nearest() {
        for (text, expected) in [
            ("[cluster]\nheartbeet = 1", "did you mean cluster.heartbeat?"),
            ("[clutser]\nheartbeat = 1", "did you mean [cluster]?"),
            ("[node]\nheartbeat = 1", "did you mean cluster.heartbeat?"),
            ("id = \"n1\"", "write it below [node]"),
            (
                "[cluster]\nsecret = \"x\"",
                "set cluster.secret_file, or set WOLFSCALE_CLUSTER_SECRET",
            ),
            ("[db]\npassword = \"x\"", "set db.password_file"),
            ("[db]\nzzz = 1", "docs/configuration.md"),
        ] {
            let problems = problems_of(text);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains(expected), "{problems:?} has no {expected:?}");
        }
    }

    #[test]
    fn the_later_layer_wins() {
        let (mut layers, mut problems) = (Layers::default(), Vec::new());
        layers.add_file("[log]\nlevel = \"info\"\nformat = \"text\"", &mut problems);
        let environment = [
            ("WOLFSCALE_LOG_LEVEL", "debug"),
            ("WOLFSCALE_LOG_FORMAT", "json"),
            ("WOLFSCALE_TARGET_DIR", "/x"),
            ("WOLFSCALE_CLUSTER_SECRET", "0123456789abcdef"),
        ];
        let environment = environment.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        layers.add_environment(&environment, &mut problems);
        layers.add_flags(&["log.level=trace".to_owned()], &mut problems);
        assert_eq!(problems, []);
        assert_eq!(layers.values["log.level"], ("trace".into(), Origin::Flag));
        let json = Origin::Environment("WOLFSCALE_LOG_FORMAT".into());
        assert_eq!(layers.values["log.format"], ("json".into(), json));
    }

    #[test]
    fn a_variable_of_a_section_that_is_none_is_refused() {
        let mut problems = Vec::new();
        let environment = [("WOLFSCALE_LOG_LEVLE".to_owned(), "x".to_owned())].into();
        Layers::default().add_environment(&environment, &mut problems);
        assert!(problems[0].what.contains("WOLFSCALE_LOG_LEVEL"), "{problems:?}");
    }

    #[test]
    fn members_and_commands_come_from_text_too() {
        let members = from_text(Kind::Members, "n1=h1:1, n2=h2:2").expect("members");
        assert_eq!(members.as_array().map(Vec::len), Some(2));
        assert!(from_text(Kind::Members, "n1").is_err());
        let command = from_text(Kind::Command, "[\"a\", \"b\"]").expect("command");
        assert_eq!(command.as_array().map(Vec::len), Some(2));
        assert!(from_text(Kind::Command, "a b").is_err());
    }
}
