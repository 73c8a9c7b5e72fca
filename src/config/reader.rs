//! Reads typed values out of the layers, noting every problem instead of stopping at the first.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    layers::{Layers, Origin},
    model::Member,
    problem::{Problem, Warning},
    secret::Secret,
    setting::{Default, Kind, Setting},
    value::parse_duration,
};

/// Typed access to what was set. Problems and warnings gather here.
pub struct Reader<'a> {
    layers: &'a Layers,
    environment: &'a BTreeMap<String, String>,
    base: &'a Path,
    /// Why the configuration is refused.
    pub problems: Vec<Problem>,
    /// What an operator may regret.
    pub warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    /// `base` is what relative paths of the file count from.
    pub fn new(
        layers: &'a Layers,
        environment: &'a BTreeMap<String, String>,
        base: &'a Path,
        problems: Vec<Problem>,
    ) -> Self {
        Self { layers, environment, base, problems, warnings: Vec::new() }
    }

    /// Notes why the configuration is refused.
    pub fn refuse(&mut self, subject: impl Into<String>, what: impl Into<String>) {
        self.problems.push(Problem::new(subject, what));
    }

    /// Notes what an operator may regret.
    pub fn warn(&mut self, subject: impl Into<String>, what: impl Into<String>) {
        self.warnings.push(Warning::new(subject, what));
    }

    /// Whether it was set, in whatever layer.
    pub fn is_set(&self, key: &str) -> bool {
        self.layers.values.contains_key(key)
    }

    /// Whether anything of the section was set.
    pub fn has_section(&self, section: &str) -> bool {
        (section == "db" && self.layers.db_section)
            || self.layers.values.keys().any(|key| key.split('.').next() == Some(section))
    }

    /// A text.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        let value = self.value(key)?;
        let text = value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        self.or_refuse(key, text, &value, "a text in quotes")
    }

    /// A path, absolute.
    pub fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let from_file = matches!(self.layers.values.get(key), Some((_, Origin::File)));
        let path = PathBuf::from(self.text(key)?);
        if from_file || path.is_absolute() {
            return Some(self.base.join(path));
        }
        self.refuse(key, format!("{} is relative: write an absolute path", path.display()));
        None
    }

    /// One of the setting's words.
    pub fn word(&mut self, key: &'static str) -> Option<String> {
        let text = self.text(key)?;
        let Some(Setting { kind: Kind::OneOf(words), .. }) = Setting::named(key) else {
            return Some(text);
        };
        if words.contains(&text.as_str()) {
            return Some(text);
        }
        let words = words.join("\" or \"");
        self.refuse(key, format!("{text:?} is unknown: write \"{words}\""));
        None
    }

    /// `true` or `false`.
    pub fn bool(&mut self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        self.or_refuse(key, value.as_bool(), &value, "true or false, without quotes")
    }

    /// A whole number from 1 to `most`.
    pub fn number(&mut self, key: &'static str, most: u32) -> Option<u32> {
        let value = self.value(key)?;
        let number = value.as_integer().and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| (1..=most).contains(number));
        self.or_refuse(key, number, &value, &format!("a whole number from 1 to {most}"))
    }

    /// A duration above zero.
    pub fn duration(&mut self, key: &'static str) -> Option<Duration> {
        let value = self.value(key)?;
        let duration = value.as_str().and_then(|text| parse_duration(text).ok());
        let duration = duration.filter(|duration| !duration.is_zero());
        self.or_refuse(key, duration, &value, "a duration above zero, such as \"700ms\" or \"3s\"")
    }

    /// `ip:port`.
    pub fn socket_address(&mut self, key: &'static str) -> Option<SocketAddr> {
        let value = self.value(key)?;
        let address = value.as_str().and_then(|text| text.parse().ok());
        self.or_refuse(key, address, &value, "an address and port, such as \"127.0.0.1:8081\"")
    }

    /// A program and its arguments; empty if unset.
    pub fn command(&mut self, key: &'static str) -> Option<Vec<String>> {
        let Some(value) = self.value(key) else { return Some(Vec::new()) };
        let words = value.as_array().and_then(|words| {
            words.iter().map(|word| word.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        let words = words.filter(|words| words.first().is_some_and(|program| !program.is_empty()));
        self.or_refuse(key, words, &value, "a list, such as [\"/usr/local/bin/db\", \"start\"]")
    }

    /// Members, not yet checked against each other.
    pub fn members(&mut self, key: &'static str) -> Option<Vec<Member>> {
        let value = self.value(key)?;
        let list = value.as_array().cloned();
        let wanted =
            "a list of members, such as [{ id = \"node-1\", address = \"10.0.0.1:8080\" }]";
        let list = self.or_refuse(key, list, &value, wanted)?;
        let members: Vec<_> = list.iter().map(|member| self.member(key, member)).collect();
        members.into_iter().collect()
    }

    fn member(&mut self, key: &'static str, value: &toml::Value) -> Option<Member> {
        let field = |name| value.get(name).and_then(toml::Value::as_str);
        let count = value.as_table().map_or(0, toml::Table::len);
        let (Some(id), Some(address), 2) = (field("id"), field("address"), count) else {
            let what = format!(
                "{value} is no member: write {{ id = \"node-1\", address = \"host:port\" }}"
            );
            self.refuse(key, what);
            return None;
        };
        if !is_host_and_port(address) {
            let what = format!(
                "address {address:?} of {id} is not host:port: write \"{id}.example:8080\""
            );
            self.refuse(key, what);
            return None;
        }
        match id.parse() {
            Ok(id) => Some(Member { id, address: address.to_owned() }),
            Err(error) => {
                self.refuse(key, error.to_string());
                None
            }
        }
    }

    /// A secret: from its variable if that is set, else from its file.
    pub fn secret(&mut self, key: &'static str) -> Option<Secret> {
        let setting = Setting::named(key)?;
        let Kind::SecretFile(variable) = setting.kind else { return None };
        if let Some(text) = self.environment.get(variable) {
            return Some(Secret::new(text.clone()));
        }
        if !self.is_set(key) && setting.default == Default::Required {
            self.refuse(
                key,
                format!(
                    "it must be set: write {} = {}, or set {variable}",
                    setting.name(),
                    setting.example
                ),
            );
            return None;
        }
        let path = self.path(key)?;
        match Secret::read(&path) {
            Ok((secret, group_reads)) => {
                if group_reads {
                    let what =
                        format!("{0} can be read by its group: chmod 600 {0}", path.display());
                    self.warn(key, what);
                }
                Some(secret)
            }
            Err(error) => {
                self.refuse(key, error.to_string());
                None
            }
        }
    }

    /// Whether a secret was given, by file or variable.
    pub fn has_secret(&self, key: &str) -> bool {
        let variable = match Setting::named(key).map(|setting| setting.kind) {
            Some(Kind::SecretFile(variable)) => variable,
            _ => return false,
        };
        self.is_set(key) || self.environment.contains_key(variable)
    }

    /// What was set, else the default; a problem if it is required.
    fn value(&mut self, key: &'static str) -> Option<toml::Value> {
        if let Some((value, _)) = self.layers.values.get(key) {
            return Some(value.clone());
        }
        let setting = Setting::named(key).expect("only declared settings are read");
        match setting.default {
            Default::Unset(_) => None,
            Default::Toml(text) => {
                let table = format!("value = {text}").parse::<toml::Table>();
                table.ok().and_then(|mut table| table.remove("value"))
            }
            Default::Required => {
                let (name, example) = (setting.name(), setting.example);
                self.refuse(key, format!("it must be set: write {name} = {example}"));
                None
            }
        }
    }

    fn or_refuse<T>(
        &mut self,
        key: &'static str,
        read: Option<T>,
        value: &toml::Value,
        wanted: &str,
    ) -> Option<T> {
        if read.is_none() {
            let from = match self.layers.values.get(key) {
                Some((_, Origin::Environment(variable))) => format!(" (from {variable})"),
                Some((_, Origin::Flag)) => " (from --set)".to_owned(),
                _ => String::new(),
            };
            self.refuse(key, format!("{value}{from} does not fit: write {wanted}"));
        }
        read
    }
}

/// Whether the text is `host:port`, the host being a DNS name, an IPv4 address or `[IPv6]`.
fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let port_fits = port.parse::<u16>().is_ok_and(|port| port > 0);
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_fits = match v6 {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        }
    };
    port_fits && host_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["10.0.0.1:8080", "node-1.db.svc:8080", "[::1]:80", "localhost:1"] {
            assert!(is_host_and_port(good), "{good}");
        }
        for bad in ["", "host", "host:", ":80", "host:0", "host:99999", "::1:80", "http://h:80"] {
            assert!(!is_host_and_port(bad), "{bad}");
        }
    }
}
