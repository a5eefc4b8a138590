-- What a run that is taken up again has to know: how long it may take, until when since it was first begun, and whose trace it is in.
ALTER TABLE runs ADD COLUMN timeout_ms INTEGER;
ALTER TABLE runs ADD COLUMN deadline_at INTEGER;
ALTER TABLE runs ADD COLUMN traceparent TEXT;
