-- When the job's user cancelled it, as its validator said; done once the job has its outcome. Time in microseconds.
ALTER TABLE accepted_job ADD COLUMN cancel_ordered INTEGER;
