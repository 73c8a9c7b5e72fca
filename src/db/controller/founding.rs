//! The look at a database before a cluster is founded on it, or a node joins with it.

use crate::db::{
    mariadb::MariaDb,
    requirements::{CheckError, supported},
};

/// What a database holds before it belongs to a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Founding {
    /// `@@version`.
    pub version: String,
    /// `@@gtid_current_pos`; empty if it has no history.
    pub position: String,
    /// Schemas that are not the server's own.
    pub user_schemas: Vec<String>,
}

impl Founding {
    /// No history and no data: fit for a new cluster, whatever the others hold.
    pub fn is_empty(&self) -> bool {
        self.position.is_empty() && self.user_schemas.is_empty()
    }
}

/// Looks at a database; changes nothing.
pub async fn probe(db: &MariaDb) -> Result<Founding, CheckError> {
    let mut session = db.session().await?;
    let version = session.version().await?;
    supported(&version)?;
    Ok(Founding {
        version,
        position: session.positions(0).await?.current,
        user_schemas: session.user_schemas().await?,
    })
}
