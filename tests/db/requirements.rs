//! Wrong settings are found on a live server, and the drop-in that is written sets them right.

use wolfscale::db::{
    control::StartRole,
    requirements::{self, Finding},
};

use crate::controlled::Controlled;

async fn findings(server: &Controlled) -> Vec<Finding> {
    let mut session = server.db().session().await.expect("connects");
    requirements::check(&mut session, &server.wanted()).await.expect("a supported server")
}

#[tokio::test]
async fn a_default_server_is_told_exactly_what_to_change_and_the_drop_in_does_it() {
    let server = Controlled::plain(7);
    server.start().await;

    let found = findings(&server).await;
    let lines: Vec<&str> = found.iter().map(|f| f.line.as_str()).collect();
    for must in [
        "server_id = 7",
        "binlog_format = ROW",
        "sync_relay_log = 0",
        "gtid_strict_mode = ON",
        "rpl_semi_sync_master_wait_point = AFTER_SYNC",
        "rpl_semi_sync_master_timeout = 18446744073709551615",
        "init_rpl_role = SLAVE",
        "replicate_same_server_id = 1",
        "skip_slave_start = 1",
        "read_only = 1",
        "SET GLOBAL rpl_semi_sync_master_enabled=1;",
    ] {
        assert!(lines.contains(&must), "{must} is missing in {lines:#?}");
    }
    for fine in ["log_bin", "binlog_row_image", "binlog_checksum", "log_slave_updates"] {
        assert!(!found.iter().any(|f| f.name == fine), "{fine} is as it must be");
    }

    let before = requirements::diff(&server.wanted());
    assert!(before.lines().any(|l| l == "+init_rpl_role = SLAVE"), "{before}");
    requirements::write(&server.wanted()).expect("writes");
    let after = requirements::diff(&server.wanted());
    assert!(after.lines().skip(2).all(|l| l.starts_with(' ')), "nothing left to change: {after}");

    let unapplied = findings(&server).await;
    assert_eq!(unapplied.len(), found.len(), "a file alone changes nothing: {unapplied:#?}");

    server.control().stop().await.expect("stops gracefully");
    assert_eq!(server.control().is_running().await, Some(false));
    server.start().await;
    assert_eq!(findings(&server).await, []);
    requirements::write(&server.wanted()).expect("writes");
    assert_eq!(findings(&server).await, [], "written again, it is no newer than the server");
}

#[tokio::test]
async fn semi_sync_in_an_option_file_is_found_and_one_start_in_another_role_is_not() {
    let server = Controlled::configured(8);
    let extra = server.wanted().drop_in.with_file_name("10-mine.cnf");
    std::fs::write(extra, "[mysqld]\nrpl-semi-sync-master-enabled\n").expect("writes");
    let _launch = server.control().start(StartRole::Default).await.expect("starts");
    server.answers().await;
    let lines: Vec<String> = findings(&server).await.into_iter().map(|f| f.line).collect();
    assert_eq!(lines, ["-rpl_semi_sync_master_enabled = ON"]);
}
