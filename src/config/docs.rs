//! The tables of `docs/configuration.md`, made from the declarations.

use super::setting::{Default, SECTIONS, SETTINGS, Setting};

/// A table for each section, in Markdown.
pub fn markdown() -> String {
    let mut text = String::new();
    for (section, about) in SECTIONS {
        text.push_str(&format!("\n### `[{section}]`\n\n{about}\n\n"));
        text.push_str("| setting | kind | default | what it does |\n| --- | --- | --- | --- |\n");
        for setting in SETTINGS.iter().filter(|setting| setting.section() == section) {
            text.push_str(&row(setting));
        }
    }
    text
}

fn row(setting: &Setting) -> String {
    let default = match setting.default {
        Default::Required => "required".to_owned(),
        Default::Toml(value) => format!("`{value}`"),
        Default::Unset(otherwise) => otherwise.to_owned(),
    };
    let (name, kind) = (setting.name(), setting.kind.describe());
    format!("| `{name}` | {kind} | {default} | {} |\n", setting.full_help())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_is_equal_to_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let text = std::fs::read_to_string(path).expect("docs/configuration.md is there");
        let (_, rest) = text.split_once("<!-- settings: begin -->\n").expect("has a begin mark");
        let (table, _) = rest.split_once("\n<!-- settings: end -->").expect("has an end mark");
        assert!(
            table.trim() == markdown().trim(),
            "docs/configuration.md is stale: put the output of `wolfscale docs configuration` \
             between its marks"
        );
    }
}
