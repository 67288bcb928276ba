-- From here on large values are stored apart: no live worker would take a mark for a value.
CREATE TRIGGER journal_goes AFTER DELETE ON journal
WHEN length(OLD.input) = 33 OR length(OLD.output) = 33
BEGIN
    INSERT OR IGNORE INTO payloads_loose
    SELECT run_id, mark FROM payload_uses
    WHERE run_id = OLD.run_id AND mark IN (OLD.input, OLD.output);
END;
CREATE TRIGGER signal_goes AFTER DELETE ON signals
WHEN length(OLD.payload) = 33
BEGIN
    INSERT OR IGNORE INTO payloads_loose
    SELECT run_id, mark FROM payload_uses WHERE run_id = OLD.run_id AND mark = OLD.payload;
END;
CREATE TRIGGER run_goes AFTER DELETE ON runs
WHEN length(OLD.input) = 33 OR length(OLD.output) = 33
BEGIN
    INSERT OR IGNORE INTO payloads_loose
    SELECT run_id, mark FROM payload_uses
    WHERE run_id = OLD.id AND mark IN (OLD.input, OLD.output);
END;
CREATE TRIGGER run_begins_anew AFTER UPDATE OF input ON runs
WHEN length(OLD.input) = 33
BEGIN
    INSERT OR IGNORE INTO payloads_loose
    SELECT run_id, mark FROM payload_uses WHERE run_id = OLD.id AND mark = OLD.input;
END;
