//! The self-test of `horde miner check`: a job of each class, as a validator would send it.

use std::net::SocketAddr;

use super::super::error::{CmdError, ExitCode, OrFail};
use super::super::executor::engine;
use super::check::Inspection;
use crate::core::client::inline;
use crate::core::crypto::Keypair;
use crate::core::docker::image::make_image_with;
use crate::core::docker::reference::ImageReference;
use crate::core::miner::check::trial::{
    Bench, HASHCAT_ANSWER, HASHCAT_IMAGE, LEAVE, Passed, Trial, TrialError, hashcat_arguments,
};
use crate::core::miner::check::{self, Finding, Status, probe, skipped};
use crate::core::model::job::RunPreset;
use crate::core::model::volume::{InlineVolume, Volume};
use crate::core::model::{ExecutorClass, Hotkey, JobId};
use crate::core::store::miner::MinerStore;

/// Seconds of one page of receipts (wire-receipts-http §1).
const PAGE_SECONDS: i64 = 300;

/// The file that the job of a self-test prints.
pub(in super::super) const QUESTION: &str = "question.txt";

impl Inspection<'_> {
    /// Runs a job on each class through the front door, as a validator of a hotkey made for it.
    pub(super) async fn self_tests(
        &mut self,
        miner: Option<Hotkey>,
        store: Option<MinerStore>,
        door: Option<SocketAddr>,
    ) -> Result<(), CmdError> {
        if !self.wants("self-test") && !self.wants("receipts-page") {
            return Ok(());
        }
        let classes: Vec<ExecutorClass> = self.config.executors.iter().map(|(class, _)| *class).collect();
        let (Some(miner), Some(store), Some(door)) = (miner, store, door) else {
            for class in classes {
                self.not_running(&format!("self-test:{class}"))?;
            }
            return self.not_running("receipts-page");
        };
        let keypair = Keypair::from_seed(&rand::random());
        let now = self.context.clock.now();
        store
            .allow_check_validator(keypair.hotkey(), now + LEAVE, now)
            .await
            .or_fail(ExitCode::Failed, "could not let the self-test in")?;
        self.guest = Some((keypair.hotkey().clone(), store.clone()));
        let (clock, tasks) = (self.context.clock.clone(), self.tasks.clone());
        let bench = Bench {
            door,
            miner: &miner,
            validator: &keypair,
            clock: &clock,
            store: &store,
            tasks: &tasks,
        };
        let mut ran = None;
        for class in classes {
            let name = format!("self-test:{class}");
            let trial = match self.trial(class).await {
                Ok(trial) => trial,
                Err(error) => {
                    self.add(check::finding(&name, Status::Failed, error))?;
                    continue;
                }
            };
            self.progress
                .tell(format!("running a job of class {class} in {}", trial.image));
            let outcome = bench.run(&trial).await;
            self.add(judge_trial(&name, &outcome))?;
            ran = ran.or(outcome.ok().map(|passed| passed.job));
        }
        self.receipts_page(door, ran).await
    }

    /// Returns the job of a class.
    async fn trial(&mut self, class: ExecutorClass) -> Result<Trial, CmdError> {
        // Without GPUs only an image that was named can be meant for it.
        let given = self.args.gpu_image.clone();
        if class.has_gpu() && (given.is_some() || !self.config.no_gpu) {
            return Ok(Trial {
                class,
                image: given.unwrap_or_else(|| HASHCAT_IMAGE.to_owned()),
                arguments: hashcat_arguments(),
                preset: RunPreset::NvidiaAll,
                volume: Some(question("")?),
                expected: HASHCAT_ANSWER.to_owned(),
            });
        }
        let nonce = uuid::Uuid::new_v4().to_string();
        let (image, arguments) = match &self.args.image {
            Some(image) => (
                image.clone(),
                vec!["cat".to_owned(), format!("/volume/{QUESTION}")],
            ),
            None => (
                self.make_image().await?,
                ["executor", "answer-inside"].map(str::to_owned).to_vec(),
            ),
        };
        Ok(Trial {
            class,
            image,
            arguments,
            preset: RunPreset::None,
            volume: Some(question(&nonce)?),
            expected: nonce,
        })
    }

    /// Makes the image of the self-test out of this binary, once.
    async fn make_image(&mut self) -> Result<String, CmdError> {
        if let Some(made) = &self.made_image {
            return Ok(made.as_str().to_owned());
        }
        let tried = "could not make the image of the self-test";
        let name = format!("horde-check:{}", uuid::Uuid::new_v4().simple());
        let image = ImageReference::parse(&name).or_fail(ExitCode::Bug, tried)?;
        let engine = engine(&self.config.docker_host)?;
        self.made_image = Some(image.clone());
        make_image_with(&*engine, &image, Vec::new())
            .await
            .or_fail(ExitCode::Failed, tried)?;
        Ok(name)
    }

    /// Looks for the receipts of a job on the miner's pages.
    async fn receipts_page(&mut self, door: SocketAddr, job: Option<JobId>) -> Result<(), CmdError> {
        let check = "receipts-page";
        let Some(job) = job else {
            return self.add(skipped(check, "no self-test has left receipts"));
        };
        let page = self.context.clock.unix_seconds() / PAGE_SECONDS;
        let mut status = None;
        for page in [page, page - 1] {
            let url = format!("http://{door}/receipts/{page}.jsonl");
            match probe::get(&url).await {
                Err(why) => {
                    return self.add(check::finding(
                        check,
                        Status::Failed,
                        format_args!("{url}: {why}"),
                    ));
                }
                Ok(answer) if answer.status == 200 => {
                    let text = String::from_utf8_lossy(&answer.body);
                    if text.contains(job.as_str()) {
                        return self.add(check::finding(
                            check,
                            Status::Held,
                            format_args!("{url} lists them"),
                        ));
                    }
                    status = Some(format!("{url} does not list them"));
                }
                Ok(answer) if answer.status == 404 => {}
                Ok(answer) => status = Some(format!("{url}: HTTP {}", answer.status)),
            }
        }
        self.add(match status {
            Some(words) => check::finding(check, Status::Failed, words),
            None => skipped(check, "this miner publishes no receipts"),
        })
    }
}

fn judge_trial(name: &str, outcome: &Result<Passed, TrialError>) -> Finding {
    match outcome {
        Ok(passed) => check::finding(
            name,
            Status::Held,
            format_args!(
                "job {} ran in {:.1} s, its executor was ready after {:.1} s, all receipts are kept",
                passed.job,
                passed.took.as_secs_f64(),
                passed.ready_after.as_secs_f64()
            ),
        ),
        Err(error @ TrialError::Busy) => check::finding(name, Status::Unknown, error),
        Err(error) => {
            let mut words = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                words.push_str(": ");
                words.push_str(&cause.to_string());
                source = cause.source();
            }
            check::finding(name, Status::Failed, words)
        }
    }
}

/// Returns the input of a self-test's job: one small file.
fn question(text: &str) -> Result<Volume, CmdError> {
    let tried = "could not pack the input of the self-test";
    let file = tempfile::NamedTempFile::new().or_fail(ExitCode::Failed, tried)?;
    std::fs::write(file.path(), text).or_fail(ExitCode::Failed, tried)?;
    let contents = inline::pack(file.path(), Some(QUESTION), inline::PACKED_BYTES_MAX)
        .or_fail(ExitCode::Failed, tried)?;
    Ok(Volume::Inline(InlineVolume {
        contents,
        relative_path: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_occupied_class_is_no_failure_and_a_wrong_answer_is_one() {
        assert_eq!(
            judge_trial("self-test:x", &Err(TrialError::Busy)).status,
            Status::Unknown
        );
        let wrong = TrialError::WrongAnswer {
            expected: HASHCAT_ANSWER.to_owned(),
            got: "other".to_owned(),
        };
        let found = judge_trial("self-test:x", &Err(wrong));
        assert_eq!(found.status, Status::Failed);
        assert!(found.actual.contains("mQNJTt"));
    }
}
