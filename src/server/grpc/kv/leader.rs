//! Connections to the nodes that lead, and who may pass calls on.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::{config::Secret, kv::Rejection, types::NodeId, wire::kv_client::KvClient};

/// What the token of calls that nodes pass on is derived for.
const LABEL: &str = "wolfscale forward token v1";
/// Marks a call that a node passes on.
pub const FORWARDED: &str = "wolfscale-forwarded";
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection may be silent before it is asked for a sign of life, and then.
const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// A client of another node's KV.
pub type LeaderClient = KvClient<InterceptedService<Channel, Forwards>>;

/// Where nodes are, by ID.
pub type AddressOf = Arc<dyn Fn(&NodeId) -> Option<String> + Send + Sync>;

/// Reaches other nodes' KV; keeps one connection an address.
pub struct Leaders {
    address_of: AddressOf,
    token: Secret,
    open: Mutex<BTreeMap<String, Channel>>,
}

impl Leaders {
    /// Reaches nodes where `address_of` says; the token is derived from the cluster's secret.
    pub fn new(address_of: AddressOf, secret: &Secret) -> Self {
        Self { address_of, token: forward_token(secret), open: Mutex::default() }
    }

    /// Where a node is.
    pub fn address(&self, node: &NodeId) -> Option<String> {
        (self.address_of)(node)
    }

    /// What a caller brings to be a node.
    pub fn token(&self) -> &Secret {
        &self.token
    }

    /// A client of that node. It did not happen yet, whatever fails here.
    pub async fn client(&self, node: &NodeId) -> Result<LeaderClient, Rejection> {
        let unreachable =
            |what: String| Rejection::LeaderUnreachable { leader: node.clone(), what };
        let address =
            self.address(node).ok_or_else(|| unreachable("its address is not known".to_owned()))?;
        let known = self.open().get(&address).cloned();
        let channel = match known {
            Some(channel) => channel,
            None => connect(&address).await.map_err(unreachable)?,
        };
        self.open().insert(address, channel.clone());
        let bearer = format!("Bearer {}", self.token.expose_text()).parse();
        let bearer = bearer.map_err(|_| unreachable("the token is not plain text".to_owned()))?;
        Ok(KvClient::with_interceptor(channel, Forwards(bearer)))
    }

    /// That node's connection is not to be trusted any more.
    pub fn forget(&self, node: &NodeId) {
        if let Some(address) = self.address(node) {
            self.open().remove(&address);
        }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Channel>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The token of calls that nodes pass on to each other.
pub fn forward_token(secret: &Secret) -> Secret {
    secret.derive(LABEL)
}

async fn connect(address: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| e.to_string())?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE * 2)
        .keep_alive_while_idle(true);
    match tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no connection within {CONNECT_TIMEOUT:?}")),
    }
}

/// Marks calls as passed on, by a node that knows the cluster's secret.
#[derive(Clone)]
pub struct Forwards(MetadataValue<Ascii>);

impl Interceptor for Forwards {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        request.metadata_mut().insert(FORWARDED, MetadataValue::from_static("1"));
        Ok(request)
    }
}
