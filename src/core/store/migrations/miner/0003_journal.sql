-- What a miner owes for a job, from the promise to its fulfilment. Most of it is in the job's row already: a slot that
-- is taken is to be given back, an outcome is to be told. These columns say the rest.

-- When the executor was started; null while that is owed.
ALTER TABLE accepted_job ADD COLUMN executor_started INTEGER;
-- Whether the executor said that it comes back with its token after the loss of its link.
ALTER TABLE accepted_job ADD COLUMN executor_resumes INTEGER NOT NULL DEFAULT 0 CHECK (executor_resumes IN (0, 1));
-- When it was decided to end the executor by force; done once the slot is given back.
ALTER TABLE accepted_job ADD COLUMN kill_ordered INTEGER;
-- The port for the client of a streaming job, given back with the slot.
ALTER TABLE accepted_job ADD COLUMN streaming_port INTEGER;
-- When the validator showed that it has the outcome, which is told again until then.
ALTER TABLE accepted_job ADD COLUMN outcome_acknowledged INTEGER;

UPDATE accepted_job SET executor_started = created_at WHERE executor_process IS NOT NULL;
UPDATE accepted_job SET outcome_acknowledged = result_reported_to_validator;

DROP INDEX accepted_job_owed;
CREATE INDEX accepted_job_owed ON accepted_job (validator)
    WHERE outcome IS NOT NULL AND outcome_acknowledged IS NULL;
-- Jobs that still oblige to something besides telling: few, looked for at every start.
CREATE INDEX accepted_job_obliging ON accepted_job (id)
    WHERE slot IS NOT NULL OR status IN ('WAITING_FOR_EXECUTOR', 'WAITING_FOR_PAYLOAD', 'RUNNING');

-- Whether the operator wants no new jobs.
ALTER TABLE operator ADD COLUMN is_draining INTEGER NOT NULL DEFAULT 0 CHECK (is_draining IN (0, 1));
