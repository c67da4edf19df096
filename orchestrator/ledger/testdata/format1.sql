CREATE TABLE meta(
  key   TEXT PRIMARY KEY,
  value TEXT NOT NULL
);
CREATE TABLE plans(
  step INTEGER PRIMARY KEY,
  plan TEXT NOT NULL
);
CREATE TABLE episodes(
  step       INTEGER NOT NULL,
  grp        INTEGER NOT NULL,
  episode    INTEGER NOT NULL,
  task       TEXT NOT NULL,
  mode       TEXT NOT NULL,
  version    INTEGER NOT NULL,
  stop       TEXT NOT NULL,
  env_return REAL NOT NULL,
  score      REAL NOT NULL,
  success    INTEGER NOT NULL,
  trajectory TEXT NOT NULL,
  PRIMARY KEY(step, grp, episode)
) WITHOUT ROWID;
CREATE VIEW turns AS
  SELECT e.step, e.grp, e.episode, t.key AS turn,
         t.value ->> '$.action' AS action, t.value ->> '$.reward' AS reward,
         t.value -> '$.tips' AS tips, t.value -> '$.ids' AS ids,
         t.value -> '$.logprobs' AS logprobs
  FROM episodes e, json_each(e.trajectory, '$.turns') t;
CREATE TABLE steps(
  step    INTEGER PRIMARY KEY,
  version INTEGER NOT NULL,
  at      TEXT NOT NULL,
  metrics TEXT NOT NULL
);
CREATE TABLE versions(
  version INTEGER PRIMARY KEY,
  step    INTEGER NOT NULL,
  dir     TEXT NOT NULL,
  sha256  TEXT NOT NULL,
  canary  REAL NOT NULL
);
CREATE TABLE evaluations(
  step    INTEGER NOT NULL,
  kind    TEXT NOT NULL,
  version INTEGER NOT NULL,
  result  TEXT NOT NULL,
  PRIMARY KEY(step, kind)
);
CREATE TABLE events(
  id     INTEGER PRIMARY KEY,
  step   INTEGER NOT NULL,
  at     TEXT NOT NULL,
  kind   TEXT NOT NULL,
  detail TEXT NOT NULL
);
INSERT INTO meta VALUES('config', '[run]');
INSERT INTO plans VALUES(1, '{"step":1}');
INSERT INTO episodes VALUES(1, 0, 0, 'a', 'on_policy', 0, 'terminated', 1.0, 100.0, 1, '{"turns":[]}');
INSERT INTO episodes VALUES(1, 0, 1, 'a', 'off_policy', 0, 'terminated', 0.25, 0.5, 0, '{"turns":[]}');
INSERT INTO steps VALUES(1, 0, '2026-01-01T00:00:00Z', '{}');
INSERT INTO events(step, at, kind, detail) VALUES(1, '2026-01-01T00:00:00Z', 'continued', 'with version 0');
PRAGMA user_version = 1;
