-- Lists of the runs of a state or workflow, newest first, as `runs_listed`, but without those that
-- are being executed: they are few, and a run that is started and ends has one entry written
-- instead of three changes. A statement that does not say so itself cannot stray into it.
CREATE INDEX runs_resting ON runs (state, workflow, created_at, id) WHERE state <> 'running';
