-- How each start of a gateway on this directory went: what tells a crash loop from a start.
CREATE TABLE starts (
  epoch INTEGER PRIMARY KEY,
  began_at INTEGER NOT NULL,
  -- `guests`, or a tenant (then its id stands in `tenant`): what was being started; NULL: nothing in particular.
  stage TEXT,
  tenant TEXT REFERENCES tenants (id),
  -- `settled`: it came up and stayed up; `stopped`: it was ended in order; NULL: neither.
  ended TEXT
) STRICT;
-- Tenants whose start ended the process.
CREATE TABLE kept_off (
  tenant TEXT PRIMARY KEY REFERENCES tenants (id),
  crashes INTEGER NOT NULL,
  since INTEGER NOT NULL,
  retry_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
