//! One run that measures all, interleaved: each repetition takes every set-up once, so that what
//! the machine does meanwhile meets all alike.

use std::{
    collections::BTreeMap,
    env,
    time::{Duration, Instant},
};

use mysql_async::prelude::Queryable;

use crate::{
    cluster::Cluster,
    lag,
    ledger::Writer,
    load::{self, Pace, percentile},
    machine::{self, CLIENTS, Usage},
    report::{Table, median, ms},
    rig::{Kind, Place, Rig},
};

const CLIENT_COUNTS: [usize; 2] = [1, 16];
/// A sample is noisy when others use more than so many processors.
const NOISY: f64 = 0.15;
/// How often a noisy sample is taken again.
const TRIES_MAX: usize = 3;
/// Writes between two kills.
const WRITES_BETWEEN: usize = 100;

/// What a lag is sampled under, beside the marks.
const LAG_LOADS: [Option<(usize, Pace)>; 3] =
    [None, Some((16, Pace::PerSecond(500))), Some((15, Pace::Full))];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and wants the machine for itself"]
async fn measure() {
    let plan = Plan::from_environment();
    let mut rig = Rig::start().await;
    print_conditions(&rig, &plan).await;
    let mut figures = Figures::default();
    for repeat in 1..=plan.repeats {
        eprintln!("repetition {repeat} of {}", plan.repeats);
        figures.syncs.push(sync(&plan).await);
        for clients in CLIENT_COUNTS {
            for kind in Kind::ALL {
                figures.commits.push(commit(&rig, &plan, kind, clients).await);
            }
        }
        for load in 0..LAG_LOADS.len() {
            for kind in Kind::ALL.into_iter().filter(|kind| kind.has_followers()) {
                figures.lags.push(lag(&rig, &plan, kind, load).await);
            }
        }
    }
    let outages = failovers(&mut rig, &plan).await;
    figures.print();
    print_outages(outages);
}

/// How long and how often.
struct Plan {
    sample: Duration,
    repeats: usize,
    kills: usize,
    quiet: Duration,
}

impl Plan {
    fn from_environment() -> Self {
        Self {
            sample: Duration::from_secs(number("WOLFSCALE_FIGURES_SECONDS", 4)),
            repeats: usize::try_from(number("WOLFSCALE_FIGURES_REPEATS", 3)).expect("few"),
            kills: usize::try_from(number("WOLFSCALE_FIGURES_KILLS", 5)).expect("few"),
            quiet: Duration::from_secs(number("WOLFSCALE_FIGURES_QUIET_SECONDS", 20)),
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    let Ok(text) = env::var(name) else { return default };
    text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}"))
}

async fn print_conditions(rig: &Rig, plan: &Plan) {
    let cluster = &rig.cluster;
    let version = cluster.rows(0, "SELECT @@version").await.expect("version");
    let processors = std::thread::available_parallelism().expect("processors");
    println!(
        "{} processors, all servers and clients on this machine over loopback; MariaDB {}; \
         {} samples of {:?} each, medians of the percentiles of the quiet ones; where none was \
         quiet (others used more than {NOISY} processors), of all, marked *",
        processors,
        version.join(""),
        plan.repeats,
        plan.sample
    );
}

// --- sampling ------------------------------------------------------------------------------------

/// All samples.
#[derive(Default)]
struct Figures {
    syncs: Vec<Sample>,
    commits: Vec<Commit>,
    lags: Vec<Lag>,
}

/// Percentiles of one sample, and what the machine did meanwhile.
#[derive(Clone)]
struct Sample {
    p50: Duration,
    p99: Duration,
    count: usize,
    usage: Usage,
}

struct Commit {
    kind: Kind,
    clients: usize,
    tps: f64,
    sample: Sample,
}

struct Lag {
    kind: Kind,
    load: usize,
    tps: f64,
    sample: Sample,
}

impl Sample {
    fn of(sorted: &[Duration], usage: Usage) -> Self {
        let (p50, p99) = (percentile(sorted, 0.5), percentile(sorted, 0.99));
        Self { p50, p99, count: sorted.len(), usage }
    }

    fn is_noisy(&self) -> bool {
        self.usage.others > NOISY
    }
}

async fn sync(plan: &Plan) -> Sample {
    machine::until_quiet(&[], NOISY, plan.quiet).await;
    let reading = machine::read(&[]);
    let length = plan.sample;
    let syncing = tokio::task::spawn_blocking(move || machine::sync_times(length));
    let times = syncing.await.expect("the syncs end");
    Sample::of(&times, reading.until_now(&[]))
}

async fn commit(rig: &Rig, plan: &Plan, kind: Kind, clients: usize) -> Commit {
    let mut best: Option<Commit> = None;
    for _ in 0..TRIES_MAX {
        let place = rig.place(kind).await;
        machine::until_quiet(&place.marks, NOISY, plan.quiet).await;
        let reading = machine::read(&place.marks);
        let load = load::run(&place.leader, clients, Pace::Full, plan.sample).await;
        let sample = Sample::of(&load.latencies, reading.until_now(&place.marks));
        settle(rig, kind, &place).await;
        let taken = Commit { kind, clients, tps: load.tps, sample };
        say(&format!("{kind}, {clients} clients, {:.0} tx/s", taken.tps), &taken.sample);
        let better = |best: &Commit| taken.sample.usage.others < best.sample.usage.others;
        if best.as_ref().is_none_or(better) {
            best = Some(taken);
        }
        if best.as_ref().is_some_and(|best| !best.sample.is_noisy()) {
            break;
        }
    }
    best.expect("at least one try")
}

async fn lag(rig: &Rig, plan: &Plan, kind: Kind, load: usize) -> Lag {
    let place = rig.place(kind).await;
    machine::until_quiet(&place.marks, NOISY, plan.quiet).await;
    let reading = machine::read(&place.marks);
    let beside = async {
        match LAG_LOADS[load] {
            Some((clients, pace)) => load::run(&place.leader, clients, pace, plan.sample).await.tps,
            None => 0.0,
        }
    };
    let (tps, lags) = tokio::join!(beside, lag::sample(&place, plan.sample));
    let sample = Sample::of(&lags, reading.until_now(&place.marks));
    settle(rig, kind, &place).await;
    say(&format!("lag of {kind}, {}", name_of_load(load)), &sample);
    Lag { kind, load, tps, sample }
}

/// Waits until all followers have everything; then nothing of this sample touches the next.
async fn settle(rig: &Rig, kind: Kind, place: &Place) {
    if kind.has_followers() {
        lag::drain(place).await;
    }
    rig.assert_all_acknowledged(kind, place).await;
    let mut leader = mysql_async::Conn::new(place.leader.clone()).await.expect("connect");
    let read_only: Option<u8> = leader.query_first("SELECT @@read_only").await.expect("ask");
    assert_eq!(read_only, Some(0), "{kind}: the leader did not change");
}

fn say(what: &str, sample: &Sample) {
    eprintln!(
        "  {what}: p50 {}, p99 {} ms; others used {:.2} processors, load {:.1}",
        ms(sample.p50),
        ms(sample.p99),
        sample.usage.others,
        sample.usage.load
    );
}

fn name_of_load(load: usize) -> String {
    match LAG_LOADS[load] {
        None => "marks alone (50/s)".to_owned(),
        Some((clients, Pace::Full)) => format!("and {clients} clients at full speed"),
        Some((clients, Pace::PerSecond(rate))) => format!("and {clients} clients at {rate}/s"),
    }
}

// --- failover ------------------------------------------------------------------------------------

/// From the kill of the leader's node and database to the first write that another acknowledged.
async fn failovers(rig: &mut Rig, plan: &Plan) -> Vec<Duration> {
    let cluster = &mut rig.cluster;
    let writer = Writer::start(cluster, 0);
    let mut outages = Vec::new();
    for _ in 0..plan.kills {
        let leader = cluster.leader().await;
        for other in cluster.others(leader) {
            cluster.until_follows(other).await;
        }
        writer.more(WRITES_BETWEEN).await;
        let killed = Instant::now();
        cluster.crash(leader);
        let first = writer.first_elsewhere(leader, killed).await;
        eprintln!("  {} killed: a write {:?} later", cluster.id(leader), first.at - killed);
        outages.push(first.at - killed);
        cluster.start(leader);
        let rejoined = format!("SELECT COUNT(*) FROM test.ledger WHERE id = {}", first.id);
        cluster.until_value(leader, &rejoined, "1").await;
    }
    writer.stop().await.assert_kept(cluster).await;
    outages
}

fn print_outages(mut outages: Vec<Duration>) {
    outages.sort_unstable();
    let (Some(least), Some(most)) = (outages.first(), outages.last()) else { return };
    let seconds = |duration: &Duration| format!("{:.2}", duration.as_secs_f64());
    let mut table = Table::new(&["set-up", "kills", "median s", "min s", "max s"]);
    let middle = median(outages.iter().copied());
    table.row([
        Kind::Cluster.to_string(),
        outages.len().to_string(),
        seconds(&middle),
        seconds(least),
        seconds(most),
    ]);
    let none = || "none: a person or another tool must promote a replica".to_owned();
    table.row(["semi-sync".to_owned(), "-".to_owned(), none(), "-".to_owned(), "-".to_owned()]);
    table.print("Failover: kill -9 of the leader's node and database → first write acknowledged");
}

// --- tables --------------------------------------------------------------------------------------

impl Figures {
    fn print(&self) {
        let limit = self.print_syncs();
        self.print_commits();
        self.print_ratios(limit);
        self.print_lags();
        self.print_usage();
    }

    fn print_syncs(&self) -> Duration {
        let mut table = Table::new(&["syncs per sample", "p50 ms", "p99 ms", "others' CPUs"]);
        let samples = quiet_if_any(self.syncs.iter().collect(), |sample| sample);
        let (p50, p99) = (median(samples.iter().map(|s| s.p50)), p99_of(&samples));
        let count = median(samples.iter().map(|s| s.count));
        table.row([count.to_string(), ms(p50), ms(p99), others(&samples)]);
        table.print("The limit: fdatasync after overwriting 4 KiB of a preallocated file");
        p50
    }

    fn commits_of(&self, kind: Kind, clients: usize) -> Vec<&Commit> {
        let all = self.commits.iter().filter(|c| c.kind == kind && c.clients == clients);
        quiet_if_any(all.collect(), |commit| &commit.sample)
    }

    fn print_commits(&self) {
        let columns =
            ["clients", "set-up", "an OK means", "tx/s", "p50 ms", "p99 ms", "others' CPUs"];
        let mut table = Table::new(&columns);
        for clients in CLIENT_COUNTS {
            for kind in Kind::ALL {
                let commits = self.commits_of(kind, clients);
                let samples: Vec<_> = commits.iter().map(|commit| &commit.sample).collect();
                table.row([
                    clients.to_string(),
                    kind.to_string(),
                    kind.promise().to_owned(),
                    format!("{:.0}", median(commits.iter().map(|commit| commit.tps))),
                    ms(median(samples.iter().map(|sample| sample.p50))),
                    ms(p99_of(&samples)),
                    others(&samples),
                ]);
            }
        }
        table.print("Commit: single-row INSERTs of about 100 bytes, prepared, autocommit");
    }

    fn print_ratios(&self, limit: Duration) {
        let mut table = Table::new(&["clients", "against", "tx/s, times", "p50, times"]);
        for clients in CLIENT_COUNTS {
            let tps = |kind| median(self.commits_of(kind, clients).iter().map(|c| c.tps));
            let p50 = |kind| {
                let all = self.commits_of(kind, clients);
                median(all.iter().map(|commit| commit.sample.p50.as_secs_f64()))
            };
            for kind in [Kind::Plain, Kind::SemiSync, Kind::SemiSyncSynced] {
                table.row([
                    clients.to_string(),
                    kind.to_string(),
                    format!("{:.2}", tps(Kind::Cluster) / tps(kind)),
                    format!("{:.2}", p50(Kind::Cluster) / p50(kind)),
                ]);
            }
            table.row([
                clients.to_string(),
                "one fdatasync".to_owned(),
                "-".to_owned(),
                format!("{:.1}", p50(Kind::Cluster) / limit.as_secs_f64()),
            ]);
        }
        table.print(&format!("{}: ratios of the medians", Kind::Cluster));
    }

    fn print_lags(&self) {
        let columns =
            ["marks, 50/s", "set-up", "load tx/s", "marks", "p50 ms", "p99 ms", "others' CPUs"];
        let mut table = Table::new(&columns);
        for load in 0..LAG_LOADS.len() {
            for kind in Kind::ALL.into_iter().filter(|kind| kind.has_followers()) {
                let of = |lag: &&Lag| lag.kind == kind && lag.load == load;
                let lags = quiet_if_any(self.lags.iter().filter(of).collect(), |lag| &lag.sample);
                let samples: Vec<_> = lags.iter().map(|lag| &lag.sample).collect();
                table.row([
                    name_of_load(load),
                    kind.to_string(),
                    format!("{:.0}", median(lags.iter().map(|lag| lag.tps))),
                    samples.iter().map(|sample| sample.count).sum::<usize>().to_string(),
                    ms(median(samples.iter().map(|sample| sample.p50))),
                    ms(p99_of(&samples)),
                    others(&samples),
                ]);
            }
        }
        table.print("Lag: from a row's OK to its sight on a follower");
    }

    fn print_usage(&self) {
        let labels = [
            CLIENTS,
            "database",
            "leader's database",
            "leader's node",
            "followers' databases",
            "followers' nodes",
        ];
        let mut columns = vec!["clients", "set-up", "all, µs a transaction"];
        columns.extend(labels);
        let mut table = Table::new(&columns);
        for clients in CLIENT_COUNTS {
            for kind in Kind::ALL {
                let commits = self.commits_of(kind, clients);
                let used = |label: &str| {
                    let of = |c: &Commit| c.sample.usage.marked.get(label).copied();
                    median(commits.iter().map(|commit| of(commit).unwrap_or_default()))
                };
                let all: f64 = labels.iter().map(|label| used(label)).sum();
                let tps = median(commits.iter().map(|commit| commit.tps));
                let mut cells =
                    vec![clients.to_string(), kind.to_string(), format!("{:.0}", all / tps * 1e6)];
                cells.extend(labels.iter().map(|label| format!("{:.2}", used(label))));
                table.row(cells);
            }
        }
        table.print("Processors used while committing");
    }
}

/// Without the noisy ones, unless all are.
fn quiet_if_any<T>(all: Vec<&T>, sample: impl Fn(&T) -> &Sample) -> Vec<&T> {
    let quiet: Vec<_> = all.iter().copied().filter(|one| !sample(one).is_noisy()).collect();
    if quiet.is_empty() { all } else { quiet }
}

fn p99_of(samples: &[&Sample]) -> Duration {
    median(samples.iter().map(|sample| sample.p99))
}

/// What others used, in the quietest and the noisiest of so many samples.
fn others(samples: &[&Sample]) -> String {
    let all: BTreeMap<u64, f64> =
        samples.iter().map(|s| ((s.usage.others * 1e6) as u64, s.usage.others)).collect();
    let least = all.values().next().copied().unwrap_or_default();
    let most = all.values().last().copied().unwrap_or_default();
    let mark = if samples.iter().all(|sample| sample.is_noisy()) { " *" } else { "" };
    format!("{least:.2}–{most:.2} of {}{mark}", samples.len())
}

/// For profilers: loads a cluster alone, and says which processes it is.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures nothing by itself"]
async fn load_the_cluster() {
    let plan = Plan::from_environment();
    let clients = usize::try_from(number("WOLFSCALE_FIGURES_CLIENTS", 16)).expect("few");
    let cluster = Cluster::founded(3).await;
    let leader = cluster.leader().await;
    cluster.app(leader, load::TABLE).await.expect("make the table");
    eprintln!("{} leads, below {}", cluster.id(leader), cluster.directory(leader).display());
    let load = load::run(&cluster.options(leader).into(), clients, Pace::Full, plan.sample).await;
    let (p50, p99) = (percentile(&load.latencies, 0.5), percentile(&load.latencies, 0.99));
    eprintln!("{clients} clients: {:.0} tx/s, p50 {} p99 {} ms", load.tps, ms(p50), ms(p99));
}
