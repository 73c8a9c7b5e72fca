//! The HTTP edge: metrics in Prometheus' text form, and health for load balancers and supervisors.
//!
//! | path | answers |
//! | --- | --- |
//! | `GET /metrics` | 200 |
//! | `GET /health/live` | 200 while the process serves |
//! | `GET /health/ready` | 200 if a leader is known and the database takes part, else 503 and why |

mod answer;
mod serve;

pub use answer::Answers;
pub use serve::serve;
