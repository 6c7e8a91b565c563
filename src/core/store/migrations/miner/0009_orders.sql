-- What a validator sent about a job, apart from the job's row: the row is written anew at each of its steps, and these
-- texts, which are most of its bytes, would be written with it.

-- The first request, as received.
CREATE TABLE job_request (
    job_row INTEGER PRIMARY KEY,
    text    TEXT NOT NULL
) STRICT;
-- The full order, as received.
CREATE TABLE job_order (
    job_row INTEGER PRIMARY KEY,
    text    TEXT NOT NULL
) STRICT;

INSERT INTO job_request (job_row, text) SELECT id, initial_job_details FROM accepted_job;
INSERT INTO job_order (job_row, text)
    SELECT id, full_job_details FROM accepted_job WHERE full_job_details IS NOT NULL;

ALTER TABLE accepted_job DROP COLUMN initial_job_details;
ALTER TABLE accepted_job DROP COLUMN full_job_details;

CREATE TRIGGER orders_forgotten AFTER DELETE ON accepted_job
BEGIN
    DELETE FROM job_request WHERE job_row = OLD.id;
    DELETE FROM job_order WHERE job_row = OLD.id;
END;
