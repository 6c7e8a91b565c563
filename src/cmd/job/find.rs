//! Finding a job by its identity, or by the beginning of it that no other job of the user has.

use super::client_error;
use crate::cmd::catalogue;
use crate::cmd::error::{CmdError, ExitCode};
use crate::cmd::table::printable;
use crate::core::client::{Client, ClientError};
use crate::core::model::JobId;
use crate::core::proto::sdk_facilitator::JobView;

/// Newest jobs among which the beginning of an identity is looked for.
const SEARCHED_MAX: usize = 10_000;

/// Jobs that are named when a beginning is that of several.
const CANDIDATES_MAX: usize = 10;

/// Returns the job with this identity, or with the only one that begins so.
pub(super) async fn find(client: &Client, id: &str) -> Result<JobView, CmdError> {
    let tried = "could not read the job";
    let id = id.trim().to_ascii_lowercase();
    if let Ok(whole) = uuid::Uuid::try_parse(&id) {
        let job = JobId::new(whole.hyphenated().to_string());
        return client.job(&job).await.map_err(|error| {
            let failed = client_error(tried, &error);
            match error {
                ClientError::NotFound { .. } => {
                    failed.hint("`horde job list` lists the jobs of this user at this facilitator")
                }
                _ => failed,
            }
        });
    }
    let is_beginning = !id.is_empty() && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    if !is_beginning {
        let words = format!(
            "{:?} is no identity of a job, nor the beginning of one",
            printable(&id)
        );
        return Err(CmdError::new(ExitCode::Usage, words).hint("`horde job list` lists them"));
    }
    search(client, &id).await
}

/// Looks for the only job whose identity begins so.
async fn search(client: &Client, beginning: &str) -> Result<JobView, CmdError> {
    let mut found = Vec::new();
    let mut searched = 0_usize;
    let mut pages = client.pages(None);
    while searched < SEARCHED_MAX && found.len() <= CANDIDATES_MAX {
        let page = pages.next().await;
        let Some(page) = page.map_err(|error| client_error("could not look for the job", &error))? else {
            break;
        };
        searched = searched.saturating_add(page.len());
        found.extend(
            page.into_iter()
                .filter(|job| job.uuid.as_str().starts_with(beginning)),
        );
    }
    if found.len() > 1 {
        let words = format!("{beginning} is the beginning of several jobs");
        let ambiguous = CmdError::new(catalogue::AMBIGUOUS, words);
        let named = found.iter().take(CANDIDATES_MAX);
        let failed = named.fold(ambiguous, |failed, job| {
            let image = printable(&job.docker_image);
            failed.hint(format!("{} ({}, {image})", job.uuid, job.created_at))
        });
        return Err(if found.len() > CANDIDATES_MAX {
            failed.hint("and more")
        } else {
            failed
        });
    }
    found.pop().ok_or_else(|| {
        CmdError::new(
            catalogue::NO_JOB,
            format!("no job among the newest {searched} begins with {beginning}"),
        )
        .hint("`horde job list` lists them; a whole identity is found whatever its age")
    })
}
