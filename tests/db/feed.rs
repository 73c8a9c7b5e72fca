//! A real replica against the feed.

use crate::mariadb::MariaDb;

#[tokio::test]
async fn servers_start_and_survive_kills() {
    let mut server = MariaDb::start(7, "").await;
    assert_eq!(server.value("SELECT @@server_id").await, "7");
    server.restart().await;
    assert_eq!(server.sql("SELECT 1, NULL; SELECT 2, 'x'").await, [["2", "x"]]);
}
