-- How many runs have ended, so that nobody has to count a million of them: all that ended until
-- `until` (epoch seconds) are in `runs`, later ones are counted when somebody asks. The queue '' is
-- the default one.
CREATE TABLE tallies (
    workflow TEXT NOT NULL,
    version  TEXT NOT NULL,
    state    TEXT NOT NULL,
    queue    TEXT NOT NULL,
    runs     INTEGER NOT NULL,
    PRIMARY KEY (workflow, version, state, queue)
) WITHOUT ROWID;
CREATE TABLE tally_mark (until REAL NOT NULL);
INSERT INTO tally_mark VALUES (-1e999);

-- What is deleted is not counted any more, whoever deletes it.
CREATE TRIGGER runs_deleted AFTER DELETE ON runs
WHEN old.state IN ('completed', 'failed', 'cancelled')
BEGIN
    UPDATE tallies SET runs = runs - 1
    WHERE workflow = old.workflow AND version = old.version AND state = old.state
      AND queue = coalesce(old.queue, '') AND old.finished_at <= (SELECT until FROM tally_mark);
END;
