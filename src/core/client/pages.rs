//! Going through a user's jobs page by page, newest first, each once.

use std::collections::HashSet;

use super::{Call, Client, ClientError};
use crate::core::model::JobId;
use crate::core::proto::sdk_facilitator::{JobPage, JobView, path};

/// Jobs asked for at a time; a page holds whole results, so it is halved when it is too large.
const PAGE_SIZE: u64 = 64;

/// Most characters of a mark that jobs are narrowed to.
const TAG_CHARACTERS_MAX: usize = 255;

/// A way through the user's jobs.
#[derive(Debug)]
pub struct Pages<'c> {
    client: &'c Client,
    tag: Option<String>,
    offset: u64,
    size: u64,
    is_over: bool,
    seen: HashSet<JobId>,
}

impl Client {
    /// Begins with the newest job; `tag` narrows to jobs with that mark.
    pub fn pages(&self, tag: Option<&str>) -> Pages<'_> {
        Pages {
            client: self,
            tag: tag.map(percent_encoded),
            offset: 0,
            size: PAGE_SIZE,
            is_over: false,
            seen: HashSet::new(),
        }
    }
}

/// Writes a text into a query.
fn percent_encoded(text: &str) -> String {
    let cut: String = text.chars().take(TAG_CHARACTERS_MAX).collect();
    let mut out = String::with_capacity(cut.len());
    for byte in cut.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for half in [byte >> 4, byte & 0xf] {
                let digit = char::from_digit(half.into(), 16).unwrap_or('0');
                out.push(digit.to_ascii_uppercase());
            }
        }
    }
    out
}

impl Pages<'_> {
    /// Returns the jobs of the next page that were on none before; none when there are no more pages.
    ///
    /// A job that is submitted meanwhile shifts the pages, so that one may come twice: it is left out the second time.
    pub async fn next(&mut self) -> Result<Option<Vec<JobView>>, ClientError> {
        while !self.is_over {
            let number = self.offset / self.size + 1;
            let tag = self
                .tag
                .as_ref()
                .map(|tag| format!("&tag={tag}"))
                .unwrap_or_default();
            let path = format!("{}?page={number}&page_size={}{tag}", path::JOBS, self.size);
            let page: JobPage = match self.client.ask(&Call::get(path)).await {
                // Too large together, says a facilitator of this program: half as many. The offset stays a multiple.
                Err(ClientError::Refused { status: 413, .. } | ClientError::TooLarge { .. })
                    if self.size > 1 =>
                {
                    self.size /= 2;
                    continue;
                }
                // The last page has gone since it was announced.
                Err(ClientError::NotFound { .. }) if self.offset > 0 => {
                    self.is_over = true;
                    continue;
                }
                outcome => outcome?,
            };
            self.offset = self.offset.saturating_add(self.size);
            self.is_over = page.next.is_none() || page.results.is_empty();
            let fresh = page
                .results
                .into_iter()
                .filter(|job| self.seen.insert(job.uuid.clone()));
            return Ok(Some(fresh.collect()));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_cannot_leave_its_place_in_the_query() {
        assert_eq!(percent_encoded("a b&page=9/ż"), "a%20b%26page%3D9%2F%C5%BC");
    }
}
