//! What this node brings into a new cluster: nothing is founded before its database has said.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    db::{
        controller::{self, Founding},
        mariadb::MariaDb,
    },
    replicate::{driver::Request, replica::FoundingPlan},
};

const RETRY: Duration = Duration::from_millis(500);

/// Looks at the database until it answers, then tells the replica what this node would found.
/// What stands in the way is shown as a notice.
pub(super) async fn offer(
    mut plan: FoundingPlan,
    db: Option<MariaDb>,
    requests: mpsc::Sender<Request>,
    notice: watch::Sender<Option<String>>,
    stop: CancellationToken,
) {
    if let Some(db) = db {
        let Some(found) = look(&db, &notice, &stop).await else { return };
        plan.db_position = Some(found.position);
    }
    info!(position = plan.db_position, "this node is ready to found the cluster");
    notice.send_replace(None);
    // If the driver is gone, the node stops anyway.
    let _stopping = requests.send(Request::SetFounding(plan)).await;
}

async fn look(
    db: &MariaDb,
    notice: &watch::Sender<Option<String>>,
    stop: &CancellationToken,
) -> Option<Founding> {
    loop {
        let what = match controller::probe(db).await {
            Ok(found) => match objection(&found) {
                None => return Some(found),
                Some(what) => what,
            },
            Err(error) => format!("no cluster is founded before the database answers: {error}"),
        };
        notice.send_replace(Some(what));
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// Data without a GTID history cannot be compared with the other founders' data.
fn objection(found: &Founding) -> Option<String> {
    let incomparable = found.position.is_empty() && !found.user_schemas.is_empty();
    incomparable.then(|| {
        format!(
            "the database holds data ({}) but no GTID history, so nobody can tell whether the \
             founders hold the same: found the cluster with empty databases and load the data \
             through the leader, or give all founders one copy with the same gtid_slave_pos",
            found.user_schemas.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(position: &str, schemas: &[&str]) -> Founding {
        Founding {
            version: "10.11".into(),
            position: position.into(),
            user_schemas: schemas.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn only_data_without_history_is_in_the_way() {
        assert_eq!(objection(&found("", &[])), None);
        assert_eq!(objection(&found("0-1-9", &["shop"])), None);
        let what = objection(&found("", &["shop"])).expect("refused");
        assert!(what.contains("shop"), "{what}");
    }
}
