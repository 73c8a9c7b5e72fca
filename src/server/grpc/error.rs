//! The one place that maps our errors to gRPC status codes.

use tonic::Status;

use crate::server::backend::BackendError;

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
