-- How often a script was begun in this boot: more than once after a crash while booting.
ALTER TABLE boot_runs ADD COLUMN tries INTEGER NOT NULL DEFAULT 1;
