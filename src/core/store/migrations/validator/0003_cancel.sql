-- When the job's user cancelled it, as the facilitator said; done once the job has ended.
ALTER TABLE job ADD COLUMN cancel_ordered INTEGER;
