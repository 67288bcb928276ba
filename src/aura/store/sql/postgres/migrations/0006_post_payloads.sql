-- From here on large values are stored apart: no live worker would take a mark for a value.
CREATE FUNCTION aura.loosen() RETURNS trigger LANGUAGE plpgsql AS
$$
DECLARE
    run text;
    marks bytea[];
BEGIN
    CASE TG_TABLE_NAME
        WHEN 'runs' THEN
            run := OLD.id;
            marks := ARRAY[OLD.input, OLD.output];
        WHEN 'journal' THEN
            run := OLD.run_id;
            marks := ARRAY[OLD.input, OLD.output];
        ELSE
            run := OLD.run_id;
            marks := ARRAY[OLD.payload];
    END CASE;
    INSERT INTO aura.payloads_loose (run_id, mark)
    SELECT u.run_id, u.mark FROM aura.payload_uses AS u
    WHERE u.run_id = run AND u.mark = ANY (marks);
    RETURN NULL;
END
$$;
CREATE TRIGGER journal_goes AFTER DELETE ON aura.journal FOR EACH ROW
    WHEN (length(OLD.input) = 33 OR length(OLD.output) = 33) EXECUTE FUNCTION aura.loosen();
CREATE TRIGGER signal_goes AFTER DELETE ON aura.signals FOR EACH ROW
    WHEN (length(OLD.payload) = 33) EXECUTE FUNCTION aura.loosen();
CREATE TRIGGER run_goes AFTER DELETE ON aura.runs FOR EACH ROW
    WHEN (length(OLD.input) = 33 OR length(OLD.output) = 33) EXECUTE FUNCTION aura.loosen();
CREATE TRIGGER run_begins_anew AFTER UPDATE OF input ON aura.runs FOR EACH ROW
    WHEN (length(OLD.input) = 33 AND OLD.input <> NEW.input) EXECUTE FUNCTION aura.loosen();
