-- :online: each statement is a transaction of its own, and writers go on meanwhile.
-- Lists of the runs of a state or workflow, newest first. The index compares states by another
-- collation than the engine's statements do, so none of those can stray into it.
DROP INDEX CONCURRENTLY IF EXISTS aura.runs_listed;
CREATE INDEX CONCURRENTLY runs_listed
    ON aura.runs (state COLLATE "POSIX", workflow, created_at, id);
