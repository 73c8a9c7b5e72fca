//! The layout of the source: which module may name which, and what stands at the top.
//!
//! A text scan, without a compiler: comments are left out, everything else counts, unit tests
//! included.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Modules from the bottom to the top; one names its own layer's others only in the first.
const LAYERS: [&[&str]; 8] = [
    &["types", "clock", "config", "tasks", "metrics", "wire"],
    &["store"],
    &["log", "chunk", "cluster"],
    &["replicate", "apply"],
    &["kv", "db", "disk"],
    &["server"],
    &["node", "supervisor"],
    &["main", "lib"],
];

/// Who breaks the order today: file, module that it names, why. One that is mended must go.
const BREACHES: [(&str, &str, &str); 2] = [
    ("src/metrics.rs", "db", "it shows each state of a database as a gauge"),
    ("src/metrics.rs", "server", "it turns the whole status into gauges"),
];

/// Libraries that only some places name: the crates, then the files or directories.
const SEALED: [(&[&str], &[&str]); 4] = [
    // store/mod.rs names its own module `sled`.
    (&["sled"], &["src/store/sled.rs", "src/store/mod.rs"]),
    (
        &["tonic", "tonic_prost", "tonic_health", "tonic_reflection", "prost", "wire"],
        // lib.rs includes the generated code; node adds the peers' service to the server.
        &["src/replicate/transport/", "src/server/", "src/node/", "src/lib.rs"],
    ),
    (&["mysql_async", "mysql_common", "opensrv_mysql"], &["src/db/"]),
    (&["fuser"], &["src/disk/fuse.rs"]),
];

/// The top level, dotfiles and `target` aside; the latter is ignored by Git.
const TOP: [&str; 10] = [
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "build.rs",
    "proto",
    "src",
    "wolfctl",
    "docs",
    "tests",
    "deploy",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a directory: its path from the root, and its code.
fn sources(directory: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut directories = vec![root().join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("readable");
                found.push((from_root(&path), code(&text)));
            }
        }
    }
    found
}

fn from_root(path: &Path) -> String {
    let relative: PathBuf = path.strip_prefix(root()).expect("below the root").into();
    relative.to_str().expect("file names are ASCII").to_owned()
}

/// The text without line comments. A `//` in a string cuts its line off, which hides no module.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).fold(
        String::with_capacity(text.len()),
        |mut code, line| {
            code.push_str(line);
            code.push('\n');
            code
        },
    )
}

/// The modules behind each `crate::`, also in a group of them.
fn modules_named(code: &str) -> BTreeSet<&str> {
    let mut named = BTreeSet::new();
    for (at, found) in code.match_indices("crate::") {
        // `$crate::` of a macro is this crate too; `my_crate::` is another.
        let before = code[..at].chars().next_back().unwrap_or(' ');
        if before.is_alphanumeric() || before == '_' {
            continue;
        }
        let rest = &code[at + found.len()..];
        match rest.strip_prefix('{') {
            Some(group) => named.extend(heads_of(group)),
            None => named.extend(head(rest)),
        }
    }
    named
}

/// The first word of each item of a `use` group, up to its closing brace.
fn heads_of(group: &str) -> Vec<&str> {
    let (mut heads, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                heads.extend(head(&group[start..at]));
                return heads;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.extend(head(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    heads
}

fn head(text: &str) -> Option<&str> {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The module that a file under src/ belongs to.
fn module_of(file: &str) -> &str {
    let below = file.strip_prefix("src/").expect("a file under src/");
    let top = below.split('/').next().unwrap_or(below);
    top.strip_suffix(".rs").unwrap_or(top)
}

fn may_name(from: &str, to: &str) -> bool {
    let layer = |module| layer_of(module).unwrap_or_else(|| panic!("{module} has no layer"));
    let (mine, theirs) = (layer(from), layer(to));
    from == to || theirs < mine || (mine, theirs) == (0, 0)
}

/// Whether the code names a crate or module so: `name::` or `use name;`, as a word of its own.
fn names(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back().unwrap_or(' ');
        let after = &code[at + name.len()..];
        let own_word = !before.is_alphanumeric() && before != '_' && before != '"';
        own_word && (after.starts_with("::") || after.starts_with(" as "))
    })
}

#[test]
fn dependencies_point_one_way() {
    let mut broken = BTreeSet::new();
    for (file, code) in sources("src") {
        let from = module_of(&file);
        for to in modules_named(&code).into_iter().filter(|to| !to.starts_with(char::is_uppercase))
        {
            if !may_name(from, to) {
                broken.insert((file.clone(), to.to_owned()));
            }
        }
    }
    let known = BREACHES.iter().map(|(file, to, _)| (file.to_string(), to.to_string()));
    assert_eq!(broken, known.collect(), "left: what breaks the order; right: what is known to");
}

#[test]
fn libraries_stay_where_they_belong() {
    for (file, code) in sources("src") {
        for (crates, places) in SEALED {
            let belongs = places.iter().any(|place| file.starts_with(place));
            let foreign = crates.iter().find(|name| names(&code, name));
            assert!(belongs || foreign.is_none(), "{file} names {foreign:?}: only {places:?} may");
        }
    }
}

#[test]
fn wolfctl_knows_only_the_protos() {
    for (file, code) in sources("wolfctl") {
        assert!(!names(&code, "wolfscale"), "{file} names the library");
    }
    let manifest = fs::read_to_string(root().join("wolfctl/Cargo.toml")).expect("readable");
    let by_path =
        manifest.lines().find(|line| line.contains("path =") || line.starts_with("wolfs"));
    assert_eq!(by_path, None, "wolfctl depends on what is beside it");
}

#[test]
fn the_top_level_is_what_it_is() {
    let entries = fs::read_dir(root()).expect("readable");
    let names = entries.map(|entry| entry.expect("readable").file_name());
    let shown: BTreeSet<String> = names
        .map(|name| name.to_str().expect("ASCII").to_owned())
        .filter(|name| !name.starts_with('.') && name != "target")
        .collect();
    assert_eq!(shown, TOP.iter().map(ToString::to_string).collect());
}

#[test]
fn what_is_looked_for_is_found() {
    let text = "use crate::{db::{a, b}, log, types::Lsn};\ncrate::store::keys // crate::node\n";
    let code = code(text);
    assert_eq!(modules_named(&code), BTreeSet::from(["db", "log", "store", "types"]));
    assert_eq!(modules_named("my_crate::node::x"), BTreeSet::new());
    assert!(may_name("db", "log") && !may_name("log", "db") && !may_name("log", "cluster"));
    assert!(may_name("main", "node") && may_name("config", "types"));
    assert_eq!([module_of("src/main.rs"), module_of("src/db/feed/mod.rs")], ["main", "db"]);
    assert!(names("let a = sled::open()", "sled") && names("x(tonic::Code)", "tonic"));
    assert!(!names("unsled::x", "sled") && !names("SledEngine", "sled"));
    assert!(!names("include_proto!(\"wolfscale.v1\")", "wolfscale"));
}
