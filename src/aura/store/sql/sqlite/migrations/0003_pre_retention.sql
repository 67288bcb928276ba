CREATE INDEX runs_finished ON runs (finished_at)
    WHERE state IN ('completed', 'failed', 'cancelled');
