-- Lists of the runs of a state or workflow, newest first. The index compares states by another
-- collation than the engine's statements do, so none of those can stray into it.
CREATE INDEX runs_listed ON runs (state COLLATE RTRIM, workflow, created_at, id);
