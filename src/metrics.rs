//! Every metric of the node, declared once with its unit and help. `docs/metrics.md` follows it.
//!
//! Modules record through the names here; [`install`] makes the recorder that `/metrics` renders.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::{
    db::status::DbState,
    server::status::{Liveness, NodeStatus},
};

/// What a metric is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution, in buckets.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name in Prometheus.
    pub name: &'static str,
    /// What it is.
    pub kind: MetricKind,
    /// What it counts in.
    pub unit: Unit,
    /// The labels it carries.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident = $name:literal, $kind:ident, $unit:ident, [$($label:literal),*], $help:literal;)*) => {
        $(#[doc = $help] pub const $id: &str = $name;)*
        /// Every metric.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: $name,
            kind: MetricKind::$kind,
            unit: Unit::$unit,
            labels: &[$($label),*],
            help: $help,
        }),*];
    };
}

metrics! {
    LEADER = "wolfscale_leader", Gauge, Count, [], "1 if this node leads, else 0.";
    LEADER_KNOWN = "wolfscale_leader_known", Gauge, Count, [],
        "1 if this node knows a live leader, else 0.";
    LEADER_CHANGES = "wolfscale_leader_changes_total", Counter, Count, [],
        "Leaders that this node has seen, since its start.";
    TERM = "wolfscale_term_number", Gauge, Count, [], "The number of the current term.";
    APPENDED = "wolfscale_log_appended_lsn", Gauge, Count, [],
        "The last entry that this node holds, perhaps not yet on disk.";
    DURABLE = "wolfscale_log_durable_lsn", Gauge, Count, [], "The last entry on disk.";
    COMMITTED = "wolfscale_log_committed_lsn", Gauge, Count, [],
        "The last entry that the cluster has decided.";
    RELEASED = "wolfscale_log_released_lsn", Gauge, Count, [],
        "The last entry that the outside may see.";
    APPLIED = "wolfscale_log_applied_lsn", Gauge, Count, [],
        "The last entry that this node has applied.";
    APPLY_LAG = "wolfscale_apply_lag_entries", Gauge, Count, [],
        "Released entries that this node has yet to apply.";
    COMMIT_SECONDS = "wolfscale_log_commit_seconds", Histogram, Seconds, [],
        "From a proposal's arrival at the leader to its release.";
    SYNC_SECONDS = "wolfscale_log_sync_seconds", Histogram, Seconds, [],
        "One write of a group of entries, until it is durable.";
    GROUP_ENTRIES = "wolfscale_log_group_entries", Histogram, Count, [],
        "Entries that became durable by one write.";
    MEMBER_ALIVE = "wolfscale_member_alive", Gauge, Count, ["member"],
        "1 if the member was heard within suspect_after, else 0.";
    MEMBER_SILENCE = "wolfscale_member_silence_seconds", Gauge, Seconds, ["member"],
        "Time since the member was last heard.";
    MEMBER_LAG = "wolfscale_replication_lag_entries", Gauge, Count, ["member"],
        "Entries that this node holds durably and the member does not, as last heard.";
    KV_CALLS = "wolfscale_kv_calls_total", Counter, Count, ["answer"],
        "Calls of the key-value store that came to this node and needed the leader, by their answer: applied, rejected, indeterminate.";
    DB_STATE = "wolfscale_db_state", Gauge, Count, ["state"],
        "1 for the state that the node's database is in, 0 for all others.";
    NOTICES = "wolfscale_notices", Gauge, Count, [],
        "Sentences that an operator should read in wolfctl status.";
}

/// Buckets of durations, in seconds.
const SECONDS_BUCKETS: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Buckets of counts.
const COUNT_BUCKETS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0];

/// All states that [`DB_STATE`] tells, with their labels.
const DB_STATES: [(DbState, &str); 8] = [
    (DbState::Starting, "starting"),
    (DbState::Unreachable, "unreachable"),
    (DbState::Misconfigured, "misconfigured"),
    (DbState::Following, "following"),
    (DbState::Promoting, "promoting"),
    (DbState::Leading, "leading"),
    (DbState::Demoting, "demoting"),
    (DbState::NeedsMigration, "needs_migration"),
];

/// Makes the process's recorder, once; describes every metric.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = builder()?.install_recorder()?;
    METRICS.iter().for_each(describe);
    counter!(LEADER_CHANGES).absolute(0);
    Ok(handle)
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    METRICS.iter().filter(|metric| metric.kind == MetricKind::Histogram).try_fold(
        PrometheusBuilder::new(),
        |builder, metric| {
            let buckets: &[f64] = match metric.unit {
                Unit::Seconds => &SECONDS_BUCKETS,
                _ => &COUNT_BUCKETS,
            };
            builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)
        },
    )
}

fn describe(metric: &Metric) {
    match metric.kind {
        MetricKind::Counter => describe_counter!(metric.name, metric.unit, metric.help),
        MetricKind::Gauge => describe_gauge!(metric.name, metric.unit, metric.help),
        MetricKind::Histogram => describe_histogram!(metric.name, metric.unit, metric.help),
    }
}

/// Sets the gauges that a status tells.
pub fn show(status: &NodeStatus) {
    gauge!(LEADER).set(flag(status.role.leads()));
    gauge!(LEADER_KNOWN).set(flag(status.role.leader.is_some()));
    gauge!(TERM).set(status.role.term.as_ref().map_or(0.0, |term| count(term.number)));
    let marks = &status.marks;
    gauge!(APPENDED).set(count(marks.appended.0));
    gauge!(DURABLE).set(count(marks.durable.0));
    gauge!(COMMITTED).set(count(marks.committed.0));
    gauge!(RELEASED).set(count(marks.released.0));
    gauge!(APPLIED).set(count(marks.applied.0));
    gauge!(APPLY_LAG).set(count(marks.released.0.saturating_sub(marks.applied.0)));
    gauge!(NOTICES).set(count(status.notices.len() as u64));
    for member in &status.members {
        let id = member.id.to_string();
        let lag = marks.durable.0.saturating_sub(member.durable.0);
        gauge!(MEMBER_ALIVE, "member" => id.clone()).set(flag(member.liveness == Liveness::Alive));
        gauge!(MEMBER_LAG, "member" => id.clone()).set(count(lag));
        let silence = member.silent_ms.map_or(f64::INFINITY, |ms| count(ms) / 1000.0);
        gauge!(MEMBER_SILENCE, "member" => id).set(silence);
    }
    if let Some(db) = &status.db {
        for (state, label) in DB_STATES {
            gauge!(DB_STATE, "state" => label).set(flag(db.state == state));
        }
    }
}

fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// Exact below 2^53, which no LSN reaches.
fn count(value: u64) -> f64 {
    value as f64
}

/// The table of `docs/metrics.md`.
pub fn markdown() -> String {
    let mut text = String::from("| metric | kind | unit | labels | what it says |\n");
    text.push_str("| --- | --- | --- | --- | --- |\n");
    for metric in METRICS {
        let (name, unit, labels) = (metric.name, metric.unit.as_str(), metric.labels.join(", "));
        let kind = format!("{:?}", metric.kind).to_lowercase();
        text.push_str(&format!("| `{name}` | {kind} | {unit} | {labels} | {} |\n", metric.help));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_metric_is_named_and_described_by_the_rules() {
        let names: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        for metric in METRICS {
            assert!(metric.name.starts_with("wolfscale_"), "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            let counter = metric.kind == MetricKind::Counter;
            assert_eq!(metric.name.ends_with("_total"), counter, "{}", metric.name);
            let seconds = metric.unit == Unit::Seconds;
            assert_eq!(metric.name.ends_with("_seconds"), seconds, "{}", metric.name);
        }
        builder().expect("all buckets are accepted");
    }

    #[test]
    fn the_documentation_is_equal_to_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        let text = std::fs::read_to_string(path).expect("docs/metrics.md is there");
        assert!(
            text.contains(&markdown()),
            "docs/metrics.md is stale: put the output of `wolfscale docs metrics` into it"
        );
    }
}
