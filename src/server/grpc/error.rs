//! The one place that maps our errors to gRPC status codes.

use tonic::Status;

use crate::server::backend::{BackendError, ChangeFailed};

impl From<BackendError> for Status {
    fn from(error: BackendError) -> Self {
        let message = error.to_string();
        match error {
            BackendError::NoDatabase | BackendError::NotReady(_) => {
                Status::failed_precondition(message)
            }
            BackendError::Rejected(_) => Status::unavailable(message),
            BackendError::Indeterminate(_) => Status::unknown(message),
        }
    }
}

impl From<ChangeFailed> for Status {
    fn from(error: ChangeFailed) -> Self {
        let message = error.to_string();
        match error {
            ChangeFailed::Elsewhere(_) => Status::unavailable(message),
            ChangeFailed::Invalid(_) => Status::invalid_argument(message),
            ChangeFailed::Indeterminate(_) => Status::unknown(message),
        }
    }
}
