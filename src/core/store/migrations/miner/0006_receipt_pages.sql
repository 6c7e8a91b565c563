-- Where each receipt stands in the pages that the miner publishes (wire-receipts-http): a page is five minutes of
-- storing, its lines are in order of arrival, and the place of a line never changes.
ALTER TABLE receipt ADD COLUMN page INTEGER;
-- Offset of its line in the page, and length of the line with its end, in bytes.
ALTER TABLE receipt ADD COLUMN page_start INTEGER;
ALTER TABLE receipt ADD COLUMN page_bytes INTEGER;

-- 59 are the bytes of a line that are neither the payload nor a signature.
UPDATE receipt SET page = placed.page, page_start = placed.ends - placed.bytes, page_bytes = placed.bytes
FROM (
    SELECT id, page, bytes, sum(bytes) OVER (PARTITION BY page ORDER BY id) AS ends
    FROM (
        SELECT id, stored_at / 300000000 AS page,
            59 + length(CAST(payload AS BLOB)) + length(validator_signature) + length(miner_signature) AS bytes
        FROM receipt
        WHERE miner_signature IS NOT NULL
    )
) AS placed
WHERE placed.id = receipt.id;

CREATE UNIQUE INDEX receipt_page ON receipt (page, page_start);

-- Pages that nobody adds to any more, packed once by gzip; a row here says that the pieces are complete.
CREATE TABLE receipt_archive (
    page        INTEGER PRIMARY KEY,
    plain_bytes INTEGER NOT NULL,
    gzip_bytes  INTEGER NOT NULL
) STRICT;
CREATE TABLE receipt_archive_piece (
    page  INTEGER NOT NULL,
    start INTEGER NOT NULL,
    bytes BLOB    NOT NULL,
    PRIMARY KEY (page, start)
) STRICT;
