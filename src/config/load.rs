//! Reads the sources and makes a [`Config`] of them.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
};

use super::{
    layers::Layers,
    model::Config,
    problem::{Invalid, Problem, Warning},
    reader::Reader,
    validate::validate,
};

/// Where settings come from, later ones winning.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The TOML file; none leaves all to the environment and flags.
    pub file: Option<PathBuf>,
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// `section.name=value`
    pub flags: Vec<String>,
}

impl Sources {
    /// A file, this process's environment, and flags.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<String>) -> Self {
        let environment = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("WOLFSCALE_"))
            .collect();
        Self { file, environment, flags }
    }
}

/// A configuration and what an operator may regret about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Validated.
    pub config: Config,
    /// Not wrong, but worth a look.
    pub warnings: Vec<Warning>,
}

/// Reads, merges and validates; on refusal *all* problems are told.
pub fn load(sources: &Sources) -> Result<Loaded, Invalid> {
    let mut problems = Vec::new();
    let mut layers = Layers::default();
    let mut base = PathBuf::from("/");
    if let Some(file) = &sources.file {
        let text = fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
        layers.add_file(&text, &mut problems);
        base = directory_of(file).map_err(|error| unreadable(file, &error))?;
    }
    if !problems.is_empty() {
        return Err(Invalid(problems));
    }
    layers.add_environment(&sources.environment, &mut problems);
    layers.add_flags(&sources.flags, &mut problems);
    let mut reader = Reader::new(&layers, &sources.environment, &base, problems);
    match validate(&mut reader) {
        Some(config) => Ok(Loaded { config, warnings: reader.warnings }),
        None => Err(Invalid(reader.problems)),
    }
}

fn directory_of(file: &Path) -> io::Result<PathBuf> {
    let file = fs::canonicalize(file)?;
    Ok(file.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned))
}

fn unreadable(file: &Path, error: &io::Error) -> Invalid {
    let what = format!("cannot be read ({error}); wolfscale init --output FILE writes a new one");
    Invalid(vec![Problem::new(file.display().to_string(), what)])
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, time::Duration};

    use tempfile::TempDir;

    use super::*;
    use crate::config::{
        Control, DbAddress, SETTINGS, Setting, Timing, commented_file, setting::RESERVED,
        template::Template,
    };

    const BASE: &str = r#"
        [node]
        id = "n1"
        data_dir = "data"
        [cluster]
        secret_file = "secret"
        initial_members = [{ id = "n1", address = "h1:8080" }, { id = "n2", address = "h2:8080" },
                           { id = "n3", address = "h3:8080" }]
    "#;

    fn directory() -> TempDir {
        let dir = tempfile::tempdir().expect("temporary directory");
        let secret = dir.path().join("secret");
        fs::write(&secret, "0123456789abcdef0123\n").expect("writes");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("chmod");
        dir
    }

    fn load_with(text: &str, flags: &[&str]) -> Result<Loaded, Invalid> {
        let dir = directory();
        let file = dir.path().join("wolfscale.toml");
        fs::write(&file, text).expect("writes");
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        load(&Sources { file: Some(file), environment: BTreeMap::new(), flags })
    }

    fn template(dir: &Path) -> Template {
        Template {
            node_id: "node-1".parse().expect("valid"),
            members: Vec::new(),
            secret_file: dir.join("secret"),
            data_dir: dir.join("data"),
            db: true,
        }
    }

    fn refusal(flags: &[&str]) -> String {
        load_with(BASE, flags).expect_err("is refused").to_string()
    }

    #[test]
    fn a_short_file_is_enough() {
        let Loaded { config, warnings } = load_with(BASE, &[]).expect("loads");
        assert_eq!(warnings, []);
        assert_eq!(config.cluster.timing.drop_after, Duration::from_millis(700));
        assert_eq!(config.cluster.initial_members.len(), 3);
        assert!(config.node.data_dir.is_absolute() && config.node.data_dir.ends_with("data"));
        assert!(config.db.is_none());
        assert_eq!(config.api.token.len(), 64);
        assert!(!format!("{config:?}").contains("0123456789abcdef"));
    }

    #[test]
    fn each_inequality_is_held() {
        for (flag, key) in [
            ("cluster.heartbeat=200ms", "cluster.heartbeat"),
            ("cluster.lease=500ms", "cluster.suspect_after"),
            ("cluster.lease=100ms", "cluster.lease"),
            ("cluster.drop_after=499ms", "cluster.drop_after"),
            ("cluster.takeover_after=1150ms", "cluster.takeover_after"),
        ] {
            let refusal = refusal(&[flag]);
            assert!(refusal.starts_with(key), "{flag}: {refusal}");
            assert!(refusal.contains("write "), "{refusal}");
            assert_eq!(refusal.lines().count(), 1, "{refusal}");
        }
        load_with(BASE, &["cluster.takeover_after=1151ms"]).expect("is enough");
    }

    #[test]
    fn contradictions_are_refused_with_what_to_write() {
        for (flags, expected) in [
            (&["cluster.policy=survivor"][..], "not available in this version"),
            (&["cluster.policy=quorum"], "write \"majority\""),
            (&["node.id=n9"], "not among the members (n1, n2, n3)"),
            (&["node.id=N1"], "a-z"),
            (&["listen.http=0.0.0.0:8081"], "http.allow_unauthenticated = true"),
            (&["listen.http=127.0.0.1:8080"], "port 8080 is that of listen.grpc"),
            (&["cluster.heartbeat=100"], "a duration above zero"),
            (&["log.level=loud=quiet"], "error, warn, info"),
            (&["db.user=root"], "the database's place is missing"),
            (&["db.socket=/s", "db.host=h"], "remove one of the two"),
            (&["db.socket=/s", "db.control=systemd"], "systemd:mariadb.service"),
            (&["db.socket=/s", "db.control=commands"], "start_command = "),
            (&["db.socket=/s", "db.stop_command=[\"x\"]"], "control = \"commands\""),
            (&["db.socket=/s", "db.control=commands", "db.start_command=[\"x\"]"], "pid_file = "),
            (&["db.socket=/s", "db.port=1"], "a socket has no port"),
            (&["db.host=h", "db.port=65536"], "from 1 to 65535"),
            (&["db.host=h", "db.server_id=0"], "from 1 to"),
            (&["cluster.initial_members=n1=h:1,n1=h:2"], "the same id"),
            (&["cluster.initial_members=n1=h:1,n2=h:1"], "the same address"),
            (&["cluster.initial_members=n1=h"], "is not host:port"),
            (&["log.levle=debug"], "did you mean log.level?"),
        ] {
            let refusal = refusal(flags);
            assert!(refusal.contains(expected), "{flags:?}: {refusal}");
        }
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let refusal = refusal(&["node.id=X", "log.format=xml", "cluster.lease=nope"]);
        assert_eq!(refusal.lines().count(), 3, "{refusal}");
    }

    #[test]
    fn a_short_secret_is_refused_wherever_it_comes_from() {
        let dir = directory();
        let file = dir.path().join("wolfscale.toml");
        fs::write(&file, BASE).expect("writes");
        let environment =
            BTreeMap::from([("WOLFSCALE_CLUSTER_SECRET".to_owned(), "fifteen-bytes-x".to_owned())]);
        let refused = load(&Sources { file: Some(file), environment, flags: Vec::new() });
        let refusal = refused.expect_err("is refused").to_string();
        assert!(refusal.contains("15 bytes"), "{refusal}");
        assert!(!refusal.contains("fifteen"), "{refusal}");
    }

    #[test]
    fn regrettable_settings_are_warned_of() {
        for (flags, expected) in [
            (
                &["cluster.initial_members=node-1=a:1,node-2=b:1,node-10=c:1", "node.id=node-1"][..],
                "node-10 ranks before node-2",
            ),
            (&["cluster.initial_members=n1=a:1,n2=b:1"], "an odd number"),
            (&["db.socket=/s", "db.control=none"], "cannot be fenced"),
            (&["cluster.stand_step=5ms"], "round trip"),
        ] {
            let loaded = load_with(BASE, flags).expect("loads");
            let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
            assert!(warnings.iter().any(|w| w.contains(expected)), "{flags:?}: {warnings:?}");
        }
    }

    #[test]
    fn a_reserved_setting_is_warned_of_where_it_is_set_and_stays_out_of_the_commented_file() {
        let reserved: Vec<_> = SETTINGS.iter().filter(|setting| setting.reserved).collect();
        assert!(!reserved.is_empty());
        for setting in reserved {
            let flag = format!("{}={}", setting.key, setting.example.trim_matches('"'));
            let loaded = load_with(BASE, &["db.socket=/s", &flag]).expect("loads");
            let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
            assert_eq!(warnings, [format!("{}: {RESERVED}", setting.key)]);
        }
        let dir = directory();
        let file = commented_file(&template(dir.path()));
        assert_eq!(load_with(&file, &[]).expect("loads").warnings, []);
        assert!(file.contains(&format!("# {RESERVED}")), "{file}");
    }

    #[test]
    fn a_database_by_commands() {
        let flags = [
            "db.host=db.local",
            "db.control=commands",
            "db.start_command=[\"/bin/start\", \"-x\"]",
            "db.pid_file=/run/pid",
        ];
        let config = load_with(BASE, &flags).expect("loads").config;
        let db = config.db.expect("has a database");
        assert_eq!(db.address, DbAddress::Tcp { host: "db.local".into(), port: 3306 });
        assert!(db.server_id > 0);
        let Control::Commands(commands) = db.control else { panic!("{:?}", db.control) };
        assert_eq!(commands.start, ["/bin/start", "-x"]);
        assert_eq!(db.capture.name, "root");
    }

    #[test]
    fn the_environment_stands_for_every_setting() {
        let dir = directory();
        let secret = dir.path().join("secret");
        let pairs = [
            ("WOLFSCALE_NODE_ID", "n1"),
            ("WOLFSCALE_NODE_DATA_DIR", "/d"),
            ("WOLFSCALE_CLUSTER_SECRET_FILE", secret.to_str().expect("UTF-8")),
            ("WOLFSCALE_CLUSTER_INITIAL_MEMBERS", "n1=h:1"),
            ("WOLFSCALE_CLUSTER_NEVER_LEADER", "true"),
        ];
        let environment = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let sources = Sources { file: None, environment, flags: Vec::new() };
        assert!(load(&sources).expect("loads").config.cluster.never_leader);
    }

    #[test]
    fn the_commented_file_loads_with_all_defaults_and_with_all_examples() {
        let dir = directory();
        let text = commented_file(&template(dir.path()));
        let loaded = load_with(&text, &[]).expect("the file as written loads");
        assert_eq!(loaded.config.cluster.timing, Timing::default(), "two tellings of one thing");
        for setting in SETTINGS {
            assert!(text.contains(&format!("{} = ", Setting::name(setting))), "{}", setting.key);
        }
    }
}
