//! Lets only those in who bring the token.

use tonic::{Request, Status, service::Interceptor};

use crate::config::Secret;

/// Compares each call's bearer token with the node's, in constant time.
#[derive(Clone, Debug)]
pub struct TokenCheck(Vec<Secret>);

impl TokenCheck {
    /// Admits this token only.
    pub fn new(token: Secret) -> Self {
        Self(vec![token])
    }

    /// Admits this token too.
    pub fn or(mut self, token: Secret) -> Self {
        self.0.push(token);
        self
    }
}

impl Interceptor for TokenCheck {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let header = request.metadata().get("authorization").map(|value| value.as_bytes());
        let Some(offered) = header.and_then(|bytes| bytes.strip_prefix(b"Bearer ")) else {
            return Err(Status::unauthenticated(
                "no token was sent: use --secret-file or --token-file of wolfctl",
            ));
        };
        match self.0.iter().any(|token| token.matches(offered)) {
            true => Ok(request),
            false => Err(Status::unauthenticated(
                "the token is not this node's: use its api.token_file, or its cluster's secret",
            )),
        }
    }
}
