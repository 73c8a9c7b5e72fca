//! What each path answers; no I/O. HTTP status codes are chosen here and nowhere else.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;

use crate::{config::Secret, metrics, server::status::NodeStatus};

/// Prometheus' text form.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers requests out of the status and the metrics.
#[derive(Clone)]
pub struct Answers {
    token: Option<Secret>,
    status: watch::Receiver<NodeStatus>,
    metrics: PrometheusHandle,
}

impl Answers {
    /// With a token, every request must bring it.
    pub fn new(
        token: Option<Secret>,
        status: watch::Receiver<NodeStatus>,
        metrics: PrometheusHandle,
    ) -> Self {
        Self { token, status, metrics }
    }

    /// The answer to a request.
    pub fn answer(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Response<Full<Bytes>> {
        if !self.admits(headers) {
            let mut refusal = text(StatusCode::UNAUTHORIZED, "bring the token of http.token_file");
            let scheme = hyper::header::HeaderValue::from_static("Bearer");
            refusal.headers_mut().insert(WWW_AUTHENTICATE, scheme);
            return refusal;
        }
        if method != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here");
        }
        match path {
            "/metrics" => self.metrics(),
            "/health/live" => text(StatusCode::OK, "live"),
            "/health/ready" => self.ready(),
            _ => text(StatusCode::NOT_FOUND, "try /metrics, /health/live or /health/ready"),
        }
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let offered = headers.get(AUTHORIZATION).map(|value| value.as_bytes());
        offered.and_then(|bytes| bytes.strip_prefix(b"Bearer ")).is_some_and(|t| token.matches(t))
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        metrics::show(&self.status.borrow());
        text(StatusCode::OK, self.metrics.render())
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let status = self.status.borrow();
        if status.role.leader.is_none() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "no leader is known");
        }
        match status.db.as_ref().filter(|db| !db.eligible()) {
            Some(db) => {
                let why = format!("the database is {:?}: {}", db.state, db.detail);
                text(StatusCode::SERVICE_UNAVAILABLE, why)
            }
            None => text(StatusCode::OK, "ready"),
        }
    }
}

fn text(status: StatusCode, body: impl Into<String>) -> Response<Full<Bytes>> {
    let mut body = body.into();
    if !body.ends_with('\n') {
        body.push('\n');
    }
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(METRICS_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
