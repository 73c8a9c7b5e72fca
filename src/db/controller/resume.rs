//! Connecting capture again after it was lost, in the same term.

use tracing::{info, warn};

use super::{
    executor::{Controller, DOMAIN, StepError},
    observation::Part,
};

impl Controller {
    /// Resumes capture, if the server is the same run that was promoted. One that fails is decided
    /// anew, up to a limit.
    pub(super) async fn resume_capture(&mut self, why: &str) {
        self.resumes += 1;
        warn!(why, attempt = self.resumes, "capture was lost; connecting again");
        match self.try_resume().await {
            Ok(()) => info!("capture goes on"),
            Err(error) => warn!(%error, "capture was not resumed"),
        }
    }

    async fn try_resume(&mut self) -> Result<(), StepError> {
        let Part::Leader { term, .. } = self.part.clone() else { return Ok(()) };
        let run = self.db.session().await?.positions(DOMAIN).await?.run;
        if run.is_none() || run != self.part_run {
            return Err(StepError::Moved("the database may have been restarted".into()));
        }
        Ok(self.inputs.capture.resume(term).await?)
    }
}
